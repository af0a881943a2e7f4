//! Which chunks somebody waits for, whose copies cannot be had just now: for people who ask why a program hangs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rfs_common::clock::Monotonic;
use rfs_common::ids::InodeId;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A copy that can be read.
    Read,
    /// Copies that take what was written.
    Write,
}

/// One wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkWait {
    /// The file.
    pub inode: InodeId,
    /// Which of its chunks, from 0.
    pub index: u32,
    /// What for.
    pub purpose: Purpose,
    /// When the first attempt had failed.
    pub since: Monotonic,
}

/// All waits of a mount.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    last: u64,
    waits: BTreeMap<u64, ChunkWait>,
}

/// A wait goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    of: &'a Waits,
    number: u64,
}

impl Waits {
    /// From now on this is waited for.
    pub(crate) fn begin(&self, wait: ChunkWait) -> Waiting<'_> {
        let mut list = self.lock();
        list.last += 1;
        let number = list.last;
        list.waits.insert(number, wait);
        Waiting { of: self, number }
    }

    /// All that go on, the oldest first.
    pub(crate) fn all(&self) -> Vec<ChunkWait> {
        self.lock().waits.values().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.lock().waits.remove(&self.number);
    }
}
