//! What may be a name.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{Mode, mkdir, rename, rmdir, unlink};
use rustix::io::Errno;

use super::checks::{make_file, names, refused, refused_as, same};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    names_of_255_bytes,
    names_of_256_bytes_are_refused,
    names_of_any_bytes,
    names_are_told_apart_by_every_byte,
    paths_up_to_4095_bytes,
    a_file_is_no_folder,
    trailing_slashes,
    dot_and_dot_dot,
    an_empty_path_is_nothing,
    calls_relative_to_an_open_folder,
];

fn names_of_255_bytes(folder: &Path) -> anyhow::Result<()> {
    let long = "n".repeat(255);
    make_file(&folder.join(&long), b"content")?;
    same(fs::read_to_string(folder.join(&long))?, "content", "content")?;
    same(names(folder)?, vec![long.clone()], "names")?;
    let other = "é".repeat(127) + "x";
    rename(folder.join(&long), folder.join(&other))?;
    same(names(folder)?, vec![other.clone()], "names of 255 bytes in another script")?;
    unlink(folder.join(&other))?;
    fs::create_dir(folder.join(&long))?;
    symlink("x", folder.join(&long).join(&long))?;
    fs::hard_link(folder.join(&long).join(&long), folder.join(&long).join(&other)).map_err(Into::into)
}

fn names_of_256_bytes_are_refused(folder: &Path) -> anyhow::Result<()> {
    let long = folder.join("n".repeat(256));
    make_file(&folder.join("file"), b"")?;
    refused(File::create(&long), Errno::NAMETOOLONG, "create")?;
    refused(fs::create_dir(&long), Errno::NAMETOOLONG, "mkdir")?;
    refused(symlink("x", &long), Errno::NAMETOOLONG, "symlink")?;
    refused(rename(folder.join("file"), &long), Errno::NAMETOOLONG, "rename")?;
    refused(fs::hard_link(folder.join("file"), &long), Errno::NAMETOOLONG, "link")?;
    refused(fs::metadata(&long), Errno::NAMETOOLONG, "stat")?;
    refused(unlink(&long), Errno::NAMETOOLONG, "unlink")?;
    refused(fs::metadata(long.join("x")), Errno::NAMETOOLONG, "on the way")
}

fn names_of_any_bytes(folder: &Path) -> anyhow::Result<()> {
    let mut expected = Vec::new();
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        let name = OsString::from_vec(vec![byte, b'n', byte]);
        make_file(&folder.join(&name), &[byte])?;
        expected.push(name);
    }
    let mut got =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()?;
    got.sort();
    expected.sort();
    same(got, expected.clone(), "names")?;
    for name in expected {
        same(fs::read(folder.join(&name))?, vec![name.as_bytes()[0]], "content")?;
    }
    Ok(())
}

fn names_are_told_apart_by_every_byte(folder: &Path) -> anyhow::Result<()> {
    // Upper and lower case, composed and decomposed letters, trailing dots and blanks.
    let all = ["name", "Name", "NAME", "é", "e\u{301}", "x", "x.", "x ", " x", "-x", "...", "a\nb", "a\\b", "*", "%00"];
    for name in all {
        make_file(&folder.join(name), name.as_bytes())?;
    }
    for name in all {
        same(fs::read_to_string(folder.join(name))?, name, "content")?;
    }
    same(names(folder)?.len(), all.len(), "how many")
}

fn paths_up_to_4095_bytes(folder: &Path) -> anyhow::Result<()> {
    std::env::set_current_dir(folder)?;
    let part = "p".repeat(200);
    let mut path = std::path::PathBuf::from(".");
    while path.as_os_str().len() + 201 < 4095 {
        path.push(&part);
        fs::create_dir(&path)?;
    }
    let rest = 4095 - path.as_os_str().len() - 1;
    let file = path.join("f".repeat(rest));
    make_file(&file, b"deep")?;
    same(file.as_os_str().len(), 4095, "the path's length")?;
    same(fs::read_to_string(&file)?, "deep", "content")?;
    refused(File::create(path.join("f".repeat(rest + 1))), Errno::NAMETOOLONG, "one byte more")
}

fn a_file_is_no_folder(folder: &Path) -> anyhow::Result<()> {
    let file = folder.join("file");
    make_file(&file, b"")?;
    refused(fs::metadata(file.join("x")), Errno::NOTDIR, "stat")?;
    refused(File::create(file.join("x")), Errno::NOTDIR, "create")?;
    refused(fs::create_dir(file.join("x")), Errno::NOTDIR, "mkdir")?;
    refused(unlink(file.join("x")), Errno::NOTDIR, "unlink")?;
    refused(fs::read_dir(&file), Errno::NOTDIR, "list")?;
    refused(rmdir(&file), Errno::NOTDIR, "rmdir")
}

fn trailing_slashes(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    refused(File::create(folder.join("new/")), Errno::ISDIR, "create")?;
    refused(fs::metadata(folder.join("file/")), Errno::NOTDIR, "stat")?;
    refused(unlink(folder.join("file/")), Errno::NOTDIR, "unlink")?;
    mkdir(folder.join("inner/"), Mode::from_raw_mode(0o755))?;
    fs::metadata(folder.join("inner/"))?;
    refused_as(unlink(folder.join("inner/")), &[Errno::ISDIR, Errno::PERM], "unlink of a folder")?;
    Ok(rmdir(folder.join("inner/"))?)
}

fn dot_and_dot_dot(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    for name in [".", ".."] {
        refused(fs::create_dir(inner.join(OsStr::new(name))), Errno::EXIST, "mkdir")?;
    }
    // As bytes: Path would take the dot away.
    let dot = |end: &str| OsString::from(format!("{}/{end}", inner.display()));
    refused(rmdir(dot(".")), Errno::INVAL, "rmdir of .")?;
    refused(rmdir(dot("..")), Errno::NOTEMPTY, "rmdir of ..")?;
    refused_as(unlink(dot("..")), &[Errno::ISDIR, Errno::PERM], "unlink of ..")
}

fn an_empty_path_is_nothing(_: &Path) -> anyhow::Result<()> {
    refused(fs::metadata(""), Errno::NOENT, "stat")?;
    refused(fs::create_dir(""), Errno::NOENT, "mkdir")?;
    refused(unlink(""), Errno::NOENT, "unlink")
}

fn calls_relative_to_an_open_folder(folder: &Path) -> anyhow::Result<()> {
    use rustix::fs::{AtFlags, OFlags, mkdirat, openat, renameat, statat, symlinkat, unlinkat};
    fs::create_dir(folder.join("inner"))?;
    let inner = File::open(folder.join("inner"))?;
    // The folder may be renamed meanwhile: the descriptor counts.
    rename(folder.join("inner"), folder.join("moved"))?;
    let file = openat(&inner, "file", OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o640))?;
    rustix::io::write(&file, b"content")?;
    mkdirat(&inner, "sub", Mode::from_raw_mode(0o750))?;
    renameat(&inner, "file", &inner, "sub/file")?;
    symlinkat("sub/file", &inner, "link")?;
    same(statat(&inner, "link", AtFlags::empty())?.st_size, 7, "length behind the link")?;
    same(fs::read_to_string(folder.join("moved/sub/file"))?, "content", "by path")?;
    unlinkat(&inner, "sub/file", AtFlags::empty())?;
    unlinkat(&inner, "link", AtFlags::empty())?;
    unlinkat(&inner, "sub", AtFlags::REMOVEDIR)?;
    same(fs::read_dir(folder.join("moved"))?.count(), 0, "names left")
}
