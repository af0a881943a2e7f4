//! Holes, allocation, and very large files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::checks::{
    USER, as_user, chmod, has_mode, make_owned, open_new, pattern, refused, refused_as, same, same_bytes, stat,
};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    a_hole_reads_as_zeros_and_takes_no_space,
    data_and_holes_are_found,
    holes_are_found_exactly,
    punched_holes_are_found,
    holes_of_large_files_are_found,
    seeking_beyond_the_end,
    blocks_are_those_written,
    fallocate_grows,
    fallocate_can_keep_the_size,
    punching_a_hole,
    punching_frees_space,
    what_is_zeroed_whole_reads_as_zeros_at_once,
    an_allocation_changes_times_and_set_id_bits,
    zeroing_a_range,
    wrong_fallocate_is_refused,
    other_modes_work_or_are_refused,
    lengths_beyond_four_gibibytes,
    offsets_up_to_a_tebibyte,
    copies_of_sparse_files_are_equal,
];

const MIB: u64 = 1 << 20;

fn a_hole_reads_as_zeros_and_takes_no_space(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.set_len(200 * MIB)?;
    same(stat(&path)?.len(), 200 * MIB, "length")?;
    ensure!(stat(&path)?.blocks() * 512 < MIB, "{} blocks for nothing but a hole", stat(&path)?.blocks());
    let mut back = vec![1; 1 << 20];
    file.read_exact_at(&mut back, 100 * MIB)?;
    ensure!(back.iter().all(|byte| *byte == 0), "a hole reads as zeros");
    Ok(())
}

fn data_and_holes_are_found(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(&[1; 1 << 20], 32 * MIB)?;
    file.set_len(100 * MIB)?;
    // A filesystem may call a hole data, but never data a hole, and the end is a hole.
    let data = seek(&file, SeekFrom::Data(0))?;
    ensure!(data <= 32 * MIB, "SEEK_DATA skips data: {data}");
    same(seek(&file, SeekFrom::Data(32 * MIB + 5))?, 32 * MIB + 5, "SEEK_DATA within data")?;
    let hole = seek(&file, SeekFrom::Hole(32 * MIB))?;
    ensure!((33 * MIB..=100 * MIB).contains(&hole), "SEEK_HOLE within data: {hole}");
    same(seek(&file, SeekFrom::Hole(100 * MIB - 1)).map(|at| at >= 100 * MIB - 1), Ok(true), "near the end")
}

/// All parts of the file that are not holes.
fn data_of(file: &File) -> anyhow::Result<Vec<(u64, u64)>> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(found),
            start => start?,
        };
        at = seek(file, SeekFrom::Hole(start))?;
        ensure!(at > start, "data from {start} to {at}");
        found.push((start, at));
    }
}

const KIB: u64 = 1 << 10;

fn holes_are_found_exactly(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    let places = [(20 * KIB, 4 * KIB), (MIB, 8 * KIB), (5 * MIB + 12 * KIB, 100 * KIB), (40 * MIB, MIB)];
    for (offset, length) in places {
        file.write_all_at(&vec![1; usize::try_from(length)?], offset)?;
        // Else a filesystem may keep what it has set aside behind the end of the file.
        file.sync_all()?;
    }
    file.set_len(100 * MIB)?;
    same(data_of(&file)?, places.map(|(offset, length)| (offset, offset + length)).to_vec(), "data")?;
    same(seek(&file, SeekFrom::Hole(MIB + 100))?, MIB + 8 * KIB, "SEEK_HOLE within data")?;
    same(seek(&file, SeekFrom::Hole(3 * MIB))?, 3 * MIB, "SEEK_HOLE within a hole")?;
    same(seek(&file, SeekFrom::Data(3 * MIB + 1))?, 5 * MIB + 12 * KIB, "SEEK_DATA within a hole")?;
    refused(seek(&file, SeekFrom::Data(41 * MIB)), Errno::NXIO, "SEEK_DATA in the hole at the end")?;
    let name = folder.join("file");
    same(data_of(&File::open(name)?)?.len(), places.len(), "through another descriptor")
}

fn punched_holes_are_found(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    file.write_all_at(&vec![7; 4 << 20], 0)?;
    if !allocate(&file, PUNCH, 64 * KIB, 16 * KIB)? {
        return Ok(());
    }
    allocate(&file, PUNCH, MIB + 4 * KIB, 4 * KIB)?;
    allocate(&file, PUNCH, 3 * MIB, 4 * MIB)?;
    let expected = [(0, 64 * KIB), (80 * KIB, MIB + 4 * KIB), (MIB + 8 * KIB, 3 * MIB)];
    same(data_of(&file)?, expected.to_vec(), "data")?;
    file.write_all_at(b"again", 66 * KIB)?;
    same(seek(&file, SeekFrom::Data(64 * KIB))?, 64 * KIB, "written into a hole")?;
    same(seek(&file, SeekFrom::Hole(64 * KIB))?, 68 * KIB, "and a hole behind it")
}

fn holes_of_large_files_are_found(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    let places = [(0, 4 * KIB), (64 * MIB - 8 * KIB, 16 * KIB), (200 * MIB, 4 * KIB), (256 * MIB, 4 * KIB)];
    for (offset, length) in places {
        file.write_all_at(&vec![1; usize::try_from(length)?], offset)?;
        file.sync_all()?;
    }
    same(data_of(&file)?, places.map(|(offset, length)| (offset, offset + length)).to_vec(), "data")
}

fn seeking_beyond_the_end(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    file.write_all_at(b"0123456789", 0)?;
    same(seek(&file, SeekFrom::Data(9))?, 9, "the last byte")?;
    same(seek(&file, SeekFrom::Hole(0))?, 10, "the hole at the end")?;
    refused(seek(&file, SeekFrom::Data(10)), Errno::NXIO, "SEEK_DATA at the end")?;
    refused(seek(&file, SeekFrom::Hole(10)), Errno::NXIO, "SEEK_HOLE at the end")?;
    refused(seek(&file, SeekFrom::Data(1 << 40)), Errno::NXIO, "SEEK_DATA far behind")
}

fn blocks_are_those_written(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    same(stat(&path)?.blocks(), 0, "of an empty file")?;
    file.write_all_at(&[1; 1 << 20], 0)?;
    file.sync_all()?;
    let blocks = stat(&path)?.blocks() * 512;
    ensure!((MIB..3 * MIB).contains(&blocks), "{blocks} bytes in blocks for 1 MiB");
    file.set_len(0)?;
    file.sync_all()?;
    ensure!(stat(&path)?.blocks() * 512 < MIB, "blocks of an emptied file");
    Ok(())
}

/// False if the mode is refused cleanly, as it may be.
fn allocate(file: &File, mode: FallocateFlags, offset: u64, length: u64) -> anyhow::Result<bool> {
    match fallocate(file, mode, offset, length) {
        Err(Errno::OPNOTSUPP) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

fn fallocate_grows(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(b"abc", 0)?;
    if allocate(&file, FallocateFlags::empty(), 1, 99_999)? {
        let mut expected = vec![0; 100_000];
        expected[..3].copy_from_slice(b"abc");
        same_bytes(&fs::read(&path)?, &expected, "content")?;
        allocate(&file, FallocateFlags::empty(), 0, 10)?;
        same(stat(&path)?.len(), 100_000, "it never shrinks")?;
    }
    Ok(())
}

fn fallocate_can_keep_the_size(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(b"abc", 0)?;
    if allocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000)? {
        same(fs::read_to_string(&path)?, "abc", "content")?;
        file.set_len(10)?;
        same(fs::read(&path)?, b"abc\0\0\0\0\0\0\0", "grown afterwards")?;
    }
    Ok(())
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn punching_a_hole(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut expected = pattern(200_000, 1);
    let file = open_new(&path)?;
    file.write_all_at(&expected, 0)?;
    for (offset, length) in [(1, 1), (4000, 200), (4096, 4096), (50_001, 99_998), (199_990, 100_000), (300_000, 10)] {
        if !allocate(&file, PUNCH, offset as u64, length as u64)? {
            return Ok(());
        }
        let end = (offset + length).min(expected.len());
        if offset < end {
            expected[offset..end].fill(0);
        }
        same_bytes(&fs::read(&path)?, &expected, "content")?;
    }
    Ok(())
}

fn punching_frees_space(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(&vec![1; 8 << 20], 0)?;
    file.sync_all()?;
    let before = stat(&path)?.blocks();
    if allocate(&file, PUNCH, 0, 8 << 20)? {
        file.sync_all()?;
        let after = stat(&path)?.blocks();
        ensure!(after <= before, "{before} blocks became {after}");
        same(stat(&path)?.len(), 8 << 20, "length")?;
    }
    Ok(())
}

fn what_is_zeroed_whole_reads_as_zeros_at_once(folder: &Path) -> anyhow::Result<()> {
    for mode in [PUNCH, FallocateFlags::ZERO_RANGE, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE] {
        for (number, length) in [100, 4096, 300_000].into_iter().enumerate() {
            let path = folder.join(format!("{}-{number}", mode.bits()));
            let file = open_new(&path)?;
            file.write_all_at(&pattern(length, 1), 0)?;
            if !allocate(&file, mode, 0, length as u64)? {
                return Ok(());
            }
            let mut found = vec![1; length];
            file.read_exact_at(&mut found, 0)?;
            same_bytes(&found, &vec![0; length], "through the descriptor that zeroed it")?;
            same_bytes(&fs::read(&path)?, &vec![0; length], "opened anew")?;
            drop(file);
            same_bytes(&fs::read(&path)?, &vec![0; length], "after the last close")?;
        }
    }
    Ok(())
}

fn an_allocation_changes_times_and_set_id_bits(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o755)?;
    for mode in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, PUNCH] {
        chmod(&path, 0o6755)?;
        let before = stat(&path)?;
        std::thread::sleep(Duration::from_millis(20));
        as_user(USER, || {
            let file = File::options().read(true).write(true).open(&path)?;
            allocate(&file, mode, 0, 4096).map(drop)
        })?;
        has_mode(&path, 0o755, "afterwards")?;
        let after = stat(&path)?;
        ensure!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()), "{mode:?}: ctime");
        ensure!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()), "{mode:?}: mtime");
    }
    Ok(())
}

fn zeroing_a_range(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut expected = pattern(100_000, 1);
    let file = open_new(&path)?;
    file.write_all_at(&expected, 0)?;
    let mode = FallocateFlags::ZERO_RANGE;
    if allocate(&file, mode | FallocateFlags::KEEP_SIZE, 5000, 20_000)? {
        expected[5000..25_000].fill(0);
        same_bytes(&fs::read(&path)?, &expected, "zeroed within")?;
        allocate(&file, mode | FallocateFlags::KEEP_SIZE, 90_000, 50_000)?;
        expected[90_000..].fill(0);
        same_bytes(&fs::read(&path)?, &expected, "zeroed across the end, size kept")?;
        allocate(&file, mode, 80_000, 50_000)?;
        expected[80_000..].fill(0);
        expected.resize(130_000, 0);
        same_bytes(&fs::read(&path)?, &expected, "zeroed across the end")?;
    }
    Ok(())
}

fn wrong_fallocate_is_refused(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    refused(fallocate(&file, FallocateFlags::empty(), 0, 0), Errno::INVAL, "no length")?;
    refused(fallocate(File::open(&path)?, FallocateFlags::empty(), 0, 10), Errno::BADF, "open for reading")?;
    let both = [Errno::OPNOTSUPP, Errno::INVAL];
    refused_as(fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 10), &both, "PUNCH_HOLE without KEEP_SIZE")?;
    refused(
        fallocate(&file, FallocateFlags::empty(), 1 << 62, (1 << 62) + (1 << 61)),
        Errno::FBIG,
        "beyond the largest file",
    )
}

fn other_modes_work_or_are_refused(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let bytes = pattern(64 << 10, 1);
    let file = open_new(&path)?;
    file.write_all_at(&bytes, 0)?;
    if allocate(&file, FallocateFlags::COLLAPSE_RANGE, 16 << 10, 16 << 10)? {
        let expected = [&bytes[..16 << 10], &bytes[32 << 10..]].concat();
        same_bytes(&fs::read(&path)?, &expected, "COLLAPSE_RANGE")?;
        allocate(&file, FallocateFlags::INSERT_RANGE, 16 << 10, 16 << 10)?;
        let expected = [&bytes[..16 << 10], &[0; 16 << 10][..], &bytes[32 << 10..]].concat();
        same_bytes(&fs::read(&path)?, &expected, "INSERT_RANGE")?;
    } else {
        same_bytes(&fs::read(&path)?, &bytes, "content after a refusal")?;
    }
    Ok(())
}

fn lengths_beyond_four_gibibytes(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    let bytes = pattern(100_000, 2);
    let places = [(1 << 31) - 7, (1 << 32) - 50_000, (1 << 32) + (1 << 31) + 1];
    for place in places {
        file.write_all_at(&bytes, place)?;
    }
    file.sync_all()?;
    let mut back = vec![0; 100_000];
    for place in places {
        file.read_exact_at(&mut back, place)?;
        same_bytes(&back, &bytes, "far out")?;
    }
    same(stat(&path)?.len(), (1 << 32) + (1 << 31) + 100_001, "length")?;
    file.read_exact_at(&mut back, 1 << 30)?;
    ensure!(back.iter().all(|byte| *byte == 0), "zeros in between");
    file.set_len((1 << 32) - 49_990)?;
    same(file.read_at(&mut back, (1 << 32) - 50_000)?, 10, "bytes left after truncation")
}

fn offsets_up_to_a_tebibyte(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.set_len(1 << 40)?;
    file.write_all_at(b"far", (1 << 40) - 3)?;
    file.write_all_at(b"farther", 1 << 40)?;
    same(stat(&path)?.len(), (1 << 40) + 7, "length")?;
    let mut back = [0; 10];
    file.read_exact_at(&mut back, (1 << 40) - 3)?;
    same(&back, b"farfarther", "content")?;
    let data = seek(&file, SeekFrom::Data(1 << 39))?;
    ensure!(data <= (1 << 40) - 3, "SEEK_DATA skips data: {data}");
    file.set_len(0)?;
    same(stat(&path)?.len(), 0, "emptied")
}

fn copies_of_sparse_files_are_equal(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    file.write_all_at(&pattern(100_000, 1), 5 * MIB)?;
    file.set_len(20 * MIB)?;
    crate::programs::shell(
        folder,
        "cp --sparse=always file copy; cp --sparse=never file full; cmp file copy; cmp file full",
    )
    .map(drop)
}
