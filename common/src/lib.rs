//! What every part of rfs shares and no part owns: ids, names, error numbers, hashes, time, and what a daemon needs to
//! start, to log and to stop.
//!
//! It knows no protocol, no storage engine and no FUSE. Modules stand in reading order: first the words of the domain,
//! then what stands between logic and the world (clock, randomness), then what the programs are built from.

pub mod ids;

pub mod name;

pub mod errno;

pub mod leaf;

pub mod clock;

pub mod access_time;

pub mod random;

pub mod size;

pub mod text;

pub mod endpoint;

pub mod durable;

pub mod trusted;

pub mod folder_lock;

pub mod config;

pub mod logging;

pub mod shutdown;

pub mod background;

pub mod process;

pub mod socket;

pub mod descriptor_stream;
