//! A filesystem with one file, which writes down what reaches it. Each request becomes a line of text; a test waits for
//! the lines it expects. It holds one lock that is never granted to anyone who waits for it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    InterruptOutcome, KernelConfig, LockKind, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyWrite, Request, RequestId,
    TimeOrNow, WriteFlags,
};

/// The one file's number.
pub(crate) const FILE: INodeNo = INodeNo(2);
/// Owner of the file and of whoever creates something.
pub(crate) const USER: u32 = 1000;
/// Group of the root directory, and of the file.
pub(crate) const GROUP: u32 = 2000;

const TTL: Duration = Duration::from_secs(3600);

/// The capabilities rfs wants, added one at a time since one refused drops its whole set.
pub(crate) const WANTED: [InitFlags; 16] = [
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_SETXATTR_EXT,
    InitFlags::FUSE_CREATE_SUPP_GROUP,
];

/// What the test and the filesystem share.
#[derive(Default)]
pub(crate) struct Record {
    lines: Mutex<Vec<String>>,
    line_added: Condvar,
    waiters: Mutex<HashMap<RequestId, ReplyEmpty>>,
    /// How long a lock request lingers in its handler before it can be found by an interrupt.
    pub(crate) registration_delay_ms: AtomicU64,
    /// Whether `O_TMPFILE` is answered.
    pub(crate) tmpfile_supported: AtomicBool,
    /// Where reads meet, if they shall.
    pub(crate) meeting: Mutex<Option<Arc<Barrier>>>,
    /// The capabilities that the kernel does not have.
    pub(crate) refused: AtomicU32,
}

impl Record {
    fn add(&self, line: impl Into<String>) {
        self.lines.lock().expect("no test panics with this lock held").push(line.into());
        self.line_added.notify_all();
    }

    /// Waits until a line starts with `start`, and returns the first that does.
    pub(crate) fn wait_for(&self, start: &str) -> String {
        let lines = self.lines.lock().expect("no test panics with this lock held");
        let (lines, _) = self
            .line_added
            .wait_timeout_while(lines, Duration::from_secs(5), |lines| {
                !lines.iter().any(|line| line.starts_with(start))
            })
            .expect("no test panics with this lock held");
        let found = lines.iter().find(|line| line.starts_with(start)).cloned();
        let came = lines.clone();
        drop(lines);
        found.unwrap_or_else(|| panic!("no request came as {start:?}; these came: {came:#?}"))
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        let lines = self.lines.lock().expect("no test panics with this lock held");
        lines.iter().filter(|line| line.starts_with(start)).count()
    }

    /// Answers who still waits, so that no process hangs after a failed test.
    pub(crate) fn release_waiters(&self) {
        self.waiters.lock().expect("no test panics with this lock held").clear();
    }
}

pub(crate) struct Recorder(pub(crate) Arc<Record>);

fn attributes(ino: INodeNo) -> FileAttr {
    let (kind, perm) = match ino {
        INodeNo::ROOT => (FileType::Directory, 0o777),
        _ => (FileType::RegularFile, 0o6777),
    };
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino,
        size: if ino == INodeNo::ROOT { 0 } else { 1 << 20 },
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind,
        perm,
        nlink: 1,
        uid: USER,
        gid: GROUP,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Recorder {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in WANTED {
            if config.add_capabilities(capability).is_err() {
                self.0.add(format!("refused {capability:?}"));
                self.0.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        config.set_max_write(1 << 20).map_err(|_| io::Error::other("max_write refused"))?;
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.add("destroy");
    }

    fn thread_ends(&self) {
        self.0.add("thread ends");
    }

    /// One entry, without its node.
    fn readdirplus(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.0.add(format!("readdirplus offset={offset}"));
        if offset == 0 {
            let nothing_known = attributes(INodeNo(0));
            let is_full = reply.add(INodeNo(77), 5, "entry", &TTL, &nothing_known, Generation(0));
            assert!(!is_full, "one entry fits");
        }
        reply.ok();
    }

    fn interrupt(&self, _req: &Request, unique: RequestId) -> InterruptOutcome {
        let waiter = self.0.waiters.lock().expect("no handler panics").remove(&unique);
        let outcome = match waiter {
            Some(reply) => {
                reply.error(Errno::EINTR);
                InterruptOutcome::Delivered
            }
            None => InterruptOutcome::Unknown,
        };
        self.0.add(format!("interrupt {outcome:?}"));
        outcome
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.add(format!("lookup {}", name.display()));
        match name.to_str() {
            Some("file") => reply.entry(&TTL, &attributes(FILE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        kill_suidgid: bool,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            self.0.add(format!("setattr size={size} kill={kill_suidgid}"));
        }
        if let Some(TimeOrNow::SpecificTime(time)) = mtime {
            let early = SystemTime::UNIX_EPOCH.duration_since(time).unwrap_or_default();
            self.0.add(format!("setattr mtime={early:?} before 1970"));
        }
        reply.attr(&Duration::ZERO, &attributes(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, flags: OpenFlags, kill_suidgid: bool, reply: ReplyOpen) {
        let truncates = flags.0 & libc::O_TRUNC != 0;
        self.0.add(format!("open truncate={truncates} kill={kill_suidgid}"));
        reply.opened(FileHandle(7), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn create(
        &self,
        req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        _kill_suidgid: bool,
        reply: ReplyCreate,
    ) {
        self.0.add(format!("create supplementary_group={:?}", req.supplementary_group()));
        reply.created(&TTL, &attributes(INodeNo(3)), Generation(0), FileHandle(8), FopenFlags::empty());
    }

    fn tmpfile(
        &self,
        _req: &Request,
        _parent: INodeNo,
        mode: u32,
        _umask: u32,
        _flags: i32,
        _kill_suidgid: bool,
        reply: ReplyCreate,
    ) {
        self.0.add(format!("tmpfile mode={:o}", mode & 0o777));
        if self.0.tmpfile_supported.load(Ordering::Relaxed) {
            let attributes = FileAttr { nlink: 0, ..attributes(INodeNo(4)) };
            reply.created(&TTL, &attributes, Generation(0), FileHandle(9), FopenFlags::empty());
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.add(format!("read size={size}"));
        let meeting = self.0.meeting.lock().expect("no handler panics").clone();
        if let Some(meeting) = meeting {
            meeting.wait();
        }
        reply.data(&vec![b'x'; size as usize]);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.0.add(format!("write len={} kill={kill}", data.len()));
        reply.written(data.len() as u32);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.add(format!("release flock_owner={lock_owner:?}"));
        reply.ok();
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        acl_kill_sgid: bool,
        reply: ReplyEmpty,
    ) {
        let name = name.display();
        self.0.add(format!("setxattr {name} len={} flags={flags} kill_sgid={acl_kill_sgid}", value.len()));
        reply.ok();
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.0.add(format!("rename {flags:?}"));
        reply.ok();
    }

    fn getlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        start: u64,
        end: u64,
        _typ: i32,
        _pid: u32,
        kind: LockKind,
        reply: ReplyLock,
    ) {
        self.0.add(format!("getlk {kind:?}"));
        reply.locked(start, end, libc::F_UNLCK, 0);
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        typ: i32,
        _pid: u32,
        sleep: bool,
        kind: LockKind,
        reply: ReplyEmpty,
    ) {
        self.0.add(format!("setlk {kind:?} sleep={sleep} owner={lock_owner:?}"));
        if !sleep || typ == libc::F_UNLCK {
            reply.ok();
            return;
        }
        std::thread::sleep(Duration::from_millis(self.0.registration_delay_ms.load(Ordering::Relaxed)));
        self.0.waiters.lock().expect("no handler panics").insert(req.unique(), reply);
        self.0.add("waiting");
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.0.add(format!("fallocate {offset}+{length} mode={mode}"));
        reply.ok();
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.0.add(format!("lseek {offset} whence={whence}"));
        reply.offset(offset);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.0.add(format!("copy_file_range {offset_in} to {offset_out} len={len}"));
        reply.written(len as u32);
    }
}
