//! What the files of one mount share: connections, the block cache, the bound on dirty bytes, and the two small pools of
//! threads (flushers, read-ahead).
//!
//! The threads live as long as the [`DataPath`]; they hold only their queues while they are idle.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rfs_common::clock::SharedClock;
use rfs_common::ids::InodeId;

use super::block_cache::BlockCache;
use super::connections::Connections;
use super::dirty::BufferPool;
use super::file::FileData;
use super::flushers::{Budget, FlushJob, JobQueue};
use super::full::Full;
use super::places::FileMaster;
use super::read::Reader;
use super::read_ahead::FetchJob;
use super::settings::DataSettings;
use super::waits::{ChunkWait, Waits};

/// Windows of read-ahead that may wait for a thread; more are dropped.
const FETCH_JOBS_MAX: usize = 64;

/// The data path of one mount.
pub struct DataPath {
    pub(crate) settings: Arc<DataSettings>,
    pub(crate) clock: SharedClock,
    pub(crate) master: Arc<dyn FileMaster>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) reader: Reader,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) budget: Budget,
    pub(crate) full: Full,
    pub(crate) buffers: BufferPool,
    pub(crate) flushes: Arc<JobQueue<FlushJob>>,
    pub(crate) fetches: Arc<JobQueue<FetchJob>>,
    pub(crate) waits: Waits,
    files: Mutex<HashMap<InodeId, Weak<FileData>>>,
}

impl fmt::Debug for DataPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DataPath").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl DataPath {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn new(settings: DataSettings, clock: SharedClock, master: Arc<dyn FileMaster>) -> io::Result<Arc<DataPath>> {
        let settings = Arc::new(settings);
        let connections = Arc::new(Connections::new(Arc::clone(&settings), Arc::clone(&clock)));
        let path = DataPath {
            reader: Reader::new(
                Arc::clone(&connections),
                Arc::clone(&settings),
                Arc::clone(&master),
                Arc::clone(&clock),
            ),
            connections,
            cache: Arc::new(BlockCache::new(settings.cache_bytes_max)),
            budget: Budget::new(settings.dirty_bytes_max),
            full: Full::default(),
            buffers: BufferPool::default(),
            flushes: Arc::new(JobQueue::new(settings.dirty_bytes_max)),
            fetches: Arc::new(JobQueue::new(FETCH_JOBS_MAX)),
            waits: Waits::default(),
            files: Mutex::default(),
            clock,
            master,
            settings,
        };
        for number in 0..path.settings.flusher_threads {
            spawn(format!("flush-{number}"), &path.flushes, |job| job.file.flush_in_background(job.index))?;
        }
        for number in 0..path.settings.read_ahead_threads {
            spawn(format!("read-ahead-{number}"), &path.fetches, |job| job.run())?;
        }
        Ok(Arc::new(path))
    }

    /// The data of a file. There is one per inode at a time: as long as any is held, the same one comes back.
    pub fn file(self: &Arc<Self>, inode: InodeId) -> Arc<FileData> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&inode).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(FileData::new(Arc::clone(self), inode));
        files.insert(inode, Arc::downgrade(&file));
        file
    }

    /// The data of a file, if any is held.
    pub(crate) fn file_if_there(&self, inode: InodeId) -> Option<Arc<FileData>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&inode).and_then(Weak::upgrade)
    }

    /// Drops all cached data of a file, also of one that is not open.
    pub fn invalidate(&self, inode: InodeId) {
        match self.file_if_there(inode) {
            Some(file) => file.invalidate(),
            None => self.cache.invalidate(inode),
        }
    }

    /// Bytes that were written and that no copy has acknowledged yet.
    pub fn unsent_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Bytes kept for reading.
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Chunks that somebody waits for.
    pub fn waits(&self) -> Vec<ChunkWait> {
        self.waits.all()
    }

    /// Has everything that is dirty sent.
    pub(crate) fn hurry(&self) {
        let files: Vec<Arc<FileData>> = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.values().filter_map(Weak::upgrade).collect()
        };
        files.iter().for_each(FileData::hurry);
    }

    /// A file's data is being dropped: forget it, unless another has taken its place.
    pub(crate) fn forget(&self, inode: InodeId) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.get(&inode).is_some_and(|file| file.strong_count() == 0) {
            files.remove(&inode);
        }
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.flushes.close();
        self.fetches.close();
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    queue: &Arc<JobQueue<T>>,
    run: impl Fn(T) + Send + 'static,
) -> io::Result<()> {
    let queue = Arc::clone(queue);
    let work = move || {
        while let Some(job) = queue.pop() {
            run(job);
        }
    };
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}
