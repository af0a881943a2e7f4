//! The pages in memory: which there are, which are loaded, which have changed since they were last stored.
//!
//! Each table is divided into pages by first key; a page covers the keys from its first key to the next page's. The
//! division is always in memory, the pages themselves are loaded when wanted and dropped again, oldest unused first, when
//! the cache is full. Pages are shared pointers: a checkpoint takes the pointers of the changed pages and writes them
//! while commits go on; a commit that changes such a page copies it first.
//!
//! What always holds: each table has a page that begins with the empty key, which is never removed; changes are made by
//! one writer (who holds the log's append lock), in log order; a changed page stays in memory until it is stored; a page
//! is removed only into a left neighbour that is loaded and changed with it, so that what a stale stored copy of the
//! neighbour still has of the removed range can never come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::page::Page;
use super::sled_pages::SledPages;
use super::{Change, StoreError, Table};

/// Entries of the eviction queue looked at per page loaded, so that no load takes long.
const EVICTION_STEPS: usize = 64;

/// A page's table and first key, which never change while it exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageId {
    pub(crate) table: Table,
    pub(crate) first_key: Vec<u8>,
}

impl PageId {
    /// The key it is stored under.
    pub(crate) fn to_stored(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + self.first_key.len());
        key.push(self.table as u8);
        key.extend_from_slice(&self.first_key);
        key
    }

    pub(crate) fn from_stored(key: &[u8]) -> Option<PageId> {
        let (table, first_key) = key.split_first()?;
        Some(PageId { table: Table::from_number(*table)?, first_key: first_key.to_vec() })
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "page {:?}/", self.table)?;
        self.first_key.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A page as a checkpoint took it.
#[derive(Debug)]
pub(crate) struct CapturedPage {
    pub(crate) id: PageId,
    pub(crate) page: Arc<Page>,
    /// Whether its bound is known to be stored already.
    pub(crate) stored: bool,
    identity: u64,
}

impl CapturedPage {
    /// A page that was never in a store, as a restore writes it.
    pub(crate) fn new(id: PageId, page: Arc<Page>) -> CapturedPage {
        CapturedPage { id, page, stored: false, identity: 0 }
    }
}

/// Whether changes come from a caller or from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Commit,
    Replay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Clean,
    Dirty,
    /// A checkpoint is storing it as it is.
    Writing,
}

#[derive(Debug)]
struct Slot {
    page: Option<Arc<Page>>,
    state: State,
    stored: bool,
    /// Tells this slot from a later one with the same first key.
    identity: u64,
    /// Counts the times a page was put here, so that a slow load does not bring back an old one.
    generation: u64,
    used: AtomicBool,
    /// The last record replayed into it: the rest of that record's changes belong to it too.
    replayed: u64,
    memory_bytes: u64,
}

type PageMap = BTreeMap<Vec<u8>, Slot>;

struct Inner {
    tables: [PageMap; Table::ALL.len()],
    queue: VecDeque<(PageId, u64)>,
    dirty: BTreeSet<PageId>,
    removed: BTreeSet<PageId>,
    emptied: Vec<PageId>,
    cached_bytes: u64,
    dirty_bytes: u64,
    identities: u64,
}

/// All pages of a store.
pub(crate) struct Pages {
    inner: RwLock<Inner>,
    pub(crate) sled: SledPages,
    page_bytes: usize,
    cache_bytes: u64,
}

/// What a page's neighbourhood looks like to someone who walks over it.
pub(crate) struct PageView {
    pub(crate) page: Arc<Page>,
    /// The first key of the next page.
    pub(crate) upper: Option<Vec<u8>>,
}

impl Pages {
    /// Reads the division into pages; no page is loaded.
    pub(crate) fn open(sled: SledPages, page_bytes: usize, cache_bytes: u64) -> Result<Pages, StoreError> {
        let mut inner = Inner {
            tables: Default::default(),
            queue: VecDeque::new(),
            dirty: BTreeSet::new(),
            removed: BTreeSet::new(),
            emptied: Vec::new(),
            cached_bytes: 0,
            dirty_bytes: 0,
            identities: 0,
        };
        for id in sled.bounds()? {
            let identity = inner.next_identity();
            inner.tables[id.table.index()].insert(id.first_key, Slot::stored(identity));
        }
        for table in Table::ALL {
            if !inner.tables[table.index()].contains_key(&[][..]) {
                inner.insert_page(PageId { table, first_key: Vec::new() }, Page::default(), 0);
            }
        }
        Ok(Pages { inner: RwLock::new(inner), sled, page_bytes, cache_bytes })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with_page(table, key, |_, page| page.get(key).map(<[u8]>::to_vec))
    }

    /// The page that covers the key, and where it ends.
    pub(crate) fn view(&self, table: Table, key: &[u8]) -> Result<PageView, StoreError> {
        self.with_page(table, key, |inner, page| {
            let above = (Bound::Excluded(key), Bound::Unbounded);
            let upper = inner.tables[table.index()].range::<[u8], _>(above).next().map(|(first, _)| first.clone());
            PageView { page: page.clone(), upper }
        })
    }

    /// Loads the pages the changes touch and holds them in memory for as long as the result lives.
    pub(crate) fn pin(&self, changes: &[Change]) -> Result<Vec<Arc<Page>>, StoreError> {
        changes.iter().map(|change| self.with_page(change.table(), change.key(), |_, page| page.clone())).collect()
    }

    fn with_page<R>(
        &self,
        table: Table,
        key: &[u8],
        read: impl FnOnce(&Inner, &Arc<Page>) -> R,
    ) -> Result<R, StoreError> {
        loop {
            let (id, identity, generation) = {
                let inner = self.read();
                let (first_key, slot) = covering(&inner.tables[table.index()], key);
                if let Some(page) = &slot.page {
                    slot.used.store(true, Ordering::Relaxed);
                    return Ok(read(&inner, page));
                }
                (PageId { table, first_key: first_key.clone() }, slot.identity, slot.generation)
            };
            let page = match self.sled.load(&id) {
                Ok(page) => page,
                // One that was removed meanwhile is not missing: its keys belong to its neighbour now.
                Err(_) if !self.read().has(&id, identity) => continue,
                Err(error) => return Err(error),
            };
            self.write().put_loaded(&id, generation, page, self.cache_bytes);
        }
    }

    /// Makes the changes of one record, whose pages must be pinned up to this call. Returns how many bytes of pages have
    /// changed since they were last stored.
    pub(crate) fn apply(&self, position: u64, changes: &[Change], pinned: Vec<Arc<Page>>, origin: Origin) -> u64 {
        let mut inner = self.write();
        // Given up under the lock: nothing can be evicted before it is changed, and nothing is copied for the pin's sake.
        drop(pinned);
        for change in changes {
            inner.apply(position, change, origin, self.page_bytes);
        }
        inner.evict(self.cache_bytes);
        inner.dirty_bytes
    }

    /// Removes the pages that deletions left empty. The caller holds the append lock; `position` is the log's.
    pub(crate) fn remove_one_empty(&self, position: u64) -> Result<bool, StoreError> {
        let Some(id) = self.write().emptied.pop() else { return Ok(false) };
        let left = {
            let inner = self.read();
            let map = &inner.tables[id.table.index()];
            let is_empty =
                map.get(&id.first_key).is_some_and(|slot| slot.page.as_ref().is_some_and(|page| page.is_empty()));
            if !is_empty || id.first_key.is_empty() {
                return Ok(true);
            }
            left_of(map, &id.first_key).clone()
        };
        let held = self.with_page(id.table, &left, |_, page| page.clone()).inspect_err(|_| {
            self.write().emptied.push(id.clone());
        })?;
        let mut inner = self.write();
        drop(held);
        inner.merge_into_left(&id, position);
        Ok(true)
    }

    /// Takes the changed pages for a checkpoint, and the pages to remove.
    pub(crate) fn capture(&self) -> (Vec<CapturedPage>, Vec<PageId>) {
        let mut guard = self.write();
        let inner = &mut *guard;
        let mut captured = Vec::with_capacity(inner.dirty.len());
        for id in std::mem::take(&mut inner.dirty) {
            let Some(slot) = inner.tables[id.table.index()].get_mut(&id.first_key) else { continue };
            let Some(page) = &slot.page else { continue };
            slot.state = State::Writing;
            captured.push(CapturedPage { page: page.clone(), stored: slot.stored, identity: slot.identity, id });
        }
        inner.dirty_bytes = 0;
        (captured, std::mem::take(&mut inner.removed).into_iter().collect())
    }

    /// Notes that a checkpoint has stored what it captured.
    pub(crate) fn stored(&self, captured: Vec<CapturedPage>) {
        let mut inner = self.write();
        for page in captured {
            let slot = inner.tables[page.id.table.index()].get_mut(&page.id.first_key);
            let Some(slot) = slot.filter(|slot| slot.identity == page.identity) else { continue };
            slot.stored = true;
            if slot.state == State::Writing {
                slot.state = State::Clean;
            }
        }
    }

    /// Notes that a checkpoint failed: everything it captured is changed still.
    pub(crate) fn not_stored(&self, captured: Vec<CapturedPage>, removed: Vec<PageId>) {
        let mut guard = self.write();
        let inner = &mut *guard;
        for page in captured {
            let slot = inner.tables[page.id.table.index()].get_mut(&page.id.first_key);
            if let Some(slot) = slot.filter(|slot| slot.state == State::Writing) {
                slot.state = State::Dirty;
                inner.dirty_bytes += slot.memory_bytes;
                inner.dirty.insert(page.id);
            }
        }
        for id in removed {
            if !inner.tables[id.table.index()].contains_key(&id.first_key) {
                inner.removed.insert(id);
            }
        }
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.read().dirty_bytes
    }

    pub(crate) fn dirty_pages(&self) -> u64 {
        self.read().dirty.len() as u64
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.read().cached_bytes
    }
}

/// The page that covers a key.
fn covering<'a>(map: &'a PageMap, key: &[u8]) -> (&'a Vec<u8>, &'a Slot) {
    let up_to = (Bound::Unbounded, Bound::Included(key));
    map.range::<[u8], _>(up_to).next_back().expect("each table has a page that begins with the empty key")
}

/// The first key of the left neighbour of a page that is not the first.
fn left_of<'a>(map: &'a PageMap, first_key: &[u8]) -> &'a Vec<u8> {
    let below = (Bound::Unbounded, Bound::Excluded(first_key));
    map.range::<[u8], _>(below).next_back().expect("only the page with the empty key has no left neighbour").0
}

impl Slot {
    fn stored(identity: u64) -> Slot {
        Slot {
            page: None,
            state: State::Clean,
            stored: true,
            identity,
            generation: 0,
            used: AtomicBool::new(false),
            replayed: 0,
            memory_bytes: 0,
        }
    }
}

impl Inner {
    fn next_identity(&mut self) -> u64 {
        self.identities += 1;
        self.identities
    }

    /// Whether this very page, not a later one with the same first key, is there.
    fn has(&self, id: &PageId, identity: u64) -> bool {
        self.tables[id.table.index()].get(&id.first_key).is_some_and(|slot| slot.identity == identity)
    }

    /// Adds a page that is not stored yet.
    fn insert_page(&mut self, id: PageId, page: Page, replayed: u64) {
        let identity = self.next_identity();
        let memory_bytes = page.memory_bytes();
        self.cached_bytes += memory_bytes;
        self.dirty_bytes += memory_bytes;
        self.queue.push_back((id.clone(), identity));
        self.dirty.insert(id.clone());
        self.removed.remove(&id);
        let page = Some(Arc::new(page));
        let slot = Slot { page, state: State::Dirty, stored: false, replayed, memory_bytes, ..Slot::stored(identity) };
        self.tables[id.table.index()].insert(id.first_key, slot);
    }

    /// Keeps a loaded page, unless the slot got one meanwhile.
    fn put_loaded(&mut self, id: &PageId, generation: u64, mut page: Page, cache_bytes: u64) {
        let map = &mut self.tables[id.table.index()];
        let above = (Bound::Excluded(&id.first_key[..]), Bound::Unbounded);
        if let Some((upper, _)) = map.range::<[u8], _>(above).next() {
            page.truncate_from(upper);
        }
        let Some(slot) = map.get_mut(&id.first_key) else { return };
        if slot.page.is_some() || slot.generation != generation {
            return;
        }
        slot.generation += 1;
        slot.memory_bytes = page.memory_bytes();
        slot.used.store(true, Ordering::Relaxed);
        slot.page = Some(Arc::new(page));
        self.cached_bytes += slot.memory_bytes;
        self.queue.push_back((id.clone(), slot.identity));
        self.evict(cache_bytes);
    }

    /// Drops pages that are stored and were not used since they were last looked at, until the cache fits again.
    fn evict(&mut self, cache_bytes: u64) {
        for _ in 0..EVICTION_STEPS.min(self.queue.len()) {
            if self.cached_bytes <= cache_bytes {
                return;
            }
            let Some((id, identity)) = self.queue.pop_front() else { return };
            let slot = self.tables[id.table.index()].get_mut(&id.first_key);
            let Some(slot) = slot.filter(|slot| slot.identity == identity) else { continue };
            let Some(page) = &slot.page else { continue };
            let wanted = slot.state != State::Clean || Arc::strong_count(page) > 1;
            if slot.used.swap(false, Ordering::Relaxed) || wanted {
                self.queue.push_back((id, identity));
                continue;
            }
            slot.page = None;
            self.cached_bytes -= slot.memory_bytes;
            slot.memory_bytes = 0;
        }
    }

    fn apply(&mut self, position: u64, change: &Change, origin: Origin, page_bytes: usize) {
        let table = change.table();
        let up_to = (Bound::Unbounded, Bound::Included(change.key()));
        let (first_key, slot) = self.tables[table.index()]
            .range_mut::<[u8], _>(up_to)
            .next_back()
            .expect("each table has a page that begins with the empty key");
        let page = slot.page.as_mut().expect("the pages of a record are loaded before it is applied");
        if origin == Origin::Replay {
            if page.position >= position && slot.replayed != position {
                return;
            }
            slot.replayed = position;
        }
        let page = Arc::make_mut(page);
        page.position = position;
        let put_at = match change {
            Change::Put { key, value, .. } => Some(page.put(key, value)),
            Change::Delete { key, .. } => {
                page.delete(key);
                None
            }
        };
        let (bytes, count) = (page.record_bytes(), page.record_count());
        let first_key =
            (slot.state != State::Dirty || bytes > page_bytes || put_at.is_none()).then(|| first_key.clone());
        let before = slot.memory_bytes;
        slot.memory_bytes = page.memory_bytes();
        let was_dirty = std::mem::replace(&mut slot.state, State::Dirty) == State::Dirty;
        self.cached_bytes = self.cached_bytes + slot.memory_bytes - before;
        self.dirty_bytes = self.dirty_bytes + slot.memory_bytes - if was_dirty { before } else { 0 };
        let Some(first_key) = first_key else { return };
        let id = PageId { table, first_key };
        if !was_dirty {
            self.dirty.insert(id.clone());
        }
        match put_at {
            Some(at) if bytes > page_bytes && count > 1 => self.split(&id, at),
            None => self.shrink(id, bytes, origin, position, page_bytes),
            Some(_) => {}
        }
    }

    /// Divides a page in halves; one that grew at its end keeps all but its last record, so that keys that only ascend
    /// leave full pages behind.
    fn split(&mut self, id: &PageId, put_at: usize) {
        let slot = self.tables[id.table.index()].get_mut(&id.first_key).expect("the page was just changed");
        let page = Arc::make_mut(slot.page.as_mut().expect("the page was just changed"));
        let grew_at_end = put_at + 1 == page.record_count();
        let (first_key, right) = page.split_off(if grew_at_end { put_at } else { page.middle() });
        let before = std::mem::replace(&mut slot.memory_bytes, page.memory_bytes());
        let replayed = slot.replayed;
        self.cached_bytes = self.cached_bytes + slot.memory_bytes - before;
        self.dirty_bytes = self.dirty_bytes + slot.memory_bytes - before;
        self.insert_page(PageId { table: id.table, first_key }, right, replayed);
    }

    /// After a deletion: a page that has become small joins its left neighbour if that is loaded and has room; an empty
    /// one is noted, to be removed before the next checkpoint. Replay only notes: its pages are not all at one position.
    fn shrink(&mut self, id: PageId, bytes: usize, origin: Origin, position: u64, page_bytes: usize) {
        if bytes > page_bytes / 4 || id.first_key.is_empty() {
            return;
        }
        if origin == Origin::Commit {
            let map = &self.tables[id.table.index()];
            let left = &map[left_of(map, &id.first_key)];
            if left.page.as_ref().is_some_and(|left| left.record_bytes() + bytes <= page_bytes * 3 / 4) {
                self.merge_into_left(&id, position);
                return;
            }
        }
        if bytes == 0 {
            self.emptied.push(id);
        }
    }

    /// Moves what is left of a page into its left neighbour, which must be loaded, and removes the page.
    fn merge_into_left(&mut self, id: &PageId, position: u64) {
        let map = &mut self.tables[id.table.index()];
        let left_key = left_of(map, &id.first_key).clone();
        let Some(gone) = map.remove(&id.first_key) else { return };
        self.cached_bytes -= gone.memory_bytes;
        if gone.state == State::Dirty {
            self.dirty_bytes -= gone.memory_bytes;
            self.dirty.remove(id);
        }
        self.removed.insert(id.clone());
        let left = map.get_mut(&left_key).expect("its key was just found");
        let page = Arc::make_mut(left.page.as_mut().expect("a page is removed only into one that is loaded"));
        if let Some(gone) = &gone.page {
            page.append(gone);
        }
        page.position = position;
        let before = std::mem::replace(&mut left.memory_bytes, page.memory_bytes());
        self.cached_bytes = self.cached_bytes + left.memory_bytes - before;
        if std::mem::replace(&mut left.state, State::Dirty) == State::Dirty {
            self.dirty_bytes = self.dirty_bytes + left.memory_bytes - before;
        } else {
            self.dirty_bytes += left.memory_bytes;
            self.dirty.insert(PageId { table: id.table, first_key: left_key });
        }
    }
}
