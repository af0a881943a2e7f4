//! Scheduled exports of the metadata: a checked copy in one file, from which a broken store can be rebuilt.
//!
//! A worker writes `metadata-<UTC time>.rfs-export` into a folder whenever the newest one is older than the interval, and
//! keeps the last few. The store writes each to a temporary name, syncs it and renames it, so that a file with a right name
//! is complete. A failure is tried again after a while and shown in the status until an export succeeds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::{SharedClock, Time};
use rfs_common::trusted;

use crate::store::anchor::shown;
use crate::store::{ExportError, ExportReport, Store};

const PREFIX: &str = "metadata-";
const SUFFIX: &str = ".rfs-export";
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The clock is looked at this often; the wall clock may jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The settings of scheduled exports.
#[derive(Debug, Clone)]
pub struct ExportsConfig {
    /// Where they go; made if it does not exist.
    pub folder: PathBuf,
    /// The newest is never older than this.
    pub interval: Duration,
    /// So many are kept.
    pub keep: usize,
}

/// What the exports are doing. Clones show the same.
#[derive(Debug, Clone)]
pub struct Exports {
    config: Arc<ExportsConfig>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<Time>,
    problem: Option<String>,
    doing: String,
}

impl Exports {
    /// Looks which exports there are already.
    pub fn new(config: ExportsConfig) -> Exports {
        let newest = list(&config.folder).ok().and_then(|exports| exports.last().and_then(|path| time_of(path)));
        let state = State { newest, problem: None, doing: "waits for the next export".to_owned() };
        Exports { config: Arc::new(config), state: Arc::new(Mutex::new(state)) }
    }

    /// How old the newest export is.
    pub fn age(&self, now: Time) -> Option<Duration> {
        self.lock().newest.map(|newest| now.since(newest))
    }

    /// Why the last scheduled export failed, if it did.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Exports now, into the configured folder, under a name that nothing there has.
    ///
    /// # Errors
    /// If the file could not be written.
    pub fn export(&self, store: &Store, now: Time) -> Result<(PathBuf, ExportReport), ExportError> {
        let path = self.path_for(now)?;
        let report = store.export(&path)?;
        let mut state = self.lock();
        state.newest = Some(now);
        state.problem = None;
        Ok((PathBuf::from(shown(&path)), report))
    }

    /// Opens the export with this name, which must be one of those in the folder.
    pub fn open(&self, name: &str) -> io::Result<File> {
        let exports = list(&self.config.folder)?;
        let found = exports.iter().find(|path| path.file_name().is_some_and(|own| own == name));
        trusted::open_to_read(found.ok_or(io::ErrorKind::NotFound)?).map_err(io::Error::other)
    }

    fn path_for(&self, now: Time) -> Result<PathBuf, ExportError> {
        let folder = &self.config.folder;
        std::fs::create_dir_all(folder).map_err(|source| ExportError::Io { path: folder.clone(), source })?;
        // Two within a second, or a clock that was set back.
        let mut path = folder.join(name_for(now, ""));
        for number in 2..100 {
            if !path.exists() {
                break;
            }
            path = folder.join(name_for(now, &format!("-{number}")));
        }
        Ok(path)
    }

    /// Removes all but the newest exports.
    fn prune(&self) -> io::Result<()> {
        let exports = list(&self.config.folder)?;
        let surplus = exports.len().saturating_sub(self.config.keep.max(1));
        for path in &exports[..surplus] {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the exports when they are due; to be started as a worker.
pub struct ExportWorker {
    exports: Exports,
    store: Arc<Store>,
    clock: SharedClock,
}

impl ExportWorker {
    /// A worker for these exports of this store.
    pub fn new(exports: Exports, store: Arc<Store>, clock: SharedClock) -> ExportWorker {
        ExportWorker { exports, store, clock }
    }

    fn run(&self) -> Result<(), String> {
        let now = self.clock.now();
        let folder = shown(&self.exports.config.folder);
        self.exports.lock().doing = format!("writes an export into {folder}");
        self.exports.export(&self.store, now).map_err(|error| with_sources(&error))?;
        self.exports.prune().map_err(|error| format!("old exports in {folder} cannot be removed: {error}"))
    }
}

impl Worker for ExportWorker {
    fn name(&self) -> String {
        "exports".to_owned()
    }

    fn step(&mut self) -> Step {
        let age = self.exports.age(self.clock.now());
        if age.is_some_and(|age| age < self.exports.config.interval) {
            return Step::Idle(LOOK_EVERY);
        }
        let outcome = self.run();
        let mut state = self.exports.lock();
        state.doing = "waits for the next export".to_owned();
        match outcome {
            Ok(()) => Step::Idle(LOOK_EVERY),
            Err(reason) => {
                tracing::error!("the scheduled export of the metadata failed: {reason}");
                state.problem = Some(reason);
                Step::Idle(RETRY_AFTER)
            }
        }
    }

    fn state(&self) -> String {
        self.exports.lock().doing.clone()
    }
}

/// The error and what caused it.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// `metadata-2026-11-21T121401Z.rfs-export`: names in the order of time, without a colon.
fn name_for(now: Time, number: &str) -> String {
    let text = Time::from_seconds(now.seconds()).to_string().replace(':', "");
    let seconds = text.split('.').next().unwrap_or(&text).to_owned();
    format!("{PREFIX}{seconds}Z{number}{SUFFIX}")
}

/// When an export was written.
fn time_of(path: &Path) -> Option<Time> {
    std::fs::metadata(path).ok()?.modified().ok().map(Time::from)
}

/// The newest export in a folder.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    list(folder).ok()?.pop()
}

/// The exports in a folder, the oldest first.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut exports = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            exports.push(path);
        }
    }
    exports.sort_unstable();
    Ok(exports)
}

#[cfg(test)]
mod tests {
    use rfs_common::clock::ManualClock;

    use super::*;
    use crate::store::StoreOptions;

    fn worker(folder: &Path, exports_folder: &Path) -> (ExportWorker, ManualClock) {
        let clock = ManualClock::moved_by_sleep(Time::from_seconds(1_800_000_000));
        let metadata = folder.join("metadata");
        Store::create(&metadata, [1; 16]).unwrap();
        let store = Store::open(&metadata, StoreOptions::default(), rfs_common::clock::SystemClock::shared()).unwrap();
        let interval = Duration::from_secs(3600);
        let config = ExportsConfig { folder: exports_folder.to_owned(), interval, keep: 2 };
        let shared: SharedClock = Arc::new(clock.clone());
        (ExportWorker::new(Exports::new(config), Arc::new(store), shared), clock)
    }

    #[test]
    fn exports_when_due_and_keeps_the_last_few() {
        let folder = tempfile::tempdir().unwrap();
        let exports_folder = folder.path().join("exports");
        let (mut worker, clock) = worker(folder.path(), &exports_folder);
        for hour in 0..4_u64 {
            assert_eq!(worker.step(), Step::Idle(LOOK_EVERY));
            assert_eq!(worker.step(), Step::Idle(LOOK_EVERY));
            assert_eq!(list(&exports_folder).unwrap().len() as u64, (hour + 1).min(2));
            clock.advance(Duration::from_secs(3600));
        }
        let names = list(&exports_folder).unwrap();
        assert!(names[1].ends_with("metadata-2027-01-15T110000Z.rfs-export"), "{names:?}");
        assert_eq!(worker.exports.problem(), None);
    }

    #[test]
    fn an_export_replaces_nothing_and_only_exports_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let exports_folder = folder.path().join("exports");
        let (worker, clock) = worker(folder.path(), &exports_folder);
        let (first, _) = worker.exports.export(&worker.store, clock.now()).unwrap();
        let (second, _) = worker.exports.export(&worker.store, clock.now()).unwrap();
        assert_ne!(first, second);
        std::fs::write(exports_folder.join("other"), "").unwrap();
        let link = exports_folder.join("metadata-link.rfs-export");
        std::os::unix::fs::symlink(folder.path().join("metadata/identity"), link).unwrap();
        worker.exports.open(first.file_name().unwrap().to_str().unwrap()).unwrap();
        for name in ["other", "../metadata/identity", "/etc/passwd", "metadata-link.rfs-export", ""] {
            assert!(worker.exports.open(name).is_err(), "{name}");
        }
        std::fs::write(&second, "of somebody").unwrap();
        assert!(worker.store.export(&second).is_err());
        assert_eq!(std::fs::read(&second).unwrap(), b"of somebody");
        assert!(!second.with_extension("rfs-export.new").exists());
    }

    #[test]
    fn a_failure_is_shown_until_an_export_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let exports_folder = folder.path().join("exports");
        let (mut worker, clock) = worker(folder.path(), &exports_folder);
        std::fs::write(&exports_folder, "in the way").unwrap();
        assert_eq!(worker.step(), Step::Idle(RETRY_AFTER));
        assert!(worker.exports.problem().unwrap().contains("exports"));
        std::fs::remove_file(&exports_folder).unwrap();
        worker.step();
        assert_eq!((worker.exports.problem(), worker.exports.age(clock.now())), (None, Some(Duration::ZERO)));
    }

    use rfs_common::clock::Clock;
}
