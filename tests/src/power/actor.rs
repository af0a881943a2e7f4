//! One actor: changes names and bytes below its folder at random, and keeps a journal.
//!
//! It has a picture of its own of what its folder is like, only to choose what is possible and to verify what it reads; when
//! something fails that should not, it looks again. It reads back what it wrote, until it is told that power was
//! cut; after that only what fsync has promised.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::content::{Image, stamped};
use super::journal::{Act, Journal};
use super::names::{self, Change, Entry, Fate, Names};
use super::observe;

const FILES_MAX: usize = 24;
const IDLE_STEPS: u32 = 60;
const STREAM_BYTES_MAX: u64 = 16 << 20;
const PIECE_BYTES: usize = 256 << 10;
const HANDLES_MAX: usize = 6;
/// Changes of one file without fsync; more could not be judged.
const UNSYNCED_MAX: u32 = 10;
const FILE_BYTES_MAX: u64 = 512 << 10;
/// Generations of a round: the number of the round stands above.
pub const GENERATION_BITS: u32 = 16;
/// In one round of so many nobody syncs.
const CARELESS_EVERY: u32 = 3;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(400);
/// A few files begin shortly before the border of the first and second chunk.
const NEAR_SECOND_CHUNK: u64 = (64 << 20) - 40_000;

/// What kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Everything.
    Mixed,
    /// A little at first, then nothing.
    Idle,
    /// One file, from its begin to its end and again.
    Streaming,
    /// Many files made, written, synced, removed.
    SmallFiles,
}

impl std::str::FromStr for Load {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        [Self::Mixed, Self::Idle, Self::Streaming, Self::SmallFiles]
            .into_iter()
            .find(|load| format!("{load:?}") == text)
            .with_context(|| format!("no such load: {text}"))
    }
}

/// What the process tells its actors.
#[derive(Debug, Default)]
pub struct Control {
    /// Power is being cut: what no fsync covers may be lost.
    pub cut: AtomicBool,
    /// Finish: sync, close, end.
    pub finish: AtomicBool,
}

/// What an actor believes of a file.
struct Known {
    /// Its bytes; none after a failure that leaves them in doubt.
    image: Option<Image>,
    length: u64,
    unsynced: u32,
    /// Changes that an fsync told may be lost.
    doubtful: u32,
}

impl Known {
    /// Whether another change could not be judged.
    fn is_full(&self) -> bool {
        self.unsynced + self.doubtful >= UNSYNCED_MAX
    }
}

struct Handle {
    file: File,
    append: bool,
}

/// One actor.
pub struct Actor {
    root: PathBuf,
    journal: Journal,
    random: StdRng,
    control: Arc<Control>,
    load: Load,
    steps: u32,
    names: Names,
    files: BTreeMap<u64, Known>,
    handles: BTreeMap<u64, Handle>,
    generation: u32,
    /// Never syncs: what a power cut takes of the metadata log is not seen where something is synced all the time, since
    /// each sync brings all of the log to the disk.
    careless: bool,
}

impl Actor {
    /// One that works in `root`, which exists, and numbers its writes from `generation` on.
    ///
    /// # Errors
    /// If the journal cannot be made.
    pub fn new(
        root: &Path,
        journal: &Path,
        seed: u64,
        generation: u32,
        load: Load,
        control: Arc<Control>,
    ) -> anyhow::Result<Self> {
        let mut actor = Self {
            root: root.to_owned(),
            journal: Journal::create(journal)?,
            random: StdRng::seed_from_u64(seed),
            control,
            load,
            steps: 0,
            names: Names::new(),
            files: BTreeMap::new(),
            handles: BTreeMap::new(),
            generation,
            // The same for all actors of a round.
            careless: load == Load::Mixed && (generation >> GENERATION_BITS) % CARELESS_EVERY == CARELESS_EVERY - 1,
        };
        actor.look();
        Ok(actor)
    }

    /// Works until it is told to finish.
    pub fn run(&mut self) {
        while !self.control.finish.load(Ordering::Relaxed) {
            self.step();
        }
        self.finish();
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.load {
            Load::Mixed => self.mixed_step(),
            Load::Idle if self.steps < IDLE_STEPS => self.mixed_step(),
            Load::Idle => sleep(Duration::from_millis(20)),
            Load::Streaming => self.stream(),
            Load::SmallFiles => self.small_file_step(),
        }
    }

    fn mixed_step(&mut self) {
        match self.random.random_range(0..100) {
            0..14 => self.create(),
            14..44 => self.write(),
            44..50 => self.truncate(),
            50..68 if self.careless => self.create(),
            50..62 => self.sync_a_file(),
            62..68 => self.sync_a_folder(),
            68..76 => self.rename(),
            76..81 => self.link(),
            81..87 => self.unlink(),
            87..90 => self.make_folder(),
            90..92 => self.remove_folder(),
            92..96 => self.close_a_handle(),
            _ => self.verify_a_file(),
        }
    }

    fn small_file_step(&mut self) {
        match self.random.random_range(0..100) {
            0..40 => self.create(),
            40..55 => self.sync_a_file(),
            55..60 => self.sync_a_folder(),
            60..68 => self.rename(),
            68..92 => self.unlink(),
            _ => self.verify_a_file(),
        }
    }

    /// The next piece of the file that is streamed to; a sync now and then, and from the begin again when it is long enough.
    fn stream(&mut self) {
        let Some(inode) = self.handles.keys().next().copied() else {
            return match self.any_inode() {
                Some(inode) => drop(self.open(inode, false)),
                None => self.create(),
            };
        };
        let Some(length) = self.files.get(&inode).map(|known| known.length) else { return self.close(inode) };
        if length > STREAM_BYTES_MAX {
            return self.truncate_to(inode, 0);
        }
        self.write_at(inode, length, PIECE_BYTES);
    }

    /// Syncs some of what is open, closes all; then syncs some of what is closed.
    fn finish(&mut self) {
        let open: Vec<u64> = self.handles.keys().copied().collect();
        for inode in open {
            if self.random.random_bool(0.6) {
                self.fsync(inode);
            }
            self.close(inode);
        }
        let unsynced: Vec<u64> =
            self.files.iter().filter(|(_, known)| known.unsynced > 0).map(|(inode, _)| *inode).collect();
        for inode in unsynced {
            if self.random.random_bool(0.6) && self.open(inode, false) {
                self.fsync(inode);
                self.close(inode);
            }
        }
        for _ in 0..2 {
            self.sync_a_folder();
        }
    }

    // ------------------------------------------------------------ names

    fn create(&mut self) {
        if self.handles.len() >= HANDLES_MAX {
            self.close_a_handle();
        }
        if self.names.values().filter(|entry| **entry != Entry::Folder).count() >= FILES_MAX {
            return self.unlink();
        }
        let path = self.new_path();
        if self.names.contains_key(&path) {
            return;
        }
        let act = Act::Create(path.clone());
        let append = self.random.random_bool(0.3);
        let number = self.journal.begin(&act);
        let made = OpenOptions::new()
            .read(true)
            .write(!append)
            .append(append)
            .create_new(true)
            .open(self.root.join(&path))
            .and_then(|file| Ok((file.metadata()?.ino(), file)));
        match made {
            Ok((inode, file)) => {
                self.journal.end(number, 0, inode);
                self.believe(act, Some(inode));
                self.files.insert(inode, Known { image: Some(Image::default()), length: 0, unsynced: 0, doubtful: 0 });
                self.handles.insert(inode, Handle { file, append });
                if self.random.random_bool(0.8) {
                    self.write_to(inode);
                }
                if self.random.random_bool(0.5) {
                    self.close(inode);
                }
            }
            Err(error) => self.failed(number, &error),
        }
    }

    fn rename(&mut self) {
        let (Some(from), to) = (self.any_path(), self.target_path()) else { return };
        let inside = format!("{from}/");
        let over_its_own_name = self.names.get(&from) == self.names.get(&to);
        if from == to || to.starts_with(&inside) || from.starts_with(&format!("{to}/")) || over_its_own_name {
            return;
        }
        let is_folder = self.names[&from] == Entry::Folder;
        let is_in_the_way = |entry: &Entry| match entry {
            Entry::Folder => !is_folder || self.names.keys().any(|path| names::parent(path) == to),
            Entry::File(_) => is_folder,
        };
        if self.names.get(&to).is_some_and(is_in_the_way) {
            return;
        }
        let path = |path: &str| self.root.join(path);
        let (old, new) = (path(&from), path(&to));
        self.change_names(Act::Rename(from, to), || fs::rename(old, new));
    }

    fn link(&mut self) {
        let (Some(from), to) = (self.any_file(), self.new_path()) else { return };
        if self.names.contains_key(&to) {
            return;
        }
        let (old, new) = (self.root.join(&from), self.root.join(&to));
        self.change_names(Act::Link(from, to), || fs::hard_link(old, new));
    }

    fn unlink(&mut self) {
        let Some(path) = self.any_file() else { return };
        let full = self.root.join(&path);
        self.change_names(Act::Unlink(path), || fs::remove_file(full));
    }

    fn make_folder(&mut self) {
        let path = format!("d{}", self.random.random_range(0..5));
        if self.names.contains_key(&path) {
            return;
        }
        let full = self.root.join(&path);
        self.change_names(Act::Mkdir(path), || fs::create_dir(full));
    }

    fn remove_folder(&mut self) {
        let path = format!("d{}", self.random.random_range(0..5));
        let is_empty = !self.names.keys().any(|other| names::parent(other) == path);
        if self.names.get(&path) != Some(&Entry::Folder) || !is_empty {
            return;
        }
        let full = self.root.join(&path);
        self.change_names(Act::Rmdir(path), || fs::remove_dir(full));
    }

    fn change_names(&mut self, act: Act, call: impl FnOnce() -> io::Result<()>) {
        let number = self.journal.begin(&act);
        match call() {
            Ok(()) => {
                self.journal.end(number, 0, 0);
                self.believe(act, None);
            }
            Err(error) => self.failed(number, &error),
        }
    }

    fn believe(&mut self, act: Act, inode: Option<u64>) {
        names::apply(&mut self.names, &Change { act, inode, fate: Fate::Kept });
        let names = &self.names;
        let handles = &self.handles;
        let named = |inode: &u64| names.values().any(|entry| *entry == Entry::File(Some(*inode)));
        self.files.retain(|inode, _| named(inode) || handles.contains_key(inode));
    }

    // ------------------------------------------------------------ bytes

    fn write(&mut self) {
        let open: Vec<u64> = self.handles.keys().copied().collect();
        let append = self.random.random_bool(0.3);
        if !open.is_empty() && self.random.random_bool(0.5) {
            let chosen = self.random.random_range(0..open.len());
            self.write_to(open[chosen]);
        } else if let Some(inode) = self.any_inode()
            && self.open(inode, append)
        {
            self.write_to(inode);
        }
    }

    fn write_to(&mut self, inode: u64) {
        let (Some(known), Some(handle)) = (self.files.get(&inode), self.handles.get(&inode)) else { return };
        if known.is_full() {
            return self.sync_what_is_too_much(inode);
        }
        let random = &mut self.random;
        let length = match random.random_range(0..10) {
            0..3 => random.random_range(1..2_000),
            3..7 => random.random_range(2_000..40_000),
            _ => random.random_range(40_000..200_000),
        };
        let offset = match random.random_range(0..10) {
            _ if handle.append => known.length,
            0..4 => known.length,
            4..8 => random.random_range(0..=known.length),
            8 => known.length + random.random_range(0..50_000),
            _ if known.length == 0 && random.random_bool(0.05) => NEAR_SECOND_CHUNK,
            _ => 0,
        };
        if (offset > FILE_BYTES_MAX && offset < NEAR_SECOND_CHUNK) || offset > NEAR_SECOND_CHUNK + FILE_BYTES_MAX {
            return self.truncate_to(inode, FILE_BYTES_MAX / 4);
        }
        self.write_at(inode, offset, length);
    }

    fn write_at(&mut self, inode: u64, offset: u64, length: usize) {
        let (Some(known), Some(handle)) = (self.files.get_mut(&inode), self.handles.get(&inode)) else { return };
        if known.is_full() {
            return self.sync_what_is_too_much(inode);
        }
        // Where it ends may have changed: what a loss has taken of it is not there any more.
        if handle.append
            && let Ok(about) = handle.file.metadata()
        {
            known.length = about.len();
        }
        let offset = if handle.append { known.length } else { offset };
        self.generation += 1;
        let bytes = stamped(inode, self.generation, offset, length);
        let number = self.journal.begin(&Act::Write(inode, offset, length as u64, self.generation));
        let written = if handle.append { (&handle.file).write(&bytes) } else { handle.file.write_at(&bytes, offset) };
        known.unsynced += 1;
        match written {
            Ok(count) if count == length => {
                let end = handle.append.then(|| rustix::fs::tell(&handle.file).ok()).flatten();
                let at = end.and_then(|end| end.checked_sub(length as u64)).unwrap_or(offset);
                self.journal.end(number, 0, at);
                known.length = known.length.max(at + length as u64);
                if let Some(image) = known.image.as_mut() {
                    image.write(at, &bytes);
                }
            }
            Ok(count) => {
                known.image = None;
                self.journal.end(number, libc::EIO, 0);
                self.journal.violation(&format!("write of {length} bytes wrote {count}"));
            }
            Err(error) => {
                known.image = None;
                self.failed(number, &error);
            }
        }
    }

    fn truncate(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let length = self.files[&inode].length.min(FILE_BYTES_MAX);
        let new = if self.random.random_bool(0.3) { 0 } else { self.random.random_range(0..=length + 20_000) };
        if self.open(inode, false) {
            self.truncate_to(inode, new);
        }
    }

    fn truncate_to(&mut self, inode: u64, length: u64) {
        let (Some(known), Some(handle)) = (self.files.get_mut(&inode), self.handles.get(&inode)) else { return };
        if known.is_full() {
            return self.sync_what_is_too_much(inode);
        }
        known.unsynced += 1;
        let number = self.journal.begin(&Act::Truncate(inode, length));
        match handle.file.set_len(length) {
            Ok(()) => {
                self.journal.end(number, 0, 0);
                known.length = length;
                if let Some(image) = known.image.as_mut() {
                    image.truncate(length);
                }
            }
            Err(error) => {
                known.image = None;
                self.failed(number, &error);
            }
        }
    }

    fn sync_what_is_too_much(&mut self, inode: u64) {
        if self.files.get(&inode).is_none_or(|known| known.unsynced == 0) {
            sleep(PAUSE_AFTER_FAILURE);
        } else if !self.careless {
            self.fsync(inode);
        }
    }

    fn sync_a_file(&mut self) {
        if let Some(inode) = self.any_inode()
            && self.open(inode, false)
        {
            self.fsync(inode);
        }
    }

    fn fsync(&mut self, inode: u64) {
        let Some(handle) = self.handles.get(&inode) else { return };
        let number = self.journal.begin(&Act::Fsync(inode));
        let done = handle.file.sync_all();
        if let Some(known) = self.files.get_mut(&inode) {
            let unsynced = std::mem::take(&mut known.unsynced);
            if done.is_err() {
                known.doubtful += unsynced;
                known.image = None;
            }
        }
        match done {
            Ok(()) => self.journal.end(number, 0, 0),
            Err(error) => self.failed(number, &error),
        }
    }

    fn sync_a_folder(&mut self) {
        let folders: Vec<&String> =
            self.names.iter().filter(|(_, entry)| **entry == Entry::Folder).map(|(path, _)| path).collect();
        let chosen = self.random.random_range(0..=folders.len());
        let folder = folders.get(chosen).map_or_else(String::new, |path| (*path).clone());
        let number = self.journal.begin(&Act::FsyncFolder(folder.clone()));
        match File::open(self.root.join(&folder)).and_then(|folder| folder.sync_all()) {
            Ok(()) => self.journal.end(number, 0, 0),
            Err(error) => self.failed(number, &error),
        }
    }

    fn close_a_handle(&mut self) {
        let open: Vec<u64> = self.handles.keys().copied().collect();
        if !open.is_empty() {
            let chosen = self.random.random_range(0..open.len());
            self.close(open[chosen]);
        }
    }

    fn close(&mut self, inode: u64) {
        if let Some(handle) = self.handles.remove(&inode) {
            let number = self.journal.begin(&Act::Close(inode));
            drop(handle);
            self.journal.end(number, 0, 0);
        }
    }

    /// Makes sure that there is a handle; false if there can be none.
    fn open(&mut self, inode: u64, append: bool) -> bool {
        if self.handles.contains_key(&inode) {
            return true;
        }
        if self.handles.len() >= HANDLES_MAX {
            self.close_a_handle();
        }
        let Some(path) = self.path_of(inode) else { return false };
        let mut options = OpenOptions::new();
        options.read(self.random.random_bool(0.5)).write(!append).append(append);
        match options.open(self.root.join(path)).and_then(|file| Ok((file.metadata()?.ino(), file))) {
            Ok((found, file)) if found == inode => {
                self.handles.insert(inode, Handle { file, append });
                true
            }
            _ => {
                self.look_again();
                false
            }
        }
    }

    fn verify_a_file(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let known = &self.files[&inode];
        let promised = known.unsynced == 0;
        let (Some(image), Some(path)) = (&known.image, self.path_of(inode)) else { return };
        if known.length > FILE_BYTES_MAX * 2 || (self.control.cut.load(Ordering::Relaxed) && !promised) {
            return;
        }
        let got = observe::read(&self.root.join(&path));
        // A cut that came meanwhile excuses what no fsync covers.
        if self.control.cut.load(Ordering::Relaxed) && !promised {
            return;
        }
        match got {
            Ok(got) => {
                let same = got.length() == image.length()
                    && (0..got.length()).step_by(4096).all(|place| got.read(place, 4096) == image.read(place, 4096));
                if !same {
                    self.journal.violation(&format!(
                        "{path} (inode {inode}, synced: {promised}) reads otherwise than it was written; {} bytes, not {}",
                        got.length(),
                        image.length()
                    ));
                }
            }
            // The mount or this process is being ended.
            Err(error) if is_end(&error) => {}
            Err(error) => self.journal.violation(&format!("{path} (synced: {promised}) cannot be read: {error}")),
        }
    }

    // ------------------------------------------------------------ choosing

    fn any_path(&mut self) -> Option<String> {
        let count = self.names.len();
        (count > 0).then(|| self.names.keys().nth(self.random.random_range(0..count)).expect("counted").clone())
    }

    fn any_file(&mut self) -> Option<String> {
        let files: Vec<&String> =
            self.names.iter().filter(|(_, entry)| **entry != Entry::Folder).map(|(path, _)| path).collect();
        (!files.is_empty()).then(|| files[self.random.random_range(0..files.len())].clone())
    }

    fn any_inode(&mut self) -> Option<u64> {
        let path = self.any_file()?;
        match self.names[&path] {
            Entry::File(inode) => inode.filter(|inode| self.files.contains_key(inode)),
            Entry::Folder => None,
        }
    }

    fn path_of(&self, inode: u64) -> Option<String> {
        self.names.iter().find(|(_, entry)| **entry == Entry::File(Some(inode))).map(|(path, _)| path.clone())
    }

    fn target_path(&mut self) -> String {
        if self.random.random_bool(0.5)
            && let Some(path) = self.any_path()
        {
            return path;
        }
        self.new_path()
    }

    fn new_path(&mut self) -> String {
        let name = format!("f{}", self.random.random_range(0..60));
        let folders: Vec<&String> =
            self.names.iter().filter(|(_, entry)| **entry == Entry::Folder).map(|(path, _)| path).collect();
        match folders.get(self.random.random_range(0..=folders.len())) {
            Some(folder) => format!("{folder}/{name}"),
            None => name,
        }
    }

    fn failed(&mut self, number: u64, error: &io::Error) {
        self.journal.end(number, error.raw_os_error().unwrap_or(libc::EIO), 0);
        // What failed may have happened or not, and only so much of that can be judged.
        sleep(PAUSE_AFTER_FAILURE);
        self.look_again();
    }

    /// Takes what is there for what it knows.
    fn look(&mut self) {
        let found = observe::look(&self.root);
        self.names = found.names;
        let known = |image: Result<Image, String>| {
            let image = image.ok();
            let length = image.as_ref().map_or(0, Image::length);
            Known { image, length, unsynced: 0, doubtful: 0 }
        };
        self.files = found.files.into_iter().map(|(inode, image)| (inode, known(image))).collect();
    }

    /// The same for names only: files whose bytes are in doubt may keep a reader waiting.
    fn look_again(&mut self) {
        let (found, files) = observe::look_at_names(&self.root);
        self.names = found.names;
        for (inode, (_, length)) in files {
            self.files.entry(inode).or_insert(Known { image: None, length, unsynced: 0, doubtful: 0 });
        }
        self.handles.retain(|_, handle| handle.file.metadata().is_ok());
        let (names, handles) = (&self.names, &self.handles);
        let named = |inode: &u64| names.values().any(|entry| *entry == Entry::File(Some(*inode)));
        self.files.retain(|inode, _| named(inode) || handles.contains_key(inode));
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}
