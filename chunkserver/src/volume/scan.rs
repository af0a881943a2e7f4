//! Opening a volume: whether it may be used, and which copies it has.
//!
//! Every chunk's header is read once; afterwards the table in memory knows, and a new registration needs no scan. What
//! open chunks mean depends on how the last use ended (`running`):
//! - clean: none is left open.
//! - the process ended: the page cache has all that was written. The leaves of open chunks are compared with the data now;
//!   one that differs was being written by an unacknowledged request, and only that copy is suspect.
//! - power cut: every open chunk is suspect, since writes that were acknowledged and not synced may be missing.
//!
//! Nothing that may hold data is deleted here: a file without a header is moved into the folder `lost`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rfs_common::durable::{self, FileError};
use rfs_common::errno::Errno;
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::{ChunkId, ChunkVersion, ClusterId, ServerId};

use crate::chunk::copy::{ChunkCopy, Held, OpenFault, header_at};
use crate::chunk::fault::Fault;
use crate::chunk::format::{Header, HeaderError};

use super::epoch_file;
use super::health::{self, Ground};
use super::identity::{self, Identity, Refusal};
use super::layout::{CHUNKS, INCOMING, LOST, Layout};
use super::running::{self, LastEnd};
use super::store::{Parts, Surroundings, Volume};
use super::table::Table;
use super::upkeep::read_past_the_page_cache;

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
        match File::open(folder) {
            Ok(root) => Volume::open_root(root, folder, expected, around),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Refusal::NoIdentity { folder: folder.to_owned() })
            }
            Err(error) => Err(Refusal::System { folder: folder.to_owned(), source: error.into() }),
        }
    }

    /// Everything is read from, and written to, what is open as `root`: at the moment of an unmount the path leads to the
    /// disk below.
    pub(super) fn open_root(
        root: File,
        folder: &Path,
        expected: Expected,
        around: &Surroundings,
    ) -> Result<Volume, Refusal> {
        let anchor = anchor_of(&root);
        let identity = Identity::read_through(&anchor, folder)?;
        if let Some((cluster, server)) = expected.owner {
            check_owner(folder, &identity, cluster, server)?;
        }
        let system = |source: Trouble| Refusal::System { folder: folder.to_owned(), source };
        // People know the folder by its own name.
        let file_trouble = |error: FileError| system(named(error, &anchor, folder).into());
        let ground = Ground::of_open(&root, folder).map_err(|error| system(error.into()))?;
        identity.check_ground(folder, &ground)?;
        let lock = FolderLock::acquire_through(&anchor, folder)
            .map_err(|source| Refusal::Locked { folder: folder.to_owned(), source })?;
        let last_end = match running::last_end(&anchor, &ground) {
            LastEnd::ProcessEnded if expected.failed_before => LastEnd::PowerCut,
            other => other,
        };
        durable::create_folder(&anchor.join(CHUNKS)).map_err(file_trouble)?;
        clear_incoming(&anchor.join(INCOMING)).map_err(system)?;
        let epoch = epoch_file::last_epoch(&anchor);
        running::mark_in_use(&anchor, &ground).map_err(file_trouble)?;
        let space = health::space_of(&root).map_err(|error| system(error.into()))?;
        let Scan { table, short, .. } = Scan::of(&anchor, folder, last_end).map_err(system)?;
        let lost = count_lost(&anchor);
        tracing::info!(folder = %folder.display(), volume = %identity.volume, chunks = table.count(), ?last_end, epoch, lost, "volume opened");
        let parts = Parts { identity, folder: folder.to_owned(), ground, root, space, last_end, epoch, lock, lost };
        let volume = Volume::assemble(parts, table, around);
        for (chunk, version) in short {
            volume.found_bad.add(chunk, version, "its file is shorter than its data");
        }
        Ok(volume)
    }
}

/// An error by the name that people know, not by that of an open file of this process.
pub(super) fn named(error: FileError, anchor: &Path, folder: &Path) -> FileError {
    FileError { path: shown(&error.path, anchor, folder), ..error }
}

/// A path below the anchor as one below the folder.
fn shown(path: &Path, anchor: &Path, folder: &Path) -> PathBuf {
    path.strip_prefix(anchor).map_or_else(|_| path.to_owned(), |rest| folder.join(rest))
}

/// A path that leads to an open folder and to nothing else.
pub(super) fn anchor_of(root: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))
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
fn clear_incoming(folder: &Path) -> Result<(), Trouble> {
    durable::create_folder(folder)?;
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// How many files stand aside.
pub fn count_lost(anchor: &Path) -> u64 {
    fs::read_dir(anchor.join(LOST)).map_or(0, |entries| entries.count() as u64)
}

/// Why a volume cannot be read.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// The reading of every chunk's header.
struct Scan<'folder> {
    anchor: &'folder Path,
    /// By its own name, for messages.
    folder: &'folder Path,
    last_end: LastEnd,
    table: Table,
    /// Copies at rest whose files end before their data does.
    short: Vec<(ChunkId, ChunkVersion)>,
    /// A file could not be read for a reason that may be the disk's.
    disk_suspected: bool,
}

impl Scan<'_> {
    fn of<'folder>(anchor: &'folder Path, folder: &'folder Path, last_end: LastEnd) -> Result<Scan<'folder>, Trouble> {
        let (table, short) = (Table::default(), Vec::new());
        let mut scan = Scan { anchor, folder, last_end, table, short, disk_suspected: false };
        for_each_chunk(anchor, &mut |chunk, path| scan.take_in(chunk, path))?;
        if scan.disk_suspected {
            // A disk that reads nothing at all says nothing about single files.
            read_past_the_page_cache(&anchor.join(identity::FILE_NAME))?;
        }
        Ok(scan)
    }

    fn take_in(&mut self, chunk: ChunkId, path: &Path) -> io::Result<()> {
        match header_at(path, chunk) {
            Ok((header, is_short)) => self.take_in_copy(chunk, path, &header, is_short)?,
            Err(OpenFault::Header(HeaderError::NeverWritten)) if self.last_end != LastEnd::Clean => {
                self.take_in_headless(chunk, path)?;
            }
            Err(OpenFault::Header(error)) => self.unreadable(chunk, path, error.to_string()),
            Err(OpenFault::Fault(fault)) => self.take_in_fault(chunk, path, fault)?,
        }
        Ok(())
    }

    fn take_in_copy(&mut self, chunk: ChunkId, path: &Path, header: &Header, is_short: bool) -> io::Result<()> {
        let (version, data_length, open) = (header.version, header.data_length, header.is_open());
        let bad = header.is_bad();
        let suspect = header.is_suspect() || open && !bad && self.became_suspect(chunk, path)?;
        self.table.add(chunk, Held { version, data_length, open, suspect, bad });
        if open && !suspect && !bad {
            self.table.add_left_open(chunk);
        }
        if is_short && !open && !suspect && !bad {
            tracing::warn!(%chunk, path = %self.shown(path).display(), data_length, "a chunk's file is shorter than its data");
            self.short.push((chunk, version));
        }
        Ok(())
    }

    /// The file was made, and the end came before its first bytes: nobody was told that it is there. But zeros may also be
    /// what a damaged disk gives for a header that was there, so what is not empty is kept.
    fn take_in_headless(&mut self, chunk: ChunkId, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.len() == 0 {
            return fs::remove_file(path);
        }
        match self.set_aside(chunk, path) {
            Ok(aside) => {
                let (path, aside) = (self.shown(path), self.shown(&aside));
                let (path, aside) = (path.display(), aside.display());
                tracing::warn!(%chunk, %path, %aside, "a chunk's file has no header after an unclean end; it was moved aside");
            }
            Err(error) => {
                self.unreadable(chunk, path, format!("it has no header, and could not be moved aside: {error}"));
            }
        }
        Ok(())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        shown(path, self.anchor, self.folder)
    }

    fn set_aside(&self, chunk: ChunkId, path: &Path) -> io::Result<PathBuf> {
        let folder = self.anchor.join(LOST);
        fs::create_dir_all(&folder)?;
        let name = format!("{:016x}", chunk.get());
        let names = std::iter::once(name.clone()).chain((1..).map(|number| format!("{name}.{number}")));
        let free = names.map(|name| folder.join(name)).find(|path| !path.exists());
        let aside = free.ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(path, &aside)?;
        Ok(aside)
    }

    /// Only what says something about this one file makes it unreadable, upon which the master replaces and deletes it.
    /// Anything else refuses the volume, which is tried again.
    fn take_in_fault(&mut self, chunk: ChunkId, path: &Path, fault: Fault) -> io::Result<()> {
        if !is_of_the_file(&fault) {
            return Err(io::Error::other(fault));
        }
        self.disk_suspected = true;
        self.unreadable(chunk, path, fault.to_string());
        Ok(())
    }

    fn unreadable(&mut self, chunk: ChunkId, path: &Path, reason: String) {
        tracing::warn!(path = %self.shown(path).display(), %chunk, reason, "this file is named as a chunk and cannot be read as one");
        self.table.add_damaged(chunk, reason);
    }

    /// Whether the last end put an open chunk's copy in doubt. If so, that is marked in the copy.
    fn became_suspect(&self, chunk: ChunkId, path: &Path) -> io::Result<bool> {
        let copy = match ChunkCopy::open(path.to_owned(), chunk, false) {
            Ok(copy) => copy,
            Err(OpenFault::Fault(fault)) if !is_of_the_file(&fault) => return Err(io::Error::other(fault)),
            Err(_) => return Ok(true),
        };
        let suspect = self.last_end == LastEnd::PowerCut
            || match copy.mismatches() {
                Ok(leaves) => !leaves.is_empty(),
                Err(fault) if !is_of_the_file(&fault) => return Err(io::Error::other(fault)),
                Err(_) => true,
            };
        if suspect {
            copy.make_suspect();
        }
        Ok(suspect)
    }
}

/// Whether a fault is one of the file's bytes on the disk, or of its kind, and not of this process or the whole volume.
fn is_of_the_file(fault: &Fault) -> bool {
    let Fault::Io { errno, .. } = fault else { return false };
    matches!(*errno, Errno::EIO | Errno::EUCLEAN | Errno::EBADMSG | Errno::ENODATA | Errno::EISDIR | Errno::ELOOP)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::fault::IoOperation;

    /// What is listed as unreadable is replaced and deleted: this process having too few files open must not lead to that.
    #[test]
    fn only_a_fault_of_the_file_itself_makes_it_unreadable() {
        let anchor = Path::new("/none");
        let (short, table) = (Vec::new(), Table::default());
        let folder = Path::new("/volume");
        let mut scan = Scan { anchor, folder, last_end: LastEnd::Clean, table, short, disk_suspected: false };
        assert_eq!(scan.shown(Path::new("/none/chunks/1")), Path::new("/volume/chunks/1"));
        let (chunk, path) = (ChunkId::new(1), Path::new("/none/1"));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ESHUTDOWN, Errno::ENODEV, Errno::EACCES] {
            let fault = Fault::Io { operation: IoOperation::Open, errno };
            assert!(scan.take_in_fault(chunk, path, fault).is_err(), "{errno}");
        }
        assert!(scan.table.damaged().is_empty() && !scan.disk_suspected);
        for errno in [Errno::EIO, Errno::EUCLEAN, Errno::EBADMSG] {
            let fault = Fault::Io { operation: IoOperation::Read, errno };
            scan.take_in_fault(chunk, path, fault).unwrap();
        }
        assert!(scan.table.damaged().len() == 1 && scan.disk_suspected);
    }
}
