//! Reading and writing: offsets, ends, appends, direct I/O, and the calls that move data within the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{Advice, copy_file_range, fadvise, fdatasync, fsync, sendfile, syncfs};
use rustix::io::Errno;

use super::calls::{splice_from_pipe, splice_to_pipe, sync_file_range};
use super::checks::{make_file, open_new, pattern, refused, refused_as, same, same_bytes, stat};
use super::exerciser::Aligned;
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    reading_beyond_the_end_gives_nothing,
    writes_at_any_offset,
    writing_beyond_the_end_leaves_zeros,
    append_goes_to_the_end,
    appends_of_several_descriptors_do_not_overlap,
    truncating_up_and_down,
    opening_with_truncate_empties,
    direct_reads_and_writes,
    direct_and_buffered_see_each_other,
    two_descriptors_see_each_other,
    vectored_reads_and_writes,
    the_position_is_shared_by_duplicates,
    copy_file_range_across_files,
    copy_file_range_within_a_file,
    copy_file_range_at_the_end,
    sendfile_copies,
    splice_through_a_pipe,
    all_syncs_succeed,
    advice_is_taken,
    negative_and_huge_offsets_are_refused,
    the_access_mode_counts,
    many_small_writes,
    a_file_over_several_chunks,
];

fn reading_beyond_the_end_gives_nothing(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"0123456789")?;
    let file = File::open(&path)?;
    let mut buffer = [0; 20];
    same(file.read_at(&mut buffer, 10)?, 0, "at the end")?;
    same(file.read_at(&mut buffer, 1 << 40)?, 0, "far behind it")?;
    same(file.read_at(&mut buffer, 5)?, 5, "across the end")?;
    same(file.read_at(&mut [], 0)?, 0, "no bytes")
}

fn writes_at_any_offset(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    let mut expected = vec![0; 200_000];
    for (round, (offset, length)) in
        [(0, 1), (4095, 2), (4096, 4096), (8191, 8194), (65_535, 65_538), (16_383, 3), (199_999, 1)]
            .into_iter()
            .enumerate()
    {
        let bytes = pattern(length, round as u8);
        file.write_all_at(&bytes, offset as u64)?;
        expected[offset..offset + length].copy_from_slice(&bytes);
    }
    same_bytes(&fs::read(&path)?, &expected, "content")
}

fn writing_beyond_the_end_leaves_zeros(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(b"a", 0)?;
    file.write_all_at(b"b", 100_000)?;
    let mut expected = vec![0; 100_001];
    (expected[0], expected[100_000]) = (b'a', b'b');
    same_bytes(&fs::read(&path)?, &expected, "content")
}

fn append_goes_to_the_end(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"start ")?;
    let mut appender = OpenOptions::new().append(true).read(true).open(&path)?;
    appender.seek(SeekFrom::Start(0))?;
    appender.write_all(b"one ")?;
    OpenOptions::new().write(true).open(&path)?.write_all_at(b"other ", 10)?;
    appender.write_all(b"two")?;
    same(fs::read_to_string(&path)?, "start one other two", "content")?;
    same(appender.stream_position()?, 19, "the position follows")?;
    // Linux: pwrite ignores its offset with O_APPEND.
    appender.write_all_at(b"!", 0)?;
    same(fs::read_to_string(&path)?, "start one other two!", "after pwrite")
}

fn appends_of_several_descriptors_do_not_overlap(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"")?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4u8)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut file = OpenOptions::new().append(true).open(path)?;
                    (0..100).try_for_each(|_| Ok(file.write_all(&[b'a' + writer; 37])?))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("no panic"))
    })?;
    let content = fs::read(&path)?;
    same(content.len(), 4 * 100 * 37, "length")?;
    for record in content.chunks(37) {
        ensure!(record.iter().all(|byte| *byte == record[0]), "a mixed record: {record:?}");
    }
    Ok(())
}

fn truncating_up_and_down(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    file.write_all_at(&[7; 20_000], 0)?;
    let mut expected = vec![7; 20_000];
    // Bytes that were cut off must not come back.
    for length in [10_000, 30_000, 4097, 4096, 50_000, 1, 8192, 0, 100] {
        file.set_len(length as u64)?;
        expected.resize(length, 0);
        same_bytes(&fs::read(&path)?, &expected, "content")?;
        same(file.metadata()?.len(), length as u64, "length")?;
    }
    Ok(())
}

fn opening_with_truncate_empties(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[7; 100_000])?;
    let reader = File::open(&path)?;
    drop(File::create(&path)?);
    same(reader.metadata()?.len(), 0, "length seen by one who had it open")?;
    same(reader.read_at(&mut [0; 10], 0)?, 0, "bytes left")?;
    make_file(&path, &[8; 10])?;
    // Linux truncates on O_RDONLY|O_TRUNC, too.
    rustix::fs::open(&path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC, 0.into())?;
    same(stat(&path)?.len(), 0, "O_RDONLY|O_TRUNC")
}

fn open_direct(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT).open(path)
}

fn direct_reads_and_writes(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_direct(&path)?;
    let mut block = Aligned::new(1 << 20);
    block.bytes_mut().copy_from_slice(&pattern(1 << 20, 3));
    file.write_all_at(block.bytes(), 0)?;
    file.write_all_at(&block.bytes()[..8192], 4096)?;
    let mut expected = pattern(1 << 20, 3);
    expected[4096..12_288].copy_from_slice(&pattern(1 << 20, 3)[..8192]);
    let mut back = Aligned::new(1 << 20);
    file.read_exact_at(back.bytes_mut(), 0)?;
    same_bytes(back.bytes(), &expected, "read directly")?;
    same_bytes(&fs::read(&path)?, &expected, "read through the cache")?;
    file.set_len(5000)?;
    same(file.read_at(&mut back.bytes_mut()[..8192], 4096)?, 904, "a direct read across the end")
}

fn direct_and_buffered_see_each_other(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let (direct, buffered) = (open_direct(&path)?, open_new(&path)?);
    let mut block = Aligned::new(16_384);
    for round in 0..20u8 {
        let bytes = pattern(16_384, round);
        if round % 2 == 0 {
            buffered.write_all_at(&bytes, 0)?;
            direct.read_exact_at(block.bytes_mut(), 0)?;
            same_bytes(block.bytes(), &bytes, "a buffered write, read directly")?;
        } else {
            block.bytes_mut().copy_from_slice(&bytes);
            direct.write_all_at(block.bytes(), 0)?;
            let mut back = vec![0; 16_384];
            buffered.read_exact_at(&mut back, 0)?;
            same_bytes(&back, &bytes, "a direct write, read buffered")?;
        }
    }
    Ok(())
}

fn two_descriptors_see_each_other(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let writer = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    let reader = File::open(&path)?;
    for round in 0..100u64 {
        writer.write_all_at(&round.to_le_bytes(), round * 5)?;
        let mut back = [0; 8];
        reader.read_exact_at(&mut back, round * 5)?;
        same(u64::from_le_bytes(back), round, "through the other descriptor")?;
        same(reader.metadata()?.len(), round * 5 + 8, "length")?;
    }
    Ok(())
}

fn vectored_reads_and_writes(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut file = open_new(&path)?;
    let parts = [std::io::IoSlice::new(b"one "), std::io::IoSlice::new(b""), std::io::IoSlice::new(b"two")];
    same(file.write_vectored(&parts)?, 7, "bytes written")?;
    file.seek(SeekFrom::Start(0))?;
    let (mut first, mut second) = ([0; 2], [0; 9]);
    let mut into = [std::io::IoSliceMut::new(&mut first), std::io::IoSliceMut::new(&mut second)];
    same(file.read_vectored(&mut into)?, 7, "bytes read")?;
    same((&first[..], &second[..5]), (&b"on"[..], &b"e two"[..]), "the parts")
}

fn the_position_is_shared_by_duplicates(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"0123456789")?;
    let mut file = File::open(&path)?;
    let mut duplicate = file.try_clone()?;
    let mut three = [0; 3];
    file.read_exact(&mut three)?;
    duplicate.read_exact(&mut three)?;
    same(&three, b"345", "a duplicate goes on")?;
    same(file.seek(SeekFrom::End(-1))?, 9, "from the end")?;
    refused(file.seek(SeekFrom::Current(-20)), Errno::INVAL, "before the start")
}

fn copy_file_range_across_files(folder: &Path) -> anyhow::Result<()> {
    let bytes = pattern(500_000, 1);
    make_file(&folder.join("source"), &bytes)?;
    let (source, target) = (File::open(folder.join("source"))?, open_new(&folder.join("target"))?);
    let (mut from, mut to, mut left) = (1234, 777, 400_000);
    while left > 0 {
        let copied = copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left)?;
        ensure!(copied > 0, "{left} bytes are left to copy");
        left -= copied;
    }
    same((from, to), (401_234, 400_777), "the offsets move")?;
    let mut expected = vec![0; 777];
    expected.extend(&bytes[1234..401_234]);
    same_bytes(&fs::read(folder.join("target"))?, &expected, "the copy")
}

fn copy_file_range_within_a_file(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut expected = pattern(200_000, 1);
    make_file(&path, &expected)?;
    let file = open_new(&path)?;
    same(copy_file_range(&file, Some(&mut 0), &file, Some(&mut 100_000), 50_000)?, 50_000, "bytes copied")?;
    expected.copy_within(0..50_000, 100_000);
    same_bytes(&fs::read(&path)?, &expected, "content")?;
    refused(copy_file_range(&file, Some(&mut 0), &file, Some(&mut 10), 100), Errno::INVAL, "onto itself")
}

fn copy_file_range_at_the_end(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("source"), b"0123456789")?;
    let (source, target) = (File::open(folder.join("source"))?, open_new(&folder.join("target"))?);
    same(copy_file_range(&source, Some(&mut 10), &target, None, 5)?, 0, "from the end")?;
    same(copy_file_range(&source, Some(&mut 8), &target, None, 50)?, 2, "across the end")?;
    same(fs::read_to_string(folder.join("target"))?, "89", "the copy")?;
    let reader = File::open(folder.join("target"))?;
    refused(copy_file_range(&source, None, &reader, None, 5), Errno::BADF, "into a file open for reading")
}

fn sendfile_copies(folder: &Path) -> anyhow::Result<()> {
    let bytes = pattern(300_000, 4);
    make_file(&folder.join("source"), &bytes)?;
    let (source, target) = (File::open(folder.join("source"))?, open_new(&folder.join("target"))?);
    let mut offset = 0;
    while offset < 300_000 {
        ensure!(sendfile(&target, &source, Some(&mut offset), 300_000)? > 0, "it stops at {offset}");
    }
    same_bytes(&fs::read(folder.join("target"))?, &bytes, "the copy")
}

fn splice_through_a_pipe(folder: &Path) -> anyhow::Result<()> {
    let bytes = pattern(60_000, 5);
    make_file(&folder.join("source"), &bytes)?;
    let (source, target) = (File::open(folder.join("source"))?, open_new(&folder.join("target"))?);
    let (reader, writer) = std::io::pipe()?;
    let mut done = 0;
    while done < 60_000 {
        let moved = splice_to_pipe(&source, done as u64, &writer, 20_000)?;
        ensure!(moved > 0, "it stops at {done}");
        let mut left = moved;
        while left > 0 {
            let out = splice_from_pipe(&reader, &target, done as u64, left)?;
            done += out;
            left -= out;
        }
    }
    same_bytes(&fs::read(folder.join("target"))?, &bytes, "the copy")
}

fn all_syncs_succeed(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    file.write_all_at(&[1; 100_000], 0)?;
    fsync(&file)?;
    file.write_all_at(&[2; 100_000], 0)?;
    fdatasync(&file)?;
    file.write_all_at(&[3; 100_000], 0)?;
    sync_file_range(&file)?;
    syncfs(&file)?;
    let open_folder = File::open(folder)?;
    fsync(&open_folder)?;
    fdatasync(&open_folder)?;
    fsync(File::open(folder.join("file"))?)?;
    let mut synced = OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(folder.join("file"))?;
    synced.write_all(&[4; 10])?;
    let mut synced = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(folder.join("file"))?;
    Ok(synced.write_all(&[4; 10])?)
}

fn advice_is_taken(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    file.write_all_at(&pattern(300_000, 1), 0)?;
    for advice in [Advice::Sequential, Advice::Random, Advice::WillNeed, Advice::DontNeed, Advice::Normal] {
        fadvise(&file, 0, None, advice)?;
    }
    same_bytes(&fs::read(folder.join("file"))?, &pattern(300_000, 1), "content")
}

fn negative_and_huge_offsets_are_refused(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    refused(file.write_at(b"x", u64::MAX), Errno::INVAL, "a negative offset")?;
    refused(file.read_at(&mut [0], u64::MAX), Errno::INVAL, "a negative offset to read at")?;
    refused_as(file.write_at(b"x", i64::MAX as u64), &[Errno::FBIG, Errno::INVAL], "the largest offset")?;
    refused(rustix::fs::ftruncate(&file, 1 << 63), Errno::INVAL, "a negative length")?;
    same(file.metadata()?.len(), 0, "length")
}

fn the_access_mode_counts(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let (reader, writer) = (File::open(&path)?, OpenOptions::new().write(true).open(&path)?);
    refused(reader.write_at(b"x", 0), Errno::BADF, "write")?;
    refused(writer.read_at(&mut [0], 0), Errno::BADF, "read")?;
    refused(rustix::fs::ftruncate(&reader, 0), Errno::INVAL, "ftruncate")
}

fn many_small_writes(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut file = File::create(&path)?;
    let bytes = pattern(30_000, 2);
    for chunk in bytes.chunks(17) {
        file.write_all(chunk)?;
    }
    same_bytes(&fs::read(&path)?, &bytes, "content")
}

fn a_file_over_several_chunks(folder: &Path) -> anyhow::Result<()> {
    const CHUNK: u64 = 64 << 20;
    let path = folder.join("file");
    let file = open_new(&path)?;
    let bytes = pattern(1 << 20, 6);
    for chunk in 1..4 {
        file.write_all_at(&bytes, chunk * CHUNK - (1 << 19))?;
    }
    file.sync_all()?;
    let mut back = vec![0; 1 << 20];
    for chunk in 1..4 {
        file.read_exact_at(&mut back, chunk * CHUNK - (1 << 19))?;
        same_bytes(&back, &bytes, "across a boundary of 64 MiB")?;
    }
    same(file.metadata()?.len(), 3 * CHUNK + (1 << 19), "length")
}
