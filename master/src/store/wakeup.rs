//! A bell for a background thread: it sleeps until rung, until a time has passed, or until it is to end.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::log::locked;

/// Why a thread woke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    Rung,
    TimePassed,
    Ended,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    ended: bool,
}

/// One bell for one thread.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    state: Mutex<State>,
    changed: Condvar,
}

impl Wakeup {
    /// Wakes the thread, now or the next time it goes to sleep.
    pub(crate) fn ring(&self) {
        locked(&self.state).rung = true;
        self.changed.notify_all();
    }

    /// Tells the thread to end.
    pub(crate) fn end(&self) {
        locked(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Sleeps; a ring that came before is enough.
    pub(crate) fn sleep(&self, at_most: Duration) -> Woken {
        let state = locked(&self.state);
        let asleep = |state: &mut State| !state.rung && !state.ended;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, at_most, asleep).unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            Woken::Ended
        } else if std::mem::take(&mut state.rung) {
            Woken::Rung
        } else {
            Woken::TimePassed
        }
    }
}
