//! `rfs status`: health in one line, what is wrong and what to do, then the figures.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rfs_common::clock::SystemClock;
use rfs_common::ids::ClusterId;
use rfs_proto::admin::{AffectedFile, AffectedFiles, AffectedRequest, Health, NamedRate, Rates, Status, StatusRequest};
use serde_json::{Value, json};

use super::cli::StatusArguments;
use super::file::Link;
use super::output::{Form, ago, bytes, complain, counted, print_json, print_table, print_text};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Exit status when something lacks copies.
const DEGRADED: u8 = 3;
/// Exit status when something cannot be read or changed.
const UNAVAILABLE: u8 = 4;

/// `rfs status [--wait TIME]`. The exit status tells scripts the health: 0 ok, 3 degraded, 4 unavailable.
pub(super) fn status(link: Link<'_>, arguments: &StatusArguments, form: Form) -> anyhow::Result<ExitCode> {
    let status = match arguments.wait {
        None => link(None)?.call_soon(|mut client| async move { client.get_status(StatusRequest {}).await })?,
        Some(limit) => wait(link, limit.get(), form)?,
    };
    let ran_out = arguments.wait.filter(|_| !status.fully_replicated);
    let affected = affected(link, &status, arguments.files)?;
    match form {
        Form::Programs => print_json(&document(&status, &affected))?,
        Form::People => show(&status, &affected)?,
    }
    if let Some(limit) = ran_out {
        complain(&format!("rfs: not everything is fully replicated after {limit}"));
    }
    Ok(match status.health() {
        Health::Ok if ran_out.is_some() => ExitCode::from(DEGRADED),
        Health::Ok => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(DEGRADED),
        Health::Unavailable | Health::Unspecified => ExitCode::from(UNAVAILABLE),
    })
}

/// The worst of the files that lack copies; asked for only if there are any.
fn affected(link: Link<'_>, status: &Status, limit: u32) -> anyhow::Result<AffectedFiles> {
    if status.under_goal == 0 || limit == 0 {
        return Ok(AffectedFiles::default());
    }
    let request = AffectedRequest { limit };
    link(None)?.call_soon(|mut client| async move { client.list_affected(request).await })
}

/// Looks until all is replicated or the time is over; gives what it saw last. A master that is away is waited for.
fn wait(link: Link<'_>, limit: Duration, form: Form) -> anyhow::Result<Status> {
    let clock = SystemClock::shared();
    let end = clock.monotonic() + limit;
    let bar = if form == Form::People { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks at their goal {msg}") {
        bar.set_style(style);
    }
    loop {
        let seen = link(None)
            .and_then(|mut link| link.call_soon(|mut client| async move { client.get_status(StatusRequest {}).await }));
        let over = clock.monotonic() >= end;
        match seen {
            Ok(status) if status.fully_replicated || over => {
                bar.finish_and_clear();
                return Ok(status);
            }
            Err(error) if over => return Err(error),
            Ok(status) => {
                let chunks = status.counts.unwrap_or_default().chunks;
                bar.set_length(chunks);
                bar.set_position(chunks.saturating_sub(status.under_goal));
                bar.set_message(status.summary.clone());
            }
            Err(_) => bar.set_message("(the master does not answer)"),
        }
        sleep(LOOK_EVERY);
    }
}

fn show(status: &Status, affected: &AffectedFiles) -> anyhow::Result<()> {
    print_text(&format!("{}: {}", health_word(status.health()), status.summary))?;
    // The first one is the line above.
    for problem in status.problems.iter().skip(1) {
        print_text(&format!("  - {problem}"))?;
    }
    for note in &status.notes {
        print_text(&format!("  * {note}"))?;
    }
    print_text("")?;
    show_affected(affected)?;
    show_facts(status)?;
    if status.chunks.is_empty() {
        return Ok(());
    }
    print_text("")?;
    let row = |at: &rfs_proto::admin::ChunksAt| vec![at.goal.to_string(), at.copies.to_string(), at.chunks.to_string()];
    print_table(&["goal", "live copies", "chunks"], status.chunks.iter().map(row).collect(), "")
}

fn show_affected(affected: &AffectedFiles) -> anyhow::Result<()> {
    if affected.files.is_empty() {
        return Ok(());
    }
    print_text("Files that lack copies, the worst first:")?;
    for file in &affected.files {
        let state = match file.live_copies {
            0 => "cannot be read".to_owned(),
            live => format!("{live} of {}", counted(file.goal.into(), "copy")),
        };
        let name = file_name(file);
        print_text(&format!("  {name}: {state} ({}); {}", counted(file.chunks, "chunk"), file.why))?;
    }
    if affected.more {
        print_text("  and others; --files N names more, `rfs fileinfo PATH` shows where the copies of one are")?;
    }
    print_text("")
}

pub(super) fn file_name(file: &AffectedFile) -> String {
    if file.path.is_empty() { format!("inode {} (find -inum names it)", file.inode) } else { file.path.clone() }
}

fn show_facts(status: &Status) -> anyhow::Result<()> {
    let space = status.space.unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let mut facts = vec![
        ("cluster", format!("{}, up {}, version {}", cluster(status), ago(status.uptime_ms), status.version)),
        ("chunkservers", format!("{} of {} connected", status.servers_up, status.servers_known)),
        ("volumes", format!("{} of {} in service", status.volumes_in_service, status.volumes_known)),
        ("space", format!("{} used, {} free of {}", bytes(space.used), bytes(space.free), bytes(space.total))),
        (
            "nodes",
            format!(
                "{}, {}, {} in all",
                counted(counts.files, "file"),
                counted(counts.directories, "directory"),
                counts.inodes
            ),
        ),
        (
            "chunks",
            format!(
                "{} with {}; {} being written; {}",
                counted(counts.chunks, "chunk"),
                counted(counts.copies, "live copy"),
                status.unsettled,
                if status.fully_replicated { "fully replicated" } else { "not fully replicated" }
            ),
        ),
        (
            "repair",
            format!(
                "{} under their goal, {} of them unavailable, {} running{}",
                counted(status.under_goal, "chunk"),
                status.unavailable,
                counted(status.repairs_running, "repair"),
                missing(status)
            ),
        ),
        (
            "metadata",
            format!(
                "{}, {} of log not folded, last checkpoint {} ago",
                metadata.state,
                bytes(metadata.log_bytes),
                ago(metadata.checkpoint_age_ms)
            ),
        ),
    ];
    if let Some(operations) = operations(status.rates.as_ref()) {
        facts.push(("per second", operations));
    }
    if status.deletions_waiting > 0 {
        facts.push(("deletions", format!("{} to be deleted", counted(status.deletions_waiting, "copy"))));
    }
    for (name, text) in facts {
        print_text(&format!("{name:<13} {text}"))?;
    }
    Ok(())
}

/// What repair has to do yet, and how long that takes.
fn missing(status: &Status) -> String {
    if status.missing_copies == 0 {
        return String::new();
    }
    let time = status.repair_time_left_ms.map(|left| format!(", about {}", ago(left.max(1000)))).unwrap_or_default();
    format!("; {} with about {} to make{time}", counted(status.missing_copies, "copy"), bytes(status.missing_bytes))
}

/// What clients ask for, the most frequent operations first.
fn operations(rates: Option<&Rates>) -> Option<String> {
    const SHOWN_MAX: usize = 6;
    let rates = rates.filter(|rates| !rates.operations.is_empty())?;
    let shown = rates.operations.iter().take(SHOWN_MAX).map(|rate| format!("{} {:.1}", rate.name, rate.per_second));
    Some(shown.collect::<Vec<_>>().join(", "))
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::Ok => "OK",
        Health::Degraded => "DEGRADED",
        Health::Unavailable => "UNAVAILABLE",
        Health::Unspecified => "UNKNOWN",
    }
}

fn cluster(status: &Status) -> String {
    <[u8; 16]>::try_from(status.cluster.as_ref())
        .map(|bytes| ClusterId::new(u128::from_be_bytes(bytes)).to_string())
        .unwrap_or_default()
}

fn document(status: &Status, affected: &AffectedFiles) -> Value {
    let space = status.space.unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let rates = status.rates.clone().unwrap_or_default();
    let rebalance = status.rebalance.unwrap_or_default();
    let by_name = |rates: &[NamedRate]| -> serde_json::Map<String, Value> {
        rates.iter().map(|rate| (rate.name.clone(), json!(rate.per_second))).collect()
    };
    let file = |file: &AffectedFile| {
        json!({
            "path": file.path, "inode": file.inode, "chunks": file.chunks, "goal": file.goal,
            "live_copies": file.live_copies, "why": file.why,
        })
    };
    let affected = json!({ "files": affected.files.iter().map(file).collect::<Vec<_>>(), "more": affected.more });
    let chunks: Vec<Value> = status
        .chunks
        .iter()
        .map(|at| json!({ "goal": at.goal, "live_copies": at.copies, "chunks": at.chunks }))
        .collect();
    json!({
        "health": health_word(status.health()).to_lowercase(),
        "summary": status.summary,
        "problems": status.problems,
        "notes": status.notes,
        "fully_replicated": status.fully_replicated,
        "cluster": cluster(status),
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "space": { "total": space.total, "used": space.used, "free": space.free },
        "counts": {
            "inodes": counts.inodes, "files": counts.files, "directories": counts.directories,
            "chunks": counts.chunks, "copies": counts.copies, "orphans": counts.orphans, "bytes": counts.bytes,
        },
        "chunks": chunks,
        "under_goal": status.under_goal,
        "unavailable": status.unavailable,
        "unsettled": status.unsettled,
        "repairs_running": status.repairs_running,
        "missing_copies": status.missing_copies,
        "rebalance": {
            "active": rebalance.active, "running": rebalance.running, "done": rebalance.done,
            "used_percent_min": rebalance.used_percent_min, "used_percent_max": rebalance.used_percent_max,
        },
        "missing_bytes": status.missing_bytes,
        "repair_time_left_ms": status.repair_time_left_ms,
        "deletions_waiting": status.deletions_waiting,
        "servers_up": status.servers_up,
        "servers_known": status.servers_known,
        "volumes_in_service": status.volumes_in_service,
        "volumes_known": status.volumes_known,
        "default_goal": status.default_goal,
        "metadata": {
            "state": metadata.state, "position": metadata.position, "durable_position": metadata.durable_position,
            "log_bytes": metadata.log_bytes, "dirty_pages": metadata.dirty_pages, "cached_bytes": metadata.cached_bytes,
            "checkpoint_age_ms": metadata.checkpoint_age_ms, "export_age_ms": metadata.export_age_ms,
            "disk_free": metadata.disk_free,
        },
        "rates": by_name(&rates.rates),
        "operations_by_type": by_name(&rates.operations),
        "affected": affected,
    })
}
