//! Extended attributes: namespaces, sizes, flags, lists.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{
    CWD, XattrFlags, fgetxattr, fsetxattr, getxattr, getxattr_query, lgetxattr_query, listxattr, listxattr_query,
    lsetxattr, mkfifoat, removexattr, setxattr,
};
use rustix::io::Errno;

use super::checks::{
    OTHER, USER, as_user, make_file, make_folder, make_owned, pattern, refused, refused_as, same, same_bytes,
};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    values_are_kept,
    sizes_up_to_64_kib,
    too_large_and_too_long_are_refused,
    asking_for_the_size,
    flags_create_and_replace,
    a_missing_attribute_is_no_data,
    lists_name_everything,
    many_attributes,
    through_a_descriptor,
    user_attributes_follow_permissions,
    user_attributes_are_for_files_and_folders,
    trusted_attributes_are_for_root,
    security_attributes_are_readable,
    unknown_namespaces_are_refused,
    attributes_move_with_the_file,
    a_new_file_has_none,
    user_attributes_in_a_sticky_folder,
    an_unlinked_file_keeps_its_attributes,
];

const NO_FLAGS: XattrFlags = XattrFlags::empty();

fn file(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = folder.join("file");
    make_file(&path, b"content")?;
    Ok(path)
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    let length = getxattr(path, name, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn list(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut buffer = vec![0u8; 70_000];
    let length = listxattr(path, &mut buffer)?;
    let mut names: Vec<String> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.starts_with("security.selinux"))
        .collect();
    names.sort();
    Ok(names)
}

fn values_are_kept(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    for value in [&b""[..], b"blue", b"\0zero\0bytes\0", &[0xff; 300]] {
        setxattr(&path, "user.color", value, NO_FLAGS)?;
        same(get(&path, "user.color")?.as_slice(), value, "the value")?;
    }
    let inner = folder.join("inner");
    fs::create_dir(&inner)?;
    setxattr(&inner, "user.color", b"red", NO_FLAGS)?;
    same(get(&inner, "user.color")?.as_slice(), &b"red"[..], "a folder's value")
}

fn sizes_up_to_64_kib(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    for length in [1, 4095, 4096, 4097, 16_384, 65_535, 65_536] {
        let value = pattern(length, 9);
        setxattr(&path, "user.large", &value, NO_FLAGS)?;
        same_bytes(&get(&path, "user.large")?, &value, "a large value")?;
    }
    setxattr(&path, "user.large", b"small", NO_FLAGS)?;
    same(get(&path, "user.large")?.as_slice(), &b"small"[..], "small again")
}

fn too_large_and_too_long_are_refused(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    refused(setxattr(&path, "user.x", &vec![0; 65_537], NO_FLAGS), Errno::TOOBIG, "a value of 64 KiB and one byte")?;
    let longest = format!("user.{}", "n".repeat(250));
    setxattr(&path, longest.as_str(), b"x", NO_FLAGS)?;
    same(list(&path)?, vec![longest], "a name of 255 bytes")?;
    let too_long = format!("user.{}", "n".repeat(251));
    refused(setxattr(&path, too_long.as_str(), b"x", NO_FLAGS), Errno::RANGE, "a name of 256 bytes")
}

fn asking_for_the_size(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    setxattr(&path, "user.a", b"0123456789", NO_FLAGS)?;
    same(getxattr_query(&path, "user.a")?, 10, "the size of the value")?;
    let mut small = [0u8; 9];
    refused(getxattr(&path, "user.a", &mut small), Errno::RANGE, "into less space")?;
    let names = listxattr_query(&path)?;
    ensure!(names >= 7, "the size of the list: {names}");
    refused(listxattr(&path, &mut small[..3]), Errno::RANGE, "a list into less space")
}

fn flags_create_and_replace(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    refused(setxattr(&path, "user.a", b"1", XattrFlags::REPLACE), Errno::NODATA, "XATTR_REPLACE of nothing")?;
    setxattr(&path, "user.a", b"1", XattrFlags::CREATE)?;
    refused(setxattr(&path, "user.a", b"2", XattrFlags::CREATE), Errno::EXIST, "XATTR_CREATE again")?;
    same(get(&path, "user.a")?.as_slice(), &b"1"[..], "the value stays")?;
    setxattr(&path, "user.a", b"2", XattrFlags::REPLACE)?;
    same(get(&path, "user.a")?.as_slice(), &b"2"[..], "the value is replaced")
}

fn a_missing_attribute_is_no_data(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    refused(get(&path, "user.missing"), Errno::NODATA, "get")?;
    refused(removexattr(&path, "user.missing"), Errno::NODATA, "remove")?;
    setxattr(&path, "user.a", b"1", NO_FLAGS)?;
    removexattr(&path, "user.a")?;
    refused(get(&path, "user.a"), Errno::NODATA, "get of a removed one")?;
    refused(get(&folder.join("nothing"), "user.a"), Errno::NOENT, "get of no file")
}

fn lists_name_everything(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    same(list(&path)?, Vec::<String>::new(), "a new file")?;
    for name in ["user.b", "user.a", "trusted.c"] {
        setxattr(&path, name, b"x", NO_FLAGS)?;
    }
    same(list(&path)?, vec!["trusted.c", "user.a", "user.b"], "three")?;
    removexattr(&path, "user.a")?;
    same(list(&path)?, vec!["trusted.c", "user.b"], "two")
}

fn many_attributes(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    for number in 0..100 {
        setxattr(&path, format!("user.attribute{number}"), &pattern(number * 5, number as u8), NO_FLAGS)?;
    }
    same(list(&path)?.len(), 100, "names")?;
    for number in 0..100 {
        same_bytes(&get(&path, &format!("user.attribute{number}"))?, &pattern(number * 5, number as u8), "a value")?;
    }
    Ok(())
}

fn through_a_descriptor(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    let open = File::open(&path)?;
    fsetxattr(&open, "user.a", b"1", NO_FLAGS)?;
    let mut buffer = [0u8; 10];
    same(fgetxattr(&open, "user.a", &mut buffer)?, 1, "length")?;
    same(get(&path, "user.a")?.as_slice(), &b"1"[..], "by path")
}

fn user_attributes_follow_permissions(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o644)?;
    setxattr(&path, "user.a", b"1", NO_FLAGS)?;
    as_user(OTHER, || {
        get(&path, "user.a")?;
        refused(setxattr(&path, "user.a", b"2", NO_FLAGS), Errno::ACCESS, "set without write permission")?;
        refused(removexattr(&path, "user.a"), Errno::ACCESS, "remove without write permission")
    })?;
    super::checks::chmod(&path, 0o622)?;
    as_user(OTHER, || {
        refused(get(&path, "user.a"), Errno::ACCESS, "get without read permission")?;
        Ok(setxattr(&path, "user.a", b"2", NO_FLAGS)?)
    })
}

fn user_attributes_are_for_files_and_folders(folder: &Path) -> anyhow::Result<()> {
    symlink("x", folder.join("link"))?;
    mkfifoat(CWD, folder.join("fifo"), 0o666.into())?;
    refused(lsetxattr(folder.join("link"), "user.a", b"1", NO_FLAGS), Errno::PERM, "of a link")?;
    refused(setxattr(folder.join("fifo"), "user.a", b"1", NO_FLAGS), Errno::PERM, "of a fifo")?;
    refused_as(lgetxattr_query(folder.join("link"), "user.a"), &[Errno::NODATA, Errno::PERM], "read of a link")?;
    lsetxattr(folder.join("link"), "trusted.a", b"1", NO_FLAGS)?;
    same(lgetxattr_query(folder.join("link"), "trusted.a")?, 1, "a trusted one of a link")
}

fn trusted_attributes_are_for_root(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o666)?;
    setxattr(&path, "trusted.secret", b"1", NO_FLAGS)?;
    setxattr(&path, "user.open", b"1", NO_FLAGS)?;
    as_user(USER, || {
        refused(get(&path, "trusted.secret"), Errno::NODATA, "get")?;
        refused(setxattr(&path, "trusted.secret", b"2", NO_FLAGS), Errno::PERM, "set")?;
        refused(removexattr(&path, "trusted.secret"), Errno::PERM, "remove")?;
        same(list(&path)?, vec!["user.open"], "the list does not name it")
    })?;
    same(get(&path, "trusted.secret")?.as_slice(), &b"1"[..], "root reads it")
}

fn security_attributes_are_readable(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o600)?;
    setxattr(&path, "security.note", b"1", NO_FLAGS)?;
    as_user(OTHER, || {
        same(get(&path, "security.note")?.as_slice(), &b"1"[..], "read by anyone")?;
        refused(setxattr(&path, "security.note", b"2", NO_FLAGS), Errno::PERM, "set by another")
    })
}

fn unknown_namespaces_are_refused(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    refused(setxattr(&path, "strange.a", b"1", NO_FLAGS), Errno::OPNOTSUPP, "set")?;
    refused(get(&path, "strange.a"), Errno::OPNOTSUPP, "get")?;
    refused(setxattr(&path, "color", b"1", NO_FLAGS), Errno::OPNOTSUPP, "without a namespace")
}

fn attributes_move_with_the_file(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    setxattr(&path, "user.a", b"1", NO_FLAGS)?;
    fs::hard_link(&path, folder.join("other"))?;
    fs::rename(&path, folder.join("moved"))?;
    fs::write(folder.join("moved"), "new content")?;
    for name in ["other", "moved"] {
        same(get(&folder.join(name), "user.a")?.as_slice(), &b"1"[..], name)?;
    }
    Ok(())
}

fn a_new_file_has_none(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    setxattr(&path, "user.a", b"1", NO_FLAGS)?;
    fs::remove_file(&path)?;
    make_file(&path, b"")?;
    same(list(&path)?, Vec::<String>::new(), "a file made under the same name")
}

fn user_attributes_in_a_sticky_folder(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o1777)?;
    as_user(OTHER, || refused(setxattr(&inner, "user.a", b"1", NO_FLAGS), Errno::PERM, "of another's sticky folder"))?;
    as_user(USER, || Ok(setxattr(&inner, "user.a", b"1", NO_FLAGS)?))
}

fn an_unlinked_file_keeps_its_attributes(folder: &Path) -> anyhow::Result<()> {
    let path = file(folder)?;
    let open = File::open(&path)?;
    fs::remove_file(&path)?;
    fsetxattr(&open, "user.a", b"1", NO_FLAGS)?;
    let mut buffer = [0u8; 10];
    same(fgetxattr(&open, "user.a", &mut buffer)?, 1, "length")
}
