//! The op log: an append-only sequence of records in segments, the truth of the store.
//!
//! One record is one `pwrite` at the end of the newest segment, made under the append lock, so it survives the end of the
//! process as soon as [`Log::append`] returns. [`Log::sync`] makes everything written so far survive a power cut; whoever
//! calls it while another sync runs waits and then mostly finds its work done, which is the group commit. A segment is
//! claimed from the disk (`fallocate`) and synced before it is needed, so that changing segments costs a rename.
//!
//! What always holds: positions count up by one from record to record and across segments; a segment is named for its
//! first position; after a failed write or sync nothing is ever acknowledged again, and the first reason is kept.
//! `log_recovery.rs` reads the log back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rustix::fs::FallocateFlags;

use super::Change;
use super::anchor::shown;
use super::format::{Head, HeadKind, SEGMENT_HEAD_BYTES, encode_record, encode_segment_head};

/// The folder of the log in the store's folder.
pub(crate) const LOG_FOLDER: &str = "log";
/// The segment that is ready to become the newest one.
pub(crate) const PREPARED_NAME: &str = "prepared";
/// A segment is never smaller than this.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;

/// How a file is made durable; tests count the calls and make them fail.
pub(crate) type SyncFile = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// Why a record was not appended. In each case nothing was.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The newest segment is full and no other is prepared.
    NoSegment,
    /// The disk is full.
    NoSpace,
    /// A write or a sync failed, now or earlier.
    Failed(String),
}

/// The log of one store.
pub(crate) struct Log {
    folder: PathBuf,
    /// Open all the time: a process without descriptors to spare could not open it when a sync needs it.
    folder_file: File,
    cluster: [u8; 16],
    segment_bytes: u64,
    appender: Mutex<Appender>,
    written: AtomicU64,
    durable: AtomicU64,
    clock: SharedClock,
    opened: Monotonic,
    /// While records are not on the disk: the oldest of them was written this long after `opened`, in nanoseconds, or later.
    unsynced_since: AtomicU64,
    sync_running: Mutex<bool>,
    sync_ended: Condvar,
    unsynced: Mutex<Unsynced>,
    prepared: Mutex<Option<Arc<File>>>,
    segments: Mutex<Vec<Segment>>,
    failed: OnceLock<String>,
    sync_file: SyncFile,
}

/// A segment as the list of them knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Where the next record goes. Whoever holds the lock on it is the one writer.
pub(crate) struct Appender {
    file: Arc<File>,
    offset: u64,
    capacity: u64,
    record: Vec<u8>,
}

/// What a sync has to bring to the disk.
struct Unsynced {
    newest: Arc<File>,
    older: Vec<Arc<File>>,
    folder_changed: bool,
}

/// Where recovery found the log to end.
pub(crate) struct LogEnd {
    pub(crate) segments: Vec<Segment>,
    pub(crate) position: u64,
    /// Offset in the last segment.
    pub(crate) offset: u64,
}

impl Log {
    /// Goes on where recovery found the end; makes the first segment if there is none. Everything found is synced.
    pub(crate) fn start(
        folder: &Path,
        cluster: [u8; 16],
        segment_bytes: u64,
        end: LogEnd,
        clock: SharedClock,
        sync_file: SyncFile,
    ) -> io::Result<Log> {
        let LogEnd { mut segments, position, mut offset } = end;
        if segments.is_empty() {
            let file = claim_segment(folder, segment_bytes)?;
            let head = Head { kind: HeadKind::Segment, cluster, position: position + 1, durable: position };
            let path = install_segment(folder, &file, &head)?;
            segments.push(Segment { first: position + 1, path, bytes: segment_bytes });
            offset = SEGMENT_HEAD_BYTES as u64;
        }
        let mut files = Vec::new();
        for segment in &segments {
            let file = File::options().read(true).write(true).open(&segment.path)?;
            sync_file(&file)?;
            files.push(file);
        }
        let folder_file = File::open(folder)?;
        folder_file.sync_all()?;
        let newest = Arc::new(files.pop().ok_or_else(|| io::Error::other("the log has no segment"))?);
        let capacity = newest.metadata()?.len();
        Ok(Log {
            folder: folder.to_owned(),
            folder_file,
            cluster,
            segment_bytes,
            appender: Mutex::new(Appender { file: newest.clone(), offset, capacity, record: Vec::new() }),
            written: AtomicU64::new(position),
            durable: AtomicU64::new(position),
            opened: clock.monotonic(),
            clock,
            unsynced_since: AtomicU64::new(0),
            sync_running: Mutex::new(false),
            sync_ended: Condvar::new(),
            unsynced: Mutex::new(Unsynced { newest, older: Vec::new(), folder_changed: false }),
            prepared: Mutex::new(None),
            segments: Mutex::new(segments),
            failed: OnceLock::new(),
            sync_file,
        })
    }

    /// The append lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Appender> {
        locked(&self.appender)
    }

    /// The last position written.
    pub(crate) fn position(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The last position known to be on disk.
    pub(crate) fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// For how long, at most, the oldest record that is not on disk has been waiting for it.
    pub(crate) fn unsynced_for(&self) -> Duration {
        if self.durable_position() >= self.position() {
            return Duration::ZERO;
        }
        let since = self.unsynced_since.load(Ordering::Acquire);
        Duration::from_nanos(self.running_for_ns().saturating_sub(since))
    }

    fn running_for_ns(&self) -> u64 {
        u64::try_from(self.clock.monotonic().since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Why the log takes nothing any more, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Most bytes one record can take.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        self.segment_bytes - SEGMENT_HEAD_BYTES as u64
    }

    /// Writes one record and returns its position.
    pub(crate) fn append(&self, appender: &mut Appender, changes: &[Change]) -> Result<u64, AppendError> {
        if let Some(reason) = self.failure() {
            return Err(AppendError::Failed(reason.to_owned()));
        }
        let position = self.position() + 1;
        encode_record(&mut appender.record, position, self.durable_position(), changes);
        if appender.offset + appender.record.len() as u64 > appender.capacity {
            self.change_segment(appender, position)?;
        }
        appender
            .file
            .write_all_at(&appender.record, appender.offset)
            .map_err(|error| self.append_error(&error, "writing a record to"))?;
        appender.offset += appender.record.len() as u64;
        // Otherwise older ones wait for the disk, or did until just now: then the sync that ended has noted when it began.
        if self.durable_position() + 1 == position {
            self.unsynced_since.store(self.running_for_ns(), Ordering::Release);
        }
        self.written.store(position, Ordering::Release);
        Ok(position)
    }

    fn change_segment(&self, appender: &mut Appender, position: u64) -> Result<(), AppendError> {
        let mut prepared = locked(&self.prepared);
        let file = prepared.take().ok_or(AppendError::NoSegment)?;
        let durable = self.durable_position();
        let head = Head { kind: HeadKind::Segment, cluster: self.cluster, position, durable };
        let bytes = file.metadata().map_err(|error| self.append_error(&error, "opening a new segment of"))?.len();
        let path = install_segment(&self.folder, &file, &head)
            .map_err(|error| self.append_error(&error, "opening a new segment of"))?;
        drop(prepared);
        let mut unsynced = locked(&self.unsynced);
        let before = std::mem::replace(&mut unsynced.newest, file.clone());
        unsynced.older.push(before);
        unsynced.folder_changed = true;
        drop(unsynced);
        locked(&self.segments).push(Segment { first: position, path, bytes });
        appender.file = file;
        appender.capacity = bytes;
        appender.offset = SEGMENT_HEAD_BYTES as u64;
        Ok(())
    }

    /// A full disk can be freed; any other failed write ends the log.
    fn append_error(&self, error: &io::Error, doing: &str) -> AppendError {
        if is_no_space(error) {
            return AppendError::NoSpace;
        }
        AppendError::Failed(self.fail(format!("{doing} the log in {} failed: {error}", shown(&self.folder))))
    }

    /// Keeps the first reason and returns it.
    fn fail(&self, reason: String) -> String {
        let first = self.failed.get_or_init(|| {
            tracing::error!(
                reason,
                "the metadata log takes no more changes; restart the master when the disk is sound"
            );
            reason
        });
        first.clone()
    }

    /// Waits until everything up to this position is on disk, or says why it never will be known to be.
    pub(crate) fn sync(&self, position: u64) -> Result<(), String> {
        let mut running = locked(&self.sync_running);
        loop {
            if self.durable_position() >= position {
                return Ok(());
            }
            if let Some(reason) = self.failure() {
                return Err(reason.to_owned());
            }
            if !*running {
                break;
            }
            // It may have begun before our record was written; then the next one is ours to run, or another's to share.
            running = self.sync_ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running = true;
        drop(running);
        let result = self.sync_now();
        *locked(&self.sync_running) = false;
        self.sync_ended.notify_all();
        result
    }

    /// Syncs what is written; only one runs at a time.
    fn sync_now(&self) -> Result<(), String> {
        let begun = self.running_for_ns();
        let target = self.position();
        let (files, folder_changed) = self.take_unsynced();
        let result = files.iter().try_for_each(|file| (self.sync_file)(file));
        let result = result.and_then(|()| if folder_changed { self.folder_file.sync_all() } else { Ok(()) });
        result.map_err(|error| self.fail(format!("syncing the log in {} failed: {error}", shown(&self.folder))))?;
        // What it does not cover was written after it began.
        self.unsynced_since.store(begun, Ordering::Release);
        self.durable.fetch_max(target, Ordering::AcqRel);
        Ok(())
    }

    fn take_unsynced(&self) -> (Vec<Arc<File>>, bool) {
        let mut unsynced = locked(&self.unsynced);
        let mut files = std::mem::take(&mut unsynced.older);
        files.push(unsynced.newest.clone());
        (files, std::mem::take(&mut unsynced.folder_changed))
    }

    /// Whether the next change of segments can go ahead.
    pub(crate) fn is_prepared(&self) -> bool {
        locked(&self.prepared).is_some()
    }

    /// Claims the next segment if it is not there yet. Only one thread calls this.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if !self.is_prepared() {
            // Not under the lock: a commit that asks whether a segment is prepared must not wait for the disk.
            let file = claim_segment(&self.folder, self.segment_bytes)?;
            *locked(&self.prepared) = Some(Arc::new(file));
        }
        Ok(())
    }

    /// Deletes the segments that hold nothing above this position.
    pub(crate) fn drop_through(&self, position: u64) -> io::Result<()> {
        let dropped: Vec<Segment> = {
            let mut segments = locked(&self.segments);
            let keep_from = segments.partition_point(|segment| segment.first <= position + 1).saturating_sub(1);
            segments.drain(..keep_from).collect()
        };
        dropped.iter().try_for_each(|segment| std::fs::remove_file(&segment.path))
    }

    /// Bytes of the segments that are still kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let segments = locked(&self.segments);
        let whole: u64 = segments.iter().rev().skip(1).map(|segment| segment.bytes).sum();
        drop(segments);
        whole + self.lock().offset - SEGMENT_HEAD_BYTES as u64
    }
}

/// Takes the disk space of a segment, as a file of zeros that has no place in the log yet.
fn claim_segment(folder: &Path, bytes: u64) -> io::Result<File> {
    let path = folder.join(PREPARED_NAME);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    claim(&file, bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
        // What was claimed is given back; if even that fails, the next attempt truncates the file.
        let _ = std::fs::remove_file(&path);
    })?;
    Ok(file)
}

/// Gives the claimed segment its head and its name. The folder is synced by the sync that covers its first record.
fn install_segment(folder: &Path, file: &File, head: &Head) -> io::Result<PathBuf> {
    file.write_all_at(&encode_segment_head(head), 0)?;
    let path = folder.join(segment_name(head.position));
    std::fs::rename(folder.join(PREPARED_NAME), &path)?;
    Ok(path)
}

/// Takes disk space for a file, or just lengthens it where the filesystem cannot promise space.
pub(crate) fn claim(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        other => Ok(other?),
    }
}

/// The name of the segment that begins with this position.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// Whether the disk (or the user's share of it) is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Locks without asking whether another thread panicked: a panic ends the process.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
