//! One volume: a folder (in production the mount point of a filesystem of its own) that holds copies of chunks.
//!
//! `identity` says whose it is, `running` whether it was closed cleanly, `epoch` whether it is an older image of itself (`epoch_file` what it has stored of that), `health` what it stands on, `layout` where files
//! are, `table` which copies there are, `gate` how long operations take, `early_sync` syncs large copies unasked,
//! `store` is the volume in use, `incoming` what it fetches, and `upkeep` and `scrub` look after it
//! (`found_bad`: what they came upon).

pub mod identity;

pub mod health;

pub mod running;

mod epoch;
mod epoch_file;

mod found_bad;

pub mod layout;

pub mod gate;

pub mod table;

pub mod store;

mod early_sync;

mod incoming;

pub mod scan;

pub mod upkeep;

pub mod scrub;

#[cfg(test)]
mod golden_test;
