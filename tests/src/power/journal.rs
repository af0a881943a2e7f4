//! The journal of an actor: one line before each call, one after it.
//!
//! `B 17 123456789 rename a/b c` (record 17 begins at this monotonic time in nanoseconds), `E 17 123459999 0 4711` (it ended
//! with this error number, and the inode number it gave, or the place in the file that a write went to), `X words` (the actor itself saw something that must not be).

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::time::{ClockId, clock_gettime};

/// What an actor does. Paths are relative to its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A new file, that did not exist.
    Create(String),
    /// A new folder.
    Mkdir(String),
    /// A hard link to the first path.
    Link(String, String),
    /// Over an existing file or empty folder, or to a new name.
    Rename(String, String),
    /// Of a file.
    Unlink(String),
    /// Of an empty folder.
    Rmdir(String),
    /// To the file with this inode number: offset, length, which write. It ends with the place it went to, which an append does
    /// not choose.
    Write(u64, u64, u64, u32),
    /// Of the file, to this length.
    Truncate(u64, u64),
    /// Of the file.
    Fsync(u64),
    /// Of the folder.
    FsyncFolder(String),
    /// Of the file's only handle.
    Close(u64),
}

impl Act {
    /// Whether it is a change of names, which the master answers.
    pub fn changes_names(&self) -> bool {
        !matches!(self, Self::Write(..) | Self::Truncate(..) | Self::Fsync(_) | Self::FsyncFolder(_) | Self::Close(_))
    }
}

/// An act and what is known of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// What.
    pub act: Act,
    /// When it began.
    pub begin_ns: u64,
    /// When it ended, with which error number (0: well), and the inode number that a creation gave or the place of a write.
    pub end: Option<(u64, i32, u64)>,
}

impl Record {
    /// Whether it was acknowledged.
    pub fn is_ok(&self) -> bool {
        matches!(self.end, Some((_, 0, _)))
    }
}

/// Nanoseconds on the machine's monotonic clock, the same in all processes.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The writing side.
pub struct Journal {
    file: File,
    next: u64,
}

impl Journal {
    /// Begins one.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path).context("a journal")?;
        Ok(Self { file, next: 0 })
    }

    /// Notes that `act` begins.
    pub fn begin(&mut self, act: &Act) -> u64 {
        self.next += 1;
        self.line(&format!("B {} {} {}\n", self.next, now_ns(), words(act)));
        self.next
    }

    /// Notes how it ended.
    pub fn end(&mut self, number: u64, errno: i32, result: u64) {
        self.line(&format!("E {number} {} {errno} {result}\n", now_ns()));
    }

    /// Notes something that must not be.
    pub fn violation(&mut self, what: &str) {
        self.line(&format!("X {}\n", what.replace('\n', " ")));
    }

    fn line(&mut self, line: &str) {
        // A local file: what is written survives the writer's SIGKILL.
        self.file.write_all(line.as_bytes()).expect("the journal is on a local disk with room");
    }
}

fn words(act: &Act) -> String {
    match act {
        Act::Create(path) => format!("create {path}"),
        Act::Mkdir(path) => format!("mkdir {path}"),
        Act::Link(from, to) => format!("link {from} {to}"),
        Act::Rename(from, to) => format!("rename {from} {to}"),
        Act::Unlink(path) => format!("unlink {path}"),
        Act::Rmdir(path) => format!("rmdir {path}"),
        Act::Write(inode, offset, length, generation) => format!("write {inode} {offset} {length} {generation}"),
        Act::Truncate(inode, length) => format!("truncate {inode} {length}"),
        Act::Fsync(inode) => format!("fsync {inode}"),
        Act::FsyncFolder(path) => format!("fsyncdir {path}"),
        Act::Close(inode) => format!("close {inode}"),
    }
}

/// Reads a journal: its records in order, and the violations noted in it. A last line that is not whole is left out.
///
/// # Errors
/// If it is not a journal.
pub fn read(path: &Path) -> anyhow::Result<(Vec<Record>, Vec<String>)> {
    let text = std::fs::read_to_string(path)?;
    let mut records: Vec<Record> = Vec::new();
    let mut violations = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["B", number, time, ref act @ ..] => {
                anyhow::ensure!(number.parse::<usize>()? == records.len() + 1, "records in order: {line}");
                records.push(Record { act: parse(act)?, begin_ns: time.parse()?, end: None });
            }
            ["E", number, time, errno, inode] => {
                let record = number.parse::<usize>()?.checked_sub(1).and_then(|at| records.get_mut(at));
                record.context("it began")?.end = Some((time.parse()?, errno.parse()?, inode.parse()?));
            }
            ["X", ..] => violations.push(line[2..].to_owned()),
            _ => bail!("not a line of a journal: {line}"),
        }
    }
    Ok((records, violations))
}

fn parse(fields: &[&str]) -> anyhow::Result<Act> {
    Ok(match *fields {
        ["create", path] => Act::Create(path.into()),
        ["mkdir", path] => Act::Mkdir(path.into()),
        ["link", from, to] => Act::Link(from.into(), to.into()),
        ["rename", from, to] => Act::Rename(from.into(), to.into()),
        ["unlink", path] => Act::Unlink(path.into()),
        ["rmdir", path] => Act::Rmdir(path.into()),
        ["write", inode, offset, length, generation] => {
            Act::Write(inode.parse()?, offset.parse()?, length.parse()?, generation.parse()?)
        }
        ["truncate", inode, length] => Act::Truncate(inode.parse()?, length.parse()?),
        ["fsync", inode] => Act::Fsync(inode.parse()?),
        ["fsyncdir", path] => Act::FsyncFolder(path.into()),
        ["close", inode] => Act::Close(inode.parse()?),
        _ => bail!("not an act: {fields:?}"),
    })
}
