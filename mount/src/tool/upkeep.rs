//! `rfs volume` and `rfs server`: emptying what is to be taken away, and maintenance.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, ensure};
use rfs_common::clock::SystemClock;
use rfs_common::ids::VolumeId;
use rfs_proto::admin::{
    AffectedFile, DrainReply, DrainServerRequest, DrainVolumeRequest, DrainedVolume, MaintenanceRequest,
};
use serde_json::{Value, json};

use super::cli::{MaintenanceCommand, ServerArguments, ServerCommand, VolumeArguments, VolumeCommand, WaitArguments};
use super::cluster_lists::{drain_document, moment};
use super::master_link::MasterLink;
use super::output::{Form, complain, counted, print_json, print_text, spinner};
use super::status::file_name;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

type Link<'a> = &'a dyn Fn(Option<&Path>) -> anyhow::Result<MasterLink>;

/// `rfs volume`
pub(super) fn volume(link: Link<'_>, arguments: &VolumeArguments, form: Form) -> anyhow::Result<()> {
    let VolumeCommand::Drain { volume, cancel, wait } = &arguments.command;
    let request = DrainVolumeRequest { volume: volume.get(), cancel: *cancel };
    let ask = || link(None)?.call(|mut client| async move { client.drain_volume(request).await });
    drain(&format!("Volume {volume}"), *cancel, wait, form, &ask)
}

/// `rfs server`
pub(super) fn server(link: Link<'_>, arguments: &ServerArguments, form: Form) -> anyhow::Result<()> {
    let (server, cancel, wait) = match &arguments.command {
        ServerCommand::Drain { server, cancel, wait } => (server, cancel, wait),
        ServerCommand::Maintenance { command } => return maintenance(&mut link(None)?, command, form),
    };
    let request = DrainServerRequest { server: server.get(), cancel: *cancel };
    let ask = || link(None)?.call(|mut client| async move { client.drain_server(request).await });
    drain(&format!("Chunkserver {server}"), *cancel, wait, form, &ask)
}

fn maintenance(link: &mut MasterLink, command: &MaintenanceCommand, form: Form) -> anyhow::Result<()> {
    let (server, for_ms) = match command {
        MaintenanceCommand::On { server, time } => (server, time.get().as_millis() as u64),
        MaintenanceCommand::Off { server } => (server, 0),
    };
    ensure!(for_ms > 0 || matches!(command, MaintenanceCommand::Off { .. }), "--for must be longer than nothing");
    let request = MaintenanceRequest { server: server.get(), for_ms };
    let reply = link.call(|mut client| async move { client.set_maintenance(request).await })?;
    let files = reply.lone_files.unwrap_or_default();
    if form == Form::Programs {
        let file = |file: &AffectedFile| json!({ "path": file.path, "inode": file.inode, "chunks": file.chunks });
        return print_json(&json!({
            "server": server.to_string(), "until": reply.until, "lone_chunks": reply.lone_chunks,
            "lone_files": files.files.iter().map(file).collect::<Vec<_>>(), "more": files.more,
        }));
    }
    if reply.lone_chunks > 0 {
        let chunks = counted(reply.lone_chunks, "chunk");
        complain(&format!(
            "rfs: warning: {chunks} on it have no other live copy, and cannot be read while it is away:"
        ));
        for file in &files.files {
            complain(&format!("  {} ({})", file_name(file), counted(file.chunks, "chunk")));
        }
        if files.more {
            complain("  and others");
        }
    }
    match (command, reply.until) {
        (MaintenanceCommand::On { time, .. }, until) => {
            let until = moment(until.saturating_mul(1000));
            print_text(&format!("Chunkserver {server} is in maintenance for {time}, until {until}: stop it now."))
        }
        (MaintenanceCommand::Off { .. }, _) => {
            print_text(&format!("Chunkserver {server} is not in maintenance any more."))
        }
    }
}

/// Asks for it; asking again changes nothing and tells how far it is.
fn drain(
    what: &str,
    cancel: bool,
    wait: &WaitArguments,
    form: Form,
    ask: &dyn Fn() -> anyhow::Result<DrainReply>,
) -> anyhow::Result<()> {
    let mut reply = ask()?;
    if cancel {
        return match form {
            Form::Programs => print_json(&json!({ "cancelled": true })),
            Form::People => print_text(&format!("{what} is not drained any more, and takes new copies.")),
        };
    }
    if let Some(limit) = wait.wait {
        reply = wait_until_drained(reply, limit.get(), form, ask)?;
    }
    match form {
        Form::Programs => print_json(&json!({ "volumes": reply.volumes.iter().map(document).collect::<Vec<_>>() }))?,
        Form::People => show(what, &reply)?,
    }
    if let Some(limit) = wait.wait.filter(|_| !is_drained(&reply)) {
        bail!("{what} is not drained after {limit}; it goes on");
    }
    Ok(())
}

fn show(what: &str, reply: &DrainReply) -> anyhow::Result<()> {
    if reply.volumes.is_empty() {
        print_text(&format!("{what} is drained: it has no volumes. Those that it gets stay empty."))?;
    }
    for volume in &reply.volumes {
        let drain = volume.drain.clone().unwrap_or_default();
        let id = VolumeId::new(volume.volume);
        let state = if drain.drained { "is drained" } else { "is being drained" };
        print_text(&format!("Volume {id} ({}) {state}: {}.", volume.path, volume.words))?;
        if drain.stuck {
            complain(&format!("rfs: the drain of volume {id} cannot finish as things are"));
        }
    }
    Ok(())
}

fn wait_until_drained(
    first: DrainReply,
    limit: Duration,
    form: Form,
    ask: &dyn Fn() -> anyhow::Result<DrainReply>,
) -> anyhow::Result<DrainReply> {
    let clock = SystemClock::shared();
    let end = clock.monotonic() + limit;
    let bar = spinner(form, "The volumes are being emptied ...");
    let mut reply = first;
    while !is_drained(&reply) && clock.monotonic() < end {
        sleep(LOOK_EVERY);
        match ask() {
            Ok(seen) => {
                reply = seen;
                let words = |volume: &DrainedVolume| format!("{}: {}", volume.path, volume.words);
                bar.set_message(reply.volumes.iter().map(words).collect::<Vec<_>>().join("; "));
            }
            // A master that is away is waited for.
            Err(error) => bar.set_message(format!("({error:#})")),
        }
    }
    bar.finish_and_clear();
    Ok(reply)
}

fn is_drained(reply: &DrainReply) -> bool {
    reply.volumes.iter().all(|volume| volume.drain.as_ref().is_some_and(|drain| drain.drained))
}

fn document(volume: &DrainedVolume) -> Value {
    json!({
        "volume": VolumeId::new(volume.volume).to_string(),
        "path": volume.path,
        "drain": volume.drain.as_ref().map(drain_document),
    })
}
