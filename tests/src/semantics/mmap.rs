//! Files in memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::ensure;
use rustix::io::Errno;

use super::calls::{ChildEnd, Map, MapKind, in_child};
use super::checks::{make_file, open_new, pattern, refused, same, same_bytes};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    a_shared_map_shows_what_is_written,
    a_shared_map_writes_what_is_read,
    a_shared_map_reaches_other_descriptors,
    two_maps_of_one_file_are_one,
    a_private_map_keeps_to_itself,
    a_map_outlives_its_descriptor,
    a_map_outlives_the_name,
    the_tail_of_the_last_page_is_not_written,
    a_map_beyond_the_end_is_a_bus_error,
    a_truncated_map_is_a_bus_error,
    a_map_grows_with_the_file,
    a_read_only_descriptor_is_not_mapped_for_writing,
    a_map_at_an_offset,
    a_map_is_seen_by_direct_reads,
    unmapping_writes_what_was_changed,
    another_process_shares_the_map,
];

const PAGE: usize = 4096;

fn mapped(folder: &Path, bytes: &[u8]) -> anyhow::Result<(File, Map)> {
    let path = folder.join("file");
    make_file(&path, bytes)?;
    let file = open_new(&path)?;
    let map = Map::new(&file, MapKind::Shared, 0, bytes.len())?;
    Ok((file, map))
}

fn a_shared_map_shows_what_is_written(folder: &Path) -> anyhow::Result<()> {
    let (file, map) = mapped(folder, &pattern(5 * PAGE, 1))?;
    same_bytes(&map.read(0, 5 * PAGE), &pattern(5 * PAGE, 1), "at first")?;
    for round in 0..50u8 {
        let at = usize::from(round) * 397;
        file.write_all_at(&[round; 20], at as u64)?;
        same_bytes(&map.read(at, 20), &[round; 20], "after a write")?;
    }
    Ok(())
}

fn a_shared_map_writes_what_is_read(folder: &Path) -> anyhow::Result<()> {
    let (file, map) = mapped(folder, &pattern(5 * PAGE, 1))?;
    for round in 0..50u8 {
        let at = usize::from(round) * 397;
        map.write(at, &[round; 20]);
        let mut back = [0; 20];
        file.read_exact_at(&mut back, at as u64)?;
        same_bytes(&back, &[round; 20], "read()")?;
    }
    Ok(())
}

fn a_shared_map_reaches_other_descriptors(folder: &Path) -> anyhow::Result<()> {
    let (_, map) = mapped(folder, &[0; 3 * PAGE])?;
    map.write(PAGE - 2, b"across");
    map.sync()?;
    same_bytes(&fs::read(folder.join("file"))?[PAGE - 2..PAGE + 4], b"across", "after msync, opened anew")
}

fn two_maps_of_one_file_are_one(folder: &Path) -> anyhow::Result<()> {
    let (_, one) = mapped(folder, &[0; 3 * PAGE])?;
    let reader = File::open(folder.join("file"))?;
    let other = Map::new(&reader, MapKind::SharedForReading, 0, 3 * PAGE)?;
    for round in 0..20 {
        one.write(round * 600, &[round as u8 + 1; 5]);
        same_bytes(&other.read(round * 600, 5), &[round as u8 + 1; 5], "through the other map")?;
    }
    Ok(())
}

fn a_private_map_keeps_to_itself(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; 2 * PAGE])?;
    let reader = File::open(&path)?;
    let map = Map::new(&reader, MapKind::Private, 0, 2 * PAGE)?;
    map.write(10, b"private");
    map.sync()?;
    same_bytes(&map.read(10, 7), b"private", "the map")?;
    same_bytes(&fs::read(&path)?, &[1; 2 * PAGE], "the file")
}

fn a_map_outlives_its_descriptor(folder: &Path) -> anyhow::Result<()> {
    let (file, map) = mapped(folder, &[1; 2 * PAGE])?;
    drop(file);
    map.write(PAGE, b"after the close");
    map.sync()?;
    same_bytes(&fs::read(folder.join("file"))?[PAGE..PAGE + 15], b"after the close", "the file")
}

fn a_map_outlives_the_name(folder: &Path) -> anyhow::Result<()> {
    let (file, map) = mapped(folder, &pattern(20 * PAGE, 1))?;
    fs::remove_file(folder.join("file"))?;
    same_bytes(&map.read(0, 20 * PAGE), &pattern(20 * PAGE, 1), "the map")?;
    map.write(0, b"x");
    map.sync()?;
    let mut back = [0];
    file.read_exact_at(&mut back, 0)?;
    same(&back, b"x", "through the descriptor")
}

fn the_tail_of_the_last_page_is_not_written(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; 100])?;
    let file = open_new(&path)?;
    let map = Map::new(&file, MapKind::Shared, 0, PAGE)?;
    same_bytes(&map.read(100, PAGE - 100), &vec![0; PAGE - 100], "zeros behind the end")?;
    map.write(90, &[2; 50]);
    map.sync()?;
    drop(map);
    same(file.metadata()?.len(), 100, "length")?;
    file.set_len(200)?;
    let mut expected = vec![1; 90];
    expected.extend([2; 10]);
    expected.extend([0; 100]);
    same_bytes(&fs::read(&path)?, &expected, "after growing")
}

/// Reads a byte that nobody wants; the compiler must not see that.
fn touch(map: &Map, at: usize) {
    std::hint::black_box(map.read(at, 1));
}

fn a_map_beyond_the_end_is_a_bus_error(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; 100])?;
    let file = open_new(&path)?;
    let end = in_child(|| {
        let map = Map::new(&file, MapKind::Shared, 0, 2 * PAGE)?;
        touch(&map, PAGE);
        Ok(())
    })?;
    same(end, ChildEnd::Signal(libc::SIGBUS), "reading a page behind the end")
}

fn a_truncated_map_is_a_bus_error(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; 3 * PAGE])?;
    let file = open_new(&path)?;
    let end = in_child(|| {
        let map = Map::new(&file, MapKind::Shared, 0, 3 * PAGE)?;
        map.write(2 * PAGE, b"x");
        file.set_len(10)?;
        ensure!(map.read(0, 20) == [[1; 10], [0; 10]].concat(), "zeros behind the new end");
        touch(&map, 2 * PAGE);
        Ok(())
    })?;
    same(end, ChildEnd::Signal(libc::SIGBUS), "reading a page that was cut off")
}

fn a_map_grows_with_the_file(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; 10])?;
    let file = open_new(&path)?;
    let map = Map::new(&file, MapKind::Shared, 0, 4 * PAGE)?;
    file.write_all_at(&[2; 10], 3 * PAGE as u64)?;
    same_bytes(&map.read(3 * PAGE, 10), &[2; 10], "a page that the file has grown to")?;
    map.write(2 * PAGE, b"between");
    map.sync()?;
    same_bytes(&fs::read(&path)?[2 * PAGE..2 * PAGE + 7], b"between", "the file")
}

fn a_read_only_descriptor_is_not_mapped_for_writing(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[1; PAGE])?;
    let reader = File::open(&path)?;
    refused(Map::new(&reader, MapKind::Shared, 0, PAGE), Errno::ACCESS, "for writing")?;
    let writer = File::options().write(true).open(&path)?;
    refused(Map::new(&writer, MapKind::SharedForReading, 0, PAGE), Errno::ACCESS, "of a descriptor only for writing")
}

fn a_map_at_an_offset(folder: &Path) -> anyhow::Result<()> {
    let bytes = pattern(40 * PAGE, 1);
    let (file, _) = mapped(folder, &bytes)?;
    let map = Map::new(&file, MapKind::Shared, 17 * PAGE as u64, 3 * PAGE)?;
    same_bytes(&map.read(0, 3 * PAGE), &bytes[17 * PAGE..20 * PAGE], "the middle")?;
    refused(Map::new(&file, MapKind::Shared, 100, PAGE), Errno::INVAL, "at an offset within a page")
}

fn a_map_is_seen_by_direct_reads(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let (_, map) = mapped(folder, &[1; 4 * PAGE])?;
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(folder.join("file"))?;
    map.write(PAGE + 3, b"mapped");
    map.sync()?;
    let mut block = super::exerciser::Aligned::new(PAGE);
    direct.read_exact_at(block.bytes_mut(), PAGE as u64)?;
    same_bytes(&block.bytes()[3..9], b"mapped", "a direct read")
}

fn unmapping_writes_what_was_changed(folder: &Path) -> anyhow::Result<()> {
    let (file, map) = mapped(folder, &[1; 100 * PAGE])?;
    let bytes = pattern(100 * PAGE, 9);
    map.write(0, &bytes);
    drop(map);
    drop(file);
    same_bytes(&fs::read(folder.join("file"))?, &bytes, "the file")
}

fn another_process_shares_the_map(folder: &Path) -> anyhow::Result<()> {
    let (_, map) = mapped(folder, &[0; PAGE])?;
    map.write(0, b"parent");
    let path = folder.join("file");
    let end = in_child(|| {
        let file = open_new(&path)?;
        let map = Map::new(&file, MapKind::Shared, 0, PAGE)?;
        same_bytes(&map.read(0, 6), b"parent", "in the child")?;
        map.write(100, b"child");
        Ok(())
    })?;
    same(end, ChildEnd::Returned(Ok(())), "the child")?;
    same_bytes(&map.read(100, 5), b"child", "in the parent")
}
