//! The files that lack copies: which they are, why, and what a person can do about it.

use std::collections::{BTreeMap, BTreeSet};

use rfs_common::ids::{ChunkId, InodeId, ServerId};
use rfs_common::name::Escaped;
use rfs_proto::admin as wire;
use serde::Serialize;

use super::health::{counted, duration};
use super::master_state::{MasterState, MasterStateExt};
use crate::chunks::{CopyState, CopyView, Excuse, Excused, Hindrance, LackingChunk};
use crate::namespace::names::paths_of;

/// Chunks that are looked at: the engine's lock is held meanwhile.
const CHUNKS_MAX: usize = 200;
/// Entries that are looked at for names of files, about half a second's worth.
const ENTRIES_MAX: u64 = 1_000_000;
/// Copies that are named in one sentence.
const COPIES_NAMED_MAX: usize = 4;

/// A file with chunks that lack copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AffectedFile {
    /// Its inode.
    pub inode: u64,
    /// One of its paths from the root, escaped where a terminal would be confused; empty if none was found in good time.
    pub path: String,
    /// How many of its chunks were found to lack copies.
    pub chunks: u64,
    /// How many copies each is to have.
    pub goal: u32,
    /// How many the worst of them has.
    pub live_copies: u32,
    /// Why, and what to do.
    pub why: String,
}

/// The worst of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AffectedFiles {
    /// Those with the fewest live copies first.
    pub files: Vec<AffectedFile>,
    /// Not all are listed.
    pub more: bool,
}

/// Looks for the worst affected files, at most `limit`. Reads many entries: not for every glance.
pub(super) fn affected(state: &dyn MasterState, limit: usize) -> AffectedFiles {
    let mut affected = affected_without_names(state, limit);
    let index = affected.files.iter().enumerate().map(|(at, file)| (InodeId::new(file.inode), at)).collect();
    name(state, &mut affected.files, &index);
    affected
}

/// The same, but by numbers only.
pub(super) fn affected_without_names(state: &dyn MasterState, limit: usize) -> AffectedFiles {
    let lacking = state.with_chunks(|chunks, _| chunks.lacking(CHUNKS_MAX));
    let mut more = lacking.len() == CHUNKS_MAX;
    let mut files: Vec<AffectedFile> = Vec::new();
    let mut index: BTreeMap<InodeId, usize> = BTreeMap::new();
    for chunk in &lacking {
        match index.get(&chunk.inode) {
            Some(at) => files[*at].chunks += 1,
            None if files.len() == limit => more = true,
            None => {
                index.insert(chunk.inode, files.len());
                files.push(file(chunk));
            }
        }
    }
    AffectedFiles { files, more }
}

/// Without names the numbers still help.
fn name(state: &dyn MasterState, files: &mut [AffectedFile], index: &BTreeMap<InodeId, usize>) {
    let nodes: BTreeSet<InodeId> = index.keys().copied().collect();
    let paths = paths_of(state.source(), &nodes, ENTRIES_MAX).unwrap_or_default();
    for (inode, path) in paths {
        if let Some(at) = index.get(&inode) {
            files[*at].path = Escaped(&path).to_string();
        }
    }
}

/// The files of chunks that cannot be read without a chunkserver, at most `limit`, and how many chunks these are.
pub(crate) fn files_only_on(state: &dyn MasterState, server: ServerId, limit: usize) -> (u64, AffectedFiles) {
    let (count, chunks) = state.with_chunks(|chunks, _| {
        let only = chunks.only_live_on(server);
        let of_file = |chunk: &ChunkId| chunks.info(*chunk).map(|info| (info.inode, info.goal));
        (only.len() as u64, only.iter().filter_map(of_file).collect::<Vec<_>>())
    });
    let mut files: Vec<AffectedFile> = Vec::new();
    let mut index: BTreeMap<InodeId, usize> = BTreeMap::new();
    let mut more = false;
    for (inode, goal) in chunks {
        match index.get(&inode) {
            Some(at) => files[*at].chunks += 1,
            None if files.len() == limit => more = true,
            None => {
                index.insert(inode, files.len());
                let why = "its only live copy is on this chunkserver".to_owned();
                let (inode, goal) = (inode.get(), goal.get().into());
                files.push(AffectedFile { inode, path: String::new(), chunks: 1, goal, live_copies: 1, why });
            }
        }
    }
    name(state, &mut files, &index);
    (count, AffectedFiles { files, more })
}

fn file(chunk: &LackingChunk) -> AffectedFile {
    AffectedFile {
        inode: chunk.inode.get(),
        path: String::new(),
        chunks: 1,
        goal: chunk.goal.into(),
        live_copies: chunk.live.into(),
        why: why(chunk),
    }
}

/// Why a chunk lacks copies, and what to do.
pub(super) fn why(chunk: &LackingChunk) -> String {
    match &chunk.hindrance {
        Hindrance::NoLiveCopy => no_live_copy(&chunk.copies),
        Hindrance::BeingCompared => {
            "a copy on an older image of its volume is compared with the good ones first".to_owned()
        }
        Hindrance::BeingMade => "a copy is being made".to_owned(),
        Hindrance::BeingWritten => {
            "a client has the right to write it, which is asked back first; then a copy is made".to_owned()
        }
        Hindrance::RepairsWait(reason) => format!("repairs wait: {reason}"),
        Hindrance::Excused(one) => format!("a copy is on {}; one is made anew if it is not back by then", excuse(one)),
        Hindrance::Delay(seconds) => format!("a copy is made in {seconds} s"),
        Hindrance::Failing { times, reason } => format!(
            "a copy could not be made {times} times, the last time {reason}; it is tried again. Check that volume and the one with the \
             good copy ({})",
            good_copies(&chunk.copies)
        ),
        Hindrance::Queued => "a copy is made soon".to_owned(),
        Hindrance::NoPlace { connected, full } => no_place(chunk, *connected, *full),
    }
}

/// "h1, which is in maintenance for 5 min more".
pub(super) fn excuse(one: &Excused) -> String {
    let left = duration(one.left.as_secs().max(1));
    match one.why {
        Excuse::Maintenance => format!("{}, which is in maintenance for {left} more", one.host),
        Excuse::CleanStop => format!("{}, which was stopped cleanly and is waited for for {left} more", one.host),
    }
}

fn no_live_copy(copies: &[CopyView]) -> String {
    let copy = |copy: &CopyView| format!("{} on {} ({})", copy.path, copy.host, copy.state.text());
    let named: Vec<String> = copies.iter().take(COPIES_NAMED_MAX).map(copy).collect();
    let away = copies.iter().any(|copy| copy.state == CopyState::Away);
    match (named.is_empty(), away) {
        (true, _) => "no copy on any volume that was here since the master started; bring missing chunkservers and \
                      volumes back, or restore the file from elsewhere"
            .to_owned(),
        (false, true) => format!("its copies: {}; bring back what is away", named.join(", ")),
        (false, false) if copies.iter().any(|copy| copy.state == CopyState::Astray) => format!(
            "its copies: {}; they are used once every known volume is here, or forgotten, and none has a newer one",
            named.join(", ")
        ),
        (false, false) if copies.iter().any(|copy| copy.state == CopyState::Bad) => format!(
            "its copies: {}; none of them is whole, as far as was found, and no other is known: check their disks and the paths to them first, \
             and if the errors have passed, restart these chunkservers and then the master, which look anew; else save what can still be read of the file, or \
             restore it from elsewhere, and remove it here",
            named.join(", ")
        ),
        (false, false) => {
            format!("its copies: {}; none of them can be used: restore the file from elsewhere", named.join(", "))
        }
    }
}

/// Where the good ones are.
fn good_copies(copies: &[CopyView]) -> String {
    let good = copies.iter().filter(|copy| copy.state == CopyState::Current);
    let named: Vec<String> =
        good.take(COPIES_NAMED_MAX).map(|copy| format!("{} on {}", copy.path, copy.host)).collect();
    named.join(", ")
}

fn no_place(chunk: &LackingChunk, connected: usize, full: usize) -> String {
    let goal = usize::from(chunk.goal);
    if connected < goal {
        let (are, have) = (if connected == 1 { "is" } else { "are" }, counted(connected as u64, "chunkserver"));
        return format!(
            "goal {goal} needs as many chunkservers, and only {have} {are} connected; start those that are away, add some, \
             or lower the goal (rfs setgoal)"
        );
    }
    if full > 0 {
        return format!(
            "no room for another copy ({} full); free space or add volumes",
            counted(full as u64, "volume")
        );
    }
    "no volume that takes copies is left on chunkservers without one; `rfs volumes` says what is wrong with them"
        .to_owned()
}

impl From<AffectedFiles> for wire::AffectedFiles {
    fn from(affected: AffectedFiles) -> wire::AffectedFiles {
        let file = |file: AffectedFile| wire::AffectedFile {
            inode: file.inode,
            path: file.path,
            chunks: file.chunks,
            goal: file.goal,
            live_copies: file.live_copies,
            why: file.why,
        };
        wire::AffectedFiles { files: affected.files.into_iter().map(file).collect(), more: affected.more }
    }
}
