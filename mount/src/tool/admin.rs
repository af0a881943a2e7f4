//! `rfs admin`: export, restore, checkpoint, forgetting a server.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use rfs_common::ids::ServerId;
use rfs_proto::admin::{CheckpointRequest, ExportRequest, ForgetServerRequest};
use serde_json::json;

use super::cli::{AdminArguments, AdminCommand};
use super::master_link::MasterLink;
use super::output::{Form, bytes, print_json, print_text};
use super::quickstart::programs::program;

/// Runs one of them.
pub(super) fn admin(
    link: &dyn Fn(Option<&Path>) -> anyhow::Result<MasterLink>,
    arguments: &AdminArguments,
    form: Form,
) -> anyhow::Result<()> {
    match &arguments.command {
        AdminCommand::Export { path } => export(&mut link(None)?, path.as_deref(), form),
        AdminCommand::Restore { export, folder } => restore(export, folder),
        AdminCommand::Checkpoint => checkpoint(&mut link(None)?, form),
        AdminCommand::ForgetServer { server, last_copies } => {
            let request = ForgetServerRequest { server: server.get(), last_copies: *last_copies };
            forget_server(&mut link(None)?, *server, request, form)
        }
    }
}

fn export(link: &mut MasterLink, path: Option<&Path>, form: Form) -> anyhow::Result<()> {
    let path = path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let reply = link.call(|mut client| async move { client.export(ExportRequest { path }).await })?;
    match form {
        Form::Programs => print_json(&json!({
            "path": reply.path, "bytes": reply.bytes, "records": reply.records, "position": reply.position,
        })),
        Form::People => print_text(&format!(
            "Exported {} records ({}) to {} on the master's machine.",
            reply.records,
            bytes(reply.bytes),
            reply.path
        )),
    }
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
fn restore(export: &Path, folder: &Path) -> anyhow::Result<()> {
    let program = program("mfs-master")?;
    let status = Command::new(&program)
        .arg("restore")
        .arg(export)
        .arg(folder)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("nothing was restored");
    }
    Ok(())
}
