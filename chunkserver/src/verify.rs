//! `chunkserver verify`: compares every chunk of a volume that no daemon uses with its header and its leaf hashes, all of it
//! as the disk has it: the page cache may hold good bytes over rotten ones.
//!
//! A chunk that is marked open and differs is not counted as bad: after a crash that is what the open mark is for, and
//! the master settles it. It is listed by itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::ChunkId;
use rfs_common::leaf::LEAF_BYTES;
use serde::Serialize;

use crate::chunk::copy::{ChunkCopy, OpenFault};
use crate::chunk::format::{data_at, leaf_hash_at};
use crate::chunk::on_disk::{Comparison, DiskReader};
use crate::volume::identity::Identity;
use crate::volume::scan::{count_lost, for_each_chunk};

/// The command line of `chunkserver verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArguments {
    /// The volume's folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Chunks looked at.
    pub chunks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Chunks that are wrong.
    pub bad: Vec<Finding>,
    /// Open chunks that differ, as a crash leaves them; the master settles them.
    pub unsettled: Vec<Finding>,
    /// Files in `lost`, which were chunks once and have no header.
    pub lost: u64,
}

/// One chunk and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which chunk; written as its file is named.
    #[serde(serialize_with = "as_chunk_id")]
    pub chunk: u64,
    /// Its file.
    pub file: PathBuf,
    /// What is wrong.
    pub problem: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_chunk_id<S: serde::Serializer>(chunk: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    ChunkId::new(*chunk).serialize(serializer)
}

/// Verifies the volume, showing progress on stderr if that is a terminal.
///
/// # Errors
/// It could not be checked: not a volume, in use, or not readable.
pub fn verify(folder: &Path) -> anyhow::Result<Verified> {
    let identity = Identity::read(folder)?;
    let _lock = FolderLock::acquire(folder)
        .with_context(|| format!("volume {} cannot be verified while a chunkserver serves it", identity.volume))?;
    let mut files = Vec::new();
    for_each_chunk(folder, &mut |chunk, path| {
        files.push((chunk, path.to_owned()));
        Ok(())
    })
    .map_err(|error| anyhow!(error).context("the chunks' folders cannot be read"))?;
    files.sort();
    let bar = ProgressBar::new(files.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} chunks, {msg} bad, {eta} left") {
        bar.set_style(style);
    }
    let mut found = Verified::default();
    let mut reader = DiskReader::default();
    for (chunk, path) in files {
        check(chunk, &path, &mut reader, &mut found)?;
        bar.set_message(found.bad.len().to_string());
        bar.inc(1);
    }
    bar.finish_and_clear();
    found.lost = count_lost(folder);
    Ok(found)
}

fn check(chunk: ChunkId, path: &Path, reader: &mut DiskReader, found: &mut Verified) -> anyhow::Result<()> {
    let finding = |problem| Finding { chunk: chunk.get(), file: path.to_owned(), problem };
    found.chunks += 1;
    let copy = match ChunkCopy::open(path.to_owned(), chunk, false) {
        Ok(copy) => copy,
        Err(OpenFault::Header(error)) => {
            found.bad.push(finding(error.to_string()));
            return Ok(());
        }
        Err(OpenFault::Fault(fault)) => {
            return Err(anyhow!(fault).context(format!("{} cannot be read", path.display())));
        }
    };
    let held = copy.held();
    found.bytes += u64::from(held.data_length);
    let mut problems = Vec::new();
    if copy.is_bad() {
        problems.push("a write or sync of it failed before".to_owned());
    }
    let end = data_at(held.data_length);
    let length = fs::metadata(path)?.len();
    if held.data_length > 0 && length < end {
        problems.push(format!("the file ends at byte {length}, {} bytes before its data does", end - length));
    }
    if let Ok(Comparison::Differs(reason)) = copy.compare_header_on_disk(reader)
        && !held.bad
    {
        problems.push(reason);
    }
    match copy.mismatches_on_disk(reader) {
        Ok(leaves) if leaves.is_empty() => {}
        Ok(leaves) => {
            problems.push(format!("{} of its leaves do not match their hashes: {}", leaves.len(), first_few(&leaves)));
        }
        Err(fault) => return Err(anyhow!(fault).context(format!("{} cannot be read", path.display()))),
    }
    if !problems.is_empty() {
        let list = if held.open && !copy.is_bad() { &mut found.unsettled } else { &mut found.bad };
        list.push(finding(problems.join("; ")));
    }
    Ok(())
}

fn first_few(leaves: &[u32]) -> String {
    let place = |leaf: &u32| {
        let (data, hash) = (data_at(leaf * LEAF_BYTES as u32), leaf_hash_at(*leaf));
        format!("{leaf} (data at byte {data}, hash at byte {hash})")
    };
    let shown: Vec<String> = leaves.iter().take(8).map(place).collect();
    let more = if leaves.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
