//! The chunkserver's configuration; `chunkserver config` prints it with its defaults.

use std::path::PathBuf;
use std::time::Duration;

use rfs_common::endpoint::{CHUNKSERVER_DATA_PORT, Endpoint};
use rfs_common::size::{ByteSize, Period};
use serde::{Deserialize, Serialize};

use crate::volume::scrub::ScrubSettings;
use crate::volume::store::Settings;

/// A client gives up a chain after this long.
const CLIENT_WAITS: Duration = Duration::from_secs(10);
/// What is read of a chunk at a time for the scrub.
const SCRUB_RATE_MIN: u64 = 64 << 10;

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folders of the volumes, each initialised with `chunkserver init`.
    pub data: Vec<PathBuf>,
    /// The master's address for clients. The port for chunkservers is learned from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<Endpoint>,
    /// Where the data port listens. Port 0 takes a free one.
    pub listen: Endpoint,
    /// The address that clients and other chunkservers are told. Default: the local address of the connection to the
    /// master, with the port of `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<Endpoint>,
    /// Name of this machine, to keep copies apart. Default: the one given at `chunkserver init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Folder for the file `addresses`, which says where this daemon listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<PathBuf>,
    /// Part of each volume that new chunks leave free, in thousandths of it ...
    pub reserve_thousandths: u64,
    /// ... but at most this much, and always 16 MiB, below which no chunk grows.
    pub reserve_max: ByteSize,
    /// A read or write that takes longer means that its volume is stalled: others are turned away until it returns.
    pub io_deadline: Period,
    /// The same for syncs, which wait for everything written before.
    pub sync_deadline: Period,
    /// How long connecting to the next copy of a chain may take.
    pub chain_connect_deadline: Period,
    /// How long the next copy of a chain may take to answer, connecting included; 0.2 s longer for each copy behind it, so
    /// that the one that stalls is named. All of it has to be below the 10 s that a client waits for the whole chain.
    pub chain_answer_deadline: Period,
    /// A chunk without changes for this long is synced and closed.
    pub close_after: Period,
    /// How often a volume that is out of service is tried again.
    pub retry_interval: Period,
    /// Within this time every chunk is read from its disk and compared with its hashes.
    pub scrub_period: Period,
    /// At most this much a second of each volume is read for that.
    pub scrub_rate_max: ByteSize,
    /// Chunk files kept open per volume.
    pub open_copies_max: usize,
    /// Data connections at the same time.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: Vec::new(),
            master: None,
            listen: Endpoint::new("0.0.0.0", CHUNKSERVER_DATA_PORT),
            data_address: None,
            host: None,
            run_dir: None,
            reserve_thousandths: 10,
            reserve_max: ByteSize::mib(256),
            io_deadline: Period::seconds(2),
            sync_deadline: Period::seconds(8),
            chain_connect_deadline: Period::new(Duration::from_millis(1500)),
            chain_answer_deadline: Period::seconds(8),
            close_after: Period::seconds(5),
            retry_interval: Period::seconds(2),
            scrub_period: Period::seconds(14 * 24 * 3600),
            scrub_rate_max: ByteSize::mib(32),
            open_copies_max: 1024,
            connections_max: 2048,
        }
    }
}

impl Config {
    /// What cannot work, in words for whoever made the settings.
    ///
    /// # Errors
    /// The first such thing.
    pub fn check(&self) -> Result<(), String> {
        let zero = |period: &Period| period.get().is_zero();
        let rules = [
            (self.reserve_thousandths > 500, "reserve_thousandths must be at most 500, half of a volume"),
            (zero(&self.io_deadline), "io_deadline must be longer than nothing, or every volume is stalled"),
            (zero(&self.sync_deadline), "sync_deadline must be longer than nothing, or every volume is stalled"),
            (zero(&self.chain_connect_deadline), "chain_connect_deadline must be longer than nothing"),
            (zero(&self.chain_answer_deadline), "chain_answer_deadline must be longer than nothing"),
            (
                self.chain_answer_deadline.get() >= CLIENT_WAITS,
                "chain_answer_deadline must be below the 10s that a client waits for the whole chain",
            ),
            (zero(&self.close_after), "close_after must be longer than nothing"),
            (zero(&self.retry_interval), "retry_interval must be longer than nothing"),
            (zero(&self.scrub_period), "scrub_period must be longer than nothing"),
            (self.scrub_rate_max.get() < SCRUB_RATE_MIN, "scrub_rate_max must be at least 64KiB"),
            (self.open_copies_max == 0, "open_copies_max must be at least 1"),
            (self.connections_max == 0, "connections_max must be at least 1"),
        ];
        rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    /// What volumes are run with.
    pub fn volume_settings(&self) -> Settings {
        Settings {
            io_deadline: self.io_deadline.get(),
            sync_deadline: self.sync_deadline.get(),
            close_after: self.close_after.get(),
            open_copies_max: self.open_copies_max.max(16),
            reserve_thousandths: self.reserve_thousandths,
            reserve_bytes_max: self.reserve_max.get(),
            scrub: ScrubSettings { period: self.scrub_period.get(), bytes_per_second_max: self.scrub_rate_max.get() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        Config::default().check().expect("sound");
        for setting in ["reserve_thousandths=5000", "io_deadline=0s", "chain_answer_deadline=20s", "scrub_rate_max=1"] {
            let setting = rfs_common::config::parse_override(setting).expect("a setting");
            let config: Config =
                rfs_common::config::load(None, "RFS_", [], std::slice::from_ref(&setting)).expect("settings");
            assert!(config.check().expect_err("refused").contains(&setting.0), "{setting:?}");
        }
    }

    #[test]
    fn the_example_has_every_setting_with_its_default() {
        let example = rfs_common::config::uncommented(include_str!("../../deploy/config/chunkserver.toml"));
        let mut example: toml::Table = example.parse().expect("TOML");
        example.clone().try_into::<Config>().expect("settings that exist");
        for without_default in ["master", "data_address", "host", "run_dir"] {
            assert!(example.remove(without_default).is_some(), "{without_default} is not shown");
        }
        assert_eq!(example, toml::Table::try_from(Config::default()).expect("as TOML"));
    }
}
