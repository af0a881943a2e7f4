//! What was promised, and whether it is there after a power cut: actors that keep a journal of what they did, and an oracle
//! that reads the journal and judges what is found.
//!
//! Actors run in a process of their own (`rfs-test-actor`), for two reasons: it dies with the client machine, and the test
//! that starts daemons must not have files of the mount open (a new process closes them, and that waits for the master).
//! Each actor works below a folder of its own and writes to its journal, before each call, what it is about to do and, after
//! it, how it ended. Every byte written says of which file, write and place it is ([`content`]), so that the oracle can tell a
//! lost byte from an old one and from a stranger's.
//!
//! # What the oracle accepts
//!
//! Names ([`names`]): changes of one actor reach the master's log in their order, so what is found must be the result of all
//! of them up to some moment. That moment is not before any change which fsync of its folder has promised, nor before any
//! that was acknowledged earlier than `log_unsynced_max` before the last one that was (the master answers no change while an older one
//! has waited for the disk for longer). When no power went at the master, or its log lost nothing that the client had been told: all
//! of them.
//!
//! Bytes ([`bytes`]): what fsync returned 0 for, exactly. Writes and truncations after that may be missing, the later ones
//! first: **each 512-byte sector is as it was after some number of them**, not mixed, and so is the length, independently. The
//! sector is what docs/formats/chunk.md assumes of disks, and what it says a torn overwrite may change; a leaf is not written
//! at once. A file that was made longer without fsync may be shorter, or have zeros there. It can always be read: EIO is
//! a failure. When chunkservers lost power under a client that lived, any subset of the writes that no fsync covers may be missing (the client
//! may send a later one to chunkservers that have forgotten an earlier one), but then an fsync must not have returned 0 for
//! the file since, before one of them returned an error. What a write wrote that was so told to be lost may be zeros: some copies
//! may have taken it and others not, so that all of them zero its place. The same goes for a power cut of the master that ends the session of
//! a client that lives: it takes what open files had not committed; for a session that ends because the master heard nothing of it
//! for too long; and while the master's disk fails, when the master commits nothing.
//!
//! Errors: fsync fails where something may be lost that this file had, and it is told once. When a round is over, everything is
//! synced on the mount that the actors worked on, so that what the round took is told in it. An error there is a failure unless
//! bytes of the file were in doubt, or the session had ended.
//!
//! After `kill -9` alone nothing is missing: no acknowledged change of names, no byte of a closed file (of an open one neither,
//! unless its client was killed).

pub mod content;

pub mod journal;

pub mod names;

pub mod bytes;

pub mod observe;

pub mod fault;

pub mod oracle;

pub mod actor;

pub mod rounds;

pub mod background;

mod faults;
