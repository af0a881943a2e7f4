//! `rfs servers`, `rfs volumes`, `rfs sessions`, `rfs events`: lists of what the cluster consists of.

use rfs_common::clock::Time;
use rfs_common::ids::{ServerId, VolumeId};
use rfs_proto::admin::{Drain, Event, EventsRequest, ListRequest, Scrub, Server, Session, VolumeStatus};
use serde_json::{Value, json};

use super::cli::EventsArguments;
use super::master_link::MasterLink;
use super::output::{Form, ago, bytes, print_json, print_table, print_text};

/// `rfs servers`
pub(super) fn servers(link: &mut MasterLink, form: Form) -> anyhow::Result<()> {
    let servers = list_servers(link)?;
    if form == Form::Programs {
        return print_json(&servers.iter().map(server_document).collect::<Vec<_>>());
    }
    let rows = servers
        .iter()
        .map(|server| {
            let state = match (server.connected, server.last_seen_ms) {
                (true, _) => "connected".to_owned(),
                // Not heard since the master started.
                (false, 0) => "away".to_owned(),
                (false, 1..1000) => "away since just now".to_owned(),
                (false, away_ms) => format!("away for {}", ago(away_ms)),
            };
            let maintenance = server.maintenance_left_ms.filter(|left| *left > 0);
            let state = match (maintenance, server.draining) {
                (Some(left), _) => format!("{state}, maintenance for {}", ago(left)),
                (None, true) => format!("{state}, draining"),
                (None, false) => state,
            };
            vec![
                ServerId::new(server.server).to_string(),
                server.host.clone(),
                server.address.clone(),
                state,
                server.volumes.len().to_string(),
                server.volumes.iter().map(|volume| volume.chunks).sum::<u64>().to_string(),
                server.version.clone(),
            ]
        })
        .collect();
    print_table(
        &["server", "host", "address", "state", "volumes", "chunks", "version"],
        rows,
        "No chunkserver has registered yet.",
    )
}

/// `rfs volumes`
pub(super) fn volumes(link: &mut MasterLink, form: Form) -> anyhow::Result<()> {
    let servers = list_servers(link)?;
    if form == Form::Programs {
        let documents: Vec<Value> = servers
            .iter()
            .flat_map(|server| server.volumes.iter().map(move |volume| volume_document(server, volume)))
            .collect();
        return print_json(&documents);
    }
    let rows = servers
        .iter()
        .flat_map(|server| server.volumes.iter().map(move |volume| (server, volume)))
        .map(|(server, volume)| {
            vec![
                VolumeId::new(volume.volume).to_string(),
                server.host.clone(),
                volume.path.clone(),
                volume.state.clone(),
                bytes(volume.free),
                bytes(volume.total),
                volume.chunks.to_string(),
                volume.storage_machine.clone(),
                scrubbed(volume.scrub.unwrap_or_default()),
            ]
        })
        .collect();
    print_table(
        &["volume", "host", "path", "state", "free", "size", "chunks", "storage", "scrubbed"],
        rows,
        "No chunkserver has registered a volume yet.",
    )?;
    // Reasons are long, and would push everything else off the screen.
    for server in &servers {
        for volume in &server.volumes {
            let Some(drain) = &volume.drain else { continue };
            let (id, state) = (VolumeId::new(volume.volume), if drain.drained { "drained" } else { "being drained" });
            print_text(&format!("{} on {} ({id}) is {state}: {}", volume.path, server.host, drain.words))?;
        }
        for volume in server.volumes.iter().filter(|volume| !volume.reason.is_empty()) {
            print_text(&format!(
                "{} on {} ({}) is {}: {}",
                volume.path,
                server.host,
                VolumeId::new(volume.volume),
                volume.state,
                volume.reason
            ))?;
        }
    }
    Ok(())
}

/// `rfs sessions`
pub(super) fn sessions(link: &mut MasterLink, form: Form) -> anyhow::Result<()> {
    let sessions = link.call_soon(|mut client| async move { client.list_sessions(ListRequest {}).await })?.sessions;
    if form == Form::Programs {
        return print_json(&sessions.iter().map(session_document).collect::<Vec<_>>());
    }
    let rows = sessions
        .iter()
        .map(|session| {
            vec![
                session.session.to_string(),
                session.host.clone(),
                session.mount_point.clone(),
                if session.read_only { "read-only".into() } else { "read-write".into() },
                format!("{} ago", ago(session.last_heard_ms)),
                session.leases.to_string(),
                session.write_leases.to_string(),
                session.locks.to_string(),
                session.operations.to_string(),
            ]
        })
        .collect();
    print_table(
        &["session", "host", "mount point", "mode", "heard", "leases", "to write", "locks", "operations"],
        rows,
        "Nobody has mounted the filesystem.",
    )
}

/// `rfs events`
pub(super) fn events(link: &mut MasterLink, arguments: &EventsArguments, form: Form) -> anyhow::Result<()> {
    let request = EventsRequest { limit: arguments.limit };
    let events = link.call_soon(|mut client| async move { client.list_events(request).await })?.events;
    if form == Form::Programs {
        let document =
            |event: &Event| json!({ "unix_ms": event.unix_ms, "severity": event.severity, "message": event.message });
        return print_json(&events.iter().rev().map(document).collect::<Vec<_>>());
    }
    // The master tells the newest first; on a terminal the end is what one sees.
    let row = |event: &Event| vec![moment(event.unix_ms), event.severity.clone(), event.message.clone()];
    let rows = events.iter().rev().map(row).collect();
    print_table(&["when", "severity", "what"], rows, "Nothing has happened yet.")
}

pub(super) fn moment(unix_ms: i64) -> String {
    // Whole seconds are enough for people.
    Time::from_seconds(unix_ms.div_euclid(1000)).to_string().replace(".000000000Z", "Z")
}

fn list_servers(link: &mut MasterLink) -> anyhow::Result<Vec<Server>> {
    Ok(link.call_soon(|mut client| async move { client.list_servers(ListRequest {}).await })?.servers)
}

fn server_document(server: &Server) -> Value {
    json!({
        "server": ServerId::new(server.server).to_string(),
        "host": server.host,
        "address": server.address,
        "version": server.version,
        "connected": server.connected,
        // 0 of one that is away: not heard of since the master started.
        "last_seen_ms": Some(server.last_seen_ms).filter(|seen| server.connected || *seen > 0),
        "maintenance_left_ms": server.maintenance_left_ms,
        "draining": server.draining,
        "volumes": server.volumes.iter().map(|volume| volume_document(server, volume)).collect::<Vec<_>>(),
    })
}

fn volume_document(server: &Server, volume: &VolumeStatus) -> Value {
    json!({
        "volume": VolumeId::new(volume.volume).to_string(),
        "server": ServerId::new(server.server).to_string(),
        "host": server.host,
        "path": volume.path,
        "state": volume.state,
        "reason": volume.reason,
        "total": volume.total,
        "free": volume.free,
        "chunks": volume.chunks,
        "storage_machine": volume.storage_machine,
        "scrub": scrub_document(volume.scrub.unwrap_or_default()),
        "drain": volume.drain.as_ref().map(drain_document),
    })
}

/// How far the drain of a volume is.
pub(super) fn drain_document(drain: &Drain) -> Value {
    json!({
        "drained": drain.drained,
        "chunks_left": drain.chunks_left,
        "bytes_left": drain.bytes_left,
        "kept": drain.kept,
        "time_left_ms": drain.time_left_ms,
        "with_server": drain.with_server,
        "hindrance": drain.hindrance,
        "stuck": drain.stuck,
        "words": drain.words,
    })
}

fn scrub_document(scrub: Scrub) -> Value {
    json!({ "done": scrub.done, "chunks": scrub.chunks, "completed": scrub.completed, "found": scrub.found })
}

/// When every chunk had last been read from the disk, how far the present round is, and what was found.
fn scrubbed(scrub: Scrub) -> String {
    let mut parts = Vec::new();
    if scrub.completed > 0 {
        let day = moment(scrub.completed.saturating_mul(1000));
        parts.push(day.split('T').next().unwrap_or(&day).to_owned());
    }
    if scrub.done < scrub.chunks {
        parts.push(format!("{} %", scrub.done * 100 / scrub.chunks));
    }
    if scrub.found > 0 {
        parts.push(format!("{} bad found", scrub.found));
    }
    if parts.is_empty() { "not yet".to_owned() } else { parts.join(", ") }
}

fn session_document(session: &Session) -> Value {
    json!({
        "session": session.session,
        "host": session.host,
        "mount_point": session.mount_point,
        "address": session.address,
        "version": session.version,
        "read_only": session.read_only,
        "age_ms": session.age_ms,
        "last_heard_ms": session.last_heard_ms,
        "leases": session.leases,
        "write_leases": session.write_leases,
        "locks": session.locks,
        "operations": session.operations,
    })
}
