//! Which call changes which of the three times, of the file and of its folder.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::fs::{FallocateFlags, Mode, XattrFlags, fallocate, ftruncate, mkfifoat, removexattr, rename, setxattr};

use super::checks::{chmod, chown, let_time_pass, make_file, open_new, stat};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    create_touches_the_folder,
    mkdir_touches_the_folder,
    symlink_and_mkfifo_touch_the_folder,
    write_touches_modification_and_change,
    an_empty_write_touches_nothing,
    write_through_an_old_descriptor_touches,
    truncate_touches_even_at_the_same_length,
    opening_with_truncate_touches,
    fallocate_that_grows_touches,
    chmod_and_chown_touch_the_change_only,
    extended_attributes_touch_the_change_only,
    link_touches_the_file_and_both_folders,
    unlink_touches_the_file_and_the_folder,
    rmdir_touches_the_folder,
    rename_touches_both_folders_and_the_file,
    reading_touches_neither_modification_nor_change,
    reading_touches_access_as_relatime_says,
    readdir_touches_access_as_relatime_says,
    refused_calls_touch_nothing,
    new_files_have_three_equal_times,
    times_never_go_back,
    times_are_of_nanoseconds,
];

type Moment = (i64, i64);

/// Modification and change.
fn moments(path: &Path) -> anyhow::Result<(Moment, Moment)> {
    let stat = stat(path)?;
    Ok(((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec())))
}

/// What a call must do to the times of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touched {
    Both,
    ChangeOnly,
    Nothing,
}

/// Runs a call and compares the times of each path before and after.
fn touches<T>(paths: &[(&Path, Touched)], what: &str, call: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = paths.iter().map(|(path, _)| moments(path)).collect::<Result<Vec<_>, _>>()?;
    let_time_pass();
    let result = call().context(what.to_owned())?;
    for ((path, touched), before) in paths.iter().zip(before) {
        let after = moments(path)?;
        let modified = after.0 > before.0;
        let changed = after.1 > before.1;
        let expected = match touched {
            Touched::Both => (true, true),
            Touched::ChangeOnly => (false, true),
            Touched::Nothing => (false, false),
        };
        ensure!(
            (modified, changed) == expected && (modified || after.0 == before.0),
            "{what}: {} must have {touched:?} touched; before {before:?}, after {after:?}",
            path.display()
        );
    }
    Ok(result)
}

fn create_touches_the_folder(folder: &Path) -> anyhow::Result<()> {
    touches(&[(folder, Touched::Both)], "create", || Ok(File::create(folder.join("file"))?)).map(drop)?;
    touches(&[(folder, Touched::Nothing)], "open", || Ok(File::open(folder.join("file"))?)).map(drop)
}

fn mkdir_touches_the_folder(folder: &Path) -> anyhow::Result<()> {
    touches(&[(folder, Touched::Both)], "mkdir", || Ok(fs::create_dir(folder.join("inner"))?))
}

fn symlink_and_mkfifo_touch_the_folder(folder: &Path) -> anyhow::Result<()> {
    touches(&[(folder, Touched::Both)], "symlink", || Ok(symlink("target", folder.join("link"))?))?;
    touches(&[(folder, Touched::Both)], "mkfifo", || {
        Ok(mkfifoat(rustix::fs::CWD, folder.join("fifo"), Mode::from_raw_mode(0o600))?)
    })
}

fn write_touches_modification_and_change(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"old")?;
    touches(&[(&path, Touched::Both), (folder, Touched::Nothing)], "overwrite", || {
        let file = OpenOptions::new().write(true).open(&path)?;
        Ok(file.write_all_at(b"new", 0)?)
    })?;
    touches(&[(&path, Touched::Both)], "append", || {
        Ok(OpenOptions::new().append(true).open(&path)?.write_all(b"more")?)
    })
}

fn an_empty_write_touches_nothing(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"old")?;
    let file = OpenOptions::new().write(true).open(&path)?;
    touches(&[(&path, Touched::Nothing)], "write of no bytes", || Ok(file.write_at(b"", 1)?)).map(drop)
}

fn write_through_an_old_descriptor_touches(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    for round in 0..5 {
        touches(&[(&path, Touched::Both)], "write", || Ok(file.write_all_at(b"x", round)?))?;
    }
    Ok(())
}

fn truncate_touches_even_at_the_same_length(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let file = OpenOptions::new().write(true).open(&path)?;
    for length in [3, 10_000, 0] {
        touches(&[(&path, Touched::Both)], "ftruncate", || Ok(ftruncate(&file, length)?))?;
    }
    // POSIX: a successful ftruncate marks both times, also if the length stays.
    touches(&[(&path, Touched::Both)], "ftruncate to the same length", || Ok(ftruncate(&file, 0)?))
}

fn opening_with_truncate_touches(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    touches(&[(&path, Touched::Both), (folder, Touched::Nothing)], "O_TRUNC", || Ok(File::create(&path)?)).map(drop)
}

fn fallocate_that_grows_touches(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    touches(&[(&path, Touched::Both)], "fallocate", || match fallocate(&file, FallocateFlags::empty(), 0, 10_000) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(ftruncate(&file, 10_000)?),
        other => Ok(other?),
    })
}

fn chmod_and_chown_touch_the_change_only(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    touches(&[(&path, Touched::ChangeOnly), (folder, Touched::Nothing)], "chmod", || chmod(&path, 0o600))?;
    touches(&[(&path, Touched::ChangeOnly), (folder, Touched::Nothing)], "chown", || chown(&path, 12, 34))
}

fn extended_attributes_touch_the_change_only(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    touches(&[(&path, Touched::ChangeOnly)], "setxattr", || {
        Ok(setxattr(&path, "user.color", b"blue", XattrFlags::empty())?)
    })?;
    touches(&[(&path, Touched::ChangeOnly)], "removexattr", || Ok(removexattr(&path, "user.color")?))
}

fn link_touches_the_file_and_both_folders(folder: &Path) -> anyhow::Result<()> {
    let (path, inner) = (folder.join("file"), folder.join("inner"));
    make_file(&path, b"content")?;
    fs::create_dir(&inner)?;
    let expected = [(&*path, Touched::ChangeOnly), (&*inner, Touched::Both), (folder, Touched::Nothing)];
    touches(&expected, "link", || Ok(fs::hard_link(&path, inner.join("other"))?))
}

fn unlink_touches_the_file_and_the_folder(folder: &Path) -> anyhow::Result<()> {
    let (path, other) = (folder.join("file"), folder.join("other"));
    make_file(&path, b"content")?;
    fs::hard_link(&path, &other)?;
    let expected = [(&*path, Touched::ChangeOnly), (folder, Touched::Both)];
    touches(&expected, "unlink", || Ok(fs::remove_file(&other)?))
}

fn rmdir_touches_the_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder.join("inner"))?;
    touches(&[(folder, Touched::Both)], "rmdir", || Ok(fs::remove_dir(folder.join("inner"))?))
}

fn rename_touches_both_folders_and_the_file(folder: &Path) -> anyhow::Result<()> {
    let (from, to) = (folder.join("from"), folder.join("to"));
    fs::create_dir(&from)?;
    fs::create_dir(&to)?;
    make_file(&from.join("file"), b"content")?;
    let before = moments(&from.join("file"))?;
    let expected = [(&*from, Touched::Both), (&*to, Touched::Both), (folder, Touched::Nothing)];
    touches(&expected, "rename", || Ok(rename(from.join("file"), to.join("file"))?))?;
    let after = moments(&to.join("file"))?;
    ensure!(after.0 == before.0 && after.1 > before.1, "rename: the file's times {before:?} became {after:?}");
    Ok(())
}

fn reading_touches_neither_modification_nor_change(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    touches(&[(&path, Touched::Nothing), (folder, Touched::Nothing)], "read and list", || {
        fs::read(&path)?;
        Ok(fs::read_dir(folder)?.count())
    })
    .map(drop)
}

fn access(path: &Path) -> anyhow::Result<Moment> {
    let stat = stat(path)?;
    Ok((stat.atime(), stat.atime_nsec()))
}

fn reading_touches_access_as_relatime_says(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let_time_pass();
    OpenOptions::new().write(true).open(&path)?.write_all_at(b"C", 0)?;
    let before = access(&path)?;
    let_time_pass();
    let mut file = File::open(&path)?;
    file.read_to_end(&mut Vec::new())?;
    drop(file);
    let first = access(&path)?;
    ensure!(first > before, "the first read after a write must touch the access time: {before:?}, {first:?}");
    let_time_pass();
    fs::read(&path)?;
    let second = access(&path)?;
    ensure!(second == first, "a second read must not: {first:?}, {second:?}");
    Ok(())
}

fn readdir_touches_access_as_relatime_says(folder: &Path) -> anyhow::Result<()> {
    let_time_pass();
    make_file(&folder.join("file"), b"content")?;
    let before = access(folder)?;
    let_time_pass();
    same_count(folder)?;
    let after = access(folder)?;
    ensure!(after > before, "the first readdir after a change must touch the access time: {before:?}, {after:?}");
    Ok(())
}

fn same_count(folder: &Path) -> anyhow::Result<()> {
    ensure!(fs::read_dir(folder)?.count() == 1, "one name in the folder");
    Ok(())
}

fn refused_calls_touch_nothing(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    make_file(&inner.join("file"), b"content")?;
    let expected = [(folder, Touched::Nothing), (&*inner, Touched::Nothing)];
    touches(&expected, "refused calls", || {
        ensure!(fs::remove_dir(&inner).is_err(), "rmdir of a folder that is not empty");
        ensure!(fs::create_dir(&inner).is_err(), "mkdir of a name that is there");
        ensure!(fs::remove_file(inner.join("missing")).is_err(), "unlink of nothing");
        ensure!(fs::rename(folder.join("missing"), inner.join("file")).is_err(), "rename of nothing");
        Ok(())
    })
}

fn new_files_have_three_equal_times(folder: &Path) -> anyhow::Result<()> {
    for (name, make) in [("file", true), ("folder", false)] {
        let path = folder.join(name);
        if make {
            File::create(&path).map(drop)?;
        } else {
            fs::create_dir(&path)?;
        }
        let (modified, changed) = moments(&path)?;
        let accessed = access(&path)?;
        ensure!(modified == changed && changed == accessed, "{name}: {accessed:?} {modified:?} {changed:?}");
    }
    Ok(())
}

fn times_never_go_back(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    let mut last = moments(&path)?;
    for round in 0..300 {
        file.write_all_at(b"x", round % 7)?;
        let now = moments(&path)?;
        ensure!(now.0 >= last.0 && now.1 >= last.1, "{last:?}, then {now:?}");
        last = now;
    }
    Ok(())
}

fn times_are_of_nanoseconds(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut seen = 0;
    for round in 0..8 {
        let file = open_new(&path)?;
        file.write_all_at(b"x", round)?;
        let_time_pass();
        seen |= stat(&path)?.mtime_nsec() % 1000;
    }
    ensure!(seen != 0, "all modification times end with a whole microsecond");
    Ok(())
}
