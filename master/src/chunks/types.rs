//! The words that [`super::Chunks`] is spoken to with: what chunkservers report, what is ordered of them, and what the
//! settings are.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::ids::{ChunkId, ChunkVersion, Goal, InodeId, ServerId, VolumeId};

/// The settings of placement, repair and deletion.
#[derive(Debug, Clone)]
pub struct ChunksConfig {
    /// How long a chunk may lack copies before new ones are made, unless only one is left.
    pub repair_delay: Duration,
    /// The same when only one copy is left.
    pub last_copy_delay: Duration,
    /// How long a chunkserver that said goodbye is waited for before what it held is made anew, also last copies.
    pub clean_stop_wait: Duration,
    /// How long repairs wait, after the last volume vanished, when most of them vanished together.
    pub mass_wait: Duration,
    /// Volumes that vanish within this time of each other vanish together.
    pub mass_window: Duration,
    /// How long repairs wait after the start for known servers that have not registered yet.
    pub startup_wait: Duration,
    /// A server is away after this long without a heartbeat.
    pub server_expiry: Duration,
    /// An order counts as failed after this long.
    pub order_deadline: Duration,
    /// The same for orders that copy a whole chunk.
    pub replicate_deadline: Duration,
    /// Repairs that read from or write to one volume at a time.
    pub repairs_per_volume: u32,
    /// Bytes a second that repairs and moves read from or write to one volume, on average; 0: as many as they can.
    pub repair_bytes_per_second: u64,
    /// Whether copies are moved from full volumes to empty ones.
    pub rebalance: bool,
    /// By how much of their size the used space of two volumes has to differ before that begins.
    pub rebalance_threshold_percent: u8,
    /// Bytes a second that it reads from or writes to one volume, on average.
    pub rebalance_bytes_per_second: u64,
    /// Deletions of one volume under way at a time.
    pub deletions_per_volume: u32,
    /// Copies that no record knows are kept this long.
    pub orphan_grace: Duration,
    /// Fewest copies with which a chunk of goal 2 and more takes writes.
    pub copies_min: usize,
}

impl Default for ChunksConfig {
    fn default() -> ChunksConfig {
        ChunksConfig {
            repair_delay: Duration::from_secs(10),
            last_copy_delay: Duration::ZERO,
            clean_stop_wait: Duration::from_secs(60),
            mass_wait: Duration::from_secs(300),
            mass_window: Duration::from_secs(60),
            startup_wait: Duration::from_secs(20),
            server_expiry: Duration::from_secs(5),
            order_deadline: Duration::from_secs(10),
            replicate_deadline: Duration::from_secs(120),
            repairs_per_volume: 4,
            repair_bytes_per_second: 256 << 20,
            rebalance: true,
            rebalance_threshold_percent: 10,
            rebalance_bytes_per_second: 16 << 20,
            deletions_per_volume: 256,
            orphan_grace: Duration::from_secs(7 * 24 * 3600),
            copies_min: 2,
        }
    }
}

/// A chunk's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkInfo {
    /// The file it belongs to.
    pub inode: InodeId,
    /// The version of its current copies, 0 for a chunk that never was committed.
    pub version: ChunkVersion,
    /// The version a writer was given; equal to `version` when the chunk is settled.
    pub granted: ChunkVersion,
    /// How many copies it is to have.
    pub goal: Goal,
    /// Nobody has said that any of it is on a disk: a power cut may have taken every copy.
    pub unsynced: bool,
}

impl ChunkInfo {
    pub(super) fn of_freed() -> ChunkInfo {
        let zero = ChunkVersion::new(0);
        ChunkInfo { inode: InodeId::new(0), version: zero, granted: zero, goal: Goal::ONE, unsynced: false }
    }

    /// Whether no writer has a newer version than the record.
    pub fn is_settled(&self) -> bool {
        self.version == self.granted
    }
}

/// Where one copy is or is to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The chunkserver.
    pub server: ServerId,
    /// The volume of that server.
    pub volume: VolumeId,
    /// `host:port` of the server's data port.
    pub address: Arc<str>,
}

/// There are not enough servers with room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "only {found} of at least {needed} copies can be placed: {connected} chunkservers are connected and {full} of their volumes are full"
)]
pub struct NoSpace {
    /// How many could be placed.
    pub found: usize,
    /// How many there have to be.
    pub needed: usize,
    /// Connected chunkservers.
    pub connected: usize,
    /// Their volumes without room: with 0 it is servers that are missing, not space.
    pub full: usize,
    /// Volumes are known that are away or stalled, or have yet to say what they hold.
    pub more_expected: bool,
}

impl NoSpace {
    /// Whether it is worth to wait: volumes may come back, as after a restart of the master.
    pub fn may_pass(&self) -> bool {
        self.full == 0 && self.more_expected
    }
}

/// Why a chunk cannot be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    /// It is being repaired or another session writes it: try again soon.
    #[error("the chunk is being repaired or written by another session")]
    Busy,
    /// No current copy that can be written is live.
    #[error("no current copy of the chunk that can be written is live")]
    NoCopies,
}

/// One connection of one chunkserver. A later registration of the same server makes the earlier stream void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a chunkserver says of itself when it connects.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The server.
    pub server: ServerId,
    /// The machine it runs on.
    pub host: String,
    /// `host:port` of its data port.
    pub address: String,
    /// Its program version.
    pub version: String,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
}

/// What a chunkserver says of one volume, in the registration and in each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    /// The volume.
    pub volume: VolumeId,
    /// Where it is mounted on that machine.
    pub path: String,
    /// Whether it can be used.
    pub state: VolumeState,
    /// Why it is not in service.
    pub reason: String,
    /// Its size in bytes.
    pub total: u64,
    /// Bytes left above the reserve.
    pub free: u64,
    /// Chunks on it, as its server counts them.
    pub chunks: u64,
    /// The storage machine behind it; empty if unknown.
    pub storage_machine: String,
    /// What names its filesystem: the same for volumes that share one; empty if unknown.
    pub filesystem: String,
    /// Whether its last use ended in a power cut: files that were made just before may be gone.
    pub lost_power: bool,
    /// How far its scrub is.
    pub scrub: ScrubReport,
    /// Its epoch (`astray.rs`); none where the volume is not in use.
    pub epoch: Option<u64>,
    /// Whether there were changes since that was stored on it.
    pub changed: bool,
}

/// How far the reading of every chunk of a volume from its disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Chunks of this round that were looked at.
    pub done: u64,
    /// Chunks of this round.
    pub chunks: u64,
    /// When the last complete round ended, in seconds since 1970; 0: never.
    pub completed: i64,
    /// Bad copies found since the volume was made.
    pub found: u64,
}

/// Whether a volume can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// For everything.
    InService,
    /// For reading only.
    ReadOnly,
    /// I/O does not come back at the moment.
    Stalled,
    /// Failed or missing.
    Out,
    /// For everything but new chunks.
    Full,
}

impl VolumeState {
    /// Whether its copies can be read.
    pub fn is_readable(self) -> bool {
        matches!(self, VolumeState::InService | VolumeState::ReadOnly | VolumeState::Full)
    }

    /// Whether its copies can be written.
    pub fn is_writable(self) -> bool {
        matches!(self, VolumeState::InService | VolumeState::Full)
    }

    /// The state in words for people.
    pub fn text(self) -> &'static str {
        match self {
            VolumeState::InService => "in service",
            VolumeState::ReadOnly => "read-only",
            VolumeState::Stalled => "stalled",
            VolumeState::Out => "out of service",
            VolumeState::Full => "full",
        }
    }
}

/// One copy as an inventory names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The chunk.
    pub chunk: ChunkId,
    /// The copy's version.
    pub version: ChunkVersion,
    /// How many bytes of data it holds.
    pub length: u32,
    /// Marked as taking writes.
    pub open: bool,
    /// It was open in a crash or power cut.
    pub suspect: bool,
    /// A file that is named as the chunk and whose header cannot be read; its version is 0.
    pub unreadable: bool,
    /// Its chunkserver says that a write or sync of it failed: it is never good again.
    pub bad: bool,
}

/// Number of a command to a chunkserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Number of what the engine ordered: one or more commands whose results it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// A command to a chunkserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its number; the result names it.
    pub id: CommandId,
    /// What is to be done.
    pub order: Order,
}

/// What a chunkserver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Delete the copy of exactly this version; 0: a file whose header cannot be read.
    Delete {
        /// On this volume.
        volume: VolumeId,
        /// Of this chunk.
        chunk: ChunkId,
        /// Of this version.
        version: ChunkVersion,
    },
    /// Fetch the chunk from one of the sources; an older or bad copy on the same volume is replaced.
    Replicate {
        /// To this volume.
        volume: VolumeId,
        /// Of this chunk.
        chunk: ChunkId,
        /// In this version.
        version: ChunkVersion,
        /// From one of these.
        sources: Vec<Place>,
    },
    /// Raise the copy's version durably.
    Raise {
        /// On this volume.
        volume: VolumeId,
        /// Of this chunk.
        chunk: ChunkId,
        /// The version it has.
        from: ChunkVersion,
        /// The version it is to have.
        to: ChunkVersion,
        /// Which copies are raised.
        of: RaiseOf,
    },
    /// Compare the copy with its hashes on the disk; what is found comes as a report of a bad copy.
    Check {
        /// On this volume.
        volume: VolumeId,
        /// Of this chunk.
        chunk: ChunkId,
    },
}

/// Which copies a raise is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaiseOf {
    /// Those that have everything that was acknowledged: a suspect one refuses.
    Sound,
    /// Also suspect ones: what a power cut left becomes their content. From version 0: an empty copy is made.
    Whatever,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub struct CommandResult {
    /// The command.
    pub command: CommandId,
    /// Whether it was carried out.
    pub done: bool,
    /// Why not, as Linux numbers it.
    pub errno: u32,
    /// Why not, in words.
    pub message: String,
    /// The copy's version afterwards; 0: there is no copy.
    pub version: ChunkVersion,
    /// The copy's length afterwards.
    pub length: u32,
}

/// What became of an order of the engine.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Where it was carried out, with the length of the copy there.
    pub done: Vec<(Place, u32)>,
    /// Where it was not, with the reason.
    pub failed: Vec<(Place, String)>,
    /// How many of those failed because there is no such copy.
    pub absent: usize,
}

/// Who found that a copy is bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFault {
    /// The chunkserver itself: the copy is not counted any more.
    Found(String),
    /// A reader: the copy is not counted any more if there is another good one.
    Reported(String),
}

/// How serious a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Information,
    /// Something lacks.
    Warning,
    /// Something is broken.
    Error,
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How serious it is.
    pub severity: Severity,
    /// What happened, to what, and what to do.
    pub message: String,
}

/// Why a chunkserver may not register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefusal {
    /// Volumes that another connected server has registered.
    #[error("{}", describe_duplicates(.0))]
    DuplicateVolumes(Vec<(VolumeId, String, ServerId, String)>),
    /// The server itself is connected from another address: two daemons say that they are it.
    #[error(
        "chunkserver {server} is connected from {address} on {host}; one of the two runs on a copy of the other's volume: stop \
         it, and run `chunkserver init` on the copy after emptying it"
    )]
    ConnectedElsewhere {
        /// Which.
        server: ServerId,
        /// Where the one is that serves.
        address: Arc<str>,
        /// The machine it runs on.
        host: String,
    },
    /// More volumes than the master can number.
    #[error(
        "the master knows {0} volumes already, which is all it can; forget servers that are gone (rfs admin forget-server)"
    )]
    TooManyVolumes(usize),
}

fn describe_duplicates(duplicates: &[(VolumeId, String, ServerId, String)]) -> String {
    let each = duplicates.iter().map(|(volume, path, server, host)| {
        format!("volume {volume} ({path}) is registered by chunkserver {server} on {host}")
    });
    let list: Vec<String> = each.collect();
    format!(
        "{}; one volume can be served by one chunkserver only: stop one of the two, or run `chunkserver init` on the copy of the volume after emptying it",
        list.join("; ")
    )
}
