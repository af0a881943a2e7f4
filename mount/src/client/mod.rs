//! [`Client`]: a mounted filesystem without its kernel side, one method for each filesystem call.
//!
//! Methods block, and any thread may call any of them; what they may wait for, and the order of locks, stands at the top of
//! `core.rs`. Types are plain ([`types`]); prost stops here. An inode is always the master's number: the adapter shows
//! [`Client::root`] as the kernel's node 1. Answers to calls that name a node by an entry raise the kernel's lookup count,
//! which [`Client::forget`] lowers.

mod types;

mod names;

mod moved_directories;

mod attributes;

mod files;

mod space;

mod directories;

mod listing_places;

mod cuts;

mod access_times;

mod locks;

mod core;

mod handles;

mod recalls;

mod kernel;

mod committer;

mod background_work;

mod bytes;

mod master;

mod chunk_sync;

use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rfs_common::background::{self, WorkerHandle};
use rfs_common::clock::SharedClock;
use rfs_common::ids::InodeId;
use rfs_common::shutdown::Shutdown;

use self::access_times::AccessTeller;
use self::background_work::Releaser;
use self::chunk_sync::ChunkSync;
use self::committer::Committer;
use self::core::{Core, lock};
use self::kernel::KernelNotifier;
use self::recalls::Events;
use crate::cache::node::Mode;
use crate::data::{DataPath, DataSettings};
use crate::session::{Session, SessionEvents, Statistics};

pub use access_times::PendingAccess;
pub use bytes::{Bytes, BytesStanding, Durability, FileBytes, OpenBytes, Prepared};
pub use master::SessionMaster;
pub use types::*;

/// A mounted filesystem without its kernel side. Flags of open files are Linux's (`libc::O_*`).
pub struct Client {
    core: Arc<Core>,
    workers: Mutex<Vec<WorkerHandle>>,
    shutdown: Shutdown,
}

impl Client {
    /// A client of this session, with the data path for its bytes. To be called once for a session, soon after it was
    /// begun; the kernel's caches may be those of a mount that is not there yet, as long as it has no requests.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub fn start(
        session: Session,
        settings: DataSettings,
        accesses: Accesses,
        kernel: Arc<dyn KernelCaches>,
        clock: SharedClock,
    ) -> io::Result<Client> {
        let cluster = session.cluster().cluster.get().to_be_bytes();
        let settings = DataSettings { cluster: bytes_of(&cluster), ..settings };
        let master = Arc::new(SessionMaster::new(session.clone()));
        let sync = ChunkSync { master: master.clone(), settings: settings.clone(), clock: Arc::clone(&clock) };
        let path = DataPath::new(settings, Arc::clone(&clock), master)?;
        let bytes = master::DataBytes { path, sync: Arc::new(sync) };
        Client::start_with(session, Arc::new(bytes), accesses, kernel, clock)
    }

    /// The same with another keeper of bytes.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub fn start_with(
        session: Session,
        bytes: Arc<dyn Bytes>,
        accesses: Accesses,
        kernel: Arc<dyn KernelCaches>,
        clock: SharedClock,
    ) -> io::Result<Client> {
        let accesses = if session.cluster().takes_accesses { accesses } else { Accesses::NONE };
        let notifier = KernelNotifier::start(&kernel, Arc::clone(&clock))?;
        let core = Arc::new(Core {
            session,
            table: crate::cache::table::Table::default(),
            order: crate::cache::order::Order::default(),
            bytes,
            kernel,
            notifier,
            clock: Arc::clone(&clock),
            handles: handles::Handles::default(),
            locks: locks::Locks::default(),
            later: core::Later::default(),
            accesses,
            this: OnceLock::new(),
        });
        // It is the first to set it.
        let _ = core.this.set(Arc::downgrade(&core));
        let events: Arc<dyn SessionEvents> = Arc::new(Events(Arc::clone(&core)));
        core.session.start(&events)?;
        let shutdown = Shutdown::new();
        let committer = background::start(Committer::new(Arc::clone(&core))?, shutdown.clone(), Arc::clone(&clock))?;
        let releaser = background::start(Releaser(Arc::clone(&core)), shutdown.clone(), Arc::clone(&clock))?;
        let mut workers = vec![committer, releaser];
        if accesses.rule != AccessRule::Never {
            workers.push(background::start(AccessTeller(Arc::clone(&core)), shutdown.clone(), clock)?);
        }
        Ok(Client { core, workers: Mutex::new(workers), shutdown })
    }

    /// The node that is this client's root.
    pub fn root(&self) -> InodeId {
        self.core.session.cluster().root
    }

    /// The session, for its counts and the cluster's addresses.
    pub fn session(&self) -> &Session {
        &self.core.session
    }

    /// Counts of round trips.
    pub fn statistics(&self) -> &Statistics {
        self.core.session.statistics()
    }

    /// What the bytes of files hold and wait for.
    pub fn bytes_standing(&self) -> BytesStanding {
        self.core.bytes.standing()
    }

    /// Commits what is dirty, gives every WRITE lease back and ends the session: at unmount. Calls that wait, and all
    /// later ones, answer EIO. What cannot be committed within `patience` is given up.
    pub fn shut_down(&self, patience: Duration) {
        self.shutdown.request();
        let core = Arc::clone(&self.core);
        let done = Shutdown::new();
        let told = done.clone();
        let started = background::spawn("last-commits", move || {
            core.tell_accesses();
            for node in core.table.all() {
                if node.state().mode == Mode::Write {
                    // What is lost here was told to nobody who is still there to hear it; lower() logs it.
                    let _ = core.lower(&node, Mode::Read, None);
                }
            }
            told.request();
        });
        if started.is_ok() {
            done.wait_timeout(patience);
        }
        self.core.session.end();
        for worker in std::mem::take(&mut *lock(&self.workers)) {
            worker.join();
        }
    }
}

fn bytes_of(bytes: &[u8]) -> ::bytes::Bytes {
    ::bytes::Bytes::copy_from_slice(bytes)
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("session", &self.core.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod fake_bytes;
#[cfg(test)]
mod fake_fault;
#[cfg(test)]
mod fake_master;
#[cfg(test)]
#[path = "client_test.rs"]
mod tests;
