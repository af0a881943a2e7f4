//! What tests order from the fake master: faults of single requests, and gates that hold answers back.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rfs_common::errno::Errno;

/// What is to go wrong with (or be awaited by) the next request of a type.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection ends before the request is carried out.
    DropBefore,
    /// The connection ends after it was carried out.
    DropAfter,
    /// It is carried out, and answered once the gate is open.
    Hold(Arc<Gate>),
    /// It is refused.
    Refuse(Errno),
    /// The answer gives no leases: the nodes are frozen.
    Frozen,
}

/// A gate that tests open.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until somebody waits at the gate.
    pub(crate) fn wait_reached(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_timeout_while(state, Duration::from_secs(5), |state| !state.1).unwrap());
    }

    pub(crate) fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, Duration::from_secs(5), |state| !state.0).unwrap());
    }
}
