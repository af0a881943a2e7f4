//! Makes a store in a folder, and opens one: checks the identity, reads the marker, opens the pages, replays the log.
//!
//! What always holds: the identity file is the last thing made, so a folder with one is a whole store with its first
//! records; a failed creation leaves the folder as it was; one that was cut off leaves the file `unfinished`, with which
//! the next creation begins anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};

use rfs_common::clock::SharedClock;
use rfs_common::durable::{self, FileError};
use rfs_common::folder_lock::LOCK_FILE_NAME;
use rfs_common::trusted;

use super::anchor::shown;
use super::checkpoint::MARKER_NAME;
use super::commit::{CheckpointState, Core};
use super::format::{Bounds, Damage, Head, HeadKind, Marker};
use super::log::{LOG_FOLDER, Log, SyncFile, is_no_space};
use super::log_recovery::recover;
use super::pages::{Origin, Pages};
use super::sled_pages::{PAGES_FOLDER, SledPages};
use super::sled_survey::SLED_LOG;
use super::space::{OPENING_RESERVE_NAME, RESERVE_NAME, Reserve, Sizes, SpaceRounds, disk_bytes};
use super::wakeup::Wakeup;
use super::{Change, OpenError, Store, StoreOptions};

/// The file that makes a folder a store.
pub(crate) const IDENTITY_NAME: &str = "identity";

/// The file that says, where there is no identity yet, that making a store began here and nothing in it was ever used.
const UNFINISHED_NAME: &str = "unfinished";

/// Why a store was not made. The folder is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is something in the folder.
    #[error("{folder} is not empty (it has {entry}); give the metadata a folder of its own", folder = shown(folder))]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// Something that is in it.
        entry: String,
    },
    /// A file could not be made.
    #[error("making the metadata folder {folder} failed; check the disk and the permissions", folder = shown(folder))]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a new store begins with.
pub(crate) struct Beginning {
    pub(crate) cluster: [u8; 16],
    pub(crate) position: u64,
}

impl Store {
    /// Makes an empty store in a folder that is empty (a `lock` file may be there) or does not exist.
    pub fn create(folder: &Path, cluster: [u8; 16]) -> Result<(), CreateError> {
        create_with(folder, &Beginning { cluster, position: 0 }, |_| Ok(0), |_| Ok(()))
    }

    /// Makes a store that begins with these records. It is one only once they are stored.
    pub fn create_filled(
        folder: &Path,
        cluster: [u8; 16],
        first: &[Change],
        clock: SharedClock,
    ) -> Result<(), CreateError> {
        let fill = |heads: (Head, Marker)| {
            let sync: SyncFile = Box::new(|file| Ok(rustix::fs::fdatasync(file)?));
            let store = Store::open_heads(folder, heads, StoreOptions::default(), clock, sync);
            let store = store.map_err(io::Error::other)?;
            store.commit(first).map_err(io::Error::other)?;
            store.close().map_err(io::Error::other)
        };
        create_with(folder, &Beginning { cluster, position: 0 }, |_| Ok(0), fill)
    }

    /// Opens the store in a folder and replays what its log has beyond the last checkpoint.
    pub fn open(folder: &Path, options: StoreOptions, clock: SharedClock) -> Result<Store, OpenError> {
        Store::open_with(folder, options, clock, Box::new(|file| Ok(rustix::fs::fdatasync(file)?)))
    }

    /// The same with another way of syncing the log, for tests.
    pub(crate) fn open_with(
        folder: &Path,
        options: StoreOptions,
        clock: SharedClock,
        sync_file: SyncFile,
    ) -> Result<Store, OpenError> {
        Store::open_heads(folder, read_identity(folder)?, options, clock, sync_file)
    }

    fn open_heads(
        folder: &Path,
        heads: (Head, Marker),
        options: StoreOptions,
        clock: SharedClock,
        sync_file: SyncFile,
    ) -> Result<Store, OpenError> {
        let core = Arc::new(open_core(folder, heads, options, clock, sync_file)?);
        // Takes the reserve and the first spare segment before the first commit.
        core.space_wakeup.ring();
        core.want_checkpoint_if_much_changed();
        let mut threads = Vec::new();
        for (name, run) in [
            ("store-flush", Core::run_flush as fn(&Core)),
            ("store-space", Core::run_space),
            ("store-fold", Core::run_checkpoints),
        ] {
            let core = core.clone();
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&core))
                .map_err(|error| OpenError::io("starting a thread for", folder, error))?;
            threads.push(thread);
        }
        Ok(Store { core, threads: Mutex::new(threads) })
    }
}

/// Makes a store whose pages `fill` writes into the folder (it returns the digest of their bounds), and to which `begin` commits, before it becomes one.
pub(crate) fn create_with(
    folder: &Path,
    beginning: &Beginning,
    fill: impl FnOnce(&Path) -> Result<u64, io::Error>,
    begin: impl FnOnce((Head, Marker)) -> Result<(), io::Error>,
) -> Result<(), CreateError> {
    let failed = |source| CreateError::Io { folder: folder.to_owned(), source };
    let existed = folder.exists();
    if existed {
        if is_unfinished(folder) {
            tracing::warn!(folder = %shown(folder), "making the metadata folder was cut off before; it begins anew");
            remove_files(folder, existed);
        }
        refuse_full(folder)?;
    }
    let result = make_files(folder, beginning, fill, begin);
    if result.is_err() {
        remove_files(folder, existed);
    }
    result.map_err(failed)
}

fn is_unfinished(folder: &Path) -> bool {
    folder.join(UNFINISHED_NAME).exists() && !folder.join(IDENTITY_NAME).exists()
}

fn refuse_full(folder: &Path) -> Result<(), CreateError> {
    let failed = |source| CreateError::Io { folder: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // A new filesystem has lost+found, a daemon locks the folder before it makes anything; a reserve holds nothing.
        if ![LOCK_FILE_NAME, "lost+found", RESERVE_NAME, OPENING_RESERVE_NAME].iter().any(|harmless| name == *harmless)
        {
            let entry = name.to_string_lossy().into_owned();
            return Err(CreateError::NotEmpty { folder: folder.to_owned(), entry });
        }
    }
    Ok(())
}

fn make_files(
    folder: &Path,
    beginning: &Beginning,
    fill: impl FnOnce(&Path) -> Result<u64, io::Error>,
    begin: impl FnOnce((Head, Marker)) -> Result<(), io::Error>,
) -> io::Result<()> {
    let Beginning { cluster, position } = *beginning;
    fs::create_dir_all(folder)?;
    // If the folder is not ours, its owner decides.
    let _ = trusted::set_mode(folder, 0o700);
    durable::write_atomically(&folder.join(UNFINISHED_NAME), b"").map_err(cause)?;
    fs::create_dir(folder.join(LOG_FOLDER))?;
    let bounds = Some(Bounds::at_rest(fill(folder)?));
    let marker = Marker { cluster, position, bounds };
    durable::write_atomically(&folder.join(MARKER_NAME), &marker.encode()).map_err(cause)?;
    let identity = Head { kind: HeadKind::Identity, cluster, position: 0, durable: 0 };
    let heads = (identity, marker);
    begin(heads)?;
    durable::write_atomically(&folder.join(IDENTITY_NAME), &identity.encode()).map_err(cause)?;
    durable::remove_file(&folder.join(UNFINISHED_NAME)).map_err(cause)?;
    if let Some(parent) = folder.canonicalize()?.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn cause(error: FileError) -> io::Error {
    error.source
}

/// Puts the folder back to what it was; what cannot be removed is left, and the identity goes first.
fn remove_files(folder: &Path, existed: bool) {
    for name in [IDENTITY_NAME, MARKER_NAME, RESERVE_NAME, OPENING_RESERVE_NAME] {
        let _ = fs::remove_file(folder.join(name));
        let _ = fs::remove_file(folder.join(format!("{name}.new")));
    }
    for name in [LOG_FOLDER, PAGES_FOLDER] {
        let _ = fs::remove_dir_all(folder.join(name));
    }
    // Last: if this is cut off, the next creation goes on with it.
    let _ = fs::remove_file(folder.join(UNFINISHED_NAME));
    if !existed {
        let _ = fs::remove_dir(folder);
    }
}

/// Reads one of the store's small files.
fn read_small<T>(folder: &Path, name: &str, decode: impl FnOnce(&[u8]) -> Result<T, Damage>) -> Result<T, OpenError> {
    let path = folder.join(name);
    let damaged = |what: String| OpenError::Damaged { file: path.clone(), offset: 0, what };
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes).map_err(|damage| damaged(damage.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged("the file is missing".to_owned())),
        Err(error) => Err(OpenError::io("reading", &path, error)),
    }
}

/// Whether there is a store in the folder, be it one that has lost its identity file.
pub(crate) fn is_store(folder: &Path) -> bool {
    folder.join(IDENTITY_NAME).exists() || (folder.join(MARKER_NAME).exists() && !is_unfinished(folder))
}

/// Identity and marker of the store in a folder.
pub(crate) fn read_identity(folder: &Path) -> Result<(Head, Marker), OpenError> {
    // What cannot be looked at may be there.
    folder.join(IDENTITY_NAME).try_exists().map_err(|error| OpenError::io("looking into", folder, error))?;
    if !is_store(folder) {
        return Err(OpenError::NotAStore { folder: folder.to_owned() });
    }
    let identity = read_small(folder, IDENTITY_NAME, |bytes| Head::decode(HeadKind::Identity, bytes))?;
    let marker = read_small(folder, MARKER_NAME, Marker::decode)?;
    let pages = folder.join(PAGES_FOLDER).join(SLED_LOG);
    if marker.cluster != identity.cluster {
        let what = "it belongs to another cluster than the identity file says".to_owned();
        return Err(OpenError::Damaged { file: folder.join(MARKER_NAME), offset: 16, what });
    }
    if marker.position > 0 && !pages.is_file() {
        let what = "the file is missing, although the log was folded into its pages".to_owned();
        return Err(OpenError::Damaged { file: pages, offset: 0, what });
    }
    Ok((identity, marker))
}

fn open_core(
    folder: &Path,
    (identity, marker): (Head, Marker),
    options: StoreOptions,
    clock: SharedClock,
    sync_file: SyncFile,
) -> Result<Core, OpenError> {
    let (disk, _) =
        disk_bytes(folder).map_err(|error| OpenError::io("asking for the size of the disk of", folder, error))?;
    let sizes = Sizes::for_disk(&options, disk);
    let reserve = Reserve::new(folder, sizes.reserve_bytes);
    let opening_reserve = Reserve::for_opening(folder, sizes.opening_reserve_bytes);
    // sled writes a little when it opens; on a full disk the reserves are there for that too.
    let made_room = reserve.make_room(0, 0).and_then(|_| opening_reserve.make_room_for_opening());
    made_room.map_err(|error| OpenError::io("making room on the disk of", folder, error))?;
    let opened = SledPages::open(folder, marker.bounds.as_ref())
        .and_then(|sled| Pages::open(sled, options.page_bytes, options.cache_bytes));
    let pages = opened.inspect_err(|_| {
        // A start that was refused leaves the next one as much.
        let _ = opening_reserve.fill().and_then(|()| reserve.fill());
    })?;
    // At once, for the next opening; where that fails, the thread that gets space goes on trying.
    let _ = opening_reserve.fill();
    let log_folder = folder.join(LOG_FOLDER);
    let end = recover(&log_folder, identity.cluster, marker.position, &mut |record| {
        let pinned = pages.pin(&record.changes)?;
        pages.apply(record.position, &record.changes, pinned, Origin::Replay);
        Ok(())
    })?;
    tracing::info!(
        folder = %shown(folder),
        replayed = end.position - marker.position,
        position = end.position,
        "the metadata is open"
    );
    let dirty_bytes = pages.dirty_bytes();
    let log = Log::start(&log_folder, identity.cluster, sizes.segment_bytes, end, clock.clone(), sync_file)
        .map_err(|error| OpenError::io("going on with the log in", &log_folder, no_space_hint(error)))?;
    Ok(Core {
        folder: folder.to_owned(),
        cluster: identity.cluster,
        options,
        sizes,
        clock,
        log,
        pages,
        checkpointing: Mutex::new(()),
        exporting: Mutex::new(()),
        export_view: Mutex::new(None),
        checkpoint_state: Mutex::new(CheckpointState { marker: marker.position, ..CheckpointState::default() }),
        checkpoint_ended: Condvar::new(),
        checkpoint_wakeup: Wakeup::default(),
        checkpoint_wanted: AtomicBool::new(false),
        reserve: Mutex::new(reserve),
        opening_reserve: Mutex::new(opening_reserve),
        // Until the reserve is held commits wait for it.
        space_low: AtomicBool::new(true),
        space_wakeup: Wakeup::default(),
        space_rounds: SpaceRounds::default(),
        flush_wakeup: Wakeup::default(),
        flush_idle: AtomicBool::new(false),
        dirty_bytes: AtomicU64::new(dirty_bytes),
        stopped: AtomicBool::new(false),
    })
}

fn no_space_hint(error: io::Error) -> io::Error {
    if is_no_space(&error) { io::Error::new(error.kind(), "the disk is full; free some space on it") } else { error }
}
