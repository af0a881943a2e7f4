//! The data path of a client: the bytes of files between applications and chunkservers.
//!
//! It knows chunks, copies and versions; it knows no FUSE, no leases and no names. Threads block; there is no runtime.
//! One [`DataPath`] serves a whole mount; [`FileData`] is one open inode's part of it and the only thing others use:
//!
//! - `write` copies the bytes once into buffers and returns; `read` sees them at once.
//! - flusher threads send full pieces; `flush` and `sync` send what is left on the calling thread, so a small file costs
//!   no thread switch.
//! - `prepare_commit` gives what the master has to be told; the rule is that data has been acknowledged by every copy
//!   before it is committed, and that nothing is written under a grant after its commit: the chunk is held meanwhile.
//! - Data that could not be written in time is lost: each open handle is told once (`take_error`), and reads of
//!   those bytes fail with EIO until something is written there (`writer.rs` says it exactly).
//!
//! Locks are taken in this order and never held over the network or a call of [`FileMaster`]: the file's writer, the
//! file's chunk map, the block cache, the budget.

mod places;

pub use places::{ChunkPlaces, CopyFailure, FailedWrite, FileMaster, Place, WriteGrant};

/* The facade, as it will stand (signatures fixed; bodies follow):

impl DataPath {
    pub fn new(settings: DataSettings, clock: SharedClock, cluster: ClusterId, master: Arc<dyn FileMaster>) -> Arc<DataPath>;
    pub fn file(self: &Arc<Self>, inode: InodeId) -> Arc<FileData>;      // one per inode: the caller keeps it
}
impl FileData {
    pub fn open_handle(&self) -> DataHandle;                             // per open file: error cursor + read-ahead state
    pub fn write(&self, offset: u64, bytes: &[u8], length_of_file: u64) -> Result<u64 /* new length */, Errno>;
    pub fn read(self: &Arc<Self>, handle: &DataHandle, offset: u64, out: &mut [u8], length_of_file: u64) -> Result<usize, Errno>;
    pub fn flush(&self) -> Result<(), Errno>;                            // every copy has all; error also stays for take_error
    pub fn sync(&self) -> Result<(), Errno>;                             // and on every disk
    pub fn take_error(&self, handle: &DataHandle) -> Result<(), Errno>;  // what fsync, flush and close answer
    pub fn prepare_commit(&self, durability: Durability) -> Result<Committable, Errno>;  // flush or sync, then hold
    pub fn committable(&self) -> Option<Committable>;                    // what is acknowledged now, without sending
    pub fn give_grant(&self, grant: WriteGrant);                         // from Make{open}
    pub fn truncate(&self, length: u64);                                 // after the master agreed, or before Commit{length}
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Errno>;   // parts of chunks
    pub fn forget_chunks(&self, first_index: u32, end_index: u32);       // after PunchHole
    pub fn invalidate(&self);                                            // cached (clean) data and places
    pub fn discard(&self);                                               // the write lease is lost: dirty data too
    pub fn has_dirty(&self) -> bool;        // something is not acknowledged
    pub fn has_uncommitted(&self) -> bool;  // something is not committed
    pub fn local_length(&self) -> Option<u64>;  // while it differs from the master's
    pub fn modified(&self) -> Option<Time>;
}
pub enum Durability { Acknowledged, Durable }
pub struct Committable { length: Option<u64>, modified: Option<Time>, chunks: Vec<CommittedChunk> }  // released when dropped
impl Committable { pub fn committed(self); }
*/
