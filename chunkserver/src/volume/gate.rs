//! The gate of a volume: every operation on its files passes it with a deadline, so that a volume whose I/O does not come
//! back is seen from outside and others are turned away instead of queueing behind it.
//!
//! An operation takes a slot and writes its deadline there. The watchdog (one thread for all volumes, which never touches
//! a file) looks at the slots: one past its deadline makes the volume *stalled*, none left makes it well again.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rfs_common::clock::Monotonic;

use crate::chunk::fault::Fault;

/// Operations at the same time on one volume. Beyond, new ones are turned away: they would only wait.
const SLOTS: usize = 256;

/// Who is inside.
#[derive(Debug)]
pub struct Gate {
    /// Deadline of the operation in the slot in milliseconds, or 0.
    slots: Box<[AtomicU64]>,
    next: AtomicUsize,
    stalled: AtomicBool,
}

/// An operation under way; its end frees the slot.
#[derive(Debug)]
pub struct Pass<'gate> {
    slot: &'gate AtomicU64,
}

impl Default for Gate {
    fn default() -> Gate {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Gate { slots, next: AtomicUsize::new(0), stalled: AtomicBool::new(false) }
    }
}

impl Gate {
    /// Lets an operation in that has to be done within `limit`.
    ///
    /// # Errors
    /// [`Fault::Timeout`] while the volume is stalled or too much waits for it.
    pub fn enter(&self, now: Monotonic, limit: Duration) -> Result<Pass<'_>, Fault> {
        if self.is_stalled() {
            return Err(Fault::Timeout);
        }
        self.enter_anyway(now, limit).ok_or(Fault::Timeout)
    }

    /// The same for what must not be left half done: also while the volume is stalled, and without a slot if there is none.
    pub fn enter_anyway(&self, now: Monotonic, limit: Duration) -> Option<Pass<'_>> {
        let deadline_ms = ((now + limit).since_start().as_millis() as u64).max(1);
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..SLOTS {
            let slot = &self.slots[start.wrapping_add(step) % SLOTS];
            if slot.compare_exchange(0, deadline_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Some(Pass { slot });
            }
        }
        None
    }

    /// Looks for operations past their deadline. Gives the new state if it changed: true is stalled.
    pub fn watch(&self, now: Monotonic) -> Option<bool> {
        let now_ms = now.since_start().as_millis() as u64;
        let late = self
            .slots
            .iter()
            .any(|slot| matches!(slot.load(Ordering::Relaxed), deadline if deadline != 0 && deadline < now_ms));
        (self.stalled.swap(late, Ordering::Relaxed) != late).then_some(late)
    }

    /// Whether an operation does not come back.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_operation_stalls_the_volume_until_it_returns() {
        let gate = Gate::default();
        let at = |ms| Monotonic::from_start(Duration::from_millis(ms));
        let limit = Duration::from_millis(2000);
        let pass = gate.enter(at(100), limit).unwrap();
        drop(gate.enter(at(100), limit).unwrap());
        assert_eq!(gate.watch(at(2100)), None);
        assert_eq!(gate.watch(at(2101)), Some(true));
        assert_eq!(gate.watch(at(2200)), None);
        assert_eq!(gate.enter(at(2200), limit).unwrap_err(), Fault::Timeout);
        drop(pass);
        assert_eq!(gate.watch(at(2300)), Some(false));
        let all: Vec<_> = (0..SLOTS).map(|_| gate.enter(at(2300), limit).unwrap()).collect();
        assert_eq!(gate.enter(at(2300), limit).unwrap_err(), Fault::Timeout);
        drop(all);
        gate.enter(at(2300), limit).unwrap();
    }
}
