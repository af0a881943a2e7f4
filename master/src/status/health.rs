//! Numbers into words: the one line at the top, and each problem with what it concerns and what to do.

use std::time::Duration;

use crate::chunks::{LackingChunk, ServerView, Summary, VolumeState, VolumeView};

use super::affected::{excuse, why};
use super::drain::DrainRow;
use super::report::{Health, MetadataReport};

/// What health is judged by.
pub(super) struct Findings<'a> {
    pub(super) summary: &'a Summary,
    pub(super) servers: &'a [ServerView],
    /// A chunk whose missing copies are not made by themselves.
    pub(super) stuck: Option<&'a LackingChunk>,
    /// What cannot be read has copies here, and none of them is whole.
    pub(super) only_bad_left: bool,
    pub(super) metadata: &'a MetadataReport,
    pub(super) default_goal: u32,
    /// Copies without which new data is not taken.
    pub(super) copies_min: usize,
    /// Of the master.
    pub(super) uptime_s: u64,
    /// Chunkservers that are here have not had the time to say so.
    pub(super) has_just_started: bool,
    pub(super) export_problem: Option<String>,
    pub(super) checkpoint_problem: Option<String>,
}

/// A chunkserver that has been away for less than this is taken to come back.
const FORGET_AFTER_S: u64 = 600;

/// Within this time of its connection a chunkserver has told what it holds.
const TELLS_WITHIN: Duration = Duration::from_secs(60);

/// The verdict.
pub(super) struct Verdict {
    pub(super) health: Health,
    pub(super) summary: String,
    pub(super) problems: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Judges.
pub(super) fn judge(findings: &Findings<'_>) -> Verdict {
    let mut problems: Vec<(Health, String)> = Vec::new();
    problems.extend(metadata_problems(findings));
    problems.extend(full(findings));
    problems.extend(chunk_problems(findings));
    problems.extend(server_problems(findings));
    let health = problems.iter().map(|(health, _)| *health).max().unwrap_or(Health::Ok);
    problems.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    let problems: Vec<String> = problems.into_iter().map(|(_, text)| text).collect();
    Verdict { health, summary: line(findings, &problems), problems, notes: notes(findings) }
}

fn line(findings: &Findings<'_>, problems: &[String]) -> String {
    let summary = findings.summary;
    match problems.split_first() {
        None if summary.total == 0 => "Everything is well; there is no data yet.".to_owned(),
        None if summary.total == 1 && summary.fully_replicated => {
            "Everything is well and fully replicated: 1 chunk has all its copies.".to_owned()
        }
        None if !summary.fully_replicated => {
            format!(
                "Everything is well: none of {} lacks copies; some are being written.",
                counted(summary.total, "chunk")
            )
        }
        None => format!(
            "Everything is well and fully replicated: all {} have all their copies.",
            counted(summary.total, "chunk")
        ),
        Some((first, [])) => first.clone(),
        Some((first, rest)) => format!("{first} ({} more)", counted(rest.len() as u64, "problem")),
    }
}

fn metadata_problems(findings: &Findings<'_>) -> Vec<(Health, String)> {
    let mut problems = Vec::new();
    let metadata = findings.metadata;
    match metadata.state.as_str() {
        "working" | "" => {}
        "no space" => problems.push((
            Health::Unavailable,
            "The master's metadata disk is full and changes are refused; free space on it.".to_owned(),
        )),
        other => problems.push((
            Health::Unavailable,
            format!("The metadata log does not take changes any more ({other}); check the master's disk and restart the master."),
        )),
    }
    if let Some(reason) = &findings.checkpoint_problem {
        problems.push((
            Health::Degraded,
            format!("The last checkpoint of the metadata failed: {reason}; check the master's disk."),
        ));
    }
    if let Some(reason) = &findings.export_problem {
        problems.push((Health::Degraded, format!("The last scheduled export of the metadata failed: {reason}.")));
    }
    problems
}

/// Whether too few chunkservers have room for new data.
fn full(findings: &Findings<'_>) -> Option<(Health, String)> {
    let connected = || findings.servers.iter().filter(|server| server.connected);
    let has_room =
        |volume: &VolumeView| volume.counts && volume.report.state == VolumeState::InService && volume.report.free > 0;
    let with_room = connected().filter(|server| server.volumes.iter().any(has_room)).count();
    let volumes = || connected().flat_map(|server| &server.volumes);
    let full = volumes().filter(|volume| volume.report.state == VolumeState::Full).count();
    let needed = findings.copies_min.min(findings.default_goal as usize).max(1);
    if full == 0 || with_room >= needed || connected().count() < needed {
        return None;
    }
    let (all, full) = (volumes().count() as u64, full as u64);
    let what =
        format!("The cluster is full, and new data is refused ({full} of {} have no room)", counted(all, "volume"));
    Some((Health::Unavailable, format!("{what}; remove files, or add volumes or chunkservers.")))
}

fn chunk_problems(findings: &Findings<'_>) -> Vec<(Health, String)> {
    let (summary, stuck) = (findings.summary, findings.stuck);
    let mut problems = Vec::new();
    if summary.unavailable > 0 {
        let what = counted(summary.unavailable, "chunk");
        let have = if summary.unavailable == 1 { "has" } else { "have" };
        problems.push(if is_gathering(findings) {
            let text = format!("{what} {have} no live copy yet; chunkservers are still telling what they hold.");
            (Health::Degraded, text)
        } else if findings.only_bad_left {
            let text = format!(
                "{what} {have} no good copy left, though copies are here; check disks and paths first: \
                 `rfs status` names the files and what to do."
            );
            (Health::Unavailable, text)
        } else {
            let text = format!(
                "{what} {have} no live copy and cannot be read; bring the missing chunkservers or volumes back."
            );
            (Health::Unavailable, text)
        });
    }
    let repairable = summary.under_goal - summary.unavailable;
    if repairable > 0 {
        let (what, lack) = (counted(repairable, "chunk"), if repairable == 1 { "lacks" } else { "lack" });
        let last = match summary.last_copy {
            0 => String::new(),
            count => format!(" ({count} of them with one copy left)"),
        };
        let doing = match (stuck, &summary.repairs_wait, summary.repairs_running) {
            (Some(chunk), _, _) => why(chunk),
            (None, Some(reason), _) => format!("repairs wait: {reason}"),
            (None, None, 0) => match summary.excused.iter().max_by_key(|one| one.left) {
                Some(one) => format!("copies are on {}", excuse(one)),
                None => "new ones are made soon".to_owned(),
            },
            (None, None, running) => {
                let made = if running == 1 { "1 is".to_owned() } else { format!("{running} are") };
                let left = summary.time_left.map(|left| format!(", about {} left", duration(left.as_secs().max(1))));
                format!("{made} being made{}", left.unwrap_or_default())
            }
        };
        problems.push((Health::Degraded, format!("{what} {lack} copies{last}; {doing}.")));
    }
    problems
}

/// Whether what cannot be read now may only not have been heard of since the start, or since its chunkserver came back.
fn is_gathering(findings: &Findings<'_>) -> bool {
    let is_telling = |volume: &VolumeView| volume.report.state.is_readable() && !volume.counts;
    let is_coming = |server: &ServerView| match server.connected {
        true => server.registered.is_some_and(|ago| ago < TELLS_WITHIN) && server.volumes.iter().any(is_telling),
        false => findings.has_just_started,
    };
    findings.servers.iter().any(is_coming)
}

fn server_problems(findings: &Findings<'_>) -> Vec<(Health, String)> {
    let mut problems = Vec::new();
    let connected = findings.servers.iter().filter(|server| server.connected).count();
    for server in findings.servers {
        let (id, host) = (server.server, &server.host);
        if !server.connected && (is_drained(server) || is_excused(server)) {
            continue;
        }
        if !server.connected {
            let away_s = server.last_heard.map_or(findings.uptime_s, |ago| ago.as_secs());
            let since = match (server.last_heard, away_s) {
                (None, _) => "since the master started".to_owned(),
                (Some(_), 0) => "since just now".to_owned(),
                (Some(_), seconds) => format!("for {}", duration(seconds)),
            };
            // While something cannot be read, nobody should be led to give up what may have the only copies; nor what may be
            // on its way back.
            let what_to_do = match (findings.summary.unavailable, away_s >= FORGET_AFTER_S) {
                (0, true) => {
                    format!("start it, or forget it with `rfs admin forget-server {id}` if it never comes back")
                }
                (0, false) => "start it if it does not come back by itself".to_owned(),
                _ => "start it: it may have the only copies of what cannot be read".to_owned(),
            };
            let text = format!("Chunkserver {id} on {host} is away {since}; {what_to_do}.");
            problems.push((Health::Degraded, text));
            continue;
        }
        for volume in &server.volumes {
            let (path, reason) = (&volume.report.path, &volume.report.reason);
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let drain = volume.drain.clone().map(DrainRow::from);
            if let Some(drain) = drain.as_ref().filter(|drain| drain.stuck) {
                let text = format!("Volume {path} on {host} is being drained, {}.", drain.words);
                problems.push((Health::Degraded, text));
            }
            if volume.astray {
                problems.push((Health::Degraded, astray(host, volume)));
            }
            let text = match volume.report.state {
                VolumeState::InService => continue,
                VolumeState::Full if drain.is_some() => continue,
                VolumeState::Out if drain.as_ref().is_some_and(|drain| drain.drained) => continue,
                VolumeState::Full => format!("Volume {path} on {host} is full; add space or delete data."),
                VolumeState::ReadOnly => format!("Volume {path} on {host} is read-only{why}; check the volume."),
                VolumeState::Stalled => {
                    format!("Volume {path} on {host} does not answer{why}; check the paths to its storage.")
                }
                VolumeState::Out if !volume.named && findings.summary.unavailable == 0 => {
                    let id = volume.report.volume;
                    format!(
                        "Volume {path} on {host} is out of service{why}; name it in the chunkserver's settings again, or, if it \
                         was taken out for good, forget it with `rfs admin forget-volume {id}`."
                    )
                }
                VolumeState::Out => {
                    format!("Volume {path} on {host} is out of service{why}; check the volume and its mount.")
                }
            };
            problems.push((Health::Degraded, text));
        }
    }
    let needed = findings.default_goal as usize;
    if connected < needed {
        let want = counted(needed as u64, "copy");
        let (have, health) = match connected {
            0 if findings.has_just_started && !findings.servers.is_empty() => {
                ("The master has just started, and no chunkserver is".to_owned(), Health::Degraded)
            }
            0 => ("No chunkserver is".to_owned(), Health::Unavailable),
            1 => ("Only 1 chunkserver is".to_owned(), Health::Degraded),
            several => (format!("Only {several} chunkservers are"), Health::Degraded),
        };
        problems.push((
            health,
            format!("{have} connected, too few for new files with {want}, and writing them may fail; start more chunkservers."),
        ));
    }
    problems
}

/// A volume that went back in time.
fn astray(host: &str, volume: &VolumeView) -> String {
    let path = &volume.report.path;
    let left = counted(volume.returned.unwrap_or_default().left, "copy");
    format!(
        "Volume {path} on {host} is an older image of itself: {left} on it have yet to be compared with others, or made anew. Bring back \
         what is away; if this is the wrong disk, stop the chunkserver and give the volume its own."
    )
}

/// Whether it is away and may be.
fn is_excused(server: &ServerView) -> bool {
    !server.connected && server.maintenance.is_some_and(|left| !left.is_zero())
}

/// Whether nothing that is needed is on any of its volumes, as an administrator wanted it.
fn is_drained(server: &ServerView) -> bool {
    let drained = |volume: &VolumeView| volume.drain.as_ref().is_some_and(|drain| drain.drained);
    !server.volumes.is_empty() && server.volumes.iter().all(drained)
}

/// What was asked for and is under way, or waits for an administrator.
fn notes(findings: &Findings<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let balance = findings.summary.balance;
    if balance.active {
        let (emptiest, fullest) = balance.used_percent;
        let copies = counted(balance.running, "copy");
        notes.push(format!(
            "Volumes are filled to between {emptiest} % and {fullest} %: space is being rebalanced ({copies} on the way)."
        ));
    }
    for server in findings.servers {
        let (id, host) = (server.server, &server.host);
        if let Some(left) = server.maintenance.filter(|left| !left.is_zero()) {
            let (left, away) = (duration(left.as_secs().max(1)), if server.connected { "" } else { " and away" });
            notes.push(format!(
                "Chunkserver {id} on {host} is in maintenance{away}: what it holds is not made anew for {left} more."
            ));
        }
        if !server.connected && is_drained(server) {
            notes.push(format!(
                "Chunkserver {id} on {host} is drained and away; `rfs admin forget-server {id}` forgets it."
            ));
            continue;
        }
        for volume in &server.volumes {
            if let Some(returned) = volume.returned.filter(|returned| !volume.astray && returned.only > 0) {
                let (path, files) = (&volume.report.path, counted(returned.only, "copy"));
                notes.push(format!(
                    "Volume {path} on {host} came back as an older image of itself: {files} on it had no other and are used as they are, \
                     without what was written since that image."
                ));
            }
            let Some(drain) = volume.drain.clone().map(DrainRow::from) else { continue };
            let (volume_id, path) = (volume.report.volume, &volume.report.path);
            let gone = volume.report.state == VolumeState::Out && !volume.named;
            let note = match (drain.drained, drain.stuck) {
                (true, _) if gone => format!(
                    "Volume {path} on {host} is drained and taken out; `rfs admin forget-volume {volume_id}` forgets it."
                ),
                (true, _) => format!("Volume {volume_id} ({path} on {host}) is drained: {}.", drain.words),
                // It stands among the problems.
                (false, true) => continue,
                (false, false) => format!("Volume {volume_id} ({path} on {host}) is being drained: {}.", drain.words),
            };
            notes.push(note);
        }
    }
    notes
}

/// "1 chunk", "2 chunks".
pub(crate) fn counted(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {what}s"),
    }
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(summary: &Summary, state: &str) -> Verdict {
        let metadata = MetadataReport { state: state.to_owned(), ..MetadataReport::default() };
        let none = (None, None);
        judge(&Findings {
            summary,
            servers: &[],
            stuck: None,
            only_bad_left: false,
            metadata: &metadata,
            default_goal: 0,
            copies_min: 2,
            uptime_s: 0,
            has_just_started: false,
            export_problem: none.0,
            checkpoint_problem: none.1,
        })
    }

    #[test]
    fn the_worst_problem_comes_first() {
        let summary = Summary { total: 9, under_goal: 3, unavailable: 1, last_copy: 2, ..Summary::default() };
        let verdict = judged(&summary, "working");
        assert_eq!(verdict.health, Health::Unavailable);
        assert!(verdict.summary.starts_with("1 chunk has no live copy"), "{}", verdict.summary);
        assert!(verdict.summary.ends_with("(1 problem more)"), "{}", verdict.summary);
        assert!(
            verdict.problems[1].starts_with("2 chunks lack copies (2 of them with one copy left)"),
            "{}",
            verdict.problems[1]
        );
        assert_eq!(judged(&Summary::default(), "no space").health, Health::Unavailable);
    }

    #[test]
    fn all_well_says_so() {
        let all = Summary { total: 2, fully_replicated: true, ..Summary::default() };
        let verdict = judged(&all, "working");
        assert_eq!(
            (verdict.health, verdict.summary.as_str()),
            (Health::Ok, "Everything is well and fully replicated: all 2 chunks have all their copies.")
        );
    }

    #[test]
    fn nobody_is_told_to_forget_what_has_just_gone() {
        let said = |ago: u64, unavailable: u64| {
            let server = ServerView {
                server: rfs_common::ids::ServerId::new(1),
                host: "h".to_owned(),
                address: "h:1".into(),
                version: String::new(),
                connected: false,
                leaving: false,
                maintenance: None,
                draining: false,
                last_heard: Some(std::time::Duration::from_secs(ago)),
                registered: None,
                volumes: Vec::new(),
                traffic: Default::default(),
            };
            let summary = Summary { unavailable, ..Summary::default() };
            let metadata = MetadataReport::default();
            let findings = Findings {
                summary: &summary,
                servers: &[server],
                stuck: None,
                only_bad_left: false,
                metadata: &metadata,
                default_goal: 1,
                copies_min: 2,
                uptime_s: 0,
                has_just_started: false,
                export_problem: None,
                checkpoint_problem: None,
            };
            server_problems(&findings).into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert!(said(0, 0)[0].contains("away since just now; start it if it does not come back"), "{:?}", said(0, 0));
        assert!(said(4000, 0)[0].contains("away for 66 min; start it, or forget it"), "{:?}", said(4000, 0));
        assert!(!said(4000, 1)[0].contains("forget"), "{:?}", said(4000, 1));
        assert!(said(0, 0)[1].starts_with("No chunkserver is connected, too few"), "{:?}", said(0, 0));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_what_would_help() {
        let said = |only_bad_left: bool, has_just_started: bool, registered_s: Option<u64>| {
            let server = ServerView {
                server: rfs_common::ids::ServerId::new(1),
                host: "h".to_owned(),
                address: "h:1".into(),
                version: String::new(),
                connected: registered_s.is_some(),
                leaving: false,
                maintenance: None,
                draining: false,
                last_heard: None,
                registered: registered_s.map(Duration::from_secs),
                volumes: vec![volume(VolumeState::InService, 10)],
                traffic: Default::default(),
            };
            let summary = Summary { under_goal: 1, unavailable: 1, ..Summary::default() };
            let metadata = MetadataReport::default();
            let findings = Findings {
                summary: &summary,
                servers: &[server],
                stuck: None,
                only_bad_left,
                metadata: &metadata,
                default_goal: 1,
                copies_min: 2,
                uptime_s: 0,
                has_just_started,
                export_problem: None,
                checkpoint_problem: None,
            };
            chunk_problems(&findings).remove(0)
        };
        let (health, text) = said(false, false, None);
        assert!(health == Health::Unavailable && text.contains("bring the missing"), "{text}");
        let (health, text) = said(true, false, None);
        assert!(
            health == Health::Unavailable && text.contains("no good copy left") && !text.contains("bring"),
            "{text}"
        );
        assert_eq!(said(false, true, None).0, Health::Degraded, "it may be on its way");
        assert_eq!(said(false, false, Some(5)).0, Health::Degraded, "it has yet to tell what it holds");
        assert_eq!(said(false, false, Some(500)).0, Health::Unavailable);
    }

    #[test]
    fn a_full_cluster_is_said_first_and_in_one_line() {
        let said = |states: [VolumeState; 2]| {
            let server = |(id, state): (usize, &VolumeState)| ServerView {
                server: rfs_common::ids::ServerId::new(id as u64 + 1),
                host: "h".to_owned(),
                address: "h:1".into(),
                version: String::new(),
                connected: true,
                leaving: false,
                maintenance: None,
                draining: false,
                last_heard: None,
                registered: None,
                volumes: vec![VolumeView {
                    counts: true,
                    ..volume(*state, if *state == VolumeState::Full { 0 } else { 9 })
                }],
                traffic: Default::default(),
            };
            let servers: Vec<ServerView> = states.iter().enumerate().map(server).collect();
            let summary = Summary { total: 1, fully_replicated: true, ..Summary::default() };
            let metadata = MetadataReport::default();
            judge(&Findings {
                summary: &summary,
                servers: &servers,
                stuck: None,
                only_bad_left: false,
                metadata: &metadata,
                default_goal: 2,
                copies_min: 2,
                uptime_s: 0,
                has_just_started: false,
                export_problem: None,
                checkpoint_problem: None,
            })
        };
        let full = said([VolumeState::Full, VolumeState::InService]);
        assert_eq!(full.health, Health::Unavailable);
        assert!(
            full.summary.starts_with("The cluster is full, and new data is refused (1 of 2 volumes have no room)"),
            "{}",
            full.summary
        );
        assert_eq!(said([VolumeState::InService; 2]).health, Health::Ok);
    }

    fn volume(state: VolumeState, free: u64) -> VolumeView {
        let report = crate::chunks::VolumeReport {
            volume: rfs_common::ids::VolumeId::new(1),
            path: "/v".to_owned(),
            state,
            reason: String::new(),
            total: 10,
            free,
            chunks: 0,
            storage_machine: String::new(),
            filesystem: String::new(),
            lost_power: false,
            scrub: Default::default(),
            epoch: None,
            changed: false,
        };
        VolumeView { report, counts: false, copies: 0, named: true, drain: None, astray: false, returned: None }
    }
}
