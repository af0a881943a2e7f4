//! rename and its flags.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{CWD, RenameFlags, rename, renameat_with};
use rustix::io::Errno;

use super::checks::{
    OTHER, USER, as_user, chmod, links, make_file, make_folder, names, refused, refused_as, same, stat,
};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    a_file_replaces_a_file,
    no_replace_refuses_an_existing_name,
    exchange_swaps_two_names,
    exchange_swaps_a_file_and_a_folder,
    exchange_needs_both,
    flags_that_contradict_are_refused,
    over_an_open_file,
    to_another_name_of_the_same_file,
    a_folder_replaces_an_empty_folder_only,
    kinds_must_match,
    a_folder_into_itself_is_refused,
    a_moved_folder_has_a_new_parent,
    links_of_folders_follow,
    replacing_a_folder_lowers_the_parents_links,
    a_link_is_moved_itself,
    nothing_is_not_moved,
    dot_and_dot_dot_are_refused,
    a_trailing_slash_wants_a_folder,
    moving_anothers_folder_needs_its_permission,
    many_times_over_the_same_name,
    readers_never_see_it_missing,
];

fn content(path: &Path) -> anyhow::Result<String> {
    Ok(fs::read_to_string(path)?)
}

fn with(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn a_file_replaces_a_file(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    make_file(&other, b"other")?;
    let inode = stat(&one)?.ino();
    rename(&one, &other)?;
    same(content(&other)?, "one", "content")?;
    same(stat(&other)?.ino(), inode, "inode number")?;
    same(names(folder)?, vec!["other".to_owned()], "names")?;
    refused(fs::symlink_metadata(&one), Errno::NOENT, "the old name")
}

fn no_replace_refuses_an_existing_name(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    make_file(&other, b"other")?;
    refused(with(&one, &other, RenameFlags::NOREPLACE), Errno::EXIST, "over a file")?;
    refused(with(&one, &one, RenameFlags::NOREPLACE), Errno::EXIST, "over itself")?;
    symlink("nowhere", folder.join("link"))?;
    refused(with(&one, &folder.join("link"), RenameFlags::NOREPLACE), Errno::EXIST, "over a dangling link")?;
    with(&one, &folder.join("new"), RenameFlags::NOREPLACE)?;
    same(content(&folder.join("new"))?, "one", "content")?;
    same(content(&other)?, "other", "content of the other")
}

fn exchange_swaps_two_names(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    make_file(&other, b"other")?;
    with(&one, &other, RenameFlags::EXCHANGE)?;
    same((content(&one)?, content(&other)?), ("other".to_owned(), "one".to_owned()), "contents")
}

fn exchange_swaps_a_file_and_a_folder(folder: &Path) -> anyhow::Result<()> {
    let (a, b) = (folder.join("a"), folder.join("b"));
    fs::create_dir(&a)?;
    fs::create_dir(&b)?;
    fs::create_dir(a.join("inner"))?;
    make_file(&a.join("inner/deep"), b"deep")?;
    make_file(&b.join("file"), b"file")?;
    same((links(&a)?, links(&b)?), (3, 2), "links before")?;
    with(&a.join("inner"), &b.join("file"), RenameFlags::EXCHANGE)?;
    same(content(&a.join("inner"))?, "file", "the file")?;
    same(content(&b.join("file/deep"))?, "deep", "the folder")?;
    same((links(&a)?, links(&b)?), (2, 3), "links after")?;
    same(stat(&b.join("file/.."))?.ino(), stat(&b)?.ino(), "the folder's parent")?;
    // A folder and its own ancestor cannot change places.
    refused(with(&b, &b.join("file"), RenameFlags::EXCHANGE), Errno::INVAL, "with a descendant")?;
    refused(with(&b.join("file"), &b, RenameFlags::EXCHANGE), Errno::INVAL, "with an ancestor")
}

fn exchange_needs_both(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    refused(with(&one, &other, RenameFlags::EXCHANGE), Errno::NOENT, "to nothing")?;
    refused(with(&other, &one, RenameFlags::EXCHANGE), Errno::NOENT, "from nothing")?;
    same(content(&one)?, "one", "it stays")
}

fn flags_that_contradict_are_refused(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    make_file(&other, b"other")?;
    refused(with(&one, &other, RenameFlags::EXCHANGE | RenameFlags::NOREPLACE), Errno::INVAL, "both flags")
}

fn over_an_open_file(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    make_file(&other, b"other")?;
    let mut file = File::options().read(true).write(true).open(&other)?;
    rename(&one, &other)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    same(text, "other", "through the open file")?;
    file.write_all(b" and more")?;
    same((file.metadata()?.len(), file.metadata()?.nlink()), (14, 0), "length and links of the replaced file")?;
    same(content(&other)?, "one", "under the name")
}

fn to_another_name_of_the_same_file(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"one")?;
    fs::hard_link(&one, &other)?;
    rename(&one, &other)?;
    same(names(folder)?, vec!["one".to_owned(), "other".to_owned()], "both names stay, as POSIX says")?;
    same(links(&one)?, 2, "links")
}

fn a_folder_replaces_an_empty_folder_only(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    fs::create_dir(&one)?;
    fs::create_dir(&other)?;
    make_file(&one.join("a"), b"a")?;
    make_file(&other.join("b"), b"b")?;
    refused_as(rename(&one, &other), &[Errno::NOTEMPTY, Errno::EXIST], "over a folder with something in it")?;
    fs::remove_file(other.join("b"))?;
    rename(&one, &other)?;
    same(names(&other)?, vec!["a".to_owned()], "what is in it")
}

fn kinds_must_match(folder: &Path) -> anyhow::Result<()> {
    let (file, inner) = (folder.join("file"), folder.join("inner"));
    make_file(&file, b"")?;
    fs::create_dir(&inner)?;
    refused(rename(&file, &inner), Errno::ISDIR, "a file over a folder")?;
    refused(rename(&inner, &file), Errno::NOTDIR, "a folder over a file")?;
    symlink("inner", folder.join("link"))?;
    refused(rename(&inner, folder.join("link")), Errno::NOTDIR, "a folder over a link")
}

fn a_folder_into_itself_is_refused(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("a/b/c"))?;
    refused(rename(folder.join("a"), folder.join("a/x")), Errno::INVAL, "into itself")?;
    refused(rename(folder.join("a"), folder.join("a/b/c/x")), Errno::INVAL, "far into itself")?;
    refused(rename(folder.join("a"), folder.join("a/b")), Errno::INVAL, "over its child")?;
    refused(rename(folder.join("a/b"), folder.join("a")), Errno::NOTEMPTY, "over its parent")
}

fn a_moved_folder_has_a_new_parent(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("a/inner"))?;
    fs::create_dir(folder.join("b"))?;
    let inner = File::open(folder.join("a/inner"))?;
    same(stat(&folder.join("a/inner/.."))?.ino(), stat(&folder.join("a"))?.ino(), "its parent before")?;
    rename(folder.join("a/inner"), folder.join("b/moved"))?;
    same(stat(&folder.join("b/moved/.."))?.ino(), stat(&folder.join("b"))?.ino(), "its parent after")?;
    let through_open = rustix::fs::statat(&inner, "..", rustix::fs::AtFlags::empty())?;
    same(through_open.st_ino, stat(&folder.join("b"))?.ino(), "its parent through a descriptor")
}

fn links_of_folders_follow(folder: &Path) -> anyhow::Result<()> {
    let (a, b) = (folder.join("a"), folder.join("b"));
    fs::create_dir_all(a.join("inner"))?;
    fs::create_dir(&b)?;
    same((links(&a)?, links(&b)?), (3, 2), "links before")?;
    rename(a.join("inner"), b.join("inner"))?;
    same((links(&a)?, links(&b)?), (2, 3), "links after")?;
    make_file(&a.join("file"), b"")?;
    rename(a.join("file"), b.join("file"))?;
    same((links(&a)?, links(&b)?), (2, 3), "links after a file moved")
}

fn replacing_a_folder_lowers_the_parents_links(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("a/one"))?;
    fs::create_dir_all(folder.join("a/other"))?;
    let open = File::open(folder.join("a/other"))?;
    rename(folder.join("a/one"), folder.join("a/other"))?;
    same(links(&folder.join("a"))?, 3, "links of the parent")?;
    same(open.metadata()?.nlink(), 0, "links of the replaced folder")
}

fn a_link_is_moved_itself(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    symlink("file", folder.join("link"))?;
    rename(folder.join("link"), folder.join("moved"))?;
    same(fs::read_link(folder.join("moved"))?, Path::new("file"), "the link")?;
    make_file(&folder.join("new"), b"new")?;
    rename(folder.join("new"), folder.join("moved"))?;
    ensure!(stat(&folder.join("moved"))?.is_file(), "the link was replaced, not the file behind it");
    same(content(&folder.join("file"))?, "content", "the file behind it")
}

fn nothing_is_not_moved(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    refused(rename(folder.join("missing"), folder.join("file")), Errno::NOENT, "from nothing")?;
    refused(rename(folder.join("file"), folder.join("missing/x")), Errno::NOENT, "into nothing")?;
    refused(rename(folder.join("file"), folder.join("file/x")), Errno::NOTDIR, "into a file")
}

fn dot_and_dot_dot_are_refused(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder.join("inner"))?;
    for name in ["inner/.", "inner/.."] {
        refused_as(rename(folder.join(name), folder.join("x")), &[Errno::BUSY, Errno::INVAL], "from")?;
        refused_as(rename(folder.join("inner"), folder.join(name)), &[Errno::BUSY, Errno::INVAL], "to")?;
    }
    Ok(())
}

fn a_trailing_slash_wants_a_folder(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"")?;
    fs::create_dir(folder.join("inner"))?;
    refused(rename(folder.join("file/"), folder.join("x")), Errno::NOTDIR, "from")?;
    refused(rename(folder.join("file"), folder.join("x/")), Errno::NOTDIR, "to")?;
    rename(folder.join("inner/"), folder.join("moved/"))?;
    same(names(folder)?, vec!["file".to_owned(), "moved".to_owned()], "names")
}

/// Moving a folder to another parent changes its "..", so it must be writable.
fn moving_anothers_folder_needs_its_permission(folder: &Path) -> anyhow::Result<()> {
    chmod(folder, 0o777)?;
    make_folder(&folder.join("inner"), USER, USER, 0o755)?;
    make_folder(&folder.join("target"), OTHER, OTHER, 0o755)?;
    as_user(OTHER, || {
        refused(rename(folder.join("inner"), folder.join("target/inner")), Errno::ACCESS, "to another parent")?;
        Ok(rename(folder.join("inner"), folder.join("renamed"))?)
    })
}

fn many_times_over_the_same_name(folder: &Path) -> anyhow::Result<()> {
    for round in 0..100 {
        fs::write(folder.join("new"), format!("{round}"))?;
        rename(folder.join("new"), folder.join("name"))?;
        same(content(&folder.join("name"))?, format!("{round}"), "content")?;
    }
    same(names(folder)?, vec!["name".to_owned()], "names")
}

/// The classic promise of rename: a name that is replaced is never absent.
fn readers_never_see_it_missing(folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("name"), "0".repeat(100))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> anyhow::Result<()> {
            for round in 1..=100 {
                fs::write(folder.join("new"), format!("{}", round % 10).repeat(100))?;
                rename(folder.join("new"), folder.join("name"))?;
            }
            Ok(())
        });
        while !writer.is_finished() {
            let text = content(&folder.join("name"))?;
            ensure!(text.len() == 100 && text.bytes().all(|byte| byte == text.as_bytes()[0]), "a mixture: {text:?}");
        }
        writer.join().expect("no panic")
    })
}
