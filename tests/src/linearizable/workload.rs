//! The threads that make the calls, and what they note.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rfs_common::clock::{Clock as _, SystemClock, Time};

use super::Histories;
use super::checker::Call;
use super::objects::{BLOCK_BYTES, BLOCKS, FIRST_MODE, FileAnswer, FileCall, NAMES, NameAnswer, NameCall};

/// How many calls' ends lie between two that are timed.
const MOMENT_EVERY: u64 = 16;
/// Files that are used at a time.
const FILES: usize = 2;
/// Directories that are used at a time.
const DIRECTORIES: usize = 2;
/// Calls on an object before another takes its place.
const CALLS_MAX: usize = 600;
/// The same where there is soon nothing left to do.
const GROWING_CALLS_MAX: usize = 30;

/// An object that is in use.
#[derive(Debug)]
struct Slot {
    /// Which object it is, counted over all of the kind.
    number: AtomicUsize,
    calls: AtomicUsize,
}

/// What all threads share.
#[derive(Debug)]
pub struct Recorder {
    sequence: AtomicU64,
    /// When some of the numbers of the sequence were given, to find a call in the logs of daemons.
    moments: Mutex<Vec<(u64, Time)>>,
    /// Numbers to be written, each once.
    last_number: AtomicU64,
    files: Vec<Slot>,
    directories: Vec<Slot>,
    files_made: AtomicUsize,
    directories_made: AtomicUsize,
    mounts: usize,
    done: AtomicBool,
    calls: Mutex<Taken>,
}

/// Calls with the number of the object that each is on.
#[derive(Debug, Default)]
struct Taken {
    files: Vec<(usize, Call<FileCall, FileAnswer>)>,
    names: Vec<(usize, Call<NameCall, NameAnswer>)>,
    failures: Vec<String>,
}

impl Recorder {
    /// Makes the first objects below a folder, for so many mounts.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new(root: &Path, mounts: usize) -> io::Result<Arc<Recorder>> {
        let slots =
            |count| (0..count).map(|number| Slot { number: AtomicUsize::new(number), calls: AtomicUsize::new(0) });
        let recorder = Recorder {
            sequence: AtomicU64::new(0),
            moments: Mutex::default(),
            last_number: AtomicU64::new(0),
            files: slots(FILES).collect(),
            directories: slots(DIRECTORIES).collect(),
            files_made: AtomicUsize::new(FILES),
            directories_made: AtomicUsize::new(DIRECTORIES),
            mounts,
            done: AtomicBool::new(false),
            calls: Mutex::default(),
        };
        (0..FILES).try_for_each(|number| make_file(root, number))?;
        (0..DIRECTORIES).try_for_each(|number| fs::create_dir(directory(root, number)))?;
        Ok(Arc::new(recorder))
    }

    /// Lets the threads end after their calls.
    pub fn end(&self) {
        self.done.store(true, Ordering::SeqCst);
    }

    /// What all threads that have ended have noted.
    pub fn histories(&self) -> Histories {
        let taken = std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner));
        let (files, directories) = (by_object(taken.files), by_object(taken.names));
        let moments = std::mem::take(&mut *self.moments.lock().unwrap_or_else(PoisonError::into_inner));
        Histories { files, directories, failures: taken.failures, moments }
    }

    fn next(&self) -> u64 {
        let number = self.sequence.fetch_add(1, Ordering::SeqCst);
        if number.is_multiple_of(MOMENT_EVERY) {
            self.moments.lock().unwrap_or_else(PoisonError::into_inner).push((number, SystemClock.now()));
        }
        number
    }
}

fn by_object<I, O>(calls: Vec<(usize, Call<I, O>)>) -> Vec<Vec<Call<I, O>>> {
    let mut objects: HashMap<usize, Vec<Call<I, O>>> = HashMap::new();
    for (object, call) in calls {
        objects.entry(object).or_default().push(call);
    }
    objects.into_values().collect()
}

fn file(root: &Path, number: usize) -> PathBuf {
    root.join(format!("file{number}"))
}

fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(format!("directory{number}"))
}

fn make_file(root: &Path, number: usize) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(FIRST_MODE).open(file(root, number)).map(drop)
}

/// Makes calls through one mount until told to end.
pub fn work(recorder: &Recorder, root: &Path, by: usize, seed: u64) {
    let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(by as u64));
    let mut worker = Worker { recorder, root, by, random, open: HashMap::new(), taken: Taken::default() };
    while !recorder.done.load(Ordering::SeqCst) {
        if worker.random.random_bool(0.7) { worker.use_file() } else { worker.use_names() }
    }
    let mut calls = recorder.calls.lock().unwrap_or_else(PoisonError::into_inner);
    calls.files.append(&mut worker.taken.files);
    calls.names.append(&mut worker.taken.names);
    calls.failures.append(&mut worker.taken.failures);
}

struct Worker<'a> {
    recorder: &'a Recorder,
    root: &'a Path,
    by: usize,
    random: StdRng,
    /// Descriptors that are kept, by file: one that only reads (and so reads through the page cache), and one that also writes.
    open: HashMap<usize, (File, File)>,
    taken: Taken,
}

impl Worker<'_> {
    fn use_file(&mut self) {
        let recorder = self.recorder;
        let slot = &recorder.files[self.random.random_range(0..FILES)];
        let number = slot.number.load(Ordering::SeqCst);
        if slot.calls.fetch_add(1, Ordering::SeqCst) >= CALLS_MAX {
            self.replace_file(slot, number);
            return;
        }
        let input = match self.random.random_range(0..100) {
            0..30 => FileCall::Write(self.block(), self.recorder.last_number.fetch_add(1, Ordering::SeqCst) + 1),
            30..72 => FileCall::Read(self.block()),
            72..77 if is_cut(number) => FileCall::Truncate(self.random.random_range(0..=BLOCKS)),
            72..94 => FileCall::Stat,
            _ => FileCall::Chmod(0o600 + self.random.random_range(0..64)),
        };
        let keeps_open = self.random.random_bool(0.6);
        let began = self.recorder.next();
        let answer = self.call_file(number, input, keeps_open);
        let ended = self.recorder.next();
        let ended = self.note_failure(input, answer).map(|answer| (ended, answer));
        self.taken.files.push((number, Call { by: self.by, began, ended, input }));
    }

    fn block(&mut self) -> usize {
        self.random.random_range(0..BLOCKS)
    }

    /// The first to come makes the next file, before anybody can know of it.
    fn replace_file(&mut self, slot: &Slot, number: usize) {
        let next = self.recorder.files_made.fetch_add(1, Ordering::SeqCst);
        let made = make_file(self.root, next);
        if self.note_failure("make a file", made).is_some()
            && slot.number.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            slot.calls.store(0, Ordering::SeqCst);
        }
        self.open.clear();
    }

    fn call_file(&mut self, number: usize, call: FileCall, keeps_open: bool) -> io::Result<FileAnswer> {
        let (path, number_of_file) = (file(self.root, number), number);
        if !keeps_open {
            self.open.remove(&number);
        }
        let (reader, writer): &(File, File) = match self.open.entry(number) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(none) => {
                let both = OpenOptions::new().read(true).write(true).open(&path)?;
                none.insert((File::open(&path)?, both))
            }
        };
        match call {
            FileCall::Write(block, number) => {
                let bytes: Vec<u8> = number.to_le_bytes().repeat(BLOCK_BYTES / 8);
                writer.write_all_at(&bytes, (block * BLOCK_BYTES) as u64).map(|()| FileAnswer::Done)
            }
            FileCall::Read(block) => {
                // What the kernel has of a file that is cut may be older than what it has just answered to a stat, and with
                // several mounts a read may give zeros (docs/known-limits.md).
                let may_be_cached = !is_cut(number_of_file);
                let from = if may_be_cached && self.random.random_bool(0.7) { reader } else { writer };
                read_block(from, block)
            }
            FileCall::Truncate(blocks) => writer.set_len((blocks * BLOCK_BYTES) as u64).map(|()| FileAnswer::Done),
            FileCall::Stat => {
                let by_path = self.random.random_bool(0.5);
                let stat = if by_path { fs::metadata(&path) } else { reader.metadata() }?;
                Ok(FileAnswer::Stat(stat.len(), stat.mode() & 0o7777))
            }
            FileCall::Chmod(mode) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map(|()| FileAnswer::Done)
            }
        }
    }

    fn use_names(&mut self) {
        let recorder = self.recorder;
        let slot = &recorder.directories[self.random.random_range(0..DIRECTORIES)];
        let number = slot.number.load(Ordering::SeqCst);
        let calls_max = if only_grows(number) { GROWING_CALLS_MAX } else { CALLS_MAX };
        if slot.calls.fetch_add(1, Ordering::SeqCst) >= calls_max {
            let next = self.recorder.directories_made.fetch_add(1, Ordering::SeqCst);
            let made = fs::create_dir(directory(self.root, next));
            if self.note_failure("make a directory", made).is_some()
                && slot.number.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                slot.calls.store(0, Ordering::SeqCst);
            }
            return;
        }
        let (one, other) = (self.random.random_range(0..NAMES), self.random.random_range(0..NAMES - 1));
        let other = if other >= one { other + 1 } else { other };
        let input = match self.random.random_range(0..100) {
            0..30 if only_grows(number) => NameCall::Create(one),
            0..25 if self.may_change(number) => NameCall::Create(one),
            25..43 if self.may_change(number) => NameCall::Unlink(one),
            43..58 if self.may_change(number) => NameCall::Rename(one, other),
            _ => NameCall::Look(one),
        };
        let began = self.recorder.next();
        let answer = call_names(&directory(self.root, number), input);
        let ended = self.recorder.next();
        let ended = self.note_failure(input, answer).map(|answer| (ended, answer));
        self.taken.names.push((number, Call { by: self.by, began, ended, input }));
    }

    /// Where names go, one mount changes them: while a mount waits for the master to change a directory, a name that another
    /// removes may be seen there for longer (docs/known-limits.md).
    fn may_change(&self, number: usize) -> bool {
        let mounts = self.recorder.mounts;
        !only_grows(number) && self.by % mounts == number / 2 % mounts
    }

    fn note_failure<T>(&mut self, what: impl std::fmt::Debug, result: io::Result<T>) -> Option<T> {
        result.inspect_err(|error| self.taken.failures.push(format!("thread {}: {what:?}: {error}", self.by))).ok()
    }
}

/// Whether it is one of the files that are also made shorter.
fn is_cut(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// Whether it is one of the directories that every mount makes names in, and none removes any.
fn only_grows(number: usize) -> bool {
    number.is_multiple_of(2)
}

fn read_block(file: &File, block: usize) -> io::Result<FileAnswer> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let count = file.read_at(&mut bytes, (block * BLOCK_BYTES) as u64)?;
    let (words, rest) = bytes[..count].as_chunks::<8>();
    Ok(match words.first() {
        None if rest.is_empty() => FileAnswer::Block(None),
        Some(first) if count == BLOCK_BYTES && words.iter().all(|word| word == first) => {
            FileAnswer::Block(Some(u64::from_le_bytes(*first)))
        }
        _ => FileAnswer::Mixed,
    })
}

fn call_names(folder: &Path, call: NameCall) -> io::Result<NameAnswer> {
    let path = |name: usize| folder.join(format!("name{name}"));
    let node = |stat: fs::Metadata| NameAnswer::Node(stat.ino());
    let answer = match call {
        NameCall::Create(name) => {
            OpenOptions::new().write(true).create_new(true).open(path(name)).and_then(|file| file.metadata()).map(node)
        }
        NameCall::Unlink(name) => fs::remove_file(path(name)).map(|()| NameAnswer::Done),
        NameCall::Look(name) => fs::symlink_metadata(path(name)).map(node),
        NameCall::Rename(from, to) => fs::rename(path(from), path(to)).map(|()| NameAnswer::Done),
    };
    match answer.as_ref().map_err(io::Error::kind) {
        Err(ErrorKind::NotFound) => Ok(NameAnswer::Absent),
        Err(ErrorKind::AlreadyExists) => Ok(NameAnswer::Exists),
        _ => answer,
    }
}
