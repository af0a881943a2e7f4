//! Open flags, and files that are open but have no name.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, fstat, linkat, open, openat};
use rustix::io::Errno;

use super::checks::{make_file, names, open_new, pattern, refused, refused_as, same, same_bytes, stat};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    exclusive_creation,
    one_of_many_exclusive_creations_wins,
    creation_opens_what_is_there,
    an_unlinked_file_lives_on,
    an_unlinked_file_is_not_the_new_one,
    an_unlinked_file_is_truncated_and_grown,
    many_unlinked_files,
    a_file_without_a_name_gets_one,
    a_file_without_a_name_may_never_get_one,
    only_folders_for_o_directory,
    o_path_only_points,
    reopening_through_proc,
    a_file_is_renamed_while_open,
    closing_in_any_order,
    modes_and_times_of_an_open_file,
    a_program_runs,
    a_running_program_is_not_written,
    appending_is_switched_on_and_off,
];

fn appending_is_switched_on_and_off(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    file.write_all_at(b"abcdef", 0)?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    file.write_all_at(b"X", 0)?;
    file.write_all_at(b"Y", 2)?;
    same_bytes(&fs::read(&path)?, b"XbYdef", "without O_APPEND")?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
    file.write_all_at(b"Z", 0)?;
    same_bytes(&fs::read(&path)?, b"XbYdefZ", "with it again")
}

fn exclusive_creation(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    File::create_new(&path)?;
    refused(File::create_new(&path), Errno::EXIST, "again")?;
    symlink("nowhere", folder.join("link"))?;
    refused(File::create_new(folder.join("link")), Errno::EXIST, "through a dangling link")?;
    refused(File::open(folder.join("missing")), Errno::NOENT, "without O_CREAT")
}

fn one_of_many_exclusive_creations_wins(folder: &Path) -> anyhow::Result<()> {
    for round in 0..20 {
        let path = folder.join(format!("file{round}"));
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| File::create_new(&path).is_ok())).collect();
            threads.into_iter().map(|thread| usize::from(thread.join().expect("no panic"))).sum::<usize>()
        });
        same(won, 1, "winners")?;
    }
    Ok(())
}

fn creation_opens_what_is_there(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    let inode = stat(&path)?.ino();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o7777).open(&path)?;
    same((file.metadata()?.ino(), file.metadata()?.len()), (inode, 7), "the same file")?;
    super::checks::has_mode(&path, 0o644, "its mode stays")
}

fn an_unlinked_file_lives_on(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    let bytes = pattern(300_000, 1);
    file.write_all_at(&bytes, 0)?;
    fs::remove_file(&path)?;
    same(names(folder)?.len(), 0, "names")?;
    same((file.metadata()?.nlink(), file.metadata()?.len()), (0, 300_000), "links and length")?;
    let mut back = vec![0; 300_000];
    file.read_exact_at(&mut back, 0)?;
    same_bytes(&back, &bytes, "content")?;
    file.write_all_at(b"more", 300_000)?;
    file.sync_all()?;
    same(file.metadata()?.len(), 300_004, "length after a write")?;
    fchmod(&file, Mode::from_raw_mode(0o600))?;
    same(file.metadata()?.mode() & 0o777, 0o600, "mode after fchmod")
}

fn an_unlinked_file_is_not_the_new_one(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"old")?;
    let old = open_new(&path)?;
    fs::remove_file(&path)?;
    make_file(&path, b"the new one")?;
    old.write_all_at(b"OLD", 0)?;
    ensure!(old.metadata()?.ino() != stat(&path)?.ino(), "two files");
    same(fs::read_to_string(&path)?, "the new one", "the new file")?;
    let mut back = [0; 3];
    old.read_exact_at(&mut back, 0)?;
    same(&back, b"OLD", "the old file")
}

fn an_unlinked_file_is_truncated_and_grown(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, &[7; 10_000])?;
    let file = open_new(&path)?;
    fs::remove_file(&path)?;
    file.set_len(10)?;
    file.set_len(20_000)?;
    let mut back = vec![1; 20_000];
    file.read_exact_at(&mut back, 0)?;
    let mut expected = vec![0; 20_000];
    expected[..10].fill(7);
    same_bytes(&back, &expected, "content")
}

fn many_unlinked_files(folder: &Path) -> anyhow::Result<()> {
    let files = (0..100u8)
        .map(|number| {
            let path = folder.join(format!("file{number}"));
            let file = open_new(&path)?;
            file.write_all_at(&[number; 5000], 0)?;
            fs::remove_file(&path)?;
            Ok(file)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (number, file) in files.iter().enumerate() {
        let mut back = vec![0; 5000];
        file.read_exact_at(&mut back, 0)?;
        ensure!(back.iter().all(|byte| usize::from(*byte) == number), "file {number} has another's content");
    }
    Ok(())
}

/// `None` if O_TMPFILE is refused cleanly.
fn nameless(folder: &Path, flags: OFlags) -> anyhow::Result<Option<File>> {
    match open(folder, OFlags::TMPFILE | OFlags::RDWR | flags, Mode::from_raw_mode(0o640)) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => Ok(None),
        other => Ok(Some(File::from(other?))),
    }
}

fn a_file_without_a_name_gets_one(folder: &Path) -> anyhow::Result<()> {
    let Some(file) = nameless(folder, OFlags::empty())? else { return Ok(()) };
    file.write_all_at(b"content", 0)?;
    same((file.metadata()?.nlink(), names(folder)?.len()), (0, 0), "links and names")?;
    let proc_path = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, proc_path, CWD, folder.join("named"), AtFlags::SYMLINK_FOLLOW)?;
    same(fs::read_to_string(folder.join("named"))?, "content", "content")?;
    same(stat(&folder.join("named"))?.nlink(), 1, "links")?;
    super::checks::has_mode(&folder.join("named"), 0o640, "mode")
}

fn a_file_without_a_name_may_never_get_one(folder: &Path) -> anyhow::Result<()> {
    let Some(file) = nameless(folder, OFlags::EXCL)? else { return Ok(()) };
    let proc_path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let result = linkat(CWD, proc_path, CWD, folder.join("named"), AtFlags::SYMLINK_FOLLOW);
    refused(result, Errno::NOENT, "a name for a file opened with O_EXCL")
}

fn only_folders_for_o_directory(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    refused(open(folder.join("file"), OFlags::DIRECTORY, Mode::empty()), Errno::NOTDIR, "a file")?;
    open(folder, OFlags::DIRECTORY, Mode::empty())?;
    refused_as(
        open(folder.join("new"), OFlags::DIRECTORY | OFlags::CREATE, Mode::empty()),
        &[Errno::INVAL, Errno::NOTDIR, Errno::ISDIR],
        "with O_CREAT",
    )
}

fn o_path_only_points(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    symlink("file", folder.join("link"))?;
    let file = open(folder.join("file"), OFlags::PATH, Mode::empty())?;
    same(fstat(&file)?.st_size, 7, "fstat")?;
    refused(rustix::io::read(&file, &mut [0u8; 4][..]), Errno::BADF, "read")?;
    let link = open(folder.join("link"), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    same(fstat(&link)?.st_size, 4, "fstat of a link")?;
    let opened = open(folder, OFlags::PATH, Mode::empty())?;
    openat(&opened, "file", OFlags::RDONLY, Mode::empty()).map(drop).map_err(Into::into)
}

fn reopening_through_proc(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    let file = File::open(folder.join("file"))?;
    fs::remove_file(folder.join("file"))?;
    let again = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    again.write_all_at(b"C", 0)?;
    let mut back = [0; 7];
    file.read_exact_at(&mut back, 0)?;
    same(&back, b"Content", "an unlinked file, opened again for writing")
}

fn a_file_is_renamed_while_open(folder: &Path) -> anyhow::Result<()> {
    let file = open_new(&folder.join("file"))?;
    fs::create_dir(folder.join("inner"))?;
    fs::rename(folder.join("file"), folder.join("inner/moved"))?;
    file.write_all_at(b"written after the rename", 0)?;
    same(fs::read_to_string(folder.join("inner/moved"))?, "written after the rename", "content")
}

fn closing_in_any_order(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let (one, other) = (open_new(&path)?, open_new(&path)?);
    one.write_all_at(b"one", 0)?;
    drop(one);
    other.write_all_at(b" other", 3)?;
    fs::remove_file(&path)?;
    let mut back = [0; 9];
    other.read_exact_at(&mut back, 0)?;
    same(&back, b"one other", "content")
}

fn modes_and_times_of_an_open_file(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    let file = open_new(&path)?;
    fchmod(&file, Mode::from_raw_mode(0o611))?;
    std::os::unix::fs::fchown(&file, Some(5), Some(6))?;
    let stat = stat(&path)?;
    same((stat.mode() & 0o777, stat.uid(), stat.gid()), (0o611, 5, 6), "by path")
}

fn a_program_runs(folder: &Path) -> anyhow::Result<()> {
    crate::programs::shell(
        folder,
        "cp /bin/true program; ./program; printf '#!/bin/sh\\nexit 0\\n' > script; chmod 755 script; ./script",
    )
    .map(drop)
}

fn a_running_program_is_not_written(folder: &Path) -> anyhow::Result<()> {
    crate::programs::shell(folder, "cp /bin/sleep program")?;
    let mut child = std::process::Command::new(folder.join("program")).arg("60").spawn()?;
    let result = OpenOptions::new().write(true).open(folder.join("program"));
    child.kill()?;
    child.wait()?;
    refused(result, Errno::TXTBSY, "open for writing")
}
