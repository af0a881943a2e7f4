//! Reads the journal of one actor and judges what is found of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::bytes::{self, Event, History, Loss};
use super::content::Image;
use super::fault::{Fault, Trouble, Victim};
use super::journal::{Act, Record};
use super::names::{self, Names};
use super::observe::Found;

/// Everything a power cut of the master may take of what no fsync promised: so much of the time in which changes were answered.
/// `log_unsynced_max` of the clusters.
pub const LOG_UNSYNCED_MAX: Duration = Duration::from_millis(50);

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Names are not as after any moment that may be the last.
    Names,
    /// A name without a node, a folder that cannot be listed.
    Broken,
    /// A file cannot be read, and all its bytes were promised.
    Unreadable,
    /// A file cannot be read, and some of its bytes were not synced.
    UnreadableUnsynced,
    /// Other bytes, or another length, than all that were promised.
    Bytes,
    /// Bytes, or a length, that the file never had, where some of it was not synced.
    BytesUnsynced,
    /// A call failed with nothing that would excuse it.
    CallFailed,
    /// An actor read something else than it had written.
    ReadDuringWork,
    /// Two mounts see different names or bytes.
    MountsDiffer,
    /// A call did not end.
    Hangs,
    /// A fresh mount could not sync what it found.
    CannotSync,
    /// Without one copy, something else is found.
    OneCopyDiffers,
    /// An offline checker found fault.
    Offline,
    /// A daemon served, or wrote to, what it must not.
    Misplaced,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How.
    pub kind: Kind,
    /// What, where.
    pub words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.kind, self.words)
    }
}

impl Problem {
    /// One.
    pub fn new(kind: Kind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }
}

/// When the master's power went.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Before this its volume took everything.
    pub begin_ns: u64,
    /// After this it acknowledged nothing more.
    pub end_ns: u64,
    /// The last change that it acknowledged until then was asked for at this time.
    pub last_change_ns: u64,
    /// Whether its log lost anything that a client that lived had been told, so that the client's session ended.
    pub log_lost: bool,
    /// Whether the session of a client that lived ended for another reason: nothing was heard from it for too long.
    pub session_ended: bool,
}

impl Moment {
    /// One at which no master lost its power, unless [`Self::with`] says otherwise.
    pub fn new(begin_ns: u64, end_ns: u64) -> Self {
        Self { begin_ns, end_ns, last_change_ns: begin_ns, log_lost: true, session_ended: false }
    }

    /// Looks up in the journals when the last change was acknowledged.
    pub fn note_last_change<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        let in_time =
            |record: &&Record| record.is_ok() && record.end.is_some_and(|(ended_ns, ..)| ended_ns <= self.end_ns);
        let changes = records.filter(|record| record.act.changes_names()).filter(in_time);
        self.last_change_ns = changes.map(|record| record.begin_ns).max().unwrap_or(self.begin_ns);
    }

    /// What was acknowledged from then on may not have been on the master's disk. It answers no change while one has waited
    /// for the disk for longer than that; so none that it answered is lost that is older than the last one by more.
    fn takes_from_ns(&self) -> u64 {
        self.last_change_ns.saturating_sub(LOG_UNSYNCED_MAX.as_nanos() as u64)
    }

    fn may_take(&self, acknowledged_ns: u64) -> bool {
        self.log_lost && (self.takes_from_ns()..=self.end_ns).contains(&acknowledged_ns)
    }

    /// Whether what went through a handle that was closed then, or never, may not have been committed.
    fn may_take_of_handle(&self, closed_ns: Option<u64>) -> bool {
        self.log_lost && closed_ns.is_none_or(|closed_ns| closed_ns >= self.takes_from_ns())
    }
}

/// What an actor has done so far, as far as it is certain.
#[derive(Clone, Debug, Default)]
pub struct Model {
    names: Names,
    files: BTreeMap<u64, History>,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Acknowledged changes of names that are missing, as they may.
    pub names_lost: usize,
    /// Files judged.
    pub files: usize,
    /// Those of them with bytes that no fsync covered.
    pub files_in_doubt: usize,
    /// fsyncs that returned 0.
    pub fsyncs: usize,
    /// Inodes of files with bytes that no fsync covered.
    pub in_doubt: BTreeSet<u64>,
    /// Calls that failed.
    pub errors: usize,
    /// The longest that a call took which ended.
    pub longest_call: Duration,
}

impl Verdict {
    fn note_calls(&mut self, records: &[Record]) {
        for record in records {
            let Some((end_ns, errno, _)) = record.end else { continue };
            self.errors += usize::from(errno != 0);
            self.longest_call = self.longest_call.max(Duration::from_nanos(end_ns.saturating_sub(record.begin_ns)));
        }
    }
}

impl Model {
    /// Judges what is found after `records` and `fault`. Files that were `unreadable` at first, while copies were away, are
    /// found as they were when those came back: what was promised must be readable without them.
    pub fn judge(
        &mut self,
        records: &[Record],
        fault: Fault,
        moment: Moment,
        (found, unreadable): (&Found, &BTreeSet<u64>),
    ) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.problems.extend(found.broken.iter().map(|words| Problem::new(Kind::Broken, words)));
        verdict.problems.extend(unexpected_errors(records, fault, moment));
        verdict.note_calls(records);
        verdict.fsyncs =
            records.iter().filter(|it| it.is_ok() && matches!(it.act, Act::Fsync(_) | Act::FsyncFolder(_))).count();
        let changes = name_changes(records, fault, moment);
        match names::judge(&self.names, &changes, &found.names) {
            Ok(lost) => verdict.names_lost = lost,
            Err(words) => verdict.problems.push(Problem::new(Kind::Names, words)),
        }
        self.note_bytes(records);
        for history in self.files.values_mut() {
            for event in history.events_mut().iter_mut().filter(|event| event.fate == bytes::Fate::Unsynced) {
                if !may_be_missing(event, fault, moment) {
                    event.fate = bytes::Fate::Kept;
                }
            }
        }
        verdict.in_doubt =
            self.files.iter().filter(|(_, history)| !history.is_certain()).map(|(inode, _)| *inode).collect();
        // A client that lives writes on after a loss.
        let any_may_be_missing = fault == Fault::AllChunkservers
            || fault.fails_the_masters_disk()
            || (fault.master_alone_loses_power() && moment.log_lost)
            || (moment.session_ended && fault.client_lives());
        let loss = if any_may_be_missing { Loss::Subset } else { Loss::Suffix };
        for (inode, image) in &found.files {
            verdict.files += 1;
            self.judge_file(*inode, image, loss, &mut verdict);
            if unreadable.contains(inode) && self.files.get(inode).is_some_and(History::is_certain) {
                let words = format!("file {inode}: it cannot be read from the copies that are left");
                verdict.problems.push(Problem::new(Kind::Unreadable, words));
            }
        }
        verdict
    }

    fn judge_file(&self, inode: u64, found: &Result<Image, String>, loss: Loss, verdict: &mut Verdict) {
        // Nobody was told of a file whose creation did not end.
        let unborn = History::certain(inode, Image::default());
        let history = self.files.get(&inode).unwrap_or(&unborn);
        let is_certain = history.is_certain();
        verdict.files_in_doubt += usize::from(!is_certain);
        let problem = match (found, is_certain) {
            (Ok(image), true) => history.judge(image, loss).err().map(|words| (Kind::Bytes, words)),
            (Ok(image), false) => history.judge(image, loss).err().map(|words| (Kind::BytesUnsynced, words)),
            (Err(error), true) => Some((Kind::Unreadable, error.clone())),
            (Err(error), false) => Some((Kind::UnreadableUnsynced, error.clone())),
        };
        verdict.problems.extend(problem.map(|(kind, words)| Problem::new(kind, format!("file {inode}: {words}"))));
    }

    /// Takes what is found as what is certain from now on.
    pub fn settle(&mut self, found: &Found) {
        self.names = found.names.clone();
        self.files = found
            .files
            .iter()
            .filter_map(|(inode, image)| Some((*inode, History::certain(*inode, image.as_ref().ok()?.clone()))))
            .collect();
    }

    fn note_bytes(&mut self, records: &[Record]) {
        for record in records {
            if let (Act::Create(_), Some((_, 0, inode))) = (&record.act, record.end) {
                self.files.insert(inode, History::certain(inode, Image::default()));
            }
            let (inode, change) = match record.act {
                Act::Write(inode, offset, length, generation) => {
                    let change = match record.end {
                        Some((_, 0, at)) if at != offset => bytes::Change::Astray(at, length, generation, offset),
                        _ => bytes::Change::Write(offset, length, generation),
                    };
                    (inode, Some(change))
                }
                Act::Truncate(inode, length) => (inode, Some(bytes::Change::Truncate(length))),
                Act::Fsync(inode) | Act::Close(inode) => (inode, None),
                _ => continue,
            };
            let history = self.files.entry(inode).or_insert_with(|| History::certain(inode, Image::default()));
            if record.end.is_some_and(|(_, errno, _)| never_left(errno)) {
                continue;
            }
            let ended_ns = record.end.map_or(u64::MAX, |(time, ..)| time);
            match (&record.act, change) {
                (_, Some(change)) => {
                    let fate = if record.is_ok() { bytes::Fate::Unsynced } else { bytes::Fate::Unknown };
                    history.events_mut().push(Event { change, fate, ended_ns, closed_ns: None });
                }
                (Act::Fsync(_), None) if record.is_ok() => history.synced(),
                (Act::Fsync(_), None) if record.end.is_some() => history.sync_failed(),
                // As with fsync: the application was told that what it wrote may be lost.
                (Act::Close(_), None) if record.end.is_some() && !record.is_ok() => history.sync_failed(),
                (Act::Close(_), None) if record.end.is_some() => {
                    for event in history.events_mut().iter_mut().filter(|event| event.closed_ns.is_none()) {
                        event.closed_ns = Some(ended_ns);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether an acknowledged change of bytes that no fsync covers may be missing.
fn may_be_missing(event: &Event, fault: Fault, moment: Moment) -> bool {
    let taken_with_the_log = fault.master_loses_power() && moment.may_take(event.ended_ns);
    match event.change {
        bytes::Change::Truncate(_) => taken_with_the_log,
        bytes::Change::Write(..) | bytes::Change::Astray(..) => match fault {
            Fault::Everything | Fault::AllChunkservers => true,
            // What is closed is at the master and on the chunkservers.
            Fault::On(Victim::Client, Trouble::Kill) => event.is_open_at(moment.begin_ns),
            // The client's session ends, and with it what open files had not committed: fsync or close tells.
            _ if moment.session_ended => event.is_open_at(moment.begin_ns),
            // The master refuses to commit it, and the client gives it up.
            _ if fault.fails_the_masters_disk() && event.is_open_at(moment.begin_ns) => true,
            _ if fault.master_alone_loses_power() => taken_with_the_log || moment.may_take_of_handle(event.closed_ns),
            _ => false,
        },
    }
}

fn name_changes(records: &[Record], fault: Fault, moment: Moment) -> Vec<names::Change> {
    let mut changes: Vec<names::Change> = Vec::new();
    let mut told_lost = 0;
    for record in records {
        match &record.act {
            Act::FsyncFolder(folder) => {
                // The log keeps their order, so what was acknowledged before one that is there is there, too. That does not go for
                // changes of unknown fate, nor for those after the power cut: they were made without what it took.
                let promised = |change: &names::Change| change.touches(folder) && change.fate == names::Fate::Losable;
                let touched = changes.iter().rposition(promised).map_or(0, |at| at + 1);
                match record.end {
                    Some((_, 0, _)) => {
                        for change in changes[told_lost.min(touched)..touched].iter_mut() {
                            if change.fate == names::Fate::Losable {
                                change.fate = names::Fate::Kept;
                            }
                        }
                    }
                    Some(_) => told_lost = touched,
                    None => {}
                }
            }
            Act::Write(..) | Act::Truncate(..) | Act::Fsync(_) | Act::Close(_) => {}
            act => {
                let inode = record.end.map(|(.., inode)| inode).filter(|inode| *inode != 0);
                let fate = match record.end {
                    Some((time, 0, _)) if fault.master_loses_power() && moment.may_take(time) => names::Fate::Losable,
                    Some((_, 0, _)) => names::Fate::Kept,
                    Some((_, errno, _)) if was_refused(errno) => continue,
                    _ => names::Fate::Unknown,
                };
                changes.push(names::Change { act: act.clone(), inode, fate });
            }
        }
    }
    changes
}

/// An answer that says that nothing was changed.
fn was_refused(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR | libc::EISDIR | libc::ESTALE)
        || never_left(errno)
}

/// The mount was dead before the call.
fn never_left(errno: i32) -> bool {
    errno == libc::ENOTCONN
}

/// Calls that failed though nothing had happened that the application must notice.
fn unexpected_errors(records: &[Record], fault: Fault, moment: Moment) -> Vec<Problem> {
    records
        .iter()
        .filter_map(|record| {
            let (_, errno, _) = record.end.filter(|(_, errno, _)| *errno != 0)?;
            let error = std::io::Error::from_raw_os_error(errno);
            let words = || format!("{:?} failed: {error}", record.act);
            (!fault.excuses(&record.act, errno, moment)).then(|| Problem::new(Kind::CallFailed, words()))
        })
        .take(5)
        .collect()
}
