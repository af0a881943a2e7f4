//! Tests of the store as a whole, against a model that is a map in memory. Each prints its seed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rfs_common::clock::{ManualClock, SystemClock, Time};

use super::log_recovery::list_segments;
use super::*;

pub(super) type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

pub(super) const CLUSTER: [u8; 16] = *b"a cluster's name";

/// Small pages and no checkpoint that was not asked for, so that a test meets every kind of page soon.
pub(super) fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        checkpoint_log_bytes: 1 << 30,
        checkpoint_interval: Duration::from_secs(3600),
        page_bytes: 512,
        ..StoreOptions::default()
    }
}

pub(super) fn open(folder: &Path) -> Store {
    Store::open(folder, options(), SystemClock::shared()).unwrap()
}

pub(super) fn created() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let store = open(folder.path());
    (folder, store)
}

pub(super) fn put(table: Table, key: &[u8], value: &[u8]) -> Change {
    Change::Put { table, key: key.to_vec(), value: value.to_vec() }
}

/// A generator whose whole sequence is given by its seed (xorshift).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// One commit: puts, deletes, and now and then a whole range of deletes, so that pages split, empty and merge.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        let table = [Table::Inodes, Table::Entries, Table::System][self.below(3) as usize];
        if self.below(20) == 0 {
            let from = self.below(400);
            return (from..from + 60).map(|key| Change::Delete { table, key: key_of(key) }).collect();
        }
        let count = 1 + self.below(5);
        (0..count)
            .map(|_| {
                let key = key_of(self.below(400));
                if self.below(4) == 0 {
                    return Change::Delete { table, key };
                }
                let length = if self.below(50) == 0 { 3000 } else { self.below(60) };
                Change::Put { table, key, value: vec![self.below(256) as u8; length as usize] }
            })
            .collect()
    }
}

fn key_of(number: u64) -> Vec<u8> {
    format!("key-{number:05}").into_bytes()
}

pub(super) fn apply(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match change.clone() {
            Change::Put { table, key, value } => model.insert((table, key), value),
            Change::Delete { table, key } => model.remove(&(table, key)),
        };
    }
}

pub(super) fn content(store: &Store) -> Model {
    let mut found = Model::new();
    for table in Table::ALL {
        let mut before: Option<Vec<u8>> = None;
        store
            .scan(table, Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
                assert!(before.as_deref() < Some(key), "a scan ascends");
                before = Some(key.to_vec());
                found.insert((table, key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    found
}

/// The state after the first so many commits of a seed.
pub(super) fn model_after(seed: u64, commits: u64) -> Model {
    let (mut dice, mut model) = (Dice::new(seed), Model::new());
    (0..commits).for_each(|_| apply(&mut model, &dice.commit()));
    model
}

/// Fails with the first difference only: whole models are too long to read.
fn assert_same(found: &Model, expected: &Model) {
    let missing = expected.iter().find(|(key, value)| found.get(key) != Some(value));
    let extra = found.keys().find(|key| !expected.contains_key(key));
    assert!(missing.is_none() && extra.is_none(), "missing or different: {missing:?}, too many: {extra:?}");
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn last_segment(folder: &Path) -> PathBuf {
    list_segments(&folder.join(log::LOG_FOLDER)).unwrap().pop().unwrap().path
}

#[test]
fn equals_the_model_through_checkpoints_and_reopens() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let (folder, mut store) = created();
        let (mut dice, mut moves, mut model) = (Dice::new(seed), Dice::new(seed + 1000), Model::new());
        for _ in 0..1200 {
            let changes = dice.commit();
            store.commit(&changes).unwrap();
            apply(&mut model, &changes);
            match moves.below(150) {
                0 => store.checkpoint().unwrap(),
                1 => {
                    if moves.below(2) == 0 {
                        store.close().unwrap();
                    }
                    drop(store);
                    store = open(folder.path());
                }
                2 => assert!(content(&store) == model),
                _ => {}
            }
            let (table, key) = (changes[0].table(), changes[0].key());
            assert_eq!(store.get(table, key).unwrap(), model.get(&(table, key.to_vec())).cloned());
        }
        assert!(content(&store) == model);
        store.close().unwrap();
        assert_eq!(store.status().dirty_pages, 0);
        drop(store);
        assert_eq!(Store::verify(folder.path()).unwrap(), Verified::default());
    }
}

#[test]
fn a_checkpoint_cut_off_at_any_step_loses_nothing() {
    for seed in 1..=25 {
        println!("seed {seed}");
        let (folder, mut store) = created();
        let (mut dice, mut moves, mut model) = (Dice::new(seed), Dice::new(seed + 2000), Model::new());
        for round in 0..8 {
            for _ in 0..80 {
                let changes = dice.commit();
                store.commit(&changes).unwrap();
                apply(&mut model, &changes);
            }
            if round % 3 == 0 {
                store.checkpoint().unwrap();
                continue;
            }
            let core = &store.core;
            while core.pages.remove_one_empty(core.log.position()).unwrap() {}
            core.log.sync(core.log.position()).unwrap();
            let step = moves.below(4);
            write_up_to(core, step, &mut moves);
            drop(store);
            store = open(folder.path());
            assert!(content(&store) == model, "round {round}, step {step}");
        }
    }
}

/// Writes a checkpoint up to somewhere in one of its steps (new pages, changed pages, removals), and no marker.
fn write_up_to(core: &Core, step: u64, dice: &mut Dice) {
    let (captured, mut removed) = core.pages.capture();
    let (mut fresh, mut changed): (Vec<_>, Vec<_>) = captured.into_iter().partition(|page| !page.stored);
    match step {
        0 => {
            fresh.retain(|_| dice.below(2) == 0);
            return core.pages.sled.write_without_bounds(&fresh).unwrap();
        }
        1 => changed.clear(),
        2 => changed.retain(|_| dice.below(2) == 0),
        _ => {}
    }
    if step <= 2 {
        removed.clear();
    }
    if step == 2 && dice.below(2) == 0 {
        core.write_pages(&fresh, &removed).unwrap();
        return core.pages.sled.write_without_positions(&changed).unwrap();
    }
    fresh.append(&mut changed);
    core.write_pages(&fresh, &removed).unwrap();
}

#[test]
fn a_log_cut_off_at_any_byte_opens_at_a_whole_commit_or_names_the_damage() {
    let seed = 5;
    let (folder, store) = created();
    let mut dice = Dice::new(seed);
    (0..40).for_each(|_| assert!(store.commit(&dice.commit()).unwrap().get() > 0));
    drop(store);
    let whole = fs::read(last_segment(folder.path())).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    let mut positions = Vec::new();
    for cut in (format::SEGMENT_HEAD_BYTES as u64..=end).step_by(211) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let file = fs::File::options().write(true).open(last_segment(copy.path())).unwrap();
        file.set_len(cut).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        match Store::open(copy.path(), options(), SystemClock::shared()) {
            Ok(store) => {
                let position = store.position().get();
                assert!(content(&store) == model_after(seed, position), "cut at {cut}");
                positions.push(position);
                store.commit(&[put(Table::System, b"after", b"the cut")]).unwrap();
                drop(store);
                assert_eq!(open(copy.path()).position().get(), position + 1);
            }
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
    assert!(positions.is_sorted() && *positions.last().unwrap() >= 39, "{positions:?}");
}

#[test]
fn flipped_bytes_of_synced_log_are_named() {
    let (folder, store) = created();
    for number in 0..4_u8 {
        let position = store.commit(&[put(Table::Inodes, &[number; 5], &[number; 20])]).unwrap();
        store.wait_durable(position).unwrap();
    }
    drop(store);
    let path = last_segment(folder.path());
    let bytes = fs::read(&path).unwrap();
    let head = format::SEGMENT_HEAD_BYTES;
    let second = head + format::decode_record(&bytes[head..]).unwrap().length;
    let third = second + format::decode_record(&bytes[second..]).unwrap().length;
    // Every byte of the segment's head, some of the head page, and every byte of the second record with its padding.
    for at in (0..format::HEAD_BYTES).chain([60, head - 1]).chain(second..third) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let copied = last_segment(copy.path());
        let file = fs::File::options().write(true).open(&copied).unwrap();
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
        let expected = if at < head { 0 } else { second as u64 };
        match Store::open(copy.path(), options(), SystemClock::shared()) {
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert_eq!((file, offset), (copied.clone(), expected), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        let findings = Store::verify(copy.path()).unwrap().damages;
        assert!(
            findings.iter().any(|finding| finding.file == copied && finding.offset == expected),
            "byte {at}: {findings:?}"
        );
    }
}

#[test]
fn damage_to_identity_and_marker_is_named() {
    let (folder, store) = created();
    store.close().unwrap();
    drop(store);
    for name in [open::IDENTITY_NAME, checkpoint::MARKER_NAME] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            match Store::open(folder.path(), options(), SystemClock::shared()) {
                Err(OpenError::Damaged { file, .. }) => assert_eq!(file, path),
                other => panic!("byte {at} of {name}: {other:?}"),
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    drop(open(folder.path()));
}

#[test]
fn a_hole_that_was_never_synced_is_dropped_with_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let never = StoreOptions { log_flush_interval: Duration::from_secs(3600), ..options() };
    let store = Store::open(folder.path(), never, SystemClock::shared()).unwrap();
    for number in 0..9_u8 {
        store.commit(&[put(Table::Inodes, &[number], b"value")]).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), copy.path());
    let path = last_segment(copy.path());
    let bytes = fs::read(&path).unwrap();
    let mut at = format::SEGMENT_HEAD_BYTES;
    (0..4).for_each(|_| at += format::decode_record(&bytes[at..]).unwrap().length);
    let hole = vec![0; format::decode_record(&bytes[at..]).unwrap().length];
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&hole, at as u64).unwrap();
    let Verified { damages, torn_end } = Store::verify(copy.path()).unwrap();
    let (position, torn) = torn_end.expect("found as what opening mends, which no export could mend better");
    assert_eq!((position, torn.offset, damages), (4, at as u64, Vec::new()));
    let reopened = open(copy.path());
    assert_eq!(reopened.position().get(), 4);
    reopened.commit(&[put(Table::Inodes, b"new", b"value")]).unwrap();
    drop(reopened);
    assert_eq!(content(&open(copy.path())).len(), 5);
}

#[test]
fn waiting_syncs_and_sharing_saves_syncs() {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = syncs.clone();
    let sync_file = Box::new(move |file: &fs::File| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        Ok(rustix::fs::fdatasync(file)?)
    });
    let never = StoreOptions { log_flush_interval: Duration::from_secs(3600), ..options() };
    let store = Store::open_with(folder.path(), never, SystemClock::shared(), sync_file).unwrap();
    let before = syncs.load(Ordering::SeqCst);
    let position = store.commit(&[put(Table::Inodes, b"a", b"1")]).unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), before, "a commit alone does not sync");
    assert!(store.durable_position() < position);
    store.wait_durable(position).unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), before + 1);
    assert_eq!(store.durable_position(), position);
    std::thread::scope(|scope| {
        for thread in 0..16_u8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10_u8 {
                    let position = store.commit(&[put(Table::Inodes, &[thread, round], b"2")]).unwrap();
                    store.wait_durable(position).unwrap();
                }
            });
        }
    });
    let shared = syncs.load(Ordering::SeqCst) - before - 1;
    assert!((10..100).contains(&shared), "{shared} syncs for 160 waits");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_for_good() {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let sync_file = Box::new(move |file: &fs::File| {
        if failing.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(rustix::fs::fdatasync(file)?)
    });
    let store = Store::open_with(folder.path(), options(), SystemClock::shared(), sync_file).unwrap();
    let first = store.commit(&[put(Table::Inodes, b"a", b"1")]).unwrap();
    store.wait_durable(first).unwrap();
    fails.store(true, Ordering::SeqCst);
    let second = store.commit(&[put(Table::Inodes, b"b", b"1")]).unwrap();
    let error = store.wait_durable(second).unwrap_err();
    fails.store(false, Ordering::SeqCst);
    assert!(matches!(&error, CommitError::Failed(reason) if reason.contains("syncing")), "{error}");
    assert_eq!(store.commit(&[put(Table::Inodes, b"c", b"1")]).unwrap_err(), error);
    assert_eq!(store.wait_durable(second).unwrap_err(), error);
    assert!(store.checkpoint().is_err(), "pages never get ahead of the log on disk");
    assert!(matches!(store.status().state, StoreState::Failed(_)));
    assert_eq!(store.get(Table::Inodes, b"a").unwrap().unwrap(), b"1");
    assert_eq!(store.get(Table::Inodes, b"c").unwrap(), None);
}

#[test]
fn an_export_taken_under_commits_restores_to_its_position() {
    let (folder, store) = created();
    let seed = 9;
    let mut dice = Dice::new(seed);
    (0..500).for_each(|_| assert!(store.commit(&dice.commit()).unwrap().get() > 0));
    store.checkpoint().unwrap();
    let path = folder.path().parent().unwrap().join(format!("{}.export", folder.path().file_name().unwrap().display()));
    let done = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.commit(&dice.commit()).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        let report = store.export(&path).unwrap();
        done.store(true, Ordering::SeqCst);
        writer.join().unwrap();
        report
    });
    assert!(store.position() > report.position);
    let target = tempfile::tempdir().unwrap();
    assert_eq!(restore(&path, target.path()).unwrap(), report);
    assert!(matches!(restore(&path, target.path()), Err(RestoreError::Create(CreateError::NotEmpty { .. }))));
    let restored = open(target.path());
    assert_eq!(restored.position(), report.position);
    let model = model_after(seed, report.position.get());
    assert!(content(&restored) == model);
    assert_eq!(report.records, model.len() as u64);
    assert_eq!(restored.commit(&[put(Table::System, b"x", b"y")]).unwrap().get(), report.position.get() + 1);
    restored.close().unwrap();
    drop(restored);
    assert_eq!(Store::verify(target.path()).unwrap(), Verified::default());
    refuses_a_damaged_export(&path);
    fs::remove_file(&path).unwrap();
}

fn refuses_a_damaged_export(path: &Path) {
    let whole = fs::read(path).unwrap();
    let steps = (0..whole.len()).step_by(whole.len() / 300 + 1).chain(whole.len() - format::TRAILER_BYTES..whole.len());
    for at in steps {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(path, &flipped).unwrap();
        let target = path.with_extension("restored");
        assert!(matches!(restore(path, &target), Err(RestoreError::Damaged { .. })), "byte {at}");
        assert!(!target.exists());
    }
    fs::write(path, &whole[..whole.len() - 7]).unwrap();
    assert!(matches!(restore(path, &path.with_extension("restored")), Err(RestoreError::Damaged { .. })));
}

#[test]
fn creating_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("something"), "").unwrap();
    let error = Store::create(folder.path(), CLUSTER).unwrap_err();
    assert!(matches!(&error, CreateError::NotEmpty { entry, .. } if entry == "something"), "{error}");
    fs::remove_file(folder.path().join("something")).unwrap();
    assert!(matches!(Store::open(folder.path(), options(), SystemClock::shared()), Err(OpenError::NotAStore { .. })));
    // What cannot be looked at, as without permission or on a disk that fails, is not said to be empty.
    let beneath_a_file = folder.path().join("file");
    std::fs::write(&beneath_a_file, b"").unwrap();
    let refused = Store::open(&beneath_a_file, options(), SystemClock::shared()).map(|_| ());
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
    fs::remove_file(&beneath_a_file).unwrap();
    let beginning = open::Beginning { cluster: CLUSTER, position: 0 };
    let full = || io::Error::from_raw_os_error(28);
    let failing = open::create_with(folder.path(), &beginning, |_| Err(full()), |_| Ok(()));
    assert!(matches!(failing, Err(CreateError::Io { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let failing = open::create_with(folder.path(), &beginning, |_| Ok(0), |_| Err(full()));
    assert!(matches!(failing, Err(CreateError::Io { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    Store::create(folder.path(), CLUSTER).unwrap();
    assert!(matches!(Store::create(folder.path(), CLUSTER), Err(CreateError::NotEmpty { .. })));
}

#[test]
fn a_creation_that_was_cut_off_begins_anew_and_no_other_does() {
    let first = [put(Table::System, b"counters", b"1")];
    let create = |folder: &Path| Store::create_filled(folder, CLUSTER, &first, SystemClock::shared());
    let folder = tempfile::tempdir().unwrap();
    create(folder.path()).unwrap();
    let store = open(folder.path());
    assert_eq!(store.get(Table::System, b"counters").unwrap().as_deref(), Some(&b"1"[..]));
    store.close().unwrap();
    drop(store);
    // As if the process had ended just before the identity; each file before it may be missing as well.
    fs::remove_file(folder.path().join(open::IDENTITY_NAME)).unwrap();
    let refused = create(folder.path()).unwrap_err();
    assert!(matches!(refused, CreateError::NotEmpty { .. }), "a store that lost its identity is not made anew");
    fs::write(folder.path().join("unfinished"), "").unwrap();
    create(folder.path()).unwrap();
    for missing in [checkpoint::MARKER_NAME, log::LOG_FOLDER, sled_pages::PAGES_FOLDER] {
        fs::remove_file(folder.path().join(open::IDENTITY_NAME)).unwrap();
        fs::write(folder.path().join("unfinished"), "").unwrap();
        let path = folder.path().join(missing);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        create(folder.path()).unwrap();
        drop(open(folder.path()));
    }
    let reserved = tempfile::tempdir().unwrap();
    fs::write(reserved.path().join("reserve"), "").unwrap();
    create(reserved.path()).unwrap();
}

#[test]
fn a_folder_is_opened_once() {
    let (folder, store) = created();
    assert!(matches!(Store::open(folder.path(), options(), SystemClock::shared()), Err(OpenError::Pages(_))));
    drop(store);
    drop(open(folder.path()));
}

#[test]
fn limits_are_refused_and_largest_values_survive() {
    let (folder, store) = created();
    let too_long = put(Table::Xattrs, &[1; KEY_BYTES_MAX + 1], b"");
    assert!(matches!(store.commit(&[too_long]), Err(CommitError::TooLarge { .. })));
    let too_long = put(Table::Xattrs, b"k", &vec![1; VALUE_BYTES_MAX + 1]);
    assert!(matches!(store.commit(&[too_long]), Err(CommitError::TooLarge { .. })));
    let many: Vec<_> = (0..5_u8).map(|key| put(Table::Xattrs, &[key], &vec![1; VALUE_BYTES_MAX])).collect();
    assert!(matches!(store.commit(&many), Err(CommitError::TooLarge { .. })));
    assert_eq!(store.commit(&[]).unwrap().get(), 0);
    for change in &many {
        store.commit(std::slice::from_ref(change)).unwrap();
    }
    store.commit(&[put(Table::Xattrs, &[9; KEY_BYTES_MAX], b"")]).unwrap();
    let before = content(&store);
    store.close().unwrap();
    drop(store);
    assert_eq!(content(&open(folder.path())), before);
}

#[test]
fn scans_keep_to_their_bounds() {
    let (_folder, store) = created();
    for number in 0..300_u16 {
        store.commit(&[put(Table::Entries, &number.to_be_bytes(), b"some value")]).unwrap();
    }
    let scan = |from: Bound<&[u8]>, to: Bound<&[u8]>, most: usize| {
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            found.push(u16::from_be_bytes([key[0], key[1]]));
            if found.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(Table::Entries, from, to, visit).unwrap();
        found
    };
    let (ten, ninety) = (10_u16.to_be_bytes(), 90_u16.to_be_bytes());
    assert_eq!(scan(Bound::Included(&ten), Bound::Excluded(&ninety), 1000), (10..90).collect::<Vec<_>>());
    assert_eq!(scan(Bound::Excluded(&ten), Bound::Included(&ninety), 1000), (11..=90).collect::<Vec<_>>());
    assert_eq!(scan(Bound::Excluded(&ten), Bound::Unbounded, 7), (11..18).collect::<Vec<_>>());
    assert_eq!(scan(Bound::Unbounded, Bound::Unbounded, 1000), (0..300).collect::<Vec<_>>());
}

#[test]
fn commits_reads_and_checkpoints_at_once() {
    for seed in 30..33 {
        let folder = tempfile::tempdir().unwrap();
        Store::create(folder.path(), CLUSTER).unwrap();
        let small = StoreOptions { cache_bytes: 64 << 10, ..options() };
        let store = Store::open(folder.path(), small, SystemClock::shared()).unwrap();
        let (mut dice, done) = (Dice::new(seed), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    store.checkpoint().unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert!(content(&store).len() < 1200);
                }
            });
            for _ in 0..8000 {
                store.commit(&dice.commit()).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        assert_same(&content(&store), &model_after(seed, 8000));
        drop(store);
        assert_same(&content(&open(folder.path())), &model_after(seed, 8000));
    }
}

/// What the killed process of the next test runs: commits and checkpoints for ever, each commit told to the parent.
#[test]
#[ignore = "run by the test of kill -9"]
fn commits_until_killed() {
    let Some(folder) = std::env::var_os("RFS_STORE_TEST_FOLDER") else { return };
    let seed: u64 = std::env::var("RFS_STORE_TEST_SEED").unwrap().parse().unwrap();
    let often = StoreOptions { checkpoint_interval: Duration::ZERO, cache_bytes: 128 << 10, ..options() };
    let store = Store::open(Path::new(&folder), often, SystemClock::shared()).unwrap();
    let mut dice = Dice::new(seed);
    (0..store.position().get()).for_each(|_| drop(dice.commit()));
    std::thread::scope(|scope| {
        scope.spawn(|| while store.checkpoint().is_ok() {});
        loop {
            let position = store.commit(&dice.commit()).unwrap();
            let mut out = io::stderr().lock();
            writeln!(out, "at {position}").unwrap();
        }
    });
}

#[test]
fn kill_minus_nine_loses_no_commit() {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let (seed, mut waits, mut all_told) = (77, Dice::new(78), 0);
    for round in 0..8 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::commits_until_killed", "--ignored", "--nocapture"])
            .env("RFS_STORE_TEST_FOLDER", folder.path())
            .env("RFS_STORE_TEST_SEED", seed.to_string())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("at ")?.parse::<u64>().ok()).last()
        });
        std::thread::sleep(Duration::from_millis(150 + waits.below(200)));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = reader.join().unwrap().unwrap_or(0);
        let store = open(folder.path());
        let position = store.position().get();
        println!("round {round}: told {told}, found {position}");
        assert!(position >= told);
        assert_same(&content(&store), &model_after(seed, position));
        // On a busy machine a child may be killed before its first commit.
        all_told = all_told.max(told);
    }
    assert!(all_told > 0);
}

#[test]
fn the_log_is_behind_while_a_commit_waits_for_the_disk_for_too_long() {
    let folder = tempfile::tempdir().unwrap();
    Store::create(folder.path(), CLUSTER).unwrap();
    let clock = ManualClock::new(Time::EPOCH);
    let slow = clock.clone();
    let sync_file = Box::new(move |file: &fs::File| {
        slow.advance(Duration::from_millis(600));
        Ok(rustix::fs::fdatasync(file)?)
    });
    let limits = StoreOptions {
        log_flush_interval: Duration::from_secs(3600),
        log_unsynced_max: Duration::from_secs(1),
        ..options()
    };
    let store = Store::open_with(folder.path(), limits, clock.shared(), sync_file).unwrap();
    clock.advance(Duration::from_secs(60));
    assert!(!store.is_behind(), "nothing waits");
    let first = store.commit(&[put(Table::Inodes, b"a", b"1")]).unwrap();
    clock.advance(Duration::from_millis(900));
    store.commit(&[put(Table::Inodes, b"b", b"1")]).unwrap();
    assert!(!store.is_behind());
    clock.advance(Duration::from_millis(200));
    assert!(store.is_behind(), "the first has waited for 1.1 s");
    store.wait_durable(first).unwrap();
    assert!(!store.is_behind());
    clock.advance(Duration::from_secs(60));
    store.commit(&[put(Table::Inodes, b"c", b"1")]).unwrap();
    assert!(!store.is_behind(), "it has just come");
}
