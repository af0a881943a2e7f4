//! The state of everything in words and numbers: gathered once, shown by the tool (gRPC), the web page and its JSON.
//!
//! [`Gatherer`] asks the engine, the chunk table, the store and the exports, each for a moment, and never scans chunks; only [`Gatherer::affected`] reads much.
//! [`health`] turns the numbers into one line and a list of problems, each with what to do.

mod affected;
mod drain;
mod gatherer;
mod health;
mod health_watch;
mod master_state;
mod rates;
mod redundancy;
mod report;

pub(crate) use self::affected::files_only_on;
pub use self::affected::{AffectedFile, AffectedFiles};
pub(crate) use self::drain::DrainRow;
pub use self::gatherer::{Gatherer, StoreHandle};
pub(crate) use self::health::counted;
pub use self::health_watch::HealthWatch;
pub use self::master_state::{GoalFailure, MasterState, MasterStateExt};
pub use self::rates::RateSampler;
pub use self::redundancy::RedundancyWatch;
pub use self::report::{
    ChunksAt, Counts, EventRow, Health, MetadataReport, Rate, ServerRow, SessionReport, Space, StatusReport, VolumeRow,
};

#[cfg(test)]
pub(crate) mod test_master;
