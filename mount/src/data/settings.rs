//! The limits of the data path: how much it may hold, how long it waits, how many threads it has.

use std::time::Duration;

use rfs_proto::data::Hello;

use super::places::Place;

/// Limits of one mount's data path. [`DataSettings::default`] is what docs/protocol.md section 5 says.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// The cluster's id as it stands in the session's `HelloReply`; a chunkserver of another cluster is refused.
    pub cluster: bytes::Bytes,
    /// Who this client is, for a chunkserver's log.
    pub from: String,
    /// For a connection to a chunkserver.
    pub connect_timeout: Duration,
    /// For one copy's answer to a read; then the next copy is asked.
    pub read_timeout: Duration,
    /// For the chain's answer to a write; then the copy counts as failed.
    pub write_timeout: Duration,
    /// How long a server that failed is asked last.
    pub avoid_time: Duration,
    /// How long a read looks for a copy before it fails with EIO.
    pub read_give_up: Duration,
    /// How long unsent data is tried without any progress before it is lost.
    pub write_give_up: Duration,
    /// Unacknowledged bytes of all files; writers wait beyond that.
    pub dirty_bytes_max: usize,
    /// Unacknowledged bytes of one file.
    pub dirty_bytes_per_file_max: usize,
    /// Verified bytes kept for reading.
    pub cache_bytes_max: usize,
    /// Largest window fetched ahead of a sequential reader.
    pub read_ahead_bytes_max: u64,
    /// Threads that send dirty data.
    pub flusher_threads: usize,
    /// Threads that fetch ahead.
    pub read_ahead_threads: usize,
    /// Chunkservers on this host are met over Unix sockets, and their copies read from the files.
    pub local: bool,
    /// Idle connections kept to one volume.
    pub idle_connections_max: usize,
}

impl Default for DataSettings {
    fn default() -> DataSettings {
        DataSettings {
            cluster: bytes::Bytes::new(),
            from: String::new(),
            connect_timeout: Duration::from_millis(1500),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            avoid_time: Duration::from_secs(2),
            read_give_up: Duration::from_secs(30),
            write_give_up: Duration::from_secs(60),
            dirty_bytes_max: 64 << 20,
            dirty_bytes_per_file_max: 32 << 20,
            cache_bytes_max: 128 << 20,
            read_ahead_bytes_max: 8 << 20,
            flusher_threads: 4,
            read_ahead_threads: 4,
            local: true,
            idle_connections_max: 8,
        }
    }
}

impl DataSettings {
    /// The first frame of each connection to the chunkserver of a place.
    pub fn hello(&self, place: &Place) -> Hello {
        Hello {
            protocol_version: rfs_proto::PROTOCOL_VERSION,
            cluster: self.cluster.clone(),
            server: place.server.get(),
            volume: place.volume.get(),
            from: self.from.clone(),
        }
    }
}
