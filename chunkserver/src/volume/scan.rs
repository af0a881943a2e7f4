//! Opening a volume: whether it may be used, and which copies it has.
//!
//! Every chunk's header is read once; afterwards the table in memory knows, and a new registration needs no scan. What
//! open chunks mean depends on how the last use ended (`running`):
//! - clean: none is left open.
//! - the process ended: the page cache has all that was written. The leaves of open chunks are compared with the data now;
//!   one that differs was being written by an unacknowledged request, and only that copy is suspect.
//! - power cut: every open chunk is suspect, since writes that were acknowledged and not synced may be missing.

use std::fs::{self, File};
use std::path::Path;

use rfs_common::durable;
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::{ChunkId, ClusterId, ServerId};

use crate::chunk::copy::{ChunkCopy, Held, OpenFault, header_at};
use crate::chunk::format::HeaderError;

use super::health::{self, Ground};
use super::identity::{Identity, Refusal};
use super::layout::{CHUNKS, INCOMING, Layout};
use super::running::{self, LastEnd};
use super::store::{Parts, Surroundings, Volume};
use super::table::Table;

/// What is known before a volume is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Cluster and server of the daemon, once known.
    pub owner: Option<(ClusterId, ServerId)>,
    /// The volume failed while this process used it: what is in the page cache may not be on the disk.
    pub failed_before: bool,
}

impl Volume {
    /// Opens the volume in this folder.
    ///
    /// # Errors
    /// [`Refusal`] says why it is not used and what to do.
    pub fn open(folder: &Path, expected: Expected, around: &Surroundings) -> Result<Volume, Refusal> {
        let identity = Identity::read(folder)?;
        if let Some((cluster, server)) = expected.owner {
            check_owner(folder, &identity, cluster, server)?;
        }
        let system =
            |source: Box<dyn std::error::Error + Send + Sync>| Refusal::System { folder: folder.to_owned(), source };
        let ground = Ground::of(folder).map_err(|error| system(error.into()))?;
        identity.check_ground(folder, &ground)?;
        let lock =
            FolderLock::acquire(folder).map_err(|source| Refusal::Locked { folder: folder.to_owned(), source })?;
        let last_end = match running::last_end(folder, &ground) {
            LastEnd::ProcessEnded if expected.failed_before => LastEnd::PowerCut,
            other => other,
        };
        durable::create_folder(&folder.join(CHUNKS)).map_err(|error| system(error.into()))?;
        clear_incoming(&folder.join(INCOMING)).map_err(system)?;
        running::mark_in_use(folder, &ground).map_err(|error| system(error.into()))?;
        let root = File::open(folder).map_err(|error| system(error.into()))?;
        let space = health::space_of(&root).map_err(|error| system(error.into()))?;
        let table = read_table(folder, last_end).map_err(system)?;
        tracing::info!(folder = %folder.display(), volume = %identity.volume, chunks = table.count(), ?last_end, "volume opened");
        let parts = Parts { identity, folder: folder.to_owned(), ground, root, space, last_end, lock };
        Ok(Volume::assemble(parts, table, around))
    }
}

fn check_owner(folder: &Path, identity: &Identity, cluster: ClusterId, server: ServerId) -> Result<(), Refusal> {
    let folder = folder.to_owned();
    if identity.cluster != cluster {
        return Err(Refusal::OtherCluster { folder, has: identity.cluster, expected: cluster });
    }
    if identity.server != server {
        return Err(Refusal::OtherServer { folder, has: identity.server, expected: server });
    }
    Ok(())
}

/// What was being fetched when the last use ended is worth nothing.
fn clear_incoming(folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    durable::create_folder(folder)?;
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn read_table(folder: &Path, last_end: LastEnd) -> Result<Table, Box<dyn std::error::Error + Send + Sync>> {
    let mut table = Table::default();
    for_each_chunk(folder, &mut |chunk, path| {
        let mut unreadable = |reason: String| {
            tracing::warn!(path = %path.display(), %chunk, reason, "this file is named as a chunk and cannot be read as one");
            table.add_damaged(chunk, reason);
        };
        match header_at(path, chunk) {
            Ok(header) => {
                let (version, data_length, open) = (header.version, header.data_length, header.is_open());
                let bad = header.is_bad();
                let suspect = header.is_suspect() || open && !bad && became_suspect(path, chunk, last_end);
                table.add(chunk, Held { version, data_length, open, suspect, bad });
                if open && !suspect && !bad {
                    table.add_left_open(chunk);
                }
            }
            // The file was made, and the end came before its first bytes: nobody was told that it is there.
            Err(OpenFault::Header(HeaderError::NeverWritten)) if last_end != LastEnd::Clean => fs::remove_file(path)?,
            Err(OpenFault::Header(error)) => unreadable(error.to_string()),
            Err(OpenFault::Fault(fault)) => unreadable(fault.to_string()),
        }
        Ok(())
    })?;
    Ok(table)
}

/// Whether the last end put an open chunk's copy in doubt. If so, that is marked in the copy.
fn became_suspect(path: &Path, chunk: ChunkId, last_end: LastEnd) -> bool {
    let Ok(copy) = ChunkCopy::open(path.to_owned(), chunk, false) else { return true };
    let suspect = last_end == LastEnd::PowerCut || !matches!(copy.mismatches().as_deref(), Ok([]));
    if suspect {
        copy.make_suspect();
    }
    suspect
}

/// Calls `visit` for every file in the chunks' folders that is named as a chunk.
///
/// # Errors
/// Those of the system, and those of `visit`.
pub fn for_each_chunk(
    folder: &Path,
    visit: &mut dyn FnMut(ChunkId, &Path) -> std::io::Result<()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for group in fs::read_dir(folder.join(CHUNKS))? {
        let group = group?;
        if !group.file_type()?.is_dir() {
            continue;
        }
        for run in fs::read_dir(group.path())? {
            let run = run?;
            if !run.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(run.path())? {
                let file = file?;
                if let Some(chunk) = file.file_name().to_str().and_then(Layout::chunk_of_name) {
                    visit(chunk, &file.path())?;
                }
            }
        }
    }
    Ok(())
}
