//! Permissions: the umask, who is refused what, sticky and set-group-id folders, supplementary groups.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, access, accessat, mkdir, rename, rmdir, unlink};
use rustix::io::Errno;
use rustix::process::umask;

use super::calls::as_user_of_groups;
use super::checks::{
    GROUP, OTHER, USER, as_user, chmod, chown, has_mode, make_file, make_folder, make_owned, refused, refused_as, same,
    stat,
};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    the_umask_is_applied,
    a_mode_is_kept_whole,
    the_class_decides_even_against_the_owner,
    reading_and_writing_need_permission,
    search_permission_is_needed_on_the_way,
    a_folder_without_read_permission_cannot_be_listed,
    changing_a_folder_needs_write_and_search,
    supplementary_groups_count,
    root_passes_everything_but_execution,
    access_asks_for_the_real_user,
    a_sticky_folder_protects_others_files,
    a_sticky_folder_protects_from_rename,
    a_setgid_folder_hands_down_its_group,
    a_setgid_file_of_a_foreign_group_loses_the_bit,
    only_the_owner_may_chmod,
    chmod_drops_setgid_for_a_foreign_group,
    an_open_file_outlives_its_permission,
    creating_with_a_mode_that_forbids_writing_still_writes,
    a_link_has_no_mode_of_its_own,
    sticky_and_set_ids_are_stored,
];

fn the_umask_is_applied(folder: &Path) -> anyhow::Result<()> {
    for (mask, file_mode, folder_mode) in [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)] {
        umask(Mode::from_raw_mode(mask));
        let (path, inner) = (folder.join(format!("file{mask}")), folder.join(format!("folder{mask}")));
        OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path)?;
        mkdir(&inner, Mode::from_raw_mode(0o777))?;
        has_mode(&path, file_mode, "a new file")?;
        has_mode(&inner, folder_mode, "a new folder")?;
        let fifo = folder.join(format!("fifo{mask}"));
        rustix::fs::mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o666))?;
        has_mode(&fifo, file_mode, "a new fifo")?;
    }
    Ok(())
}

fn a_mode_is_kept_whole(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"")?;
    for mode in (0..0o10000).step_by(0o77) {
        chmod(&path, mode)?;
        has_mode(&path, mode, "after chmod")?;
    }
    Ok(())
}

fn the_class_decides_even_against_the_owner(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, GROUP, 0o077)?;
    as_user(USER, || refused(File::open(&path), Errno::ACCESS, "the owner has no right, though all others have"))?;
    chmod(&path, 0o707)?;
    as_user_of_groups(OTHER, OTHER, &[GROUP], || {
        refused(File::open(&path), Errno::ACCESS, "the group has no right, though all others have")
    })
}

fn reading_and_writing_need_permission(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o604)?;
    as_user(OTHER, || {
        fs::read(&path)?;
        refused(OpenOptions::new().write(true).open(&path), Errno::ACCESS, "open for writing")?;
        refused(OpenOptions::new().read(true).write(true).open(&path), Errno::ACCESS, "open for both")?;
        refused(File::create(&path), Errno::ACCESS, "O_TRUNC")?;
        refused(rustix::fs::open(&path, rustix::fs::OFlags::TRUNC, Mode::empty()), Errno::ACCESS, "O_RDONLY|O_TRUNC")
    })?;
    chmod(&path, 0o602)?;
    as_user(OTHER, || {
        OpenOptions::new().write(true).open(&path)?;
        refused(File::open(&path), Errno::ACCESS, "open for reading")
    })
}

fn search_permission_is_needed_on_the_way(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o755)?;
    make_owned(&inner.join("file"), USER, USER, 0o666)?;
    as_user(OTHER, || stat(&inner.join("file")).map(drop))?;
    chmod(&inner, 0o744)?;
    as_user(OTHER, || {
        refused(fs::symlink_metadata(inner.join("file")), Errno::ACCESS, "stat")?;
        refused(File::open(inner.join("file")), Errno::ACCESS, "open")?;
        refused(fs::symlink_metadata(inner.join("missing")), Errno::ACCESS, "stat of nothing")?;
        same(fs::read_dir(&inner)?.count(), 1, "names in a folder that may be read, not searched")
    })?;
    as_user(USER, || {
        fs::read(inner.join("file"))?;
        Ok(())
    })
}

fn a_folder_without_read_permission_cannot_be_listed(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o711)?;
    make_owned(&inner.join("file"), USER, USER, 0o666)?;
    as_user(OTHER, || {
        refused(fs::read_dir(&inner), Errno::ACCESS, "list")?;
        fs::read(inner.join("file"))?;
        Ok(())
    })
}

fn changing_a_folder_needs_write_and_search(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, USER, 0o755)?;
    make_owned(&inner.join("file"), OTHER, OTHER, 0o666)?;
    make_folder(&inner.join("empty"), OTHER, OTHER, 0o777)?;
    for mode in [0o755, 0o756] {
        chmod(&inner, mode)?;
        as_user(OTHER, || {
            refused(File::create(inner.join("new")), Errno::ACCESS, "create")?;
            refused(fs::create_dir(inner.join("new")), Errno::ACCESS, "mkdir")?;
            refused(symlink("x", inner.join("new")), Errno::ACCESS, "symlink")?;
            refused(unlink(inner.join("file")), Errno::ACCESS, "unlink")?;
            refused(rmdir(inner.join("empty")), Errno::ACCESS, "rmdir")?;
            refused(rename(inner.join("file"), inner.join("new")), Errno::ACCESS, "rename")?;
            // The kernel may refuse a link to another's file before it looks at the folder.
            refused_as(fs::hard_link(inner.join("file"), inner.join("new")), &[Errno::ACCESS, Errno::PERM], "link")
        })?;
    }
    chmod(&inner, 0o777)?;
    as_user(OTHER, || {
        rename(inner.join("file"), inner.join("new"))?;
        unlink(inner.join("new"))?;
        Ok(rmdir(inner.join("empty"))?)
    })
}

fn supplementary_groups_count(folder: &Path) -> anyhow::Result<()> {
    let (path, inner) = (folder.join("file"), folder.join("inner"));
    make_owned(&path, USER, GROUP, 0o660)?;
    make_folder(&inner, USER, GROUP, 0o770)?;
    as_user(OTHER, || refused(File::open(&path), Errno::ACCESS, "without the group"))?;
    let many: Vec<u32> = (3000..3040).chain([GROUP]).collect();
    for groups in [&[GROUP][..], &many] {
        as_user_of_groups(OTHER, OTHER, groups, || {
            fs::write(&path, "new")?;
            fs::write(inner.join("file"), "new")?;
            Ok(fs::remove_file(inner.join("file"))?)
        })?;
    }
    Ok(())
}

fn root_passes_everything_but_execution(folder: &Path) -> anyhow::Result<()> {
    let (path, inner) = (folder.join("file"), folder.join("inner"));
    make_owned(&path, USER, USER, 0)?;
    make_folder(&inner, USER, USER, 0)?;
    fs::write(&path, "new")?;
    fs::read(&path)?;
    fs::write(inner.join("file"), "new")?;
    same(fs::read_dir(&inner)?.count(), 1, "root lists")?;
    access(&path, Access::READ_OK | Access::WRITE_OK)?;
    refused(access(&path, Access::EXEC_OK), Errno::ACCESS, "root executes a file without any x")?;
    chmod(&path, 0o001)?;
    Ok(access(&path, Access::EXEC_OK)?)
}

fn access_asks_for_the_real_user(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o640)?;
    as_user(OTHER, || {
        refused(access(&path, Access::READ_OK), Errno::ACCESS, "access")?;
        Ok(access(&path, Access::EXISTS)?)
    })?;
    // Real user OTHER, effective root: access asks as OTHER, AT_EACCESS as root.
    let path = &path;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let root = rustix::fs::Uid::ROOT;
            rustix::thread::set_thread_res_uid(rustix::fs::Uid::from_raw(OTHER), root, root)?;
            refused(access(path, Access::WRITE_OK), Errno::ACCESS, "access as the real user")?;
            Ok(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
        });
        thread.join().expect("no panic")
    })
}

fn a_sticky_folder_protects_others_files(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, 0, 0, 0o1777)?;
    make_owned(&inner.join("file"), USER, USER, 0o666)?;
    make_folder(&inner.join("folder"), USER, USER, 0o777)?;
    as_user(OTHER, || {
        refused(unlink(inner.join("file")), Errno::PERM, "unlink of another's file")?;
        refused(rmdir(inner.join("folder")), Errno::PERM, "rmdir of another's folder")?;
        fs::write(inner.join("own"), "x")?;
        Ok(unlink(inner.join("own"))?)
    })?;
    as_user(USER, || Ok(unlink(inner.join("file"))?))?;
    // The folder's owner may remove everything in it.
    chown(&inner, OTHER, OTHER)?;
    as_user(OTHER, || Ok(rmdir(inner.join("folder"))?))
}

fn a_sticky_folder_protects_from_rename(folder: &Path) -> anyhow::Result<()> {
    let (inner, open) = (folder.join("inner"), folder.join("open"));
    make_folder(&inner, 0, 0, 0o1777)?;
    make_folder(&open, 0, 0, 0o777)?;
    make_owned(&inner.join("file"), USER, USER, 0o666)?;
    as_user(OTHER, || {
        refused(rename(inner.join("file"), inner.join("new")), Errno::PERM, "rename of another's file")?;
        refused(rename(inner.join("file"), open.join("new")), Errno::PERM, "rename out")?;
        fs::write(inner.join("own"), "x")?;
        refused(rename(inner.join("own"), inner.join("file")), Errno::PERM, "rename over another's file")?;
        Ok(rename(inner.join("own"), inner.join("moved"))?)
    })
}

fn a_setgid_folder_hands_down_its_group(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, GROUP, 0o2777)?;
    as_user(USER, || {
        fs::write(inner.join("file"), "x")?;
        fs::create_dir(inner.join("folder"))?;
        symlink("x", inner.join("link"))?;
        Ok(())
    })?;
    for name in ["file", "folder", "link"] {
        same(stat(&inner.join(name))?.gid(), GROUP, name)?;
        same(stat(&inner.join(name))?.uid(), USER, name)?;
    }
    has_mode(&inner.join("folder"), 0o2755, "a folder in a setgid folder")?;
    has_mode(&inner.join("file"), 0o644, "a file in a setgid folder")?;
    let plain = folder.join("plain");
    make_folder(&plain, USER, GROUP, 0o777)?;
    as_user(USER, || Ok(fs::write(plain.join("file"), "x")?))?;
    same(stat(&plain.join("file"))?.gid(), USER, "the group in a folder without the bit")
}

fn a_setgid_file_of_a_foreign_group_loses_the_bit(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, USER, GROUP, 0o2777)?;
    let create = |name: &str| {
        umask(Mode::empty());
        OpenOptions::new().write(true).create_new(true).mode(0o2775).open(inner.join(name)).map(drop)
    };
    as_user(USER, || Ok(create("foreign")?))?;
    has_mode(&inner.join("foreign"), 0o775, "made by someone who is not in the group")?;
    as_user_of_groups(USER, USER, &[GROUP], || Ok(create("own")?))?;
    has_mode(&inner.join("own"), 0o2775, "made by a member of the group")
}

fn only_the_owner_may_chmod(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o666)?;
    as_user(OTHER, || {
        let result = rustix::fs::chmod(&path, Mode::from_raw_mode(0o600));
        refused(result, Errno::PERM, "chmod by another")
    })?;
    as_user(USER, || chmod(&path, 0o600))?;
    has_mode(&path, 0o600, "chmod by the owner")
}

fn chmod_drops_setgid_for_a_foreign_group(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, GROUP, 0o755)?;
    as_user(USER, || chmod(&path, 0o2755))?;
    has_mode(&path, 0o755, "by an owner who is not in the group")?;
    as_user_of_groups(USER, USER, &[GROUP], || chmod(&path, 0o6755))?;
    has_mode(&path, 0o6755, "by an owner who is")
}

fn an_open_file_outlives_its_permission(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_owned(&path, USER, USER, 0o600)?;
    as_user(USER, || {
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        chmod(&path, 0)?;
        std::io::Write::write_all(&mut file, b"after the chmod")?;
        let mut content = vec![0; 15];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0)?;
        same(content.as_slice(), &b"after the chmod"[..], "through the open file")?;
        file.set_len(3)?;
        refused(File::open(&path), Errno::ACCESS, "opening it again")
    })
}

fn creating_with_a_mode_that_forbids_writing_still_writes(folder: &Path) -> anyhow::Result<()> {
    chmod(folder, 0o777)?;
    let path = folder.join("file");
    as_user(USER, || {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o000).open(&path)?;
        std::io::Write::write_all(&mut file, b"content")?;
        file.sync_all()?;
        refused(File::open(&path), Errno::ACCESS, "opening it again")
    })?;
    has_mode(&path, 0, "the mode")?;
    same(fs::read(&path)?.as_slice(), &b"content"[..], "what root reads")
}

fn a_link_has_no_mode_of_its_own(folder: &Path) -> anyhow::Result<()> {
    let (path, link) = (folder.join("file"), folder.join("link"));
    make_file(&path, b"")?;
    umask(Mode::from_raw_mode(0o077));
    symlink("file", &link)?;
    has_mode(&link, 0o777, "a link")?;
    chmod(&link, 0o640)?;
    has_mode(&path, 0o640, "the file behind it, after chmod of the link")?;
    has_mode(&link, 0o777, "the link after chmod")
}

fn sticky_and_set_ids_are_stored(folder: &Path) -> anyhow::Result<()> {
    let inner = folder.join("inner");
    make_folder(&inner, 0, 0, 0o7777)?;
    has_mode(&inner, 0o7777, "a folder")?;
    umask(Mode::empty());
    OpenOptions::new().write(true).create_new(true).mode(0o6711).open(folder.join("file"))?;
    has_mode(&folder.join("file"), 0o6711, "a file made with set-id bits")
}
