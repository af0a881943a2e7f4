//! Setting times: what is kept, how far they reach, who may.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens, utimensat};
use rustix::io::Errno;

use super::checks::{OTHER, USER, as_user, chmod, let_time_pass, make_file, make_owned, refused, same, stat};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    nanoseconds_are_kept,
    times_past_2038_are_kept,
    times_before_1970_are_kept,
    now_is_now,
    omitted_times_stay,
    setting_times_touches_the_change_time,
    a_link_itself_has_times,
    an_open_file_takes_times,
    a_folder_takes_times,
    set_times_survive_reading,
    a_writer_may_set_now_only,
    a_stranger_may_set_nothing,
    the_owner_may_set_without_write_permission,
    times_set_with_an_open_writer_stay,
];

fn at(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };

fn set(path: &Path, access: Timespec, modification: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps { last_access: access, last_modification: modification };
    utimensat(CWD, path, &times, AtFlags::empty())
}

/// Access and modification.
fn times(path: &Path) -> anyhow::Result<((i64, i64), (i64, i64))> {
    let stat = stat(path)?;
    Ok(((stat.atime(), stat.atime_nsec()), (stat.mtime(), stat.mtime_nsec())))
}

fn keeps(folder: &Path, access: (i64, i64), modification: (i64, i64)) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    set(&path, at(access.0, access.1), at(modification.0, modification.1))?;
    same(times(&path)?, (access, modification), "the times that were set")
}

fn nanoseconds_are_kept(folder: &Path) -> anyhow::Result<()> {
    keeps(folder, (1_000_000_000, 123_456_789), (1_600_000_000, 1))?;
    keeps(folder, (0, 0), (0, 999_999_999))
}

fn times_past_2038_are_kept(folder: &Path) -> anyhow::Result<()> {
    // 2038-01-19 and one more, 2106, and the year 2400.
    for seconds in [(1 << 31) - 1, 1 << 31, 1 << 32, 13_569_465_600] {
        keeps(folder, (seconds, 5), (seconds + 7, 999_999_999))?;
    }
    Ok(())
}

fn times_before_1970_are_kept(folder: &Path) -> anyhow::Result<()> {
    for seconds in [-1, -86_400, -1_000_000_000] {
        keeps(folder, (seconds, 0), (seconds, 500_000_000))?;
    }
    Ok(())
}

fn now_is_now(folder: &Path) -> anyhow::Result<()> {
    let (path, fresh) = (folder.join("file"), folder.join("fresh"));
    make_file(&path, b"content")?;
    set(&path, at(1, 1), at(2, 2))?;
    make_file(&fresh, b"before")?;
    let before = stat(&fresh)?;
    let_time_pass();
    set(&path, NOW, NOW)?;
    let (access, modification) = times(&path)?;
    same(access, modification, "both are the same now")?;
    ensure!(modification > (before.mtime(), before.mtime_nsec()), "now is after an earlier file: {modification:?}");
    ensure!(modification.0 - before.mtime() < 60, "now is not in the future: {modification:?}");
    Ok(())
}

fn omitted_times_stay(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    set(&path, at(10, 11), at(20, 21))?;
    set(&path, OMIT, at(30, 31))?;
    same(times(&path)?, ((10, 11), (30, 31)), "access omitted")?;
    set(&path, at(40, 41), OMIT)?;
    same(times(&path)?, ((40, 41), (30, 31)), "modification omitted")?;
    let before = stat(&path)?;
    let_time_pass();
    set(&path, OMIT, OMIT)?;
    let after = stat(&path)?;
    same((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()), "nothing changed")
}

fn setting_times_touches_the_change_time(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let before = stat(&path)?;
    let_time_pass();
    set(&path, at(1, 1), at(2, 2))?;
    let after = stat(&path)?;
    ensure!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()), "the change time moves on");
    Ok(())
}

fn a_link_itself_has_times(folder: &Path) -> anyhow::Result<()> {
    let (path, link) = (folder.join("file"), folder.join("link"));
    make_file(&path, b"content")?;
    symlink("file", &link)?;
    let file_before = times(&path)?;
    let times_of_link = Timestamps { last_access: at(5, 6), last_modification: at(7, 8) };
    utimensat(CWD, &link, &times_of_link, AtFlags::SYMLINK_NOFOLLOW)?;
    same(times(&link)?.1, (7, 8), "the link's modification time")?;
    same(times(&path)?, file_before, "the file's times")?;
    set(&link, at(9, 10), at(11, 12))?;
    same(times(&path)?, ((9, 10), (11, 12)), "the file's times, set through the link")?;
    same(times(&link)?.1, (7, 8), "the link's modification time afterwards")
}

fn an_open_file_takes_times(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = File::create(&path)?;
    futimens(&file, &Timestamps { last_access: at(5, 6), last_modification: at(7, 8) })?;
    same(times(&path)?, ((5, 6), (7, 8)), "futimens")
}

fn a_folder_takes_times(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    std::fs::create_dir(&inner)?;
    set(&inner, at(5, 6), at(7, 8))?;
    same(times(&inner)?, ((5, 6), (7, 8)), "a folder's times")
}

fn set_times_survive_reading(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    set(&path, at(2_000_000_000, 5), at(1_000_000_000, 6))?;
    std::fs::read(&path)?;
    same(times(&path)?.1, (1_000_000_000, 6), "the modification time after a read")
}

fn a_writer_may_set_now_only(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o666)?;
    as_user(OTHER, || {
        set(&path, NOW, NOW)?;
        refused(set(&path, at(1, 1), at(1, 1)), Errno::PERM, "a writer sets a time")?;
        refused(set(&path, OMIT, NOW), Errno::PERM, "a writer sets one of both to now")
    })
}

fn a_stranger_may_set_nothing(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o644)?;
    as_user(OTHER, || {
        refused(set(&path, NOW, NOW), Errno::ACCESS, "a stranger sets now")?;
        refused(set(&path, at(1, 1), at(1, 1)), Errno::PERM, "a stranger sets a time")
    })
}

fn the_owner_may_set_without_write_permission(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o644)?;
    chmod(&path, 0o400)?;
    as_user(USER, || {
        set(&path, at(1, 2), at(3, 4))?;
        Ok(set(&path, NOW, NOW)?)
    })
}

/// As `cp -p` and `rsync` do: write, set the times, close.
fn times_set_with_an_open_writer_stay(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let mut file = File::create(&path)?;
    std::io::Write::write_all(&mut file, &[7; 300_000])?;
    futimens(&file, &Timestamps { last_access: at(5, 6), last_modification: at(7, 8) })?;
    same(times(&path)?.1, (7, 8), "before the close")?;
    drop(file);
    same(times(&path)?.1, (7, 8), "after the close")
}
