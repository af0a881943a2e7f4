//! The adapter between pages and sled: the only file of the store that knows sled.
//!
//! Two trees: `pages` has the pages themselves under their table and first key; `bounds` has only the keys, so that a
//! restart reads a few bytes per page instead of all pages. A page exists if its bound does.
//!
//! A checkpoint is written in steps, so that a crash at any moment leaves pages that, with the log, still say the truth:
//!
//! 1. pages that are new (right halves of splits);
//! 2. their bounds, all or none;
//! 3. pages that changed;
//! 4. the bounds of removed pages are removed, all or none;
//! 5. the removed pages.
//!
//! Between the steps everything is on disk: sled's files and their folder are synced by us after each.
//! `docs/formats/pages.md` says why that is enough.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::format::Damage;
use super::log::locked;
use super::page::Page;
use super::pages::{CapturedPage, PageId};
use super::wakeup::{Wakeup, Woken};
use super::{StoreError, sled_sync};

/// sled's folder in the store's folder.
pub(crate) const PAGES_FOLDER: &str = "pages";
/// sled's own cache; pages are cached by us.
const SLED_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Inserts between two looks at sled's health.
const PAGES_PER_FLUSH: usize = 256;

/// How often, and how far apart, opening sled is tried: the threads of one that was dropped let go of its lock file a
/// moment later.
const REOPEN_ATTEMPTS: u32 = 20;
const REOPEN_PAUSE: Duration = Duration::from_millis(10);

/// How long a read waits for sled to be opened again.
const REOPENING_MAX: Duration = Duration::from_secs(10);

/// How long sled may take for a checkpoint before it is looked at whether it has failed without saying so.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// sled, or nothing after it failed and could not be opened again.
pub(crate) struct SledPages {
    folder: PathBuf,
    slot: Mutex<Slot>,
    reopened: Condvar,
}

#[derive(Default)]
struct Slot {
    trees: Option<Trees>,
    reopening: bool,
    /// Rises with each sled that was opened.
    generation: u64,
}

#[derive(Clone)]
struct Trees {
    db: sled::Db,
    pages: sled::Tree,
    bounds: sled::Tree,
}

impl SledPages {
    /// Opens sled in the store's folder, making it if it is not there.
    pub(crate) fn open(store: &Path) -> Result<SledPages, StoreError> {
        let folder = store.join(PAGES_FOLDER);
        let trees = open_trees(&folder)?;
        let slot = Slot { trees: Some(trees), ..Slot::default() };
        Ok(SledPages { folder, slot: Mutex::new(slot), reopened: Condvar::new() })
    }

    fn trees(&self) -> Result<Trees, StoreError> {
        Ok(self.trees_and_generation()?.0)
    }

    fn trees_and_generation(&self) -> Result<(Trees, u64), StoreError> {
        let slot = locked(&self.slot);
        let reopening = |slot: &mut Slot| slot.reopening;
        let waited = self.reopened.wait_timeout_while(slot, REOPENING_MAX, reopening);
        let (slot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let trees = slot.trees.clone();
        let trees =
            trees.ok_or_else(|| StoreError::pages(&self.folder, "sled failed and could not be opened again"))?;
        Ok((trees, slot.generation))
    }

    /// All bounds, in order within each table.
    pub(crate) fn bounds(&self) -> Result<Vec<PageId>, StoreError> {
        let mut bounds = Vec::new();
        for entry in &self.trees()?.bounds {
            let (key, _) = entry.map_err(|error| self.error(&error))?;
            let page =
                PageId::from_stored(&key).ok_or_else(|| self.damage("a bound", &Damage::new("it names no table")))?;
            bounds.push(page);
        }
        Ok(bounds)
    }

    /// The page as it is stored, and whether it is whole.
    pub(crate) fn load(&self, id: &PageId) -> Result<Page, StoreError> {
        loop {
            let (trees, generation) = self.trees_and_generation()?;
            let loaded = self.load_from(&trees, id);
            // One that failed meanwhile says nothing about the page.
            if loaded.is_ok() || locked(&self.slot).generation == generation {
                return loaded;
            }
        }
    }

    fn load_from(&self, trees: &Trees, id: &PageId) -> Result<Page, StoreError> {
        let bytes = trees.pages.get(id.to_stored()).map_err(|error| self.error(&error))?;
        let bytes = bytes.ok_or_else(|| self.damage(id, &Damage::new("the page is missing")))?;
        Page::decode(id.table, &bytes).map_err(|damage| self.damage(id, &damage))
    }

    /// Writes what a checkpoint has captured; returns when all of it is on disk.
    pub(crate) fn write(&self, pages: &[CapturedPage], removed: &[PageId]) -> Result<(), StoreError> {
        let trees = self.trees()?;
        let _pulse = Pulse::begin(&trees);
        let syncs_before = sled_sync::calls();
        let (fresh, changed) = self.divide(&trees, pages)?;
        self.insert(&trees, &fresh)?;
        let mut bounds = sled::Batch::default();
        fresh.iter().for_each(|page| bounds.insert(page.id.to_stored(), &[]));
        trees.bounds.apply_batch(bounds).map_err(|error| self.error(&error))?;
        self.make_durable(&trees)?;
        self.insert(&trees, &changed)?;
        let mut bounds = sled::Batch::default();
        removed.iter().for_each(|id| bounds.remove(id.to_stored()));
        trees.bounds.apply_batch(bounds).map_err(|error| self.error(&error))?;
        self.make_durable(&trees)?;
        for id in removed {
            trees.pages.remove(id.to_stored()).map_err(|error| self.error(&error))?;
        }
        if !removed.is_empty() {
            self.make_durable(&trees)?;
        }
        if !pages.is_empty() && sled_sync::calls() == syncs_before {
            return Err(StoreError::pages(&self.folder, "sled wrote without syncing; this program was linked wrongly"));
        }
        Ok(())
    }

    /// What a crash in the first step leaves, for tests.
    #[cfg(test)]
    pub(crate) fn write_without_bounds(&self, pages: &[CapturedPage]) -> Result<(), StoreError> {
        let trees = self.trees()?;
        let (fresh, _) = self.divide(&trees, pages)?;
        self.insert(&trees, &fresh)
    }

    /// New pages, and those that have a bound already. sled itself is asked: a page can have been removed and made again
    /// since the last checkpoint, and then still covers, in sled, a range that only the new bounds will cut down.
    fn divide<'a>(
        &self,
        trees: &Trees,
        pages: &'a [CapturedPage],
    ) -> Result<(Vec<&'a CapturedPage>, Vec<&'a CapturedPage>), StoreError> {
        let (mut fresh, mut changed) = (Vec::new(), Vec::new());
        for page in pages {
            let has_bound =
                page.stored || trees.bounds.contains_key(page.id.to_stored()).map_err(|error| self.error(&error))?;
            if has_bound { changed.push(page) } else { fresh.push(page) }
        }
        Ok((fresh, changed))
    }

    /// Inserts pages and waits until they are on disk.
    fn insert(&self, trees: &Trees, pages: &[&CapturedPage]) -> Result<(), StoreError> {
        for (count, page) in pages.iter().enumerate() {
            trees
                .pages
                .insert(page.id.to_stored(), page.page.encode(page.id.table))
                .map_err(|error| self.error(&error))?;
            if count % PAGES_PER_FLUSH == PAGES_PER_FLUSH - 1 {
                trees.db.flush().map_err(|error| self.error(&error))?;
            }
        }
        self.make_durable(trees)
    }

    fn make_durable(&self, trees: &Trees) -> Result<(), StoreError> {
        trees.db.flush().map_err(|error| self.error(&error))?;
        sync_folder(&self.folder).map_err(|error| StoreError::pages(&self.folder, format!("syncing failed: {error}")))
    }

    /// After an error sled answers nothing but that error; a new one reads its files again. The old one is left behind, as
    /// its drop may never end.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let failed = {
            let mut slot = locked(&self.slot);
            slot.reopening = true;
            slot.trees.take()
        };
        if let Some(failed) = failed {
            std::mem::forget(failed);
        }
        let disarmed = disarm(&self.folder);
        let opened = disarmed.and_then(|()| open_trees(&self.folder));
        let mut slot = locked(&self.slot);
        slot.reopening = false;
        slot.generation += 1;
        self.reopened.notify_all();
        slot.trees = Some(opened?);
        Ok(())
    }

    /// Whether a failed attempt to open sled again has left the store without pages.
    pub(crate) fn is_open(&self) -> bool {
        locked(&self.slot).trees.is_some()
    }

    fn error(&self, error: &sled::Error) -> StoreError {
        StoreError::pages(&self.folder, format!("sled failed: {error}"))
    }

    fn damage(&self, what: impl std::fmt::Display, damage: &Damage) -> StoreError {
        StoreError::pages(&self.folder, format!("{what} is damaged: {damage}"))
    }
}

fn open_trees(folder: &Path) -> Result<Trees, StoreError> {
    let error = |error: sled::Error| StoreError::pages(folder, format!("sled cannot open it: {error}"));
    let config = sled::Config::default()
        .path(folder)
        .cache_capacity(SLED_CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None);
    let open = || {
        remove_unfinished(folder)?;
        config.open()
    };
    let mut attempt = open();
    for _ in 0..REOPEN_ATTEMPTS {
        if !matches!(&attempt, Err(sled::Error::Io(_))) {
            break;
        }
        std::thread::sleep(REOPEN_PAUSE);
        attempt = open();
    }
    let db = attempt.map_err(error)?;
    match (db.open_tree("pages"), db.open_tree("bounds")) {
        (Ok(pages), Ok(bounds)) => Ok(Trees { db, pages, bounds }),
        (Err(failed), _) | (_, Err(failed)) => {
            // Left behind like any other that has failed.
            std::mem::forget(db);
            disarm(folder)?;
            Err(error(failed))
        }
    }
}

/// Removes snapshots that sled was writing when the disk was full or the power went. Finished ones have another name, and the
/// one before is kept until then; but sled takes an unfinished one for the latest, and itself for damaged.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    // Whoever has sled open may be writing one just now; whoever is letting go of it may have let go when sled looks.
    let Ok(database) = File::open(folder.join("db")) else { return Ok(()) };
    rustix::fs::flock(&database, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn disarm(folder: &Path) -> Result<(), StoreError> {
    match sled_sync::disarm(&folder.join("db")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::pages(folder, format!("taking its file from the sled that failed did not work: {error}")))
        }
        _ => Ok(()),
    }
}

/// Looks after sled while it writes. Where a write of its log fails in one of its threads, not all who wait for that write are
/// told; whoever asks sled for anything afterwards has them told.
struct Pulse(Arc<Wakeup>);

impl Pulse {
    fn begin(trees: &Trees) -> Pulse {
        let (ended, trees) = (Arc::new(Wakeup::default()), trees.clone());
        let pulse = Pulse(Arc::clone(&ended));
        let beat = move || {
            while ended.sleep(PULSE_INTERVAL) != Woken::Ended {
                // An error is what the writer is told too.
                let _ = trees.db.insert(b"pulse", &[]);
            }
        };
        // Without the thread sled is on its own, as it mostly can be.
        let _ = std::thread::Builder::new().name("store-pulse".to_owned()).spawn(beat);
        pulse
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Syncs every file of sled's and the folders they are in.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_folder(&path)?;
            continue;
        }
        match File::open(&path) {
            // sled deletes snapshots and blobs it has replaced.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?.sync_all()?,
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::store::Table;

    fn page(value: u8, values: usize) -> CapturedPage {
        let mut page = Page::default();
        for key in 0..values {
            page.put(&[key as u8], &vec![value; 60_000]);
        }
        CapturedPage::new(PageId { table: Table::Inodes, first_key: Vec::new() }, Arc::new(page))
    }

    #[test]
    fn a_snapshot_that_was_not_finished_does_not_keep_sled_from_opening() {
        let folder = tempfile::tempdir().unwrap();
        let sled = SledPages::open(folder.path()).unwrap();
        sled.write(&[page(1, 1)], &[]).unwrap();
        drop(sled);
        fs::write(folder.path().join(PAGES_FOLDER).join("snap.00000000FFFFFFFF.generating"), b"half").unwrap();
        let sled = SledPages::open(folder.path()).unwrap();
        assert!(sled.load(&page(1, 1).id).is_ok());
    }

    #[test]
    fn a_sled_that_failed_is_left_behind_and_opened_again() {
        let (done, wait) = channel();
        std::thread::spawn(move || {
            let folder = tempfile::tempdir().unwrap();
            let sled = SledPages::open(folder.path()).unwrap();
            let id = page(1, 1).id;
            sled.write(&[page(1, 1)], &[]).unwrap();
            // What is long goes to a file of its own. One that cannot be made leaves a buffer that is never written, and
            // whoever flushes or drops this sled waits for it for ever.
            let blobs = folder.path().join(PAGES_FOLDER).join("blobs");
            fs::remove_dir_all(&blobs).unwrap();
            assert!(sled.write(&[page(2, 4)], &[]).is_err());
            fs::create_dir(&blobs).unwrap();
            for round in 3..6 {
                sled.reopen().unwrap();
                let found = sled.load(&id).unwrap().get(&[0]).map(|value| value[0]);
                assert_eq!(found, Some(if round == 3 { 1 } else { round - 1 }));
                sled.write(&[page(round, 4)], &[]).unwrap();
            }
            drop(sled);
            let sled = SledPages::open(folder.path()).unwrap();
            assert_eq!(sled.load(&id).unwrap().get(&[0]).map(|value| value[0]), Some(5));
            done.send(()).unwrap();
        });
        assert_eq!(wait.recv_timeout(Duration::from_secs(30)), Ok(()), "it hangs, or has failed above");
    }
}
