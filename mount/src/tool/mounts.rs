//! `rfs mounts`: the mounts of this machine, what they do and what they wait for. The mounts themselves answer, so this works
//! also while the master is away.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::output::{Form, ago, bytes, counted, print_json, print_table, print_text};
use crate::mountpoint::{self, MountEntry};
use crate::standing::{self, Standing};

/// Requests that take less are nobody's concern.
const LONG_MS: u64 = 1000;
/// Lines for each mount; `--json` has all.
const LINES_MAX: usize = 20;

/// `rfs mounts`
pub(super) fn mounts(form: Form) -> anyhow::Result<()> {
    let table = mountpoint::mounts().context("cannot read the mount table")?;
    let mounts: Vec<(MountEntry, io::Result<Standing>)> = (table.into_iter().filter(MountEntry::is_rfs))
        .map(|mount| {
            let standing = standing::ask(mount.device);
            (mount, standing)
        })
        .collect();
    if form == Form::Programs {
        return print_json(&mounts.iter().map(document).collect::<Vec<_>>());
    }
    let rows = mounts.iter().map(row).collect();
    print_table(
        &["mount point", "master", "state", "unsent", "requests", "longest", "lock waits"],
        rows,
        "This machine has no mount of rfs.",
    )?;
    for (mount, standing) in &mounts {
        let Ok(standing) = standing else { continue };
        for line in lines(standing) {
            print_text(&format!("{}: {line}", mount.mount_point.display()))?;
        }
    }
    Ok(())
}

fn document((mount, standing): &(MountEntry, io::Result<Standing>)) -> serde_json::Value {
    let (standing, error) = match standing {
        Ok(standing) => (Some(standing), None),
        Err(error) => (None, Some(why(error))),
    };
    json!({ "mount_point": mount.mount_point, "source": mount.source, "standing": standing, "error": error })
}

fn row((mount, standing): &(MountEntry, io::Result<Standing>)) -> Vec<String> {
    let mut row = vec![mount.mount_point.display().to_string(), mount.source.clone()];
    match standing {
        Err(error) => row.push(why(error)),
        Ok(standing) => {
            let longest = standing.under_way.first().map_or("-".to_owned(), |request| ago(request.waiting_ms));
            row.extend([
                state(standing),
                bytes(standing.unsent_bytes as u64),
                standing.under_way.len().to_string(),
                longest,
                standing.lock_waits.to_string(),
            ]);
        }
    }
    row
}

fn state(standing: &Standing) -> String {
    if standing.connected {
        "connected".to_owned()
    } else {
        format!("without its master for {}", ago(standing.silence_ms))
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nobody answers: its process has ended, is an older one, or is in another network namespace".to_owned()
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "answers only root and its owner".to_owned(),
        _ => format!("does not answer: {error}"),
    }
}

/// What waits, and for what.
fn lines(standing: &Standing) -> Vec<String> {
    let requests = standing.under_way.iter().filter(|request| request.waiting_ms >= LONG_MS).map(|request| {
        let (what, inode) = (&request.operation, request.inode);
        format!("{what} of inode {inode} by {} takes {}", program_of(request.thread), ago(request.waiting_ms))
    });
    let chunks = standing.chunk_waits.iter().map(|wait| {
        let why = if wait.write { "cannot be written" } else { "has no copy that can be read" };
        format!("chunk {} of inode {} {why} for {}", wait.index, wait.inode, ago(wait.waiting_ms))
    });
    let all: Vec<String> = requests.chain(chunks).collect();
    let more = all.len().saturating_sub(LINES_MAX);
    let last = (more > 0).then(|| format!("and {} more (--json has all of them)", counted(more as u64, "line")));
    all.into_iter().take(LINES_MAX).chain(last).collect()
}

/// Its name and number, as far as this machine knows it.
fn program_of(thread: u32) -> String {
    if thread == 0 {
        return "the kernel".to_owned();
    }
    let name = fs::read_to_string(Path::new("/proc").join(thread.to_string()).join("comm"));
    name.map_or_else(|_| format!("thread {thread}"), |name| format!("{} ({thread})", name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::{ChunkWait, Counts, RequestUnderWay};

    fn standing() -> Standing {
        let request = |waiting_ms| RequestUnderWay { operation: "read".into(), inode: 7, thread: 0, waiting_ms };
        Standing {
            process: 1,
            session: 2,
            connected: false,
            silence_ms: 61_000,
            unsent_bytes: 0,
            cached_bytes: 0,
            under_way: vec![request(42_000), request(3)],
            chunk_waits: vec![ChunkWait { inode: 7, index: 3, write: false, waiting_ms: 41_000 }],
            lock_waits: 0,
            counts: Counts::default(),
        }
    }

    #[test]
    fn people_see_what_waits_for_what() {
        let standing = standing();
        assert_eq!(state(&standing), "without its master for 61 s");
        assert_eq!(
            lines(&standing),
            ["read of inode 7 by the kernel takes 42 s", "chunk 3 of inode 7 has no copy that can be read for 41 s"]
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut standing = standing();
        standing.under_way = vec![standing.under_way[0].clone(); 50];
        let lines = lines(&standing);
        assert_eq!(lines.len(), LINES_MAX + 1);
        assert_eq!(lines[LINES_MAX], "and 31 lines more (--json has all of them)");
    }
}
