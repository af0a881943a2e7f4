//! Whether the cluster has refused space a moment ago. Then a write asks for its space first and waits until its bytes are on the
//! copies, so that the program that writes is told, and not only the one that asks with fsync or close.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rfs_common::clock::Monotonic;

/// A refusal says nothing about what is so much later.
const LASTS: Duration = Duration::from_secs(10);

/// Of one mount.
#[derive(Debug, Default)]
pub(crate) struct Full {
    refused: Mutex<Option<Monotonic>>,
}

impl Full {
    /// Space was refused just now.
    pub(crate) fn note(&self, now: Monotonic) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// There was room for a new chunk.
    pub(crate) fn clear(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether space was refused lately, and none was given since.
    pub(crate) fn is_noted(&self, now: Monotonic) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = refused.filter(|refused| now.since(*refused) < LASTS);
        refused.is_some()
    }
}
