//! Parts of a file that the kernel has locked in its page cache until a request of its own is answered.
//!
//! To have the kernel forget a file's pages is to wait for each page that is locked, and a request that is waiting for the
//! master or for a copy may wait for long. The pages before it are forgotten then, and those behind it are not. A locked page
//! has no content that anybody is shown. So what has to be forgotten is what lies between the locked parts.
//!
//! Pages that a mapping made dirty are different: the kernel writes them, one after the other, before it forgets them, and each such
//! write asks for the lease that is just going. They are counted, so that nobody waits long for what has to wait for him.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest page of any machine. The kernel asks for whole pages but at the end of a file: where pages are larger, what
/// is not locked begins in the locked page there, which is then waited for a while.
const PAGE_BYTES: u64 = 4096;

/// The parts of one file that are locked now.
#[derive(Debug, Default)]
pub struct LockedPages {
    parts: Mutex<Vec<Range<u64>>>,
    writes: AtomicU32,
}

/// A write of pages that the kernel waits for.
#[derive(Debug)]
pub struct PageWrite<'a>(&'a AtomicU32);

/// A part that is locked until this is dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    pages: &'a LockedPages,
    part: Range<u64>,
}

impl LockedPages {
    /// A request that keeps these bytes' pages locked has come. To be dropped before what is to be put into the pages can
    /// have become old: from then on it is waited for.
    pub fn add(&self, part: Range<u64>) -> Locked<'_> {
        self.parts().push(part.clone());
        Locked { pages: self, part }
    }

    /// The kernel writes pages that a mapping made dirty, until this is dropped.
    pub fn add_write(&self) -> PageWrite<'_> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        PageWrite(&self.writes)
    }

    /// Whether the kernel is writing such pages.
    pub fn is_written(&self) -> bool {
        self.writes.load(Ordering::Acquire) > 0
    }

    /// Whether any part is locked.
    pub fn any(&self) -> bool {
        !self.parts().is_empty()
    }

    /// What is not locked, in whole pages: the last part reaches to `u64::MAX`, which is any end.
    pub fn gaps(&self) -> Vec<Range<u64>> {
        let mut locked: Vec<Range<u64>> = self.parts().clone();
        locked.sort_unstable_by_key(|part| part.start);
        let (mut gaps, mut next) = (Vec::with_capacity(locked.len() + 1), 0);
        for part in locked {
            let (start, end) = (part.start / PAGE_BYTES * PAGE_BYTES, part.end.next_multiple_of(PAGE_BYTES));
            if next < start {
                gaps.push(next..start);
            }
            next = next.max(end);
        }
        gaps.push(next..u64::MAX);
        gaps
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PageWrite<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut parts = self.pages.parts();
        if let Some(at) = parts.iter().position(|part| *part == self.part) {
            parts.swap_remove(at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of parts often have one")]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_locked_parts_is_whole_pages() {
        let pages = LockedPages::default();
        assert_eq!(pages.gaps(), [0..u64::MAX]);
        let first = pages.add(8192..10_000);
        let _second = pages.add(4096..12_288);
        let third = pages.add(40_960..45_056);
        assert_eq!(pages.gaps(), [0..4096, 12_288..40_960, 45_056..u64::MAX]);
        drop((first, third));
        assert_eq!(pages.gaps(), [0..4096, 12_288..u64::MAX]);
        let _start = pages.add(0..4096);
        assert_eq!(pages.gaps(), [12_288..u64::MAX]);
    }
}
