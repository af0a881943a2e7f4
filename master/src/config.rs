//! The master's settings: one struct, filled by `rfs_common::config` from defaults, a TOML file, variables `RFS_MASTER_...`
//! and `-o key=value`. `mfs-master config` prints it with all defaults.

use std::path::PathBuf;
use std::time::Duration;

use rfs_common::endpoint::{CHUNKSERVER_TO_MASTER_PORT, CLIENT_TO_MASTER_PORT, Endpoint, METRICS_PORT, WEB_PORT};
use rfs_common::size::{ByteSize, Period};
use serde::{Deserialize, Serialize};

use crate::chunks::ChunksConfig;
use crate::engine::EngineConfig;
use crate::exports::ExportsConfig;
use crate::session::listener::ListenerConfig;
use crate::store::StoreOptions;

/// Prefix of the environment variables that make settings.
pub const ENVIRONMENT_PREFIX: &str = "RFS_MASTER_";

/// Less memory for pages than this is no cache.
const CACHE_BYTES_MIN: u64 = 1 << 20;
/// Rebalancing at a lower rate is none.
const REBALANCE_RATE_MIN: u64 = 64 << 10;
/// Waiting for less than this is not waiting.
const SHORTEST: Duration = Duration::from_millis(100);
const SHORTEST_EXPORT: Duration = Duration::from_secs(1);

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterConfig {
    /// The folder with the metadata, made by `mfs-master init`.
    pub data: PathBuf,

    /// A power cut takes at most the changes of this long, and of a sync of the disk, that nothing waited for (fsync waits).
    pub log_flush_interval: Period,
    /// On a disk that takes longer to sync, changes are answered only when they are on it: a power cut never takes more than
    /// the changes of this long. Twice `log_flush_interval` at least.
    pub log_unsynced_max: Period,
    /// Whether every change waits for the disk before it is answered.
    pub wait_for_disk: bool,
    /// Memory for metadata pages; the chunk table and leases come on top.
    pub cache_bytes: ByteSize,
    /// The log is folded into pages at the latest after this long.
    pub checkpoint_interval: Period,

    /// A client's session ends after this long without a heartbeat.
    pub session_expiry: Period,
    /// How often clients send heartbeats.
    pub heartbeat_interval: Period,
    /// A session that does not give back a lease when asked for this long, and does not say that it is about to, ends.
    pub recall_timeout: Period,
    /// How long an operation waits for copies that are away before it is answered with an error.
    pub chunk_wait: Period,
    /// Connections of clients at the same time.
    pub connections_max: usize,

    /// Fewest copies with which a chunk of goal 2 and more takes writes.
    pub copies_min: usize,
    /// How long a chunk may lack copies before new ones are made, unless only one is left.
    pub repair_delay: Period,
    /// How long a chunkserver that was stopped cleanly is waited for before what it held is made anew, also what it had the
    /// last copy but one of.
    pub clean_stop_wait: Period,
    /// How long repairs wait when most volumes vanished together.
    pub mass_outage_wait: Period,
    /// Volumes that vanish within this time of each other vanish together.
    pub mass_outage_window: Period,
    /// How long a copy that no record knows is kept.
    pub orphan_chunk_grace: Period,
    /// Repairs that read from or write to one volume at a time.
    pub repairs_per_volume: u32,
    /// Bytes a second that repairs and moves read from or write to one volume, on average; 0: no limit.
    pub repair_rate: ByteSize,
    /// Whether copies are moved from full volumes to empty ones.
    pub rebalance: bool,
    /// By how many percent of their size the used space of two volumes has to differ before that begins. It ends at half of it.
    pub rebalance_threshold: u8,
    /// Bytes a second that it reads from or writes to one volume, on average.
    pub rebalance_rate: ByteSize,
    /// A chunkserver is away after this long without a heartbeat.
    pub chunkserver_expiry: Period,

    /// How often the whole metadata is exported into one file.
    pub export_interval: Period,
    /// The folder for exports; empty: `exports` in the data folder.
    pub export_folder: PathBuf,
    /// How many exports are kept.
    pub export_keep: usize,

    /// Names by which browsers may ask for the status page, besides addresses, `localhost` and this machine's host name.
    pub web_names: Vec<String>,

    /// Where the services listen.
    pub listen: ListenConfig,
}

/// Where the services listen. Port 0 takes a free one; `addresses.json` in the data folder tells which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    /// Clients.
    pub clients: Endpoint,
    /// Chunkservers and administration.
    pub cluster: Endpoint,
    /// The status page.
    pub web: Endpoint,
    /// Metrics for Prometheus.
    pub metrics: Endpoint,
}

impl Default for ListenConfig {
    fn default() -> ListenConfig {
        ListenConfig {
            clients: Endpoint::new("0.0.0.0", CLIENT_TO_MASTER_PORT),
            cluster: Endpoint::new("0.0.0.0", CHUNKSERVER_TO_MASTER_PORT),
            web: Endpoint::new("0.0.0.0", WEB_PORT),
            metrics: Endpoint::new("0.0.0.0", METRICS_PORT),
        }
    }
}

impl Default for MasterConfig {
    fn default() -> MasterConfig {
        let (store, engine, listener) = (StoreOptions::default(), EngineConfig::default(), ListenerConfig::default());
        MasterConfig {
            data: PathBuf::from("/var/lib/mfs-master"),
            log_flush_interval: Period::new(store.log_flush_interval),
            log_unsynced_max: Period::new(store.log_unsynced_max),
            wait_for_disk: store.wait_for_disk,
            cache_bytes: ByteSize::new(store.cache_bytes),
            checkpoint_interval: Period::new(store.checkpoint_interval),
            session_expiry: Period::new(engine.session_expiry),
            heartbeat_interval: Period::new(engine.heartbeat),
            recall_timeout: Period::new(engine.recall_timeout),
            chunk_wait: Period::new(engine.chunk_wait),
            connections_max: listener.connections_max,
            copies_min: engine.chunks.copies_min,
            repair_delay: Period::new(engine.chunks.repair_delay),
            clean_stop_wait: Period::new(engine.chunks.clean_stop_wait),
            mass_outage_wait: Period::new(engine.chunks.mass_wait),
            mass_outage_window: Period::new(engine.chunks.mass_window),
            orphan_chunk_grace: Period::new(engine.chunks.orphan_grace),
            repairs_per_volume: engine.chunks.repairs_per_volume,
            repair_rate: ByteSize::new(engine.chunks.repair_bytes_per_second),
            rebalance: engine.chunks.rebalance,
            rebalance_threshold: engine.chunks.rebalance_threshold_percent,
            rebalance_rate: ByteSize::new(engine.chunks.rebalance_bytes_per_second),
            chunkserver_expiry: Period::new(engine.chunks.server_expiry),
            export_interval: Period::hours(1),
            export_folder: PathBuf::new(),
            export_keep: 24,
            web_names: Vec::new(),
            listen: ListenConfig::default(),
        }
    }
}

impl MasterConfig {
    /// What makes no sense together, in words for whoever made the settings.
    ///
    /// # Errors
    /// The first such thing.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (self.heartbeat_interval.get().is_zero(), "heartbeat_interval must be longer than nothing"),
            (
                self.session_expiry.get() < self.heartbeat_interval.get() * 2,
                "session_expiry must be at least twice heartbeat_interval, or one lost heartbeat ends a session",
            ),
            (
                self.recall_timeout.get() < self.session_expiry.get(),
                "recall_timeout must not be shorter than session_expiry",
            ),
            (!(1..=9).contains(&self.copies_min), "copies_min must be from 1 to 9, as goals are"),
            (self.repairs_per_volume == 0, "repairs_per_volume must be at least 1, or nothing is ever repaired"),
            (
                !(2..=100).contains(&self.rebalance_threshold),
                "rebalance_threshold must be from 2 to 100 percent, or volumes are never even enough",
            ),
            (
                self.rebalance && self.rebalance_rate.get() < REBALANCE_RATE_MIN,
                "rebalance_rate must be at least 64KiB, or rebalancing never gets anywhere; `rebalance = false` turns it off",
            ),
            (
                self.cache_bytes.get() < CACHE_BYTES_MIN,
                "cache_bytes must be at least 1MiB, or the master does nothing but read and write pages",
            ),
            (
                self.chunk_wait.get() < SHORTEST,
                "chunk_wait must be at least 100ms, or reads fail whenever a copy is away",
            ),
            (
                self.orphan_chunk_grace.get() < self.export_interval.get(),
                "orphan_chunk_grace must not be shorter than export_interval, or what is newer than an export is deleted \
                 after a restore from it",
            ),
            (self.export_interval.get() < SHORTEST_EXPORT, "export_interval must be at least 1s"),
            (self.checkpoint_interval.get() < SHORTEST, "checkpoint_interval must be at least 100ms"),
            (self.chunkserver_expiry.get() < SHORTEST * 10, "chunkserver_expiry must be at least 1s"),
            (self.connections_max == 0, "connections_max must be at least 1"),
            (self.export_keep == 0, "export_keep must be at least 1"),
        ];
        rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    /// The store's part.
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            cache_bytes: self.cache_bytes.get(),
            log_flush_interval: self.log_flush_interval.get(),
            // Every interval ends with a sync: a shorter limit would hold up changes at the end of each.
            log_unsynced_max: self.log_unsynced_max.get().max(self.log_flush_interval.get() * 2),
            wait_for_disk: self.wait_for_disk,
            checkpoint_interval: self.checkpoint_interval.get(),
            ..StoreOptions::default()
        }
    }

    /// The engine's part.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            session_expiry: self.session_expiry.get(),
            heartbeat: self.heartbeat_interval.get(),
            recall_timeout: self.recall_timeout.get(),
            chunk_wait: self.chunk_wait.get(),
            chunks: ChunksConfig {
                copies_min: self.copies_min,
                repair_delay: self.repair_delay.get(),
                clean_stop_wait: self.clean_stop_wait.get(),
                mass_wait: self.mass_outage_wait.get(),
                mass_window: self.mass_outage_window.get(),
                orphan_grace: self.orphan_chunk_grace.get(),
                repairs_per_volume: self.repairs_per_volume,
                repair_bytes_per_second: self.repair_rate.get(),
                rebalance: self.rebalance,
                rebalance_threshold_percent: self.rebalance_threshold,
                rebalance_bytes_per_second: self.rebalance_rate.get(),
                server_expiry: self.chunkserver_expiry.get(),
                ..ChunksConfig::default()
            },
        }
    }

    /// The session port's part.
    pub fn listener_config(&self) -> ListenerConfig {
        ListenerConfig { connections_max: self.connections_max, ..ListenerConfig::default() }
    }

    /// The exports' part.
    pub fn exports_config(&self) -> ExportsConfig {
        let folder = match self.export_folder.as_os_str().is_empty() {
            true => self.data.join("exports"),
            false => self.export_folder.clone(),
        };
        ExportsConfig { folder, interval: self.export_interval.get(), keep: self.export_keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_are_read_back_from_their_text() {
        let text = rfs_common::config::default_toml::<MasterConfig>().expect("as TOML");
        assert!(text.contains("clients = \"0.0.0.0:9421\""), "{text}");
        MasterConfig::default().check().expect("sound");
        let overrides =
            [("listen.clients".to_owned(), "127.0.0.1:0".to_owned()), ("copies_min".to_owned(), "1".to_owned())];
        let config: MasterConfig =
            rfs_common::config::load(None, ENVIRONMENT_PREFIX, [], &overrides).expect("settings");
        assert_eq!((config.listen.clients.port(), config.copies_min), (Some(0), 1));
    }

    #[test]
    fn the_example_has_every_setting_with_its_default() {
        let example = rfs_common::config::uncommented(include_str!("../../deploy/config/mfs-master.toml"));
        let example: toml::Table = example.parse().expect("TOML");
        assert_eq!(example, toml::Table::try_from(MasterConfig::default()).expect("as TOML"));
    }

    #[test]
    fn settings_that_make_no_sense_together_are_refused() {
        let config = MasterConfig { session_expiry: Period::seconds(3), ..MasterConfig::default() };
        assert!(config.check().expect_err("refused").contains("session_expiry"));
        for setting in [
            "copies_min=50",
            "repairs_per_volume=0",
            "rebalance_threshold=0",
            "rebalance_rate=0",
            "cache_bytes=1",
            "orphan_chunk_grace=0s",
            "chunk_wait=0s",
            "export_interval=0s",
            "checkpoint_interval=0s",
            "chunkserver_expiry=0s",
        ] {
            let setting = rfs_common::config::parse_override(setting).expect("a setting");
            let config: MasterConfig =
                rfs_common::config::load(None, ENVIRONMENT_PREFIX, [], std::slice::from_ref(&setting))
                    .expect("settings");
            assert!(config.check().expect_err("refused").contains(&setting.0), "{setting:?}");
        }
    }
}
