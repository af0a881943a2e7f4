//! Hard links and symbolic links.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, OFlags, linkat, mkdir, open, readlinkat_raw};
use rustix::io::Errno;

use super::Case;
use super::checks::{links, make_file, names, refused, refused_as, same, stat};

pub(super) const CASES: &[Case] = &[
    Case::new("symlinks_hold_up_to_4095_bytes", symlinks_hold_up_to_4095_bytes)
        .differs_on_xfs("XFS keeps at most 1,023 bytes in a link"),
    Case::new("links_are_counted", links_are_counted),
    Case::new("all_names_show_the_same_file", all_names_show_the_same_file),
    Case::new("a_thousand_links", a_thousand_links),
    Case::new("a_folder_takes_no_hard_link", a_folder_takes_no_hard_link),
    Case::new("a_hard_link_to_a_symlink", a_hard_link_to_a_symlink),
    Case::new("a_hard_link_does_not_replace", a_hard_link_does_not_replace),
    Case::new("symlinks_hold_up_to_1023_bytes", symlinks_hold_up_to_1023_bytes),
    Case::new("an_empty_symlink_is_refused", an_empty_symlink_is_refused),
    Case::new("readlink_cuts_and_counts", readlink_cuts_and_counts),
    Case::new("a_dangling_link", a_dangling_link),
    Case::new("looping_links", looping_links),
    Case::new("forty_links_and_no_more", forty_links_and_no_more),
    Case::new("links_within_a_path_are_followed", links_within_a_path_are_followed),
    Case::new("not_following_at_the_end", not_following_at_the_end),
];

fn symlinks_hold_up_to_4095_bytes(folder: &Path) -> anyhow::Result<()> {
    symlink_lengths(folder, &[1024, 2048, 4094, 4095])?;
    refused(symlink("x".repeat(4096), folder.join("long")), Errno::NAMETOOLONG, "4,096 bytes")
}

fn symlinks_hold_up_to_1023_bytes(folder: &Path) -> anyhow::Result<()> {
    symlink_lengths(folder, &[1, 59, 60, 255, 512, 1023])
}

fn symlink_lengths(folder: &Path, lengths: &[usize]) -> anyhow::Result<()> {
    for &length in lengths {
        let target: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
        let link = folder.join(format!("link{length}"));
        symlink(std::ffi::OsStr::from_bytes(&target), &link)?;
        same(fs::read_link(&link)?.as_os_str().as_bytes(), target.as_slice(), "the target")?;
        same(stat(&link)?.len(), length as u64, "the length that stat says")?;
    }
    Ok(())
}

fn links_are_counted(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    make_file(&one, b"content")?;
    let open = File::open(&one)?;
    same(links(&one)?, 1, "a new file")?;
    fs::hard_link(&one, &other)?;
    same((links(&one)?, links(&other)?, open.metadata()?.nlink()), (2, 2, 2), "two names")?;
    fs::remove_file(&one)?;
    same((links(&other)?, open.metadata()?.nlink()), (1, 1), "one removed")?;
    fs::remove_file(&other)?;
    same(open.metadata()?.nlink(), 0, "both removed")
}

fn all_names_show_the_same_file(folder: &Path) -> anyhow::Result<()> {
    let (one, other) = (folder.join("one"), folder.join("inner/other"));
    fs::create_dir(folder.join("inner"))?;
    make_file(&one, b"content")?;
    fs::hard_link(&one, &other)?;
    same(stat(&one)?.ino(), stat(&other)?.ino(), "inode number")?;
    fs::write(&other, "new content")?;
    same(fs::read_to_string(&one)?, "new content", "content")?;
    super::checks::chmod(&one, 0o600)?;
    super::checks::has_mode(&other, 0o600, "mode under the other name")
}

fn a_thousand_links(folder: &Path) -> anyhow::Result<()> {
    let file = folder.join("file");
    make_file(&file, b"content")?;
    for number in 0..1000 {
        fs::hard_link(&file, folder.join(format!("link{number}")))?;
    }
    same(links(&file)?, 1001, "links")?;
    same(names(folder)?.len(), 1001, "names")?;
    for number in 0..1000 {
        fs::remove_file(folder.join(format!("link{number}")))?;
    }
    same(links(&file)?, 1, "links afterwards")
}

fn a_folder_takes_no_hard_link(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder.join("inner"))?;
    refused(fs::hard_link(folder.join("inner"), folder.join("other")), Errno::PERM, "a link to a folder")
}

fn a_hard_link_to_a_symlink(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    symlink("file", folder.join("link"))?;
    linkat(CWD, folder.join("link"), CWD, folder.join("same-link"), AtFlags::empty())?;
    same(fs::read_link(folder.join("same-link"))?, Path::new("file"), "a second name of the link")?;
    same(links(&folder.join("link"))?, 2, "links of the link")?;
    linkat(CWD, folder.join("link"), CWD, folder.join("same-file"), AtFlags::SYMLINK_FOLLOW)?;
    same(stat(&folder.join("same-file"))?.ino(), stat(&folder.join("file"))?.ino(), "with AT_SYMLINK_FOLLOW")
}

fn a_hard_link_does_not_replace(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("one"), b"one")?;
    make_file(&folder.join("other"), b"other")?;
    refused(fs::hard_link(folder.join("one"), folder.join("other")), Errno::EXIST, "over a file")?;
    refused(fs::hard_link(folder.join("one"), folder.join("one")), Errno::EXIST, "over itself")?;
    refused(fs::hard_link(folder.join("missing"), folder.join("x")), Errno::NOENT, "of nothing")?;
    refused(fs::hard_link(folder.join("one"), folder.join("x/")), Errno::NOENT, "to a name with a slash")
}

fn an_empty_symlink_is_refused(folder: &Path) -> anyhow::Result<()> {
    refused(symlink("", folder.join("link")), Errno::NOENT, "an empty target")?;
    symlink("x", folder.join("link"))?;
    refused(symlink("y", folder.join("link")), Errno::EXIST, "over a link")?;
    same(fs::read_link(folder.join("link"))?, Path::new("x"), "the target stays")
}

fn readlink_cuts_and_counts(folder: &Path) -> anyhow::Result<()> {
    symlink("0123456789", folder.join("link"))?;
    let mut small = [0u8; 4];
    let got = readlinkat_raw(CWD, folder.join("link"), &mut small)?;
    same((got, &small), (4, b"0123"), "into four bytes")?;
    make_file(&folder.join("file"), b"")?;
    refused(fs::read_link(folder.join("file")), Errno::INVAL, "of a file")?;
    refused(fs::read_link(folder), Errno::INVAL, "of a folder")
}

fn a_dangling_link(folder: &Path) -> anyhow::Result<()> {
    let link = folder.join("link");
    symlink("missing", &link)?;
    refused(fs::metadata(&link), Errno::NOENT, "stat")?;
    refused(File::open(&link), Errno::NOENT, "open")?;
    refused(open(&link, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, 0o600.into()), Errno::EXIST, "O_EXCL")?;
    refused(mkdir(&link, 0o700.into()), Errno::EXIST, "mkdir")?;
    fs::write(&link, "made through the link")?;
    same(fs::read_to_string(folder.join("missing"))?, "made through the link", "content")
}

fn looping_links(folder: &Path) -> anyhow::Result<()> {
    symlink("b", folder.join("a"))?;
    symlink("a", folder.join("b"))?;
    symlink("self", folder.join("self"))?;
    for name in ["a", "b", "self", "a/inner"] {
        refused(fs::metadata(folder.join(name)), Errno::LOOP, "stat")?;
        refused(File::open(folder.join(name)), Errno::LOOP, "open")?;
    }
    fs::remove_file(folder.join("a")).map_err(Into::into)
}

fn forty_links_and_no_more(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("link0"), b"content")?;
    for number in 1..=41 {
        symlink(format!("link{}", number - 1), folder.join(format!("link{number}")))?;
    }
    same(fs::read_to_string(folder.join("link40"))?, "content", "through forty")?;
    refused(fs::read_to_string(folder.join("link41")), Errno::LOOP, "through forty-one")
}

fn links_within_a_path_are_followed(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("a/b"))?;
    make_file(&folder.join("a/b/file"), b"content")?;
    symlink("a/b", folder.join("relative"))?;
    symlink(folder.join("a"), folder.join("absolute"))?;
    symlink("../file", folder.join("a/b/up"))?;
    same(fs::read_to_string(folder.join("relative/file"))?, "content", "relative")?;
    same(fs::read_to_string(folder.join("absolute/b/file"))?, "content", "absolute")?;
    same(stat(&folder.join("relative/.."))?.ino(), stat(&folder.join("a"))?.ino(), "the parent behind a link")?;
    make_file(&folder.join("a/file"), b"upper")?;
    same(fs::read_to_string(folder.join("relative/up"))?, "upper", "upwards")
}

fn not_following_at_the_end(folder: &Path) -> anyhow::Result<()> {
    make_file(&folder.join("file"), b"content")?;
    fs::create_dir(folder.join("inner"))?;
    symlink("file", folder.join("link"))?;
    symlink("inner", folder.join("folder-link"))?;
    refused(open(folder.join("link"), OFlags::NOFOLLOW, 0.into()), Errno::LOOP, "O_NOFOLLOW")?;
    let both = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    refused_as(open(folder.join("folder-link"), both, 0.into()), &[Errno::NOTDIR, Errno::LOOP], "with O_DIRECTORY")?;
    refused(fs::remove_dir(folder.join("folder-link")), Errno::NOTDIR, "rmdir of a link to a folder")?;
    open(folder.join("folder-link/"), OFlags::DIRECTORY, 0.into())?;
    Ok(())
}
