//! The adapter between the kernel's FUSE requests and [`Client`]: it translates, and decides nothing about files.
//!
//! Each request is handled by the thread that read it, up to the reply; [`threads`] sees to it that requests which wait for
//! the master do not stop those that need not. The exception is a lock that has to be waited for, whose reply is kept in
//! [`locks`] and sent by whoever learns that it was granted.
//!
//! Node numbers are the master's inode numbers, so `st_ino` is the same on every mount; only the root of the mount is node
//! 1 to the kernel, whatever it is to the master. Generations are always 0: the master never uses an inode number twice.
//!
//! What always holds: fuser's types stop here; every request is answered exactly once.

mod calls;

mod answers;

mod files;

mod changes;

mod locking;

mod locks;

mod killed;

mod groups;

mod reply;

mod threads;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{InitFlags, KernelConfig, MountOption, Request, SessionACL};
use rfs_common::clock::SharedClock;
use rfs_common::shutdown::Shutdown;

use crate::client::{AccessRule, Caller, Client};
use crate::kernel::KernelNotifier;
use crate::options::MountOptions;
use groups::Groups;
use killed::Killable;
use locks::WaitingLocks;
use threads::Threads;

pub use threads::UnderWay;

/// Bytes of the largest request of the kernel; 256 pages is its own limit, too.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests without a waiting process (read-ahead, releases) that the kernel may have under way: with the kernel's own 12,
/// read-ahead of several files at once stops early.
const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// What the kernel is asked to do. Each is asked for by itself, since one that it lacks would drop its whole set.
const CAPABILITIES: [InitFlags; 16] = [
    // The filesystem clears set-id bits on writes when told to, so that not each write asks for capabilities first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Lookups and creations in one directory run at once.
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // The client says when pages are wrong; a changed time does not drop them.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_MAX_PAGES,
    // The master applies the umask, unless the folder has a default ACL.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_SETXATTR_EXT,
    InitFlags::FUSE_CREATE_SUPP_GROUP,
];

/// The filesystem as fuser sees it.
pub struct Adapter {
    client: Arc<Client>,
    kernel: Arc<KernelNotifier>,
    groups: Groups,
    locks: Arc<WaitingLocks>,
    killable: Killable,
    threads: Arc<Threads>,
    clock: SharedClock,
    synchronous: Synchronous,
    mapping: Mapping,
    links: Links,
    connection: Connection,
}

/// What an adapter works on just now.
#[derive(Clone, Debug)]
pub struct Work {
    threads: Arc<Threads>,
    locks: Arc<WaitingLocks>,
}

impl Work {
    /// The requests that threads are busy with, the oldest first.
    pub fn under_way(&self) -> Vec<UnderWay> {
        self.threads.under_way()
    }

    /// How many programs wait for locks of others.
    pub fn lock_waits(&self) -> usize {
        self.locks.count()
    }
}

/// What the mount's owner learns of the connection to the kernel. Its end is told as soon as one thread has seen it: others
/// may be waiting for the master, for a program that the kernel has long let go.
#[derive(Clone, Debug)]
pub struct Connection {
    shutdown: Shutdown,
    closed: Arc<AtomicBool>,
}

impl Connection {
    /// One that is open. When the kernel closes it, this shutdown is requested.
    pub fn new(shutdown: Shutdown) -> Connection {
        Connection { shutdown, closed: Arc::default() }
    }

    /// Whether the kernel has closed it: the file system was unmounted, or the connection aborted.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.shutdown.request();
    }
}

/// Whether files that go past the page cache can be mapped, too (Linux 6.6 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    /// Any file.
    AlsoDirect,
    /// Only those that go through the page cache.
    OnlyCached,
}

/// Whether the kernel keeps the targets of symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// It does.
    Cached,
    /// It asks each time, so that each access is noted.
    Asked,
}

/// What is durable before the call returns, by mount option.
#[derive(Debug, Clone, Copy)]
struct Synchronous {
    /// Every write.
    writes: bool,
    /// Every change of names.
    names: bool,
}

impl Adapter {
    /// An adapter for this client, and for the kernel whose caches it fills.
    pub fn new(
        client: Arc<Client>,
        kernel: Arc<KernelNotifier>,
        options: &MountOptions,
        connection: Connection,
        clock: SharedClock,
    ) -> Adapter {
        Adapter {
            client,
            kernel,
            groups: Groups::new(Arc::clone(&clock)),
            locks: Arc::default(),
            killable: Killable::default(),
            threads: Arc::new(Threads::new(options.threads, threads_of(options))),
            clock,
            synchronous: Synchronous { writes: options.sync, names: options.dirsync },
            mapping: Mapping::OnlyCached,
            links: if options.access_times == AccessRule::Always { Links::Asked } else { Links::Cached },
            connection,
        }
    }

    /// A way to see what it works on, also after the adapter was given away.
    pub fn work(&self) -> Work {
        Work { threads: Arc::clone(&self.threads), locks: Arc::clone(&self.locks) }
    }

    /// Who sent the request.
    fn caller(&self, request: &Request) -> Caller {
        let (user, group, process) = (request.uid(), request.gid(), request.pid());
        Caller { user, group, groups: self.groups.of(process, user, group), process }
    }

    /// Agrees with the kernel on how they work together.
    fn configure(&mut self, config: &mut KernelConfig) -> io::Result<()> {
        let not_wanted = |capability| capability == InitFlags::FUSE_CACHE_SYMLINKS && self.links == Links::Asked;
        for capability in CAPABILITIES.into_iter().filter(|capability| !not_wanted(*capability)) {
            if config.add_capabilities(capability).is_err() {
                tracing::warn!(?capability, "this kernel lacks a capability that rfs uses; Linux 6.6 has all of them");
            } else if capability == InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP {
                self.mapping = Mapping::AlsoDirect;
            }
        }
        let refused = |name: &str| io::Error::other(format!("the kernel does not accept {name}"));
        config.set_max_write(REQUEST_BYTES_MAX).map_err(|_| refused("max_write"))?;
        config.set_max_background(BACKGROUND_REQUESTS_MAX).map_err(|_| refused("max_background"))?;
        Ok(())
    }
}

/// All threads that a mount with these options has, parked or not.
fn threads_of(options: &MountOptions) -> usize {
    options.threads_max.max(options.threads)
}

/// How to mount: what fuser and the kernel are told.
pub fn session_config(options: &MountOptions, source_name: &str, as_root: bool) -> fuser::Config {
    let either = |condition, yes, no| if condition { yes } else { no };
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName(source_name.to_owned()),
        MountOption::Subtype(options.subtype.clone()),
        MountOption::DefaultPermissions,
        either(options.read_only, MountOption::RO, MountOption::RW),
        either(options.suid && as_root, MountOption::Suid, MountOption::NoSuid),
        either(options.dev && as_root, MountOption::Dev, MountOption::NoDev),
        either(options.exec, MountOption::Exec, MountOption::NoExec),
        match options.access_times {
            AccessRule::WhenDue => MountOption::Atime,
            AccessRule::Always => MountOption::StrictAtime,
            AccessRule::Never => MountOption::NoAtime,
        },
        either(options.sync, MountOption::Sync, MountOption::Async),
    ];
    if !options.directory_access_times {
        config.mount_options.push(MountOption::NoDirAtime);
    }
    if options.dirsync {
        config.mount_options.push(MountOption::DirSync);
    }
    config.acl = if options.allow_other.unwrap_or(as_root) { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(threads_of(options));
    config.clone_fd = true;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_without_rights_get_a_mount_without_rights() {
        let options = MountOptions::default();
        let config = session_config(&options, "m:1", false);
        assert!(
            config.mount_options.contains(&MountOption::NoSuid) && config.mount_options.contains(&MountOption::NoDev)
        );
        assert_eq!(config.acl, SessionACL::Owner);
        let config = session_config(&options, "m:1", true);
        assert!(config.mount_options.contains(&MountOption::Suid) && config.mount_options.contains(&MountOption::Dev));
        assert_eq!(config.acl, SessionACL::All);
        assert!(config.mount_options.contains(&MountOption::FSName("m:1".to_owned())));
    }

    #[test]
    fn there_are_never_fewer_threads_than_usual() {
        let options = MountOptions { threads: 8, threads_max: 2, ..MountOptions::default() };
        assert_eq!(session_config(&options, "m:1", true).n_threads, Some(8));
    }
}
