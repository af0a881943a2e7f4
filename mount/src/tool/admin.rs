//! `rfs admin`: export, restore, checkpoint, forgetting servers and volumes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use rfs_common::durable;
use rfs_common::ids::ServerId;
use rfs_proto::admin::{
    CheckpointRequest, ExportReply, ExportRequest, FetchExportRequest, ForgetServerRequest, ForgetVolumeRequest,
};
use serde_json::json;

use super::cli::{AdminArguments, AdminCommand};
use super::master_link::MasterLink;
use super::output::{Form, bytes, print_json, print_text, spinner};
use super::quickstart::programs::program;

/// Runs one of them.
pub(super) fn admin(
    link: &dyn Fn(Option<&Path>) -> anyhow::Result<MasterLink>,
    arguments: &AdminArguments,
    form: Form,
) -> anyhow::Result<()> {
    match &arguments.command {
        AdminCommand::Export { path } => export(&mut link(None)?, path.as_deref(), form),
        AdminCommand::Restore { export, folder } => restore(export, folder, form),
        AdminCommand::Checkpoint => checkpoint(&mut link(None)?, form),
        AdminCommand::ForgetServer { server, last_copies } => {
            let request = ForgetServerRequest { server: server.get(), last_copies: *last_copies };
            forget_server(&mut link(None)?, *server, request, form)
        }
        AdminCommand::ForgetVolume { volume, last_copies } => {
            let request = ForgetVolumeRequest { volume: volume.get(), last_copies: *last_copies };
            link(None)?.call(|mut client| async move { client.forget_volume(request).await })?;
            match form {
                Form::Programs => print_json(&json!({ "forgotten": volume.to_string() })),
                Form::People => print_text(&format!("Volume {volume} is forgotten.")),
            }
        }
    }
}

fn export(link: &mut MasterLink, path: Option<&Path>, form: Form) -> anyhow::Result<()> {
    if let Some(path) = path {
        ensure!(!path.exists(), "{} is there already; name a file that is not, or remove it", path.display());
    }
    let bar = spinner(form, "The master writes the export ...");
    let reply = link.call(|mut client| async move { client.export(ExportRequest {}).await })?;
    if let Some(path) = path {
        let unfinished = unfinished_name(path);
        let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let copy = copy.with_context(|| format!("cannot make {}", unfinished.display()))?;
        let fetched = fetch(link, &reply, copy, &bar).and_then(|()| give_name(&unfinished, path));
        let _ = std::fs::remove_file(&unfinished);
        fetched.with_context(|| format!("cannot write {}; the export is at the master", path.display()))?;
    }
    bar.finish_and_clear();
    match form {
        Form::Programs => print_json(&json!({
            "path": reply.path, "bytes": reply.bytes, "records": reply.records, "position": reply.position,
            "copy": path.map(|path| path.to_string_lossy().into_owned()),
        })),
        Form::People => print_text(&format!(
            "Exported {} records ({}) to {} on the master's machine{}.",
            reply.records,
            bytes(reply.bytes),
            reply.path,
            path.map_or_else(String::new, |path| format!(", and copied it to {}", path.display()))
        )),
    }
}

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Copies an export from the master.
fn fetch(link: &mut MasterLink, export: &ExportReply, mut copy: File, bar: &ProgressBar) -> anyhow::Result<()> {
    let name = Path::new(&export.path).file_name().context("the master gave the export no name")?;
    let request = FetchExportRequest { name: name.to_string_lossy().into_owned() };
    let mut parts = link.call(|mut client| async move { client.fetch_export(request).await })?;
    let mut count = 0;
    while let Some(part) = link.next(&mut parts)? {
        copy.write_all(&part.content)?;
        count += part.content.len() as u64;
        bar.set_message(format!("{} of {} copied", bytes(count), bytes(export.bytes)));
        bar.tick();
    }
    ensure!(count == export.bytes, "the copy has {count} bytes, the export {}; try again", export.bytes);
    Ok(copy.sync_all()?)
}

/// Now that it is whole, unless the name was taken meanwhile.
fn give_name(unfinished: &Path, path: &Path) -> anyhow::Result<()> {
    std::fs::hard_link(unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(durable::sync_folder(folder.unwrap_or(Path::new(".")))?)
}

fn checkpoint(link: &mut MasterLink, form: Form) -> anyhow::Result<()> {
    let reply = link.call(|mut client| async move { client.checkpoint(CheckpointRequest {}).await })?;
    match form {
        Form::Programs => print_json(&json!({ "position": reply.position, "took_ms": reply.took_ms })),
        Form::People => {
            print_text(&format!("Checkpoint up to log position {} took {} ms.", reply.position, reply.took_ms))
        }
    }
}

fn forget_server(
    link: &mut MasterLink,
    server: ServerId,
    request: ForgetServerRequest,
    form: Form,
) -> anyhow::Result<()> {
    link.call(|mut client| async move { client.forget_server(request).await })?;
    match form {
        Form::Programs => print_json(&json!({ "forgotten": server.to_string() })),
        Form::People => print_text(&format!("Chunkserver {server} is forgotten.")),
    }
}

/// The master's own program does it: the tool links no storage engine.
fn restore(export: &Path, folder: &Path, form: Form) -> anyhow::Result<()> {
    let program = program("mfs-master")?;
    let bar = spinner(form, "Restoring ...");
    let output = Command::new(&program)
        .arg("restore")
        .arg(export)
        .arg(folder)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    bar.finish_and_clear();
    if !output.status.success() {
        bail!("nothing was restored: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    match form {
        Form::Programs => print_json(&json!({ "export": export, "folder": folder })),
        Form::People => print_text(String::from_utf8_lossy(&output.stdout).trim_end()),
    }
}
