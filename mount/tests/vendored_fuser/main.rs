//! Proves, against the kernel, what `vendor/fuser/RFS-PATCHES.md` says the patched copy of fuser can do. Needs root and
//! /dev/fuse, and fails without.

mod mounted;
mod recorder;
mod signals;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::thread::JoinHandle;

use rustix::fs::{FlockOperation, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use mounted::{DeviceUse, Mounted, with_mount};
use recorder::{GROUP, USER, WANTED};
use signals::Target;

fn open(mounted: &Mounted) -> File {
    OpenOptions::new().read(true).write(true).open(mounted.path("file")).expect("opening the file")
}

/// Runs part of a test with other rights than the test has, which must keep those to unmount.
fn in_own_thread(part: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(part).join()).expect("no panic");
}

/// Drops this thread's right to keep set-user-id bits, which root has.
fn drop_fsetid() {
    let mut sets = rustix::thread::capabilities(None).expect("reading capabilities");
    sets.effective.remove(CapabilitySet::FSETID);
    rustix::thread::set_capabilities(None, sets).expect("dropping CAP_FSETID");
}

/// Makes this thread somebody without privileges.
fn become_user(groups: &[u32]) {
    let groups: Vec<_> = groups.iter().map(|&group| rustix::process::Gid::from_raw(group)).collect();
    rustix::thread::set_thread_groups(&groups).expect("setgroups");
    let gid = rustix::process::Gid::from_raw(USER);
    rustix::thread::set_thread_res_gid(gid, gid, gid).expect("setresgid");
    let uid = rustix::process::Uid::from_raw(USER);
    rustix::thread::set_thread_res_uid(uid, uid, uid).expect("setresuid");
}

/// Takes the lock that is never granted, in a thread of its own.
fn wait_for_lock(file: File) -> (Target, JoinHandle<Result<(), Errno>>) {
    let (send_target, target) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        send_target.send(Target::this_thread()).expect("the test waits for it");
        rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive)
    });
    (target.recv().expect("the thread sends it first"), thread)
}

#[test]
fn the_kernel_has_all_capabilities_we_want() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let refused = mounted.record.refused.load(Ordering::Relaxed);
        assert_eq!(
            refused,
            0,
            "{refused} of {} refused, the first: {}",
            WANTED.len(),
            mounted.record.wait_for("refused")
        );
    });
}

#[test]
fn the_mount_has_its_own_type_and_unmounting_destroys_the_filesystem() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mount table");
        let folder = mounted.path("").display().to_string();
        let line = format!("rfs-test {} fuse.rfs ", folder.trim_end_matches('/'));
        assert!(mounts.contains(&line), "no {line:?} in {mounts}");
        mounted.unmount();
        assert_eq!(mounted.record.count("destroy"), 1);
    });
}

#[test]
fn flock_and_fcntl_locks_are_told_apart() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let file = open(mounted);
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("fcntl lock");
        mounted.record.wait_for("setlk Posix sleep=false");
        assert_eq!(mounted.record.count("setlk Flock"), 0);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).expect("flock");
        let line = mounted.record.wait_for("setlk Flock sleep=false owner=");
        drop(file);
        let owner = line.rsplit_once('=').expect("an owner").1.to_owned();
        mounted.record.wait_for(&format!("release flock_owner=Some({owner})"));
    });
}

#[test]
fn a_file_without_flock_is_released_without_an_owner() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        drop(open(mounted));
        mounted.record.wait_for("release flock_owner=None");
    });
}

fn a_signal_ends_the_wait(device_use: DeviceUse) {
    with_mount(device_use, |mounted| {
        let (target, thread) = wait_for_lock(open(mounted));
        mounted.record.wait_for("waiting");
        target.send();
        mounted.record.wait_for("interrupt Delivered");
        assert_eq!(thread.join().expect("no panic"), Err(Errno::INTR));
    });
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    a_signal_ends_the_wait(DeviceUse::SharedByThreads);
}

#[test]
fn a_signal_ends_the_wait_for_a_lock_with_cloned_devices() {
    a_signal_ends_the_wait(DeviceUse::ClonedForEachThread);
}

#[test]
fn an_interrupt_that_overtakes_its_request_is_not_lost() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        mounted.record.registration_delay_ms.store(500, Ordering::Relaxed);
        let (target, thread) = wait_for_lock(open(mounted));
        mounted.record.wait_for("setlk Posix sleep=true");
        target.send();
        mounted.record.wait_for("interrupt Unknown");
        assert_eq!(mounted.record.count("waiting"), 0, "the interrupt was to come before");
        mounted.record.wait_for("interrupt Delivered");
        assert_eq!(thread.join().expect("no panic"), Err(Errno::INTR));
        assert_eq!(mounted.record.count("interrupt Unknown"), 1, "the interrupt came again and again");
    });
}

#[test]
fn requests_to_kill_set_user_id_arrive() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let file = open(mounted);
        file.write_at(b"x", 0).expect("writing with CAP_FSETID");
        mounted.record.wait_for("write len=1 kill=false");
        in_own_thread(|| {
            drop_fsetid();
            file.write_at(b"xx", 0).expect("writing without CAP_FSETID");
            rustix::fs::ftruncate(&file, 5).expect("truncating");
            OpenOptions::new().write(true).truncate(true).open(mounted.path("file")).expect("opening with O_TRUNC");
        });
        mounted.record.wait_for("write len=2 kill=true");
        mounted.record.wait_for("setattr size=5 kill=true");
        mounted.record.wait_for("open truncate=true kill=true");
        assert_eq!(mounted.record.count("open truncate=false kill=true"), 0);
    });
}

#[test]
fn extended_attributes_and_their_acl_flag_arrive() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let path = mounted.path("file");
        rustix::fs::setxattr(&path, "user.colour", b"green", XattrFlags::CREATE).expect("setxattr");
        mounted.record.wait_for("setxattr user.colour len=5 flags=1 kill_sgid=false");
        // Version 2; owner, group and others may read: tag, permissions, id.
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for tag in [0x01_u8, 0x04, 0x20] {
            acl.extend([tag, 0, 4, 0, 0xff, 0xff, 0xff, 0xff]);
        }
        in_own_thread(|| {
            become_user(&[]);
            rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty()).expect("setting an ACL");
        });
        mounted.record.wait_for("setxattr system.posix_acl_access len=28 flags=0 kill_sgid=true");
    });
}

#[test]
fn the_supplementary_group_of_a_creator_arrives() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let paths = [mounted.path("as-stranger"), mounted.path("as-member")];
        File::create(&paths[0]).expect("creating as root, who is no member");
        mounted.record.wait_for("create supplementary_group=None");
        in_own_thread(|| {
            become_user(&[3000, GROUP]);
            File::create(&paths[1]).expect("creating as a member");
        });
        mounted.record.wait_for(&format!("create supplementary_group=Some({GROUP})"));
    });
}

fn open_tmpfile(mounted: &Mounted) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE).open(mounted.path(""))
}

#[test]
fn files_without_a_name_can_be_created() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        mounted.record.tmpfile_supported.store(true, Ordering::Relaxed);
        open_tmpfile(mounted).expect("opening with O_TMPFILE");
        mounted.record.wait_for("tmpfile mode=640");
    });
}

#[test]
fn files_without_a_name_are_refused_as_unsupported() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let error = open_tmpfile(mounted).expect_err("the filesystem does not have it");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    });
}

#[test]
fn the_rarer_operations_are_reachable() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let file = open(mounted);
        rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            8,
            4,
        )
        .expect("fallocate");
        mounted.record.wait_for("fallocate 8+4 mode=3");
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(16)).expect("lseek");
        mounted.record.wait_for("lseek 16 whence=3");
        let (mut from, mut to) = (0, 4096);
        rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 100).expect("copy_file_range");
        mounted.record.wait_for("copy_file_range 0 to 4096 len=100");
        let root = File::open(mounted.path("")).expect("opening the root");
        rustix::fs::renameat_with(&root, "file", &root, "other", rustix::fs::RenameFlags::NOREPLACE).expect("renaming");
        mounted.record.wait_for("rename RenameFlags(RENAME_NOREPLACE)");
        let early = rustix::fs::Timespec { tv_sec: -2, tv_nsec: 500_000_000 };
        let times = rustix::fs::Timestamps { last_access: early, last_modification: early };
        rustix::fs::futimens(&file, &times).expect("setting times");
        mounted.record.wait_for("setattr mtime=1.5s before 1970");
    });
}

#[test]
fn requests_are_as_large_as_agreed() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let file = open(mounted);
        // A request covers 256 pages of the caller's memory, so a buffer that starts within a page would need two.
        let mut memory = vec![0; (1 << 20) + 4096];
        let start = memory.as_ptr().align_offset(4096);
        let data = &mut memory[start..start + (1 << 20)];
        file.write_at(data, 0).expect("writing");
        mounted.record.wait_for("write len=1048576 ");
        file.read_exact_at(data, 0).expect("reading");
        mounted.record.wait_for("read size=1048576");
        assert!(data.iter().all(|&byte| byte == b'x'));
    });
}

#[test]
fn each_thread_says_when_it_ends() {
    with_mount(DeviceUse::ClonedForEachThread, |mounted| {
        assert_eq!(mounted.record.count("thread ends"), 0);
        mounted.unmount();
        assert_eq!(mounted.record.count("thread ends"), 2);
    });
}

#[test]
fn an_entry_of_readdirplus_can_come_without_its_node() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let entries: Vec<_> = std::fs::read_dir(mounted.path("")).expect("opening").collect();
        mounted.record.wait_for("readdirplus offset=0");
        let entry = entries[0].as_ref().expect("reading");
        assert_eq!((entry.file_name().to_str(), std::os::unix::fs::DirEntryExt::ino(entry)), (Some("entry"), 77));
        // The kernel has no node for it, so it looks the name up.
        let error = std::fs::metadata(mounted.path("entry")).expect_err("lookup knows only one file");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        mounted.record.wait_for("lookup entry");
    });
}

fn two_reads_run_at_once(device_use: DeviceUse) {
    with_mount(device_use, |mounted| {
        *mounted.record.meeting.lock().expect("no handler panics") = Some(Arc::new(Barrier::new(2)));
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let file = open(mounted);
                std::thread::spawn(move || file.read_at(&mut [0; 10], reader * 4096))
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.join().expect("no panic").expect("reading"), 10);
        }
    });
}

#[test]
fn two_threads_serve_requests() {
    two_reads_run_at_once(DeviceUse::SharedByThreads);
}

#[test]
fn two_threads_serve_requests_with_cloned_devices() {
    two_reads_run_at_once(DeviceUse::ClonedForEachThread);
}

#[test]
fn the_kernel_forgets_entries_when_told() {
    with_mount(DeviceUse::SharedByThreads, |mounted| {
        let path = mounted.path("file");
        let look = || std::fs::metadata(&path).expect("stat");
        look();
        look();
        assert_eq!(mounted.record.count("lookup file"), 1, "the entry was to be cached");
        let notifier = mounted.session().notifier();
        notifier.expire_entry(fuser::INodeNo::ROOT, "file".as_ref()).expect("expiring the entry");
        look();
        assert_eq!(mounted.record.count("lookup file"), 2, "the entry was to expire");
        let file = open(mounted);
        let name_now = || {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            std::fs::read_link(link).expect("the file's link").display().to_string()
        };
        notifier.expire_entry(fuser::INodeNo::ROOT, "file".as_ref()).expect("expiring the entry");
        assert!(name_now().ends_with("/file"), "an expired name was to stay in use, but is {}", name_now());
        look();
        notifier.inval_entry(fuser::INodeNo::ROOT, "file".as_ref()).expect("invalidating the entry");
        look();
        assert_eq!(mounted.record.count("lookup file"), 4, "the entry was to be gone");
        notifier.inval_inode(recorder::FILE, -1, 0).expect("invalidating attributes");
        notifier.inval_inode(recorder::FILE, 0, 0).expect("invalidating data");
    });
}
