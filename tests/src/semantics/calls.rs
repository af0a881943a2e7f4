//! The calls to the kernel that have no safe wrapper: credentials of a thread, fork, maps, record locks, directory streams.
//!
//! All `unsafe` of this crate stands here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::umask;
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe};

// ------------------------------------------------------------ who one is

/// Gives the calling thread a umask (022) and a working directory that other threads do not share.
pub(crate) fn own_umask_and_directory() -> anyhow::Result<()> {
    // SAFETY: unsharing CLONE_FS leaves memory and descriptors shared as Rust's threads expect.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.context("unshare")?;
    umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Runs `work` in a thread that has become this user. Linux keeps credentials per thread; the rest of the process stays.
pub(crate) fn as_user_of_groups<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            own_umask_and_directory()?;
            let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
            set_thread_groups(&groups).context("setgroups")?;
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_res_gid(gid, gid, gid).context("setresgid")?;
            set_thread_res_uid(uid, uid, uid).context("setresuid")?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread of user {uid} panicked"))?
    })
}

// ------------------------------------------------------------ other processes

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// `work` returned; the text of its error, if any.
    Returned(Result<(), String>),
    /// A signal ended it.
    Signal(i32),
}

/// Runs `work` in a forked child and waits for it.
pub(crate) fn in_child(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<ChildEnd> {
    let (mut reader, writer) = io::pipe()?;
    let child = fork(|| {
        let text = match work() {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        let _ = (&writer).write_all(text.as_bytes());
    })?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let status = wait(child)?;
    Ok(if libc::WIFSIGNALED(status) {
        ChildEnd::Signal(libc::WTERMSIG(status))
    } else {
        ChildEnd::Returned(if text.is_empty() { Ok(()) } else { Err(text) })
    })
}

/// Forks; the child runs `work` and ends. It is killed if the calling thread ends first.
pub(crate) fn fork(work: impl FnOnce()) -> anyhow::Result<libc::pid_t> {
    // SAFETY: glibc makes its allocator usable in the child of a process with threads. `work` takes no lock that another
    // thread of the test may hold (it prints nothing), and the child leaves through _exit without running destructors.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("fork"),
        0 => {
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

/// The wait status of a child.
pub(crate) fn wait(child: libc::pid_t) -> anyhow::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let got = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if got != child {
        return Err(io::Error::last_os_error()).context("waitpid");
    }
    Ok(status)
}

pub(crate) fn kill(child: libc::pid_t, signal: i32) {
    // SAFETY: has no effect on this process's memory; the child is not reaped yet.
    unsafe { libc::kill(child, signal) };
}

/// For a fresh child: closes all descriptors that it inherited but these, which it returns as its own.
pub(crate) fn keep_only(reader: &impl AsRawFd, writer: &impl AsRawFd) -> (File, File) {
    // SAFETY: the child uses nothing but the two copies from here on; whatever else holds a closed number is never
    // dropped, since the child leaves through _exit.
    unsafe {
        let reader = libc::fcntl(reader.as_raw_fd(), libc::F_DUPFD, 1000);
        let writer = libc::fcntl(writer.as_raw_fd(), libc::F_DUPFD, 1000);
        libc::close_range(3, 999, 0);
        (File::from_raw_fd(reader), File::from_raw_fd(writer))
    }
}

/// From now on SIGUSR1 interrupts calls (EINTR) and does nothing else.
pub(crate) fn let_a_signal_interrupt() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing; the structure is filled before use. No SA_RESTART, on purpose.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
}

/// For a child: SIGXFSZ becomes EFBIG.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

// ------------------------------------------------------------ record locks

/// Which kind of fcntl locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// F_SETLK: owned by the process.
    Process,
    /// F_OFD_SETLK: owned by the open file.
    OpenFile,
}

/// Waiting or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    DoNotWait,
}

/// A range and what is locked in it; as fcntl takes and gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordLock {
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub(crate) kind: i32,
    pub(crate) start: i64,
    /// 0: to the end of all files.
    pub(crate) length: i64,
    pub(crate) pid: i32,
}

impl RecordLock {
    fn to_kernel(self) -> libc::flock {
        libc::flock {
            l_type: self.kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: self.start,
            l_len: self.length,
            l_pid: 0,
        }
    }
}

/// F_SETLK and its relatives.
pub(crate) fn set_lock(file: &File, family: Family, lock: RecordLock, patience: Patience) -> io::Result<()> {
    let command = match (family, patience) {
        (Family::Process, Patience::Wait) => libc::F_SETLKW,
        (Family::Process, Patience::DoNotWait) => libc::F_SETLK,
        (Family::OpenFile, Patience::Wait) => libc::F_OFD_SETLKW,
        (Family::OpenFile, Patience::DoNotWait) => libc::F_OFD_SETLK,
    };
    let lock = lock.to_kernel();
    // SAFETY: the structure outlives the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) }).map(drop)
}

/// F_GETLK: the first lock in the way of `lock`, or F_UNLCK.
pub(crate) fn get_lock(file: &File, family: Family, lock: RecordLock) -> io::Result<RecordLock> {
    let command = if family == Family::Process { libc::F_GETLK } else { libc::F_OFD_GETLK };
    let mut lock = lock.to_kernel();
    // SAFETY: the structure outlives the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) })?;
    Ok(RecordLock { kind: i32::from(lock.l_type), start: lock.l_start, length: lock.l_len, pid: lock.l_pid })
}

// ------------------------------------------------------------ maps

/// What a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// MAP_SHARED, readable and writable.
    Shared,
    /// MAP_SHARED, readable.
    SharedForReading,
    /// MAP_PRIVATE, readable and writable.
    Private,
}

/// A part of a file in memory.
pub(crate) struct Map {
    start: *mut u8,
    length: usize,
}

// SAFETY: the pages are plain memory, and every access goes through copies.
unsafe impl Send for Map {}

impl Map {
    pub(crate) fn new(file: &File, kind: MapKind, offset: u64, length: usize) -> io::Result<Self> {
        let (protection, flags) = match kind {
            MapKind::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            MapKind::SharedForReading => (libc::PROT_READ, libc::MAP_SHARED),
            MapKind::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
        };
        // SAFETY: a new map at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), offset.cast_signed())
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    pub(crate) fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.length, "inside the map");
        let mut bytes = vec![0; length];
        // SAFETY: within the map, which lives as long as `self`. Beyond the file's end the kernel raises SIGBUS.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(at), bytes.as_mut_ptr(), length) };
        bytes
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length, "inside the map");
        // SAFETY: as in `read`; no reference into the map exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    /// msync(MS_SYNC).
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: the whole map.
        checked(unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) }).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole map, which nothing uses any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

// ------------------------------------------------------------ directory streams

/// opendir and its relatives.
pub(crate) struct DirectoryStream(*mut libc::DIR);

impl DirectoryStream {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a string with its end.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        if stream.is_null() {
            return Err(io::Error::last_os_error()).context("opendir");
        }
        Ok(Self(stream))
    }

    /// The next name but "." and "..".
    pub(crate) fn next_name(&mut self) -> Option<Vec<u8>> {
        loop {
            // SAFETY: the stream is open, and only this handle uses it.
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            // SAFETY: the name ends with a zero byte; it is copied before the next call.
            let name = unsafe { std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()) }.to_bytes().to_vec();
            if name != b"." && name != b".." {
                return Some(name);
            }
        }
    }

    pub(crate) fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    pub(crate) fn seek(&mut self, place: libc::c_long) {
        // SAFETY: the stream is open; the place is one that `tell` gave.
        unsafe { libc::seekdir(self.0, place) };
    }

    pub(crate) fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) };
    }
}

impl Drop for DirectoryStream {
    fn drop(&mut self) {
        // SAFETY: closed once.
        unsafe { libc::closedir(self.0) };
    }
}

// ------------------------------------------------------------ the rest

/// splice from a file at an offset into a pipe.
pub(crate) fn splice_to_pipe(file: &File, offset: u64, pipe: &impl AsRawFd, length: usize) -> io::Result<usize> {
    let mut offset = offset.cast_signed();
    // SAFETY: the offset outlives the call.
    let moved =
        unsafe { libc::splice(file.as_raw_fd(), &raw mut offset, pipe.as_raw_fd(), std::ptr::null_mut(), length, 0) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// splice from a pipe into a file at an offset.
pub(crate) fn splice_from_pipe(pipe: &impl AsRawFd, file: &File, offset: u64, length: usize) -> io::Result<usize> {
    let mut offset = offset.cast_signed();
    // SAFETY: the offset outlives the call.
    let moved =
        unsafe { libc::splice(pipe.as_raw_fd(), std::ptr::null_mut(), file.as_raw_fd(), &raw mut offset, length, 0) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn sync_file_range(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is involved.
    checked(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }).map(drop)
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
