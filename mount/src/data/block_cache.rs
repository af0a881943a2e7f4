//! Verified bytes of chunks kept for reading, shared by all files of a mount, bounded in bytes, oldest use leaves first.
//!
//! The unit of keeping is a block of 128 KiB; within it, runs of leaves, so that a random read of 4 KiB keeps 16 KiB.
//! Dirty data is not here: the file lays it over what it finds.
//!
//! What always holds: bytes found here are those of every copy, as acknowledged last. A fetch registers itself before it
//! asks a chunkserver ([`Fetch`]); an invalidation spoils the fetches that are under way in its range, so that they cannot
//! put in what they read before. A reader that misses what another is already fetching waits for that one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::ids::{ChunkId, InodeId};
use rfs_common::leaf::LEAF_BYTES;

/// Leaves of one block.
pub(crate) const BLOCK_LEAVES: u32 = 8;
/// Bytes of one block: 128 KiB.
pub(crate) const BLOCK_BYTES: u32 = BLOCK_LEAVES * LEAF_BYTES as u32;
/// Blocks kept to be filled again.
const FREE_BLOCKS_MAX: usize = 64;
/// How long a reader waits for another's fetch before it fetches for itself.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(10);

/// Consecutive leaves of one block.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) first_leaf: u32,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Run {
    fn leaves(&self) -> Range<u32> {
        self.first_leaf..self.first_leaf + (self.bytes.len() / LEAF_BYTES) as u32
    }
}

/// What was found of a range of leaves.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Runs that cover parts of the range; they may overlap and reach beyond it.
    pub(crate) runs: Vec<Run>,
    /// The leaves that are in none of them.
    pub(crate) missing: Vec<Range<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    inode: InodeId,
    chunk: ChunkId,
    block: u32,
}

#[derive(Debug, Default)]
struct Block {
    runs: Vec<Run>,
    used: u64,
}

#[derive(Debug)]
struct ActiveFetch {
    number: u64,
    inode: InodeId,
    chunk: ChunkId,
    leaves: Range<u32>,
    spoiled: bool,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<Key, Block>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
    fetches: Vec<ActiveFetch>,
    /// Whole blocks that left, to be filled again: fresh memory has to be zeroed, or even to be got from the system.
    free: Vec<Vec<u8>>,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct BlockCache {
    bytes_max: usize,
    state: Mutex<State>,
    fetch_ended: Condvar,
}

impl BlockCache {
    pub(crate) fn new(bytes_max: usize) -> BlockCache {
        BlockCache { bytes_max, state: Mutex::default(), fetch_ended: Condvar::new() }
    }

    /// What is here of these leaves.
    pub(crate) fn find(&self, inode: InodeId, chunk: ChunkId, leaves: Range<u32>) -> Found {
        let mut state = self.state();
        let mut found = Found::default();
        for block in leaves.start / BLOCK_LEAVES..leaves.end.div_ceil(BLOCK_LEAVES) {
            let wanted = leaves.start.max(block * BLOCK_LEAVES)..leaves.end.min((block + 1) * BLOCK_LEAVES);
            let runs = state.use_block(Key { inode, chunk, block });
            let mut next = wanted.start;
            for run in runs {
                let covered = run.leaves();
                if covered.start < wanted.end && covered.end > next {
                    push_missing(&mut found.missing, next..covered.start);
                    next = covered.end;
                    found.runs.push(run);
                }
            }
            push_missing(&mut found.missing, next..wanted.end);
        }
        found
    }

    /// Registers a fetch of these leaves; `None` after having waited for another's fetch of some of them: look again.
    pub(crate) fn begin(self: &Arc<Self>, inode: InodeId, chunk: ChunkId, leaves: &Range<u32>) -> Option<Fetch> {
        let mut state = self.state();
        let overlaps = |fetch: &ActiveFetch| {
            fetch.chunk == chunk && !fetch.spoiled && fetch.leaves.start < leaves.end && leaves.start < fetch.leaves.end
        };
        if let Some(other) = state.fetches.iter().find(|fetch| overlaps(fetch)).map(|fetch| fetch.number) {
            let running = |state: &mut State| state.fetches.iter().any(|fetch| fetch.number == other && !fetch.spoiled);
            let waited = self.fetch_ended.wait_timeout_while(state, WAIT_FOR_OTHERS, running);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() {
                return None;
            }
            state = guard;
        }
        state.uses += 1;
        let number = state.uses;
        state.fetches.push(ActiveFetch { number, inode, chunk, leaves: leaves.clone(), spoiled: false });
        Some(Fetch { cache: Arc::clone(self), number })
    }

    /// A buffer for a fetch, all of which the fetch has to fill.
    pub(crate) fn buffer(&self, bytes: usize) -> Vec<u8> {
        let free = if bytes == BLOCK_BYTES as usize { self.state().free.pop() } else { None };
        free.unwrap_or_else(|| vec![0; bytes])
    }

    /// Whether all of these leaves are here or on their way.
    pub(crate) fn has_or_fetches(&self, inode: InodeId, chunk: ChunkId, leaves: &Range<u32>) -> bool {
        let fetched =
            self.state().fetches.iter().any(|fetch| {
                fetch.chunk == chunk && fetch.leaves.start <= leaves.start && leaves.end <= fetch.leaves.end
            });
        fetched || self.find(inode, chunk, leaves.clone()).missing.is_empty()
    }

    /// Drops everything of a file.
    pub(crate) fn invalidate(&self, inode: InodeId) {
        let low = Key { inode, chunk: ChunkId::new(0), block: 0 };
        let high = Key { inode, chunk: ChunkId::new(u64::MAX), block: u32::MAX };
        self.invalidate_keys(low, high, |fetch| fetch.inode == inode);
    }

    /// Drops the blocks of a chunk that these bytes touch.
    pub(crate) fn invalidate_bytes(&self, inode: InodeId, chunk: ChunkId, bytes: Range<u32>) {
        if bytes.is_empty() {
            return;
        }
        let low = Key { inode, chunk, block: bytes.start / BLOCK_BYTES };
        let high = Key { inode, chunk, block: (bytes.end - 1) / BLOCK_BYTES };
        let leaves = low.block * BLOCK_LEAVES..(high.block + 1) * BLOCK_LEAVES;
        self.invalidate_keys(low, high, |fetch| {
            fetch.chunk == chunk && fetch.leaves.start < leaves.end && leaves.start < fetch.leaves.end
        });
    }

    fn invalidate_keys(&self, low: Key, high: Key, spoils: impl Fn(&ActiveFetch) -> bool) {
        let mut state = self.state();
        let keys: Vec<Key> = state.blocks.range(low..=high).map(|(key, _)| *key).collect();
        let dropped: Vec<Block> = keys.into_iter().filter_map(|key| state.remove(key)).collect();
        state.fetches.iter_mut().filter(|fetch| spoils(fetch)).for_each(|fetch| fetch.spoiled = true);
        drop(state);
        self.fetch_ended.notify_all();
        drop(dropped);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }
}

fn push_missing(missing: &mut Vec<Range<u32>>, leaves: Range<u32>) {
    match missing.last_mut() {
        _ if leaves.is_empty() => {}
        Some(last) if last.end == leaves.start => last.end = leaves.end,
        _ => missing.push(leaves),
    }
}

impl State {
    /// The runs of a block in order, and the note that it was used.
    fn use_block(&mut self, key: Key) -> Vec<Run> {
        self.uses += 1;
        let Some(block) = self.blocks.get_mut(&key) else { return Vec::new() };
        self.by_use.remove(&block.used);
        block.used = self.uses;
        self.by_use.insert(block.used, key);
        block.runs.clone()
    }

    fn put(&mut self, key: Key, run: Run) {
        self.use_block(key);
        let uses = self.uses;
        let block = self.blocks.entry(key).or_insert_with(|| Block { runs: Vec::new(), used: uses });
        self.by_use.insert(block.used, key);
        let leaves = run.leaves();
        let covered = |old: &Run| leaves.start <= old.leaves().start && old.leaves().end <= leaves.end;
        let freed: usize = block.runs.iter().filter(|old| covered(old)).map(|old| old.bytes.len()).sum();
        block.runs.retain(|old| !covered(old));
        self.bytes = self.bytes + run.bytes.len() - freed;
        let at = block.runs.partition_point(|old| old.first_leaf < run.first_leaf);
        block.runs.insert(at, run);
    }

    fn remove(&mut self, key: Key) -> Option<Block> {
        let block = self.blocks.remove(&key)?;
        self.by_use.remove(&block.used);
        self.bytes -= block.runs.iter().map(|run| run.bytes.len()).sum::<usize>();
        Some(block)
    }

    fn evict(&mut self, bytes_max: usize) -> Vec<Block> {
        let mut evicted = Vec::new();
        while self.bytes > bytes_max {
            let Some((_, key)) = self.by_use.pop_first() else { break };
            let Some(mut block) = self.remove(key) else { continue };
            if let [run] = &mut block.runs[..]
                && run.bytes.len() == BLOCK_BYTES as usize
                && self.free.len() < FREE_BLOCKS_MAX
                && let Some(bytes) = Arc::get_mut(&mut run.bytes)
            {
                self.free.push(std::mem::take(bytes));
            }
            evicted.push(block);
        }
        evicted
    }
}

/// A fetch under way; it ends when it is dropped or has delivered.
#[derive(Debug)]
pub(crate) struct Fetch {
    cache: Arc<BlockCache>,
    number: u64,
}

impl Fetch {
    /// Puts in what was read, unless it was invalidated meanwhile. No run may cross the border of a block.
    pub(crate) fn deliver(self, runs: &[Run]) {
        let mut state = self.cache.state();
        let Some(fetch) = state.fetches.iter().find(|fetch| fetch.number == self.number) else { return };
        if fetch.spoiled {
            return;
        }
        let (inode, chunk) = (fetch.inode, fetch.chunk);
        for run in runs {
            let block = run.first_leaf / BLOCK_LEAVES;
            state.put(Key { inode, chunk, block }, run.clone());
        }
        let evicted = state.evict(self.cache.bytes_max);
        drop(state);
        drop(evicted);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.cache.state().fetches.retain(|fetch| fetch.number != self.number);
        self.cache.fetch_ended.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of missing ranges often have one")]
mod tests {
    use super::*;

    const INODE: InodeId = InodeId::new(5);
    const CHUNK: ChunkId = ChunkId::new(9);

    fn run(first_leaf: u32, leaves: usize) -> Run {
        Run { first_leaf, bytes: Arc::new(vec![first_leaf as u8; leaves * LEAF_BYTES]) }
    }

    fn put(cache: &Arc<BlockCache>, run: Run) {
        cache.begin(INODE, CHUNK, &run.leaves()).unwrap().deliver(&[run]);
    }

    #[test]
    fn finds_runs_and_names_what_is_missing() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        put(&cache, run(2, 2));
        put(&cache, run(8, 8));
        let found = cache.find(INODE, CHUNK, 0..16);
        assert_eq!(found.missing, [0..2, 4..8]);
        assert_eq!(found.runs.iter().map(|run| run.first_leaf).collect::<Vec<_>>(), [2, 8]);
        assert_eq!(cache.find(INODE, ChunkId::new(1), 2..4).missing, [2..4]);
    }

    #[test]
    fn keeps_to_its_bytes_and_lets_the_oldest_go() {
        let cache = Arc::new(BlockCache::new(2 * BLOCK_BYTES as usize));
        put(&cache, run(0, 8));
        put(&cache, run(8, 8));
        assert!(cache.find(INODE, CHUNK, 0..8).missing.is_empty());
        put(&cache, run(16, 8));
        assert_eq!(cache.bytes(), 2 * BLOCK_BYTES as usize);
        assert_eq!(cache.find(INODE, CHUNK, 0..24).missing, [8..16]);
    }

    #[test]
    fn an_invalidation_spoils_fetches_under_way() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let fetch = cache.begin(INODE, CHUNK, &(0..8)).unwrap();
        let elsewhere = cache.begin(INODE, CHUNK, &(8..16)).unwrap();
        cache.invalidate_bytes(INODE, CHUNK, 100..200);
        fetch.deliver(&[run(0, 8)]);
        elsewhere.deliver(&[run(8, 8)]);
        assert_eq!(cache.find(INODE, CHUNK, 0..16).missing, [0..8]);
        cache.invalidate(INODE);
        assert_eq!((cache.find(INODE, CHUNK, 0..16).missing, cache.bytes()), (vec![0..16], 0));
    }

    #[test]
    fn a_second_reader_waits_for_the_first() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let fetch = cache.begin(INODE, CHUNK, &(0..8)).unwrap();
        let waiting = std::thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.begin(INODE, CHUNK, &(4..5)).is_none() && cache.find(INODE, CHUNK, 4..5).missing.is_empty()
        });
        std::thread::sleep(Duration::from_millis(20));
        fetch.deliver(&[run(0, 8)]);
        assert!(waiting.join().unwrap());
    }
}
