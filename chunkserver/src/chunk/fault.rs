//! Why an operation on a copy was not done, shaped by what the asker does next: use another copy, send again, give up.

use std::io;

use rfs_common::errno::Errno;
use rfs_common::ids::ChunkVersion;
use rfs_proto::data::Status;
use thiserror::Error;

/// Why an operation on a copy was not done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The volume has no such chunk.
    #[error("the volume has no such chunk")]
    NoChunk,
    /// The copy has another version.
    #[error("the copy has version {have}")]
    WrongVersion {
        /// The copy's.
        have: ChunkVersion,
    },
    /// A chunk that was to be made is there.
    #[error("the chunk is there already with version {have}")]
    Exists {
        /// The copy's version.
        have: ChunkVersion,
    },
    /// The bytes sent do not match the hashes sent with them.
    #[error("the bytes received for leaf {leaf_index} do not match the hash received with them")]
    BadHashSent {
        /// Which leaf of the chunk.
        leaf_index: u32,
    },
    /// The copy itself cannot be trusted.
    #[error("this copy is bad: {reason}")]
    BadCopy {
        /// What was found.
        reason: String,
    },
    /// The copy was open in a power cut: what was acknowledged to its writer may not be here.
    #[error("this copy was open in a power cut and has not been settled since")]
    Suspect,
    /// Its volume is an older image of itself, and the master has not compared the copy with others yet.
    #[error("this copy is on an older image of its volume and has not been compared with others yet")]
    Astray,
    /// No space for it.
    #[error("no space is left on the volume")]
    NoSpace,
    /// The volume failed.
    #[error("could not {operation}: {errno}")]
    Io {
        /// What was tried, as in "could not *write*".
        operation: IoOperation,
        /// What the system said.
        errno: Errno,
    },
    /// The volume is not in service.
    #[error("the volume is not in service: {reason}")]
    VolumeOut {
        /// Why.
        reason: String,
    },
    /// The volume takes no changes.
    #[error("the volume is read-only: {reason}")]
    ReadOnly {
        /// Why.
        reason: String,
    },
    /// The volume does not answer in time.
    #[error("the volume does not answer within its deadline")]
    Timeout,
    /// The request cannot be.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
}

/// What was tried on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOperation {
    /// Opening.
    Open,
    /// Reading.
    Read,
    /// Writing, truncating, creating, removing.
    Write,
    /// Making durable.
    Sync,
}

impl std::fmt::Display for IoOperation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            IoOperation::Open => "open the chunk's file",
            IoOperation::Read => "read the chunk's file",
            IoOperation::Write => "write the chunk's file",
            IoOperation::Sync => "sync the chunk's file",
        })
    }
}

impl Fault {
    /// For `map_err`: this operation failed with a system error.
    pub fn io(operation: IoOperation) -> impl Fn(io::Error) -> Fault {
        move |error| match Errno::from_io(&error) {
            Errno::ENOSPC | Errno::EDQUOT => Fault::NoSpace,
            errno => Fault::Io { operation, errno },
        }
    }

    /// What the wire calls it.
    pub fn status(&self) -> Status {
        match self {
            Fault::NoChunk => Status::NoChunk,
            Fault::WrongVersion { .. } => Status::WrongVersion,
            Fault::Exists { .. } => Status::Exists,
            Fault::BadHashSent { .. } => Status::BadHashSent,
            Fault::BadCopy { .. } => Status::BadCopy,
            Fault::Suspect | Fault::Astray => Status::Suspect,
            Fault::NoSpace => Status::NoSpace,
            Fault::Io { .. } | Fault::ReadOnly { .. } => Status::IoError,
            Fault::VolumeOut { .. } => Status::VolumeOut,
            Fault::Timeout => Status::Timeout,
            Fault::BadRequest(_) => Status::BadRequest,
        }
    }

    /// The error number that fits best.
    pub fn errno(&self) -> Errno {
        match self {
            Fault::NoChunk => Errno::ENOENT,
            Fault::WrongVersion { .. } => Errno::ESTALE,
            Fault::Exists { .. } => Errno::EEXIST,
            Fault::BadHashSent { .. } | Fault::BadCopy { .. } | Fault::Suspect | Fault::Astray => Errno::EIO,
            Fault::NoSpace => Errno::ENOSPC,
            Fault::Io { errno, .. } => *errno,
            Fault::VolumeOut { .. } => Errno::ENODEV,
            Fault::ReadOnly { .. } => Errno::EROFS,
            Fault::Timeout => Errno::ETIMEDOUT,
            Fault::BadRequest(_) => Errno::EINVAL,
        }
    }

    /// The copy's version, where that is what was wrong.
    pub fn have(&self) -> u32 {
        match self {
            Fault::WrongVersion { have } | Fault::Exists { have } => have.get(),
            _ => 0,
        }
    }
}
