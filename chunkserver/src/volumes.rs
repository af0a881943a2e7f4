//! The volumes of this process: which are in service, why the others are not, and the threads that look after them.
//!
//! Each volume has a *keeper* thread (opens it, looks at it each second, lets it go when it is out, tries it again), a
//! *closer* thread (syncs and closes idle chunks) and a *scrubber* thread (reads every chunk now and then), so that a
//! volume that hangs holds up no other. One *watchdog* thread for all looks only at their gates and never touches a file.
//!
//! What always holds: a volume that is out is not held open by this process (its filesystem can be unmounted), apart from
//! operations that hang in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rfs_common::background;
use rfs_common::clock::Monotonic;
use rfs_common::folder_lock::FolderLockError;
use rfs_common::ids::{ClusterId, ServerId, VolumeId};
use rfs_common::shutdown::Shutdown;

use crate::chunk::fault::Fault;
use crate::volume::identity::{Identity, Refusal, with_sources};
use crate::volume::scan::Expected;
use crate::volume::scrub::Scrubber;
use crate::volume::store::{Surroundings, Volume};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Volumes wait so long for the others to be looked at before it is decided whose daemon this is.
const OWNER_LIMIT: Duration = Duration::from_secs(3);

/// Cluster and server that a volume belongs to.
type Owner = (ClusterId, ServerId);

/// One volume's place, filled or not.
#[derive(Debug)]
pub struct Slot {
    folder: PathBuf,
    current: RwLock<Current>,
    /// How often the volume was opened; each time the master needs its inventory anew.
    openings: AtomicU64,
    tried: AtomicBool,
    /// Whose volume was found in the folder, once somebody has looked.
    found: OnceLock<Option<Owner>>,
    /// Another process had it when it was last tried.
    held_by_another: AtomicBool,
    failed_before: AtomicBool,
}

/// What a slot holds.
#[derive(Clone, Debug)]
pub enum Current {
    /// A volume in use.
    InUse(Arc<Volume>),
    /// None, with the reason, and whose it is if that is known.
    Out {
        /// Why.
        reason: String,
        /// From its identity.
        identity: Option<Box<Identity>>,
    },
}

/// All of them. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Volumes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    slots: Vec<Arc<Slot>>,
    around: Surroundings,
    retry_interval: Duration,
    owner: Mutex<Option<Owner>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Shutdown,
}

impl Volumes {
    /// Starts the threads that open these folders as volumes and keep them.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn start(folders: &[PathBuf], around: Surroundings, retry_interval: Duration) -> std::io::Result<Volumes> {
        let slot = |folder: &PathBuf| {
            Arc::new(Slot {
                folder: folder.clone(),
                current: RwLock::new(Current::Out { reason: "it is being opened".to_owned(), identity: None }),
                openings: AtomicU64::new(0),
                tried: AtomicBool::new(false),
                found: OnceLock::new(),
                held_by_another: AtomicBool::new(false),
                failed_before: AtomicBool::new(false),
            })
        };
        let shared = Arc::new(Shared {
            slots: folders.iter().map(slot).collect(),
            around,
            retry_interval,
            owner: Mutex::new(None),
            threads: Mutex::default(),
            stop: Shutdown::new(),
        });
        let mut threads = Vec::new();
        for index in 0..folders.len() {
            let (keeper, closer, scrubber) = (Arc::clone(&shared), Arc::clone(&shared), Arc::clone(&shared));
            threads.push(background::spawn(&format!("keeper-{index}"), move || keeper.keep(index))?);
            threads.push(background::spawn(&format!("closer-{index}"), move || closer.close_idle(index))?);
            threads.push(background::spawn(&format!("scrubber-{index}"), move || scrubber.scrub(index))?);
        }
        let watchdog = Arc::clone(&shared);
        threads.push(background::spawn("watchdog", move || watchdog.watch())?);
        *shared.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(Volumes { shared })
    }

    /// Waits until every volume has been tried once, for at most `limit`.
    pub fn wait_until_tried(&self, limit: Duration) {
        let clock = &self.shared.around.clock;
        let deadline = clock.monotonic() + limit;
        while clock.monotonic() < deadline && !self.slots().iter().all(|slot| slot.tried.load(Ordering::Acquire)) {
            clock.sleep(Duration::from_millis(2));
        }
    }

    /// Cluster and server that the volumes belong to, once one of them was readable.
    pub fn owner(&self) -> Option<Owner> {
        *self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots whose volume belongs to this daemon, with its identity: what the master is told of. One that was put into
    /// the wrong machine is another's to report.
    pub fn own_slots(&self) -> impl Iterator<Item = (&Arc<Slot>, Identity)> {
        let owner = self.owner();
        self.slots().iter().filter_map(move |slot| {
            let identity = slot.identity()?;
            (Some((identity.cluster, identity.server)) == owner).then_some((slot, identity))
        })
    }

    /// Every slot.
    pub fn slots(&self) -> &[Arc<Slot>] {
        &self.shared.slots
    }

    /// The volume with this id, in use.
    ///
    /// # Errors
    /// [`Fault::VolumeOut`].
    pub fn find(&self, id: VolumeId) -> Result<Arc<Volume>, Fault> {
        for slot in self.slots() {
            match &*slot.current.read().unwrap_or_else(PoisonError::into_inner) {
                Current::InUse(volume) if volume.id() == id => return Ok(Arc::clone(volume)),
                Current::Out { reason, identity: Some(identity) } if identity.volume == id => {
                    return Err(Fault::VolumeOut { reason: reason.clone() });
                }
                _ => {}
            }
        }
        Err(Fault::VolumeOut { reason: format!("volume {id} is not here") })
    }

    /// Everything in use.
    pub fn in_use(&self) -> Vec<Arc<Volume>> {
        self.slots().iter().filter_map(|slot| slot.volume()).collect()
    }

    /// Ends the threads and closes every volume cleanly.
    pub fn stop(&self) {
        self.shared.stop.request();
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let clock = &self.shared.around.clock;
        // A thread that hangs in its volume is left behind.
        let deadline = clock.monotonic() + Duration::from_secs(3);
        while clock.monotonic() < deadline && !threads.iter().all(JoinHandle::is_finished) {
            clock.sleep(Duration::from_millis(1));
        }
        let closing: Vec<_> = self
            .in_use()
            .into_iter()
            .filter(|volume| !volume.gate().is_stalled())
            .filter_map(|volume| background::spawn("close", move || volume.close()).ok())
            .collect();
        let deadline = clock.monotonic() + Duration::from_secs(20);
        while clock.monotonic() < deadline && !closing.iter().all(JoinHandle::is_finished) {
            clock.sleep(Duration::from_millis(1));
        }
        for slot in self.slots() {
            slot.set(Current::Out {
                reason: "the chunkserver is stopping".to_owned(),
                identity: slot.identity().map(Box::new),
            });
        }
    }
}

/// The owner of most; among equals the one found first.
fn most_frequent(found: &[Owner]) -> Option<Owner> {
    let count = |owner: &Owner| found.iter().filter(|other| *other == owner).count();
    found.iter().rev().max_by_key(|owner| count(owner)).copied()
}

impl Slot {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it holds.
    pub fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The volume, if it is in use.
    pub fn volume(&self) -> Option<Arc<Volume>> {
        match self.current() {
            Current::InUse(volume) => Some(volume),
            Current::Out { .. } => None,
        }
    }

    /// The identity, as far as it is known.
    pub fn identity(&self) -> Option<Identity> {
        match self.current() {
            Current::InUse(volume) => Some(volume.identity().clone()),
            Current::Out { identity, .. } => identity.map(|identity| *identity),
        }
    }

    /// How often it was opened.
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Whether another process had its lock when it was last tried.
    pub fn is_held_by_another(&self) -> bool {
        self.held_by_another.load(Ordering::Acquire)
    }

    fn set(&self, current: Current) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

impl Shared {
    fn keep(&self, index: usize) {
        let slot = &self.slots[index];
        let mut last_reason = String::new();
        loop {
            let wait = match slot.volume() {
                None => {
                    self.try_opening(index, &mut last_reason);
                    slot.tried.store(true, Ordering::Release);
                    if slot.volume().is_some() { LOOK_INTERVAL } else { self.retry_interval }
                }
                Some(volume) => {
                    volume.look_after();
                    if volume.is_out() {
                        volume.mark_failed();
                        slot.failed_before.store(true, Ordering::Release);
                        let identity = Some(Box::new(volume.identity().clone()));
                        slot.set(Current::Out { reason: volume.state().1, identity });
                    }
                    LOOK_INTERVAL
                }
            };
            if self.stop.wait_timeout(wait) {
                return;
            }
        }
    }

    fn try_opening(&self, index: usize, last_reason: &mut String) {
        let slot = &self.slots[index];
        let identity = Identity::read(&slot.folder);
        let found = identity.as_ref().ok().map(|identity| (identity.cluster, identity.server));
        slot.found.get_or_init(|| found);
        let known = identity.as_ref().ok().cloned().or_else(|| slot.identity());
        let opened = identity.and_then(|identity| {
            let owner = self.claim(index, &identity)?;
            let failed_before = slot.failed_before.load(Ordering::Acquire);
            Volume::open(&slot.folder, Expected { owner: Some(owner), failed_before }, &self.around)
        });
        let held = matches!(&opened, Err(Refusal::Locked { source: FolderLockError::Held { .. }, .. }));
        slot.held_by_another.store(held, Ordering::Release);
        match opened {
            Ok(volume) => {
                last_reason.clear();
                volume.report_damaged();
                slot.set(Current::InUse(Arc::new(volume)));
                slot.openings.fetch_add(1, Ordering::AcqRel);
            }
            Err(refusal) => {
                let reason = with_sources(&refusal);
                if *last_reason != reason {
                    tracing::error!(folder = %slot.folder.display(), "{reason}");
                    last_reason.clone_from(&reason);
                }
                slot.set(Current::Out { reason, identity: known.map(Box::new) });
            }
        }
    }

    /// Most volumes decide whose daemon this is, so that one that was put into the wrong machine is refused and not the
    /// others; and one volume has one folder.
    fn claim(&self, index: usize, identity: &Identity) -> Result<Owner, Refusal> {
        self.wait_until_all_are_found();
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let twin = self.slots.iter().enumerate().find(|(other, slot)| {
            *other != index && slot.identity().is_some_and(|known| known.volume == identity.volume)
        });
        let folder = &self.slots[index].folder;
        if let Some((_, other)) = twin {
            let (folder, other) = (folder.clone(), other.folder.clone());
            return Err(Refusal::Twice { folder, other, volume: identity.volume });
        }
        // Seen by the next one to claim, which waits for the lock.
        self.slots[index]
            .set(Current::Out { reason: "it is being opened".to_owned(), identity: Some(Box::new(identity.clone())) });
        let found: Vec<Owner> = self.slots.iter().filter_map(|slot| slot.found.get().copied().flatten()).collect();
        Ok(*owner.get_or_insert_with(|| most_frequent(&found).unwrap_or((identity.cluster, identity.server))))
    }

    fn wait_until_all_are_found(&self) {
        let clock = &self.around.clock;
        let deadline = clock.monotonic() + OWNER_LIMIT;
        let is_decided = || self.owner.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        while !is_decided()
            && !self.slots.iter().all(|slot| slot.found.get().is_some())
            && clock.monotonic() < deadline
            && !self.stop.is_requested()
        {
            clock.sleep(Duration::from_millis(2));
        }
    }

    fn close_idle(&self, index: usize) {
        let idle = self.around.settings.close_after;
        while !self.stop.wait_timeout(LOOK_INTERVAL.min(idle)) {
            if let Some(volume) = self.slots[index].volume() {
                volume.close_idle(idle);
            }
        }
    }

    /// The volume is held for the length of a step only: one that is out has to be let go of.
    fn scrub(&self, index: usize) {
        let slot = &self.slots[index];
        let mut scrubber = None;
        let mut pause = LOOK_INTERVAL;
        while !self.stop.wait_timeout(pause) {
            pause = LOOK_INTERVAL;
            let Some(volume) = slot.volume() else { continue };
            let opening = slot.openings();
            if scrubber.as_ref().is_none_or(|(of, _)| *of != opening) {
                scrubber = Some((opening, Scrubber::of(&volume)));
            }
            if let Some((_, scrubber)) = &mut scrubber {
                pause = scrubber.step(&volume);
            }
        }
        if let (Some(volume), Some((opening, scrubber))) = (slot.volume(), &scrubber)
            && slot.openings() == *opening
        {
            scrubber.save(&volume);
        }
    }

    fn watch(&self) {
        while !self.stop.wait_timeout(WATCH_INTERVAL) {
            let now: Monotonic = self.around.clock.monotonic();
            for volume in self.slots.iter().filter_map(|slot| slot.volume()) {
                match volume.gate().watch(now) {
                    Some(true) => tracing::error!(volume = %volume.id(), folder = %volume.folder().display(),
                        "volume stalled: an operation on it does not come back; check the paths to its disk"),
                    Some(false) => tracing::info!(volume = %volume.id(), "volume answers again"),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_volumes_decide_whose_daemon_this_is() {
        let owner = |server: u64| (ClusterId::new(1), ServerId::new(server));
        assert_eq!(most_frequent(&[]), None);
        assert_eq!(most_frequent(&[owner(1), owner(2), owner(2)]), Some(owner(2)));
        assert_eq!(most_frequent(&[owner(3), owner(2), owner(2), owner(3)]), Some(owner(3)), "the first of equals");
    }
}
