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

mod commit;
mod file;
mod full;
mod path;
mod places;
mod read_ahead;
mod settings;
mod writer;

mod block_cache;
mod chunk_state;
mod connections;
mod dirty;
pub(crate) mod error_state;
mod flushers;
mod local;
mod read;
mod sender;
mod sending;
mod waits;

pub(crate) use connections::{Way, lives};

pub use commit::{Committable, CommittedChunk, Durability};
pub use file::{DataHandle, FileData, Keep, ReadPatience};
pub use path::DataPath;
pub use places::{ChunkPlaces, CopyFailure, FailedWrite, FileMaster, Place, Span, WriteGrant};
pub use settings::DataSettings;
pub use waits::{ChunkWait, Purpose};

#[cfg(test)]
mod fake_chunkserver;
#[cfg(test)]
mod fake_master;
#[cfg(test)]
#[path = "data_test.rs"]
mod tests;
