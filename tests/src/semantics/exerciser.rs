//! Random operations on one file, compared with an array of bytes in memory.
//!
//! As the well-known fsx does: write, read, truncate, append, maps, holes, zeroed ranges, copies, direct I/O, syncs, closing
//! and opening again. The file may be seen through several paths (two mounts); then each operation goes through
//! another of them, and maps are synced before the next one, since that is when other mounts are promised to see them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;

use super::calls::{Map, MapKind};
use super::checks::same_bytes;

/// No file of the exerciser gets longer.
const LENGTH_MAX: usize = 600_000;
const OPERATION_MAX: usize = 70_000;
const BLOCK: usize = 4096;
/// How many operations a failure shows.
const SHOWN: usize = 15;

/// Memory that direct I/O takes.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(crate) fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Read(usize, usize),
    Write(usize, usize),
    Append(usize),
    ReadMap(usize, usize),
    WriteMap(usize, usize),
    ReadDirect(usize, usize),
    WriteDirect(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Zero(usize, usize),
    Copy(usize, usize, usize),
    Sync,
    Reopen,
    Length,
}

/// Runs `count` operations on a file that all `paths` show; makes it.
///
/// # Errors
/// At the first difference: the seed, what differs, and the operations before it.
pub fn exercise(paths: &[PathBuf], seed: u64, count: usize) -> anyhow::Result<()> {
    let mut exerciser = Exerciser::start(paths, seed)?;
    let mut history = Vec::new();
    for number in 0..count {
        let operation = exerciser.choose();
        let through = exerciser.random.random_range(0..paths.len());
        history.push(format!("{number}: through {} {operation:?}", paths[through].display()));
        exerciser.run(&operation, through).with_context(|| {
            let last = history[history.len().saturating_sub(SHOWN)..].join("\n");
            format!("RFS_TEST_SEED={seed}, length {}, after\n{last}", exerciser.expected.len())
        })?;
    }
    for (path, file) in paths.iter().zip(&exerciser.files) {
        let mut back = vec![0; exerciser.expected.len() + 1];
        let got = read_all(&file.buffered, &mut back, 0)?;
        same_bytes(&back[..got], &exerciser.expected, &format!("RFS_TEST_SEED={seed}: {} at the end", path.display()))?;
    }
    Ok(())
}

struct Descriptors {
    buffered: File,
    appender: File,
    direct: File,
}

impl Descriptors {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        Ok(Self { buffered: open(0)?, appender: open(libc::O_APPEND)?, direct: open(libc::O_DIRECT)? })
    }
}

struct Exerciser<'a> {
    paths: &'a [PathBuf],
    files: Vec<Descriptors>,
    expected: Vec<u8>,
    random: StdRng,
}

impl<'a> Exerciser<'a> {
    fn start(paths: &'a [PathBuf], seed: u64) -> anyhow::Result<Self> {
        File::create(&paths[0]).with_context(|| format!("create {}", paths[0].display()))?;
        let files = paths.iter().map(|path| Descriptors::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { paths, files, expected: Vec::new(), random: StdRng::seed_from_u64(seed) })
    }

    fn choose(&mut self) -> Operation {
        let random = &mut self.random;
        let offset = random.random_range(0..LENGTH_MAX - OPERATION_MAX);
        // Mostly around what is there.
        let offset = if random.random_range(0..10) < 8 { offset.min(self.expected.len()) } else { offset };
        let length = match random.random_range(0..3) {
            0 => random.random_range(1..100),
            1 => random.random_range(1..3 * BLOCK),
            _ => random.random_range(1..OPERATION_MAX),
        };
        let (blocks, block_length) = (offset / BLOCK * BLOCK, length.div_ceil(BLOCK) * BLOCK);
        match random.random_range(0..100) {
            0..20 => Operation::Read(offset, length),
            20..42 => Operation::Write(offset, length),
            42..46 if self.expected.len() + length <= LENGTH_MAX => Operation::Append(length),
            42..54 => Operation::ReadMap(offset, length),
            54..64 => Operation::WriteMap(offset, length),
            64..69 => Operation::ReadDirect(blocks, block_length),
            69..74 => Operation::WriteDirect(blocks, block_length),
            74..81 => Operation::Truncate(random.random_range(0..LENGTH_MAX / 2)),
            81..86 => Operation::Punch(offset, length),
            86..90 => Operation::Zero(offset, length),
            90..94 => Operation::Copy(offset, random.random_range(0..LENGTH_MAX - OPERATION_MAX), length),
            94..96 => Operation::Sync,
            96..98 => Operation::Reopen,
            _ => Operation::Length,
        }
    }

    fn run(&mut self, operation: &Operation, through: usize) -> anyhow::Result<()> {
        match *operation {
            Operation::Read(offset, length) => self.read(through, offset, length),
            Operation::ReadDirect(offset, length) => self.read_direct(through, offset, length),
            Operation::ReadMap(offset, length) => self.read_map(through, offset, length),
            Operation::Write(offset, length) => {
                let bytes = self.expect_random(offset, length);
                Ok(self.files[through].buffered.write_all_at(&bytes, offset as u64)?)
            }
            Operation::WriteDirect(offset, length) => {
                let mut block = Aligned::new(length);
                block.bytes_mut().copy_from_slice(&self.expect_random(offset, length));
                Ok(self.files[through].direct.write_all_at(block.bytes(), offset as u64)?)
            }
            Operation::Append(length) => {
                let bytes = self.expect_random(self.expected.len(), length);
                Ok(std::io::Write::write_all(&mut &self.files[through].appender, &bytes)?)
            }
            Operation::WriteMap(offset, length) => self.write_map(through, offset, length),
            Operation::Truncate(length) => {
                self.expected.resize(length, 0);
                Ok(self.files[through].buffered.set_len(length as u64)?)
            }
            Operation::Punch(offset, length) => {
                self.zero(through, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
            }
            Operation::Zero(offset, length) => self.zero(through, FallocateFlags::ZERO_RANGE, offset, length),
            Operation::Copy(from, to, length) => self.copy(through, from, to, length),
            Operation::Sync => Ok(self.files[through].buffered.sync_all()?),
            Operation::Reopen => {
                self.files[through] = Descriptors::open(&self.paths[through])?;
                Ok(())
            }
            Operation::Length => {
                let length = self.files[through].buffered.metadata()?.len();
                ensure!(length == self.expected.len() as u64, "length {length}, must be {}", self.expected.len());
                Ok(())
            }
        }
    }

    /// Random bytes, put into what is expected as well.
    fn expect_random(&mut self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill_bytes(&mut bytes);
        if self.expected.len() < offset + length {
            self.expected.resize(offset + length, 0);
        }
        self.expected[offset..offset + length].copy_from_slice(&bytes);
        bytes
    }

    fn part(&self, offset: usize, length: usize) -> &[u8] {
        let end = (offset + length).min(self.expected.len());
        &self.expected[offset.min(end)..end]
    }

    fn read(&self, through: usize, offset: usize, length: usize) -> anyhow::Result<()> {
        let mut back = vec![0x55; length];
        let got = read_all(&self.files[through].buffered, &mut back, offset)?;
        same_bytes(&back[..got], self.part(offset, length), "read")
    }

    fn read_direct(&self, through: usize, offset: usize, length: usize) -> anyhow::Result<()> {
        let mut back = Aligned::new(length);
        let got = self.files[through].direct.read_at(back.bytes_mut(), offset as u64)?;
        same_bytes(&back.bytes()[..got], self.part(offset, length), "direct read")
    }

    fn map(&self, through: usize, kind: MapKind, offset: usize, length: usize) -> anyhow::Result<(Map, usize)> {
        let start = offset / BLOCK * BLOCK;
        let map = Map::new(&self.files[through].buffered, kind, start as u64, offset - start + length)?;
        Ok((map, offset - start))
    }

    fn read_map(&self, through: usize, offset: usize, length: usize) -> anyhow::Result<()> {
        let expected = self.part(offset, length);
        if expected.is_empty() {
            return Ok(());
        }
        self.see_length(through)?;
        let (map, at) = self.map(through, MapKind::SharedForReading, offset, expected.len())?;
        same_bytes(&map.read(at, expected.len()), expected, "mapped read")
    }

    fn write_map(&mut self, through: usize, offset: usize, length: usize) -> anyhow::Result<()> {
        let bytes = self.expect_random(offset, length);
        let file = &self.files[through].buffered;
        if file.metadata()?.len() < (offset + length) as u64 {
            file.set_len((offset + length) as u64)?;
        }
        let (map, at) = self.map(through, MapKind::Shared, offset, length)?;
        map.write(at, &bytes);
        if self.files.len() > 1 || self.random.random() {
            map.sync()?;
        }
        Ok(())
    }

    /// Copies and maps stop at the length that the kernel last saw: it compares with its own `i_size` (in
    /// `generic_copy_file_checks` and `filemap_fault`) without asking a FUSE filesystem, which can only be made to tell by
    /// a stat. Programs stat before they copy or map; so does this when others change the file.
    fn see_length(&self, through: usize) -> anyhow::Result<()> {
        if self.files.len() > 1 {
            self.files[through].buffered.metadata()?;
        }
        Ok(())
    }

    fn zero(&mut self, through: usize, mode: FallocateFlags, offset: usize, length: usize) -> anyhow::Result<()> {
        match fallocate(&self.files[through].buffered, mode, offset as u64, length as u64) {
            // A filesystem may refuse it; then nothing has changed.
            Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        }
        if !mode.contains(FallocateFlags::KEEP_SIZE) && self.expected.len() < offset + length {
            self.expected.resize(offset + length, 0);
        }
        let end = (offset + length).min(self.expected.len());
        self.expected[offset.min(end)..end].fill(0);
        Ok(())
    }

    fn copy(&mut self, through: usize, from: usize, to: usize, length: usize) -> anyhow::Result<()> {
        let length = self.part(from, length).len();
        if length == 0 || from.abs_diff(to) < length {
            return Ok(());
        }
        self.see_length(through)?;
        let file = &self.files[through].buffered;
        let (mut source, mut target, mut left) = (from as u64, to as u64, length);
        while left > 0 {
            match copy_file_range(file, Some(&mut source), file, Some(&mut target), left)? {
                0 => bail!("copy_file_range stops with {left} bytes left"),
                copied => left -= copied,
            }
        }
        if self.expected.len() < to + length {
            self.expected.resize(to + length, 0);
        }
        self.expected.copy_within(from..from + length, to);
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends.
fn read_all(file: &File, buffer: &mut [u8], offset: usize) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], (offset + done) as u64)? {
            0 => break,
            got => done += got,
        }
    }
    Ok(done)
}
