//! The adapter between pages and sled: the only file of the store that knows sled.
//!
//! Two trees: `pages` has the pages themselves under their table and first key; `bounds` has the keys and up to which
//! position each page is, so that a restart reads a few bytes per page instead of all pages. A page exists if its bound does.
//!
//! A checkpoint is written in steps, so that a crash at any moment leaves pages that, with the log, still say the truth:
//!
//! 1. pages that are new (right halves of splits);
//! 2. their bounds, all or none;
//! 3. pages that changed;
//! 4. the bounds of changed pages are given their new positions, and those of removed pages are removed, all or none;
//! 5. the removed pages.
//!
//! sled takes damage to its files for the end of its log and goes on with what is left, which may be old. So it is not
//! believed: its files are looked over before it opens them (`sled_survey.rs`), the bounds must have one of the digests that
//! the marker says, and a page must not be older than its bound says.
//!
//! Between the steps everything is on disk: sled's files and their folder are synced by us after each.
//! `docs/formats/pages.md` says why that is enough.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::anchor::shown;
use super::format::{Bounds, Damage};
use super::log::locked;
use super::page::Page;
use super::pages::{CapturedPage, PageId};
use super::sled_format::SLED_BLOBS;
use super::sled_survey::{Depth, SLED_LOG, Survey, survey};
use super::wakeup::{Wakeup, Woken};
use super::{Finding, StoreError, sled_panic, sled_sync};

/// sled's folder in the store's folder.
pub(crate) const PAGES_FOLDER: &str = "pages";
/// sled's own cache; pages are cached by us.
const SLED_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Inserts between two looks at sled's health.
const PAGES_PER_FLUSH: usize = 256;

/// How often, and how far apart, opening sled is tried: the threads of one that was dropped let go of its lock file a
/// moment later.
const REOPEN_ATTEMPTS: u32 = 20;
const LOCK_ATTEMPTS: u32 = 500;
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
    /// What its files looked like before it was opened.
    survey: Survey,
    /// What digest the bounds have,
    digest: u64,
    /// and which they may have, in the middle of a checkpoint.
    allowed: Bounds,
}

#[derive(Clone)]
struct Trees {
    db: sled::Db,
    pages: sled::Tree,
    bounds: sled::Tree,
}

impl SledPages {
    /// Opens sled in the store's folder, making it if it is not there. `expected` is what the marker says of the bounds.
    pub(crate) fn open(store: &Path, expected: Option<&Bounds>) -> Result<SledPages, StoreError> {
        let folder = store.join(PAGES_FOLDER);
        let (trees, survey) = open_trees(&folder)?;
        let digest = match check_bounds(&folder, &trees, &survey, expected) {
            Ok(digest) => digest,
            Err(error) => return Err(left_behind(&folder, trees, error)),
        };
        let slot = Slot { trees: Some(trees), survey, digest, allowed: Bounds::at_rest(digest), ..Slot::default() };
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
        // The bound first: a checkpoint writes it last, so a page that it writes meanwhile is newer, and never older.
        let bound = trees.bounds.get(id.to_stored()).map_err(|error| self.error(&error))?;
        let bytes = trees.pages.get(id.to_stored()).map_err(|error| self.error(&error))?;
        let bytes = bytes.ok_or_else(|| self.damage(id, &Damage::new("the page is missing")))?;
        let page = Page::decode(id.table, &bytes).map_err(|damage| self.damage(id, &damage))?;
        match bound.and_then(|bound| position_of(&bound)) {
            Some(stored) if page.position < stored => {
                let what = format!("it is as of position {}, and was stored as of {stored} last", page.position);
                Err(self.damage(id, &Damage::new(what)))
            }
            _ => Ok(page),
        }
    }

    /// What bounds there may be while and after this is written.
    pub(crate) fn bounds_after(&self, pages: &[CapturedPage], removed: &[PageId]) -> Result<Bounds, StoreError> {
        let trees = self.trees()?;
        let digest = locked(&self.slot).digest;
        let (fresh, changed) = self.divide(&trees, pages)?;
        let new_digest = |page: &CapturedPage| bound_digest(&page.id.to_stored(), &position_bytes(page));
        let mut before: Vec<_> = fresh.iter().map(|page| (page.id.to_stored(), None)).collect();
        let after_fresh = fresh.iter().fold(digest, |sum, page| sum.wrapping_add(new_digest(page)));
        let mut after = after_fresh;
        for id in changed.iter().map(|page| &page.id).chain(removed) {
            let key = id.to_stored();
            let Some(old) = trees.bounds.get(&key).map_err(|error| self.error(&error))? else { continue };
            after = after.wrapping_sub(bound_digest(&key, &old));
            before.push((key, Some(old.to_vec())));
        }
        after = changed.iter().fold(after, |sum, page| sum.wrapping_add(new_digest(page)));
        let bounds = Bounds { digests: [digest, after_fresh, after], before };
        locked(&self.slot).allowed = bounds.clone();
        Ok(bounds)
    }

    /// Writes what a checkpoint has captured, which [`SledPages::bounds_after`] was asked for before; returns when all of it
    /// is on disk.
    pub(crate) fn write(&self, pages: &[CapturedPage], removed: &[PageId]) -> Result<(), StoreError> {
        let trees = self.trees()?;
        let _pulse = Pulse::begin(&trees);
        let syncs_before = sled_sync::calls();
        let (fresh, changed) = self.divide(&trees, pages)?;
        self.insert(&trees, &fresh)?;
        let mut bounds = sled::Batch::default();
        fresh.iter().for_each(|page| bounds.insert(page.id.to_stored(), &position_bytes(page)));
        trees.bounds.apply_batch(bounds).map_err(|error| self.error(&error))?;
        self.make_durable(&trees)?;
        self.insert(&trees, &changed)?;
        let mut bounds = sled::Batch::default();
        changed.iter().for_each(|page| bounds.insert(page.id.to_stored(), &position_bytes(page)));
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
        let mut slot = locked(&self.slot);
        slot.digest = slot.allowed.digests[2];
        Ok(())
    }

    /// What a crash in the first step leaves, for tests.
    #[cfg(test)]
    pub(crate) fn write_without_bounds(&self, pages: &[CapturedPage]) -> Result<(), StoreError> {
        let trees = self.trees()?;
        let (fresh, _) = self.divide(&trees, pages)?;
        self.insert(&trees, &fresh)
    }

    /// What a crash in the third step leaves, for tests.
    #[cfg(test)]
    pub(crate) fn write_without_positions(&self, pages: &[CapturedPage]) -> Result<(), StoreError> {
        self.insert(&self.trees()?, &pages.iter().collect::<Vec<_>>())
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
    /// its drop may never end. `make_room` is called when the failed one can write no more, and so takes no more space.
    pub(crate) fn reopen(&self, make_room: impl FnOnce()) -> Result<(), StoreError> {
        let failed = {
            let mut slot = locked(&self.slot);
            slot.reopening = true;
            slot.trees.take()
        };
        if let Some(failed) = failed {
            std::mem::forget(failed);
        }
        let allowed = locked(&self.slot).allowed.clone();
        let opened = disarm(&self.folder).and_then(|()| {
            make_room();
            let (trees, survey) = open_trees(&self.folder)?;
            match check_bounds(&self.folder, &trees, &survey, Some(&allowed)) {
                Ok(digest) => Ok((trees, survey, digest)),
                Err(error) => Err(left_behind(&self.folder, trees, error)),
            }
        });
        let mut slot = locked(&self.slot);
        slot.reopening = false;
        slot.generation += 1;
        self.reopened.notify_all();
        let (trees, survey, digest) = opened?;
        (slot.trees, slot.survey, slot.digest) = (Some(trees), survey, digest);
        Ok(())
    }

    /// Whether a failed attempt to open sled again has left the store without pages.
    pub(crate) fn is_open(&self) -> bool {
        locked(&self.slot).trees.is_some()
    }

    fn error(&self, error: &sled::Error) -> StoreError {
        sled_error(&self.folder, &locked(&self.slot).survey, error)
    }

    fn damage(&self, what: impl std::fmt::Display, damage: &Damage) -> StoreError {
        let what = format!("{what} is damaged: {damage}");
        with_place(&self.folder, &what, locked(&self.slot).survey.first())
    }
}

/// sled's error, and where in its files: it says so itself, or the survey has found it.
fn sled_error(folder: &Path, survey: &Survey, error: &sled::Error) -> StoreError {
    let log = folder.join(SLED_LOG);
    if let sled::Error::Io(cause) = error
        && cause.kind() != std::io::ErrorKind::UnexpectedEof
    {
        return StoreError::disk(folder, format!("sled failed: {cause}"));
    }
    let place = match error {
        sled::Error::Corruption { at: Some(sled::DiskPtr::Blob(_, blob)), .. } => {
            Some((folder.join(SLED_BLOBS).join(blob.to_string()), 0))
        }
        sled::Error::Corruption { at: Some(pointer), .. } => Some((log, pointer.lid())),
        sled::Error::Io(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            let end = std::fs::metadata(&log).map_or(0, |file| file.len());
            Some((log, end))
        }
        _ => None,
    };
    let place = place.map(|(file, offset)| Finding { file, offset, what: "sled cannot read it".to_owned() });
    with_place(folder, &format!("sled failed: {error}"), place.as_ref().or(survey.first()))
}

fn with_place(folder: &Path, what: &str, place: Option<&Finding>) -> StoreError {
    let Some(Finding { file, offset, what: found }) = place else { return StoreError::pages(folder, what) };
    StoreError::pages(folder, format!("{what}; {} is damaged at byte {offset}: {found}", shown(file)))
}

/// A bound's value.
fn position_bytes(page: &CapturedPage) -> [u8; 8] {
    page.page.position.to_le_bytes()
}

/// None for a bound that was written before bounds had positions.
fn position_of(bound: &[u8]) -> Option<u64> {
    bound.try_into().ok().map(u64::from_le_bytes)
}

/// A bound's part of the digest of all, which is their sum: FNV-1a of key and position, stirred so that sums differ.
fn bound_digest(key: &[u8], value: &[u8]) -> u64 {
    let length = [value.len() as u8];
    let hash =
        key.iter().chain(&length).chain(value).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let stirred = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    stirred ^ stirred >> 33
}

fn bounds_digest(trees: &Trees) -> sled::Result<u64> {
    trees.bounds.iter().try_fold(0_u64, |sum, entry| {
        let (key, value) = entry?;
        Ok(sum.wrapping_add(bound_digest(&key, &value)))
    })
}

/// Leaves a sled behind, whose drop may never end if it has failed. Returns why it is of no use.
fn left_behind(folder: &Path, trees: Trees, error: StoreError) -> StoreError {
    std::mem::forget(trees);
    disarm(folder).err().unwrap_or(error)
}

/// Refuses a sled that has lost something: its bounds must be those that the marker says. Returns their digest.
fn check_bounds(folder: &Path, trees: &Trees, survey: &Survey, expected: Option<&Bounds>) -> Result<u64, StoreError> {
    let failed = |error: sled::Error| sled_error(folder, survey, &error);
    let found = bounds_digest(trees).map_err(failed)?;
    let Some(expected) = expected.filter(|expected| !expected.digests.contains(&found)) else { return Ok(found) };
    let undone = undo_batches(trees, expected).map_err(failed)?;
    if expected.digests.contains(&undone) {
        return Ok(undone);
    }
    let pages = trees.bounds.len();
    let what = format!("sled has other pages than the last checkpoint stored ({pages}, digest {found:016x})");
    Err(with_place(folder, &what, survey.first()))
}

/// A batch that met an error can be there in part: the bounds that the last one changed are given back what they had, and if
/// that does not do, those that the first one made are removed. Returns the digest.
fn undo_batches(trees: &Trees, expected: &Bounds) -> sled::Result<u64> {
    for (key, value) in &expected.before {
        let Some(value) = value else { continue };
        if trees.bounds.get(key)?.as_deref() != Some(value) {
            trees.bounds.insert(key.as_slice(), value.as_slice())?;
        }
    }
    trees.db.flush()?;
    let digest = bounds_digest(trees)?;
    if expected.digests.contains(&digest) {
        return Ok(digest);
    }
    for (key, _) in expected.before.iter().filter(|(_, value)| value.is_none()) {
        trees.bounds.remove(key)?;
    }
    trees.db.flush()?;
    bounds_digest(trees)
}

fn open_trees(folder: &Path) -> Result<(Trees, Survey), StoreError> {
    let config = sled::Config::default()
        .path(folder)
        .cache_capacity(SLED_CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None);
    sled_panic::prepare(folder);
    sled_sync::prepare(folder);
    let mut attempts = 0;
    let (db, survey) = loop {
        let survey = look_over(folder)?;
        match config.open() {
            Ok(db) => break (db, survey),
            Err(sled::Error::Io(_)) if attempts < REOPEN_ATTEMPTS => std::thread::sleep(REOPEN_PAUSE),
            Err(error) => return Err(sled_error(folder, &survey, &error)),
        }
        attempts += 1;
    };
    match (db.open_tree("pages"), db.open_tree("bounds")) {
        (Ok(pages), Ok(bounds)) => Ok((Trees { db, pages, bounds }, survey)),
        (Err(failed), _) | (_, Err(failed)) => {
            // Left behind like any other that has failed.
            std::mem::forget(db);
            disarm(folder)?;
            Err(sled_error(folder, &survey, &failed))
        }
    }
}

/// Looks over sled's files before it opens them, when nobody has them open. What sled would end the process over is an
/// error; other places that are not whole are logged, so that they are known whatever sled does.
fn look_over(folder: &Path) -> Result<Survey, StoreError> {
    let failed = |error: std::io::Error| StoreError::disk(folder, format!("looking over sled's files failed: {error}"));
    let Ok(database) = File::open(folder.join(SLED_LOG)) else { return Ok(Survey::default()) };
    // Whoever has sled open may be writing just now; whoever is letting go of it may have let go when sled looks.
    let mut attempts = 0;
    while let Err(error) = rustix::fs::flock(&database, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        if attempts == LOCK_ATTEMPTS {
            return Err(StoreError::disk(folder, format!("sled's file is in use: {error}")));
        }
        attempts += 1;
        std::thread::sleep(REOPEN_PAUSE);
    }
    remove_unfinished(folder).map_err(failed)?;
    let survey = survey(folder, Depth::Opening, &mut |_| {}).map_err(failed)?;
    if let Some(fatal) = &survey.fatal {
        return Err(with_place(folder, "sled cannot open it", Some(fatal)));
    }
    for Finding { file, offset, what } in &survey.suspects {
        let file = shown(file);
        tracing::warn!(%file, offset, "{what}; if nothing else is said, it is what a crash left and nothing is missing");
    }
    Ok(survey)
}

/// Removes snapshots that sled was writing when the disk was full or the power went. Finished ones have another name, and the
/// one before is kept until then; but sled takes an unfinished one for the latest, and itself for damaged.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn disarm(folder: &Path) -> Result<(), StoreError> {
    match sled_sync::disarm(&folder.join(SLED_LOG)) {
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

    fn write(sled: &SledPages, page: CapturedPage) -> Result<(), StoreError> {
        let pages = [page];
        sled.bounds_after(&pages, &[])?;
        sled.write(&pages, &[])
    }

    #[test]
    fn a_snapshot_that_was_not_finished_does_not_keep_sled_from_opening() {
        let folder = tempfile::tempdir().unwrap();
        let sled = SledPages::open(folder.path(), None).unwrap();
        write(&sled, page(1, 1)).unwrap();
        drop(sled);
        fs::write(folder.path().join(PAGES_FOLDER).join("snap.00000000FFFFFFFF.generating"), b"half").unwrap();
        let sled = SledPages::open(folder.path(), None).unwrap();
        assert!(sled.load(&page(1, 1).id).is_ok());
    }

    #[test]
    fn a_batch_that_was_written_in_part_is_undone_and_other_bounds_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sled = SledPages::open(folder.path(), None).unwrap();
        write(&sled, page(1, 1)).unwrap();
        let bounds_of = |sled: &SledPages| bounds_digest(&sled.trees().unwrap()).unwrap();
        let before = bounds_of(&sled);
        let fresh = [1, 2].map(|key| {
            let id = PageId { table: Table::Inodes, first_key: vec![key] };
            CapturedPage::new(id, Arc::new(Page::default()))
        });
        let mut changed = Page::default();
        changed.position = 7;
        let changed = CapturedPage::new(page(1, 1).id, Arc::new(changed));
        let [left, right] = fresh;
        let expected = sled.bounds_after(&[left, right, changed], &[]).unwrap();
        assert_eq!((expected.digests[0], expected.before.len()), (before, 3));
        let insert = |sled: &SledPages, key: &[u8], position: u64| {
            let key = [&[Table::Inodes as u8], key].concat();
            sled.trees().unwrap().bounds.insert(key, &position.to_le_bytes()).unwrap();
        };
        // The last batch alone, then one of two new bounds as well.
        for (key, position) in [(&[][..], 7), (&[1], 0)] {
            insert(&sled, key, position);
            assert_ne!(bounds_of(&sled), before);
            sled.reopen(|| {}).unwrap();
            assert_eq!((bounds_of(&sled), sled.bounds().unwrap().len()), (before, 1));
        }
        insert(&sled, &[3], 0);
        drop(sled);
        let refused = SledPages::open(folder.path(), Some(&expected)).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("other pages than the last checkpoint"), "{refused}");
    }

    #[test]
    fn a_blob_is_on_disk_before_the_log_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let sled = SledPages::open(folder.path(), None).unwrap();
        write(&sled, page(1, 1)).unwrap();
        assert_eq!(sled_sync::blobs_synced(), 0, "60,000 bytes need no blob");
        for round in 2..12 {
            write(&sled, page(round, 4)).unwrap();
        }
        let blobs = folder.path().join(PAGES_FOLDER).join(SLED_BLOBS);
        let made = fs::read_dir(&blobs).unwrap().count() as u64;
        assert!(made > 0 && sled_sync::blobs_synced() >= made, "{made} blobs, {} synced", sled_sync::blobs_synced());
    }

    #[test]
    fn a_sled_that_failed_is_left_behind_and_opened_again() {
        let (done, wait) = channel();
        std::thread::spawn(move || {
            let folder = tempfile::tempdir().unwrap();
            let sled = SledPages::open(folder.path(), None).unwrap();
            let id = page(1, 1).id;
            write(&sled, page(1, 1)).unwrap();
            // What is long goes to a file of its own. One that cannot be made leaves a buffer that is never written, and
            // whoever flushes or drops this sled waits for it for ever.
            let blobs = folder.path().join(PAGES_FOLDER).join(SLED_BLOBS);
            fs::remove_dir_all(&blobs).unwrap();
            assert!(write(&sled, page(2, 4)).is_err());
            fs::create_dir(&blobs).unwrap();
            for round in 3..6 {
                sled.reopen(|| {}).unwrap();
                let found = sled.load(&id).unwrap().get(&[0]).map(|value| value[0]);
                assert_eq!(found, Some(if round == 3 { 1 } else { round - 1 }));
                write(&sled, page(round, 4)).unwrap();
            }
            drop(sled);
            let sled = SledPages::open(folder.path(), None).unwrap();
            assert_eq!(sled.load(&id).unwrap().get(&[0]).map(|value| value[0]), Some(5));
            done.send(()).unwrap();
        });
        assert_eq!(wait.recv_timeout(Duration::from_secs(30)), Ok(()), "it hangs, or has failed above");
    }
}
