//! `rfs volume` and `rfs server`: emptying what is to be taken away.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::bail;
use rfs_common::clock::SystemClock;
use rfs_common::ids::VolumeId;
use rfs_proto::admin::{DrainReply, DrainServerRequest, DrainVolumeRequest, DrainedVolume};
use serde_json::{Value, json};

use super::cli::{ServerArguments, ServerCommand, VolumeArguments, VolumeCommand, WaitArguments};
use super::cluster_lists::drain_document;
use super::master_link::MasterLink;
use super::output::{Form, complain, print_json, print_text, spinner};

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
    let ServerCommand::Drain { server, cancel, wait } = &arguments.command;
    let request = DrainServerRequest { server: server.get(), cancel: *cancel };
    let ask = || link(None)?.call(|mut client| async move { client.drain_server(request).await });
    drain(&format!("Chunkserver {server}"), *cancel, wait, form, &ask)
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
