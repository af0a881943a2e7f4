//! Exports: a checked copy of everything in one file, and the way back from it to a store.
//!
//! An export makes a checkpoint and copies the pages out of sled as they are then. Commits and checkpoints go on meanwhile:
//! a checkpoint first puts aside, in memory, what it is about to write over and is not exported yet. The file is written under a temporary name, synced, and
//! renamed, so a file with the wanted name is whole. `docs/formats/export.md` describes the bytes.
//!
//! What always holds: an export holds everything up to exactly one position; it ends in a trailer with counts and a
//! checksum of all before it; restoring checks every block before it uses it and makes the store all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rfs_common::ids::LogPosition;

use super::StoreError;
use super::Table;
use super::anchor::shown;
use super::checkpoint::CheckpointError;
use super::commit::Core;
use super::format::{
    BLOCK_HEAD_BYTES, Damage, HEAD_BYTES, Head, HeadKind, TRAILER_BYTES, Trailer, decode_block_head, encode_block,
};
use super::log::locked;
use super::open::{Beginning, CreateError, create_with};
use super::page::Page;
use super::pages::{CapturedPage, PageId};
use super::sled_pages::SledPages;

const BUFFER_BYTES: usize = 1 << 20;
/// A restore writes pages to sled in groups of about this many bytes.
const GROUP_BYTES: usize = 8 << 20;

/// What an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportReport {
    /// The last commit in it.
    pub position: LogPosition,
    /// How many keys it has.
    pub records: u64,
    /// How long the file is.
    pub bytes: u64,
}

/// Why an export was not made. No file of the wanted name was touched.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The metadata could not be folded first.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A page could not be read.
    #[error(transparent)]
    Pages(#[from] StoreError),
    /// The file could not be written.
    #[error("writing the export {path} failed; check the disk and the permissions", path = shown(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why no store was made from an export.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The export is not whole.
    #[error("the export {file} is damaged at byte {offset}: {what}; use another export", file = shown(file))]
    Damaged {
        /// The export.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The export could not be read.
    #[error("reading the export {file} failed", file = shown(file))]
    Io {
        /// The export.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new folder could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// What an export that is being written needs of sled's pages. Checkpoints go on meanwhile.
#[derive(Debug)]
pub(crate) struct ExportView {
    /// Pages that are not exported yet.
    wanted: BTreeSet<PageId>,
    /// Those of them that checkpoints have written over since, as they were.
    kept: BTreeMap<PageId, Page>,
}

impl Core {
    pub(crate) fn export(&self, path: &Path) -> Result<ExportReport, ExportError> {
        let failed = |source| ExportError::Io { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut temporary_name = name.to_owned();
        temporary_name.push(".new");
        let temporary = path.with_file_name(temporary_name);
        let _one_at_a_time = locked(&self.exporting);
        let (position, bounds) = self.begin_export()?;
        let written = self.write_export(&temporary, position, &bounds).and_then(|report| {
            install(&temporary, path).map_err(failed)?;
            Ok(report)
        });
        *locked(&self.export_view) = None;
        written.inspect_err(|_| {
            // Whoever exports again removes what cannot be removed now.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// From here on sled's pages are kept as they are now, for the export.
    fn begin_export(&self) -> Result<(u64, Vec<PageId>), ExportError> {
        let _sled_stands_still = locked(&self.checkpointing);
        let position = self.checkpoint_locked()?;
        let bounds = self.pages.sled.bounds()?;
        *locked(&self.export_view) =
            Some(ExportView { wanted: bounds.iter().cloned().collect(), kept: BTreeMap::new() });
        Ok((position, bounds))
    }

    /// Before a checkpoint writes over pages: those that an export still wants are kept for it.
    pub(crate) fn keep_for_export(&self, captured: &[CapturedPage], removed: &[PageId]) -> Result<(), StoreError> {
        let mut view = locked(&self.export_view);
        let Some(view) = view.as_mut() else { return Ok(()) };
        for id in captured.iter().map(|page| &page.id).chain(removed) {
            if view.wanted.contains(id) && !view.kept.contains_key(id) {
                view.kept.insert(id.clone(), self.pages.sled.load(id)?);
            }
        }
        Ok(())
    }

    /// A page as it was when the export began.
    fn exported_page(&self, id: &PageId) -> Result<Page, StoreError> {
        let mut view = locked(&self.export_view);
        let kept = view.as_mut().and_then(|view| {
            view.wanted.remove(id);
            view.kept.remove(id)
        });
        // Under the lock: a checkpoint writes over it only after it has asked who wants it.
        kept.map_or_else(|| self.pages.sled.load(id), Ok)
    }

    fn write_export(&self, path: &Path, position: u64, bounds: &[PageId]) -> Result<ExportReport, ExportError> {
        let failed = |source| ExportError::Io { path: path.to_owned(), source };
        let mut writer = ExportWriter::begin(path, self.cluster, position).map_err(failed)?;
        for (index, id) in bounds.iter().enumerate() {
            let mut page = self.exported_page(id)?;
            // A page that was divided may still have, in sled, what its right neighbour took over.
            if let Some(next) = bounds.get(index + 1).filter(|next| next.table == id.table) {
                page.truncate_from(&next.first_key);
            }
            page.position = position;
            writer.write(id, &page).map_err(failed)?;
        }
        writer.end(position).map_err(failed)
    }
}

fn install(temporary: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    match rustix::fs::renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        // A filesystem that cannot promise it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !path.exists() => fs::rename(temporary, path)?,
        other => other?,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

struct ExportWriter {
    file: BufWriter<File>,
    trailer: Trailer,
    bytes: u64,
}

impl ExportWriter {
    fn begin(path: &Path, cluster: [u8; 16], position: u64) -> io::Result<ExportWriter> {
        // What an export that was cut off left is removed, so that nothing else than this file is written to.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(path)?);
        let mut writer = ExportWriter { file, trailer: Trailer { blocks: 0, records: 0, content: 0 }, bytes: 0 };
        writer.put(&Head { kind: HeadKind::Export, cluster, position, durable: 0 }.encode())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.trailer.content = crc32c::crc32c_append(self.trailer.content, bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn write(&mut self, id: &PageId, page: &Page) -> io::Result<()> {
        let encoded = page.encode(id.table);
        self.trailer.blocks += 1;
        self.trailer.records += page.record_count() as u64;
        self.put(&encode_block(id.table, &id.first_key, encoded.len()))?;
        self.put(&encoded)
    }

    fn end(mut self, position: u64) -> Result<ExportReport, io::Error> {
        let trailer = self.trailer.encode();
        self.file.write_all(&trailer)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let bytes = self.bytes + TRAILER_BYTES as u64;
        Ok(ExportReport { position: LogPosition::new(position), records: self.trailer.records, bytes })
    }
}

/// Another value for a record that says what no longer holds after a restore; nothing if it holds.
pub type Amend<'a> = &'a dyn Fn(Table, &[u8]) -> Option<Vec<u8>>;

/// Makes a store in a new folder from an export, with the export's cluster, position and records.
#[cfg(test)]
pub(crate) fn restore(export: &Path, folder: &Path) -> Result<ExportReport, RestoreError> {
    restore_amended(export, folder, &|_, _| None, &|_| {})
}

/// Makes a store in a new folder from an export, with the export's cluster, position and records, some of them amended.
/// `progress` is told how many more bytes of the export were done with, of twice its length in all.
///
/// # Errors
/// [`RestoreError`]; nothing is left in the folder then.
pub fn restore_amended(
    export: &Path,
    folder: &Path,
    amend: Amend<'_>,
    progress: &dyn Fn(u64),
) -> Result<ExportReport, RestoreError> {
    // Read twice: nothing is made from an export that is not whole.
    let (head, report) = read_export(export, &mut |_, page| {
        progress(page.record_bytes() as u64);
        Ok(())
    })?;
    let beginning = Beginning { cluster: head.cluster, position: head.position };
    let fill = |folder: &Path| {
        let sled = SledPages::open(folder, None).map_err(io::Error::other)?;
        let mut group = Vec::new();
        let mut group_bytes = 0;
        let write = |group: &mut Vec<CapturedPage>| -> io::Result<u64> {
            let bounds = sled.bounds_after(group, &[]).map_err(io::Error::other)?;
            sled.write(group, &[]).map_err(io::Error::other)?;
            Ok(bounds.digests[2])
        };
        read_export(export, &mut |id, mut page| {
            amend_page(&id, &mut page, amend);
            group_bytes += page.record_bytes();
            progress(page.record_bytes() as u64);
            group.push(CapturedPage::new(id, Arc::new(page)));
            if group_bytes >= GROUP_BYTES {
                write(&mut group)?;
                group.clear();
                group_bytes = 0;
            }
            Ok(())
        })
        .map_err(io::Error::other)?;
        write(&mut group)
    };
    create_with(folder, &beginning, fill, |_| Ok(()))?;
    Ok(report)
}

fn amend_page(id: &PageId, page: &mut Page, amend: Amend<'_>) {
    let amended = |index| {
        let (key, value) = page.record(index);
        Some((key.to_vec(), amend(id.table, value)?))
    };
    let changes: Vec<(Vec<u8>, Vec<u8>)> = (0..page.record_count()).filter_map(amended).collect();
    for (key, value) in changes {
        page.put(&key, &value);
    }
}

/// Reads and checks a whole export, block by block.
fn read_export(
    path: &Path,
    block: &mut dyn FnMut(PageId, Page) -> io::Result<()>,
) -> Result<(Head, ExportReport), RestoreError> {
    let failed = |source| RestoreError::Io { file: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut reader = ExportReader { path, file: BufReader::with_capacity(BUFFER_BYTES, file), offset: 0, content: 0 };
    let head = reader.take(HEAD_BYTES)?;
    let head = Head::decode(HeadKind::Export, &head).map_err(|damage| reader.damaged(0, &damage))?;
    let mut trailer = Trailer { blocks: 0, records: 0, content: 0 };
    let mut before: Option<PageId> = None;
    while let Some((id, page)) = reader.take_block()? {
        if before.as_ref().is_some_and(|before| *before >= id) {
            return Err(reader.damaged(reader.offset, &Damage::new(format!("{id} is out of order"))));
        }
        before = Some(id.clone());
        trailer.blocks += 1;
        trailer.records += page.record_count() as u64;
        block(id, page).map_err(failed)?;
    }
    trailer.content = reader.content;
    reader.check_end(&trailer)?;
    let report =
        ExportReport { position: LogPosition::new(head.position), records: trailer.records, bytes: reader.offset };
    Ok((head, report))
}

struct ExportReader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    offset: u64,
    content: u32,
}

impl ExportReader<'_> {
    fn damaged(&self, offset: u64, damage: &Damage) -> RestoreError {
        RestoreError::Damaged { file: self.path.to_owned(), offset, what: damage.to_string() }
    }

    /// Reads so many bytes; lengths were checked against their maximum before.
    fn read(&mut self, count: usize) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; count];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged(self.offset, &Damage::new("the export ends here, before its trailer")));
            }
            Err(source) => return Err(RestoreError::Io { file: self.path.to_owned(), source }),
        }
        self.offset += count as u64;
        Ok(bytes)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, RestoreError> {
        let bytes = self.read(count)?;
        self.content = crc32c::crc32c_append(self.content, &bytes);
        Ok(bytes)
    }

    /// The next block, or nothing where the trailer begins; its first bytes have then been read but not counted.
    fn take_block(&mut self) -> Result<Option<(PageId, Page)>, RestoreError> {
        let begin = self.offset;
        let read = self.read(BLOCK_HEAD_BYTES)?;
        let mut bytes = [0; BLOCK_HEAD_BYTES];
        bytes.copy_from_slice(&read);
        let Some(head) = decode_block_head(&bytes).map_err(|damage| self.damaged(begin, &damage))? else {
            self.offset = begin;
            self.file
                .seek_relative(-(BLOCK_HEAD_BYTES as i64))
                .map_err(|source| RestoreError::Io { file: self.path.to_owned(), source })?;
            return Ok(None);
        };
        self.content = crc32c::crc32c_append(self.content, &bytes);
        let first_key = self.take(head.first_key_bytes as usize)?;
        let page_begin = self.offset;
        let page = self.take(head.page_bytes as usize)?;
        let page = Page::decode(head.table, &page).map_err(|damage| self.damaged(page_begin, &damage))?;
        if !page.is_empty() && page.record(0).0 < &first_key[..] {
            return Err(self.damaged(begin, &Damage::new("the block's first key is above its first record's")));
        }
        Ok(Some((PageId { table: head.table, first_key }, page)))
    }

    fn check_end(&mut self, counted: &Trailer) -> Result<(), RestoreError> {
        let begin = self.offset;
        let read = self.read(TRAILER_BYTES)?;
        let mut bytes = [0; TRAILER_BYTES];
        bytes.copy_from_slice(&read);
        let trailer = Trailer::decode(&bytes).map_err(|damage| self.damaged(begin, &damage))?;
        if trailer != *counted {
            return Err(self.damaged(begin, &Damage::new("counts or checksum do not match what the export holds")));
        }
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged(self.offset, &Damage::new("something follows the trailer"))),
            Err(source) => Err(RestoreError::Io { file: self.path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rfs_common::clock::SystemClock;

    use super::super::tests::{CLUSTER, Dice, content, model_after, options};
    use super::super::{Store, restore};
    use super::locked;

    #[test]
    fn checkpoints_go_on_while_an_export_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (home, copy) = (folder.path().join("store"), folder.path().join("copy"));
        Store::create(&home, CLUSTER).unwrap();
        let store = Store::open(&home, options(), SystemClock::shared()).unwrap();
        let mut dice = Dice::new(11);
        for _ in 0..500 {
            store.commit(&dice.commit()).unwrap();
        }
        let (position, bounds) = store.core.begin_export().unwrap();
        for _ in 0..3 {
            for _ in 0..300 {
                store.commit(&dice.commit()).unwrap();
            }
            store.checkpoint().unwrap();
        }
        let export = folder.path().join("export");
        store.core.write_export(&export, position, &bounds).unwrap();
        assert!(locked(&store.core.export_view).as_ref().unwrap().kept.is_empty());
        restore(&export, &copy).unwrap();
        let restored = Store::open(&copy, options(), SystemClock::shared()).unwrap();
        assert!(content(&restored) == model_after(11, 500), "it is what was there when it began");
    }
}
