//! Manual pages, made from the same definitions as `--help`.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::Command;

/// Writes all of them.
pub(crate) fn write_all(folder: &Path) -> anyhow::Result<()> {
    write(folder, 8, rfs_master::cli::command())?;
    write(folder, 8, rfs_chunkserver::cli::command())?;
    write(folder, 8, rfs_mount::options::command().name("mount.rfs"))?;
    write(folder, 1, rfs_mount::tool::cli::command())
}

/// One page: the program, then each of its commands as a part of the same page, as deep as they go.
fn write(folder: &Path, section: u8, mut command: Command) -> anyhow::Result<()> {
    command.build();
    let folder = folder.join(format!("man{section}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = command.get_name().to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .section(section.to_string())
        .source("rfs")
        .manual("rfs manual")
        .render(&mut page)?;
    write_commands(&mut page, &name, &command)?;
    let page = without_pages_of_commands(&String::from_utf8(page)?, &name, section, &command);
    let path = folder.join(format!("{name}.{section}"));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Appends each command, and the commands of commands.
fn write_commands(page: &mut Vec<u8>, name: &str, command: &Command) -> anyhow::Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{name} {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone());
        page.extend_from_slice(format!(".SH {}\n", name.to_uppercase()).as_bytes());
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        if sub.get_arguments().next().is_some() {
            man.render_options_section(page)?;
        }
        write_commands(page, &name, sub)?;
    }
    Ok(())
}

/// The list of commands names a page for each; they stand in this one.
fn without_pages_of_commands(page: &str, name: &str, section: u8, command: &Command) -> String {
    let name_in_roff = name.replace('-', "\\-");
    command.get_subcommands().fold(page.to_owned(), |page, sub| {
        let named = format!("{name_in_roff}\\-{}({section})", sub.get_name().replace('-', "\\-"));
        page.replace(&named, &format!("{name_in_roff} {}", sub.get_name()))
    })
}
