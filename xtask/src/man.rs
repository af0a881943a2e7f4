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

/// One page: the program, then each of its commands as a part of the same page.
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
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        page.extend_from_slice(format!(".SH {} {}\n", name.to_uppercase(), sub.get_name().to_uppercase()).as_bytes());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        if sub.get_arguments().next().is_some() {
            man.render_options_section(&mut page)?;
        }
    }
    let path = folder.join(format!("{name}.{section}"));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
