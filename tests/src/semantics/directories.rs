//! Folders: listing while they change, places in a listing, what may be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, mkfifoat, rmdir, unlink, unlinkat};
use rustix::io::Errno;

use super::calls::DirectoryStream;
use super::checks::{links, make_file, names, refused, refused_as, same, stat};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    five_thousand_names,
    listing_while_others_insert_and_delete,
    removing_while_listing,
    a_listing_goes_on_from_a_place,
    places_stay_while_names_come_and_go,
    rewinding_shows_what_is_new,
    listings_know_kinds_and_inodes,
    dot_and_dot_dot_are_listed,
    only_empty_folders_are_removed,
    links_of_a_folder_count_its_folders,
    a_removed_working_directory,
    a_removed_open_folder,
    unlink_and_rmdir_keep_to_their_kind,
    a_deep_tree,
    making_what_is_there_is_refused,
    a_negative_entry_is_forgotten,
    a_folder_is_not_written,
];

fn all_names(stream: &mut DirectoryStream) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| stream.next_name()).collect()
}

fn five_thousand_names(folder: &Path) -> anyhow::Result<()> {
    for number in 0..5000 {
        File::create(folder.join(format!("file-with-a-longer-name-{number}")))?;
    }
    let got: BTreeSet<Vec<u8>> = all_names(&mut DirectoryStream::open(folder)?).into_iter().collect();
    let expected: BTreeSet<Vec<u8>> =
        (0..5000).map(|number| format!("file-with-a-longer-name-{number}").into_bytes()).collect();
    ensure!(got == expected, "{} names, {} are missing", got.len(), expected.difference(&got).count());
    for number in 0..5000 {
        unlink(folder.join(format!("file-with-a-longer-name-{number}")))?;
    }
    same(names(folder)?.len(), 0, "names left")?;
    Ok(())
}

/// Each name that was there all the time is listed exactly once.
fn listing_while_others_insert_and_delete(folder: &Path) -> anyhow::Result<()> {
    const STABLE: usize = 1000;
    for number in 0..STABLE {
        File::create(folder.join(format!("stable{number}")))?;
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| -> anyhow::Result<()> {
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                File::create(folder.join(format!("passing{number}")))?;
                if number >= 40 {
                    unlink(folder.join(format!("passing{}", number - 40)))?;
                }
                number += 1;
            }
            Ok(())
        });
        let result = (0..12).try_for_each(|_| {
            let mut seen = BTreeMap::new();
            let mut stream = DirectoryStream::open(folder)?;
            while let Some(name) = stream.next_name() {
                *seen.entry(name).or_insert(0) += 1;
            }
            for number in 0..STABLE {
                let count = seen.get(format!("stable{number}").as_bytes()).copied().unwrap_or(0);
                ensure!(count == 1, "stable{number} is listed {count} times");
            }
            Ok(())
        });
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        changer.join().expect("no panic")?;
        result
    })
}

/// As `rm -r` does: every name is seen, though those before it are removed already.
fn removing_while_listing(folder: &Path) -> anyhow::Result<()> {
    for number in 0..1500 {
        File::create(folder.join(format!("file{number}")))?;
    }
    let mut stream = DirectoryStream::open(folder)?;
    let mut removed = 0;
    while let Some(name) = stream.next_name() {
        unlink(folder.join(String::from_utf8(name)?))?;
        removed += 1;
    }
    same(removed, 1500, "names seen")?;
    same(names(folder)?.len(), 0, "names left")
}

fn a_listing_goes_on_from_a_place(folder: &Path) -> anyhow::Result<()> {
    for number in 0..800 {
        File::create(folder.join(format!("file{number}")))?;
    }
    let mut stream = DirectoryStream::open(folder)?;
    let mut places = vec![stream.tell()];
    let mut order = Vec::new();
    while let Some(name) = stream.next_name() {
        order.push(name);
        places.push(stream.tell());
    }
    same(order.len(), 800, "names")?;
    for at in [0, 799, 400, 1, 650, 33, 800] {
        stream.seek(places[at]);
        let rest = all_names(&mut stream);
        ensure!(rest == order[at..], "from place {at}: {} names, must be {}", rest.len(), order.len() - at);
    }
    Ok(())
}

fn places_stay_while_names_come_and_go(folder: &Path) -> anyhow::Result<()> {
    for number in 0..600 {
        File::create(folder.join(format!("file{number}")))?;
    }
    let mut stream = DirectoryStream::open(folder)?;
    let mut order = Vec::new();
    for _ in 0..300 {
        order.push(stream.next_name().context("a name")?);
    }
    let place = stream.tell();
    let rest: BTreeSet<Vec<u8>> = all_names(&mut stream).into_iter().collect();
    for name in order.iter().step_by(2) {
        unlink(folder.join(String::from_utf8(name.clone())?))?;
    }
    for number in 0..100 {
        File::create(folder.join(format!("another{number}")))?;
    }
    stream.seek(place);
    let again: Vec<Vec<u8>> = all_names(&mut stream).into_iter().filter(|name| !name.starts_with(b"another")).collect();
    same(again.len(), rest.len(), "names behind the place")?;
    ensure!(again.into_iter().collect::<BTreeSet<_>>() == rest, "the same names");
    Ok(())
}

fn rewinding_shows_what_is_new(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("one"), b"")?;
    let mut stream = DirectoryStream::open(folder)?;
    same(all_names(&mut stream).len(), 1, "names")?;
    make_file(&folder.join("two"), b"")?;
    unlink(folder.join("one"))?;
    stream.rewind();
    same(all_names(&mut stream), vec![b"two".to_vec()], "after rewinddir")
}

fn listings_know_kinds_and_inodes(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    fs::create_dir(folder.join("folder"))?;
    symlink("x", folder.join("link"))?;
    mkfifoat(CWD, folder.join("fifo"), Mode::from_raw_mode(0o600))?;
    rustix::fs::mknodat(CWD, folder.join("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0x103)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let stat = stat(&entry.path())?;
        same(entry.ino(), stat.ino(), "inode number")?;
        same(entry.file_type()?, stat.file_type(), "kind")?;
    }
    Ok(())
}

fn dot_and_dot_dot_are_listed(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder.join("inner"))?;
    let mut buffer = Vec::with_capacity(4096);
    let mut raw = rustix::fs::RawDir::new(File::open(folder.join("inner"))?, buffer.spare_capacity_mut());
    let mut seen = BTreeMap::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        seen.insert(entry.file_name().to_bytes().to_vec(), entry.ino());
    }
    same(seen.keys().cloned().collect::<Vec<_>>(), vec![b".".to_vec(), b"..".to_vec()], "names in an empty folder")?;
    same(seen.get(&b"."[..]), Some(&stat(&folder.join("inner"))?.ino()), "the inode number of .")
}

fn only_empty_folders_are_removed(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    make_file(&inner.join("file"), b"")?;
    refused_as(rmdir(&inner), &[Errno::NOTEMPTY, Errno::EXIST], "a file in it")?;
    unlink(inner.join("file"))?;
    fs::create_dir(inner.join("folder"))?;
    refused_as(rmdir(&inner), &[Errno::NOTEMPTY, Errno::EXIST], "a folder in it")?;
    rmdir(inner.join("folder"))?;
    rmdir(&inner)?;
    refused(rmdir(&inner), Errno::NOENT, "again")
}

fn links_of_a_folder_count_its_folders(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    same(links(&inner)?, 2, "an empty folder")?;
    for number in 0..5 {
        fs::create_dir(inner.join(format!("{number}")))?;
        make_file(&inner.join(format!("file{number}")), b"")?;
    }
    same(links(&inner)?, 7, "with five folders")?;
    rmdir(inner.join("0"))?;
    same(links(&inner)?, 6, "one removed")
}

fn a_removed_working_directory(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    std::env::set_current_dir(&inner)?;
    rmdir(&inner)?;
    refused(File::create("file"), Errno::NOENT, "create in it")?;
    refused(fs::create_dir("folder"), Errno::NOENT, "mkdir in it")?;
    same(fs::read_dir(".")?.count(), 0, "names in it")?;
    Ok(std::env::set_current_dir("/")?)
}

fn a_removed_open_folder(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    let open = File::open(&inner)?;
    rmdir(&inner)?;
    same(open.metadata()?.nlink(), 0, "links")?;
    let made = rustix::fs::openat(&open, "x", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR, 0o600.into());
    refused(made, Errno::NOENT, "create in it")?;
    fs::create_dir(&inner)?;
    ensure!(stat(&inner)?.ino() != open.metadata()?.ino(), "a new folder is another one");
    Ok(())
}

fn unlink_and_rmdir_keep_to_their_kind(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder.join("inner"))?;
    make_file(&folder.join("file"), b"")?;
    refused(unlink(folder.join("inner")), Errno::ISDIR, "unlink of a folder")?;
    refused(rmdir(folder.join("file")), Errno::NOTDIR, "rmdir of a file")?;
    refused(unlinkat(CWD, folder.join("file"), AtFlags::REMOVEDIR), Errno::NOTDIR, "unlinkat")?;
    refused(unlink(folder.join("missing")), Errno::NOENT, "unlink of nothing")
}

fn a_deep_tree(folder: &Path) -> anyhow::Result<()> {
    std::env::set_current_dir(folder)?;
    for depth in 0..200 {
        fs::create_dir("deeper")?;
        std::env::set_current_dir("deeper")?;
        fs::write("file", format!("{depth}"))?;
    }
    for depth in (0..200).rev() {
        same(fs::read_to_string("file")?, format!("{depth}"), "content")?;
        std::env::set_current_dir("..")?;
    }
    fs::remove_dir_all(folder.join("deeper")).map_err(Into::into)
}

fn making_what_is_there_is_refused(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    fs::create_dir(folder.join("inner"))?;
    for name in ["file", "inner"] {
        refused(fs::create_dir(folder.join(name)), Errno::EXIST, "mkdir")?;
        refused(symlink("x", folder.join(name)), Errno::EXIST, "symlink")?;
        refused(mkfifoat(CWD, folder.join(name), 0o600.into()), Errno::EXIST, "mkfifo")?;
        refused(File::create_new(folder.join(name)), Errno::EXIST, "O_EXCL")?;
    }
    refused(fs::create_dir(folder.join("missing/inner")), Errno::NOENT, "mkdir in nothing")
}

fn a_negative_entry_is_forgotten(folder: &Path) -> anyhow::Result<()> {
    for round in 0..50 {
        let path = folder.join(format!("file{}", round % 3));
        refused(fs::metadata(&path), Errno::NOENT, "before it is made")?;
        make_file(&path, b"x")?;
        same(stat(&path)?.len(), 1, "length")?;
        unlink(&path)?;
        refused(File::open(&path), Errno::NOENT, "after it is removed")?;
    }
    Ok(())
}

fn a_folder_is_not_written(folder: &Path) -> anyhow::Result<()> {
    refused(File::options().write(true).open(folder), Errno::ISDIR, "open for writing")?;
    refused(fs::read(folder), Errno::ISDIR, "read")?;
    refused(File::create(folder), Errno::ISDIR, "O_CREAT")
}
