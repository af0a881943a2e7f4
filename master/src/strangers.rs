//! Telling of what comes to a port and is not of its protocol: who sent it and what was wrong, in the log.
//!
//! A port scanner or a broken program comes again and again, so each port tells of one a minute, and says then how many it
//! has not told of. All of them are in the log at level debug.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};

const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Of a reason. It may quote what the stranger sent.
const REASON_CHARACTERS_MAX: usize = 300;

/// What came to one port.
#[derive(Debug)]
pub(crate) struct Strangers {
    port: &'static str,
    clock: SharedClock,
    told: Mutex<Told>,
    #[cfg(test)]
    noted: Mutex<Vec<(Option<SocketAddr>, String)>>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Monotonic>,
    left_out: u64,
}

impl Strangers {
    /// Of a port, named in words.
    pub(crate) fn new(port: &'static str, clock: SharedClock) -> Strangers {
        Strangers {
            port,
            clock,
            told: Mutex::default(),
            #[cfg(test)]
            noted: Mutex::default(),
        }
    }

    /// The port's name.
    pub(crate) fn port(&self) -> &'static str {
        self.port
    }

    /// Notes that a connection, or a call on one, was ended for what came on it.
    pub(crate) fn note(&self, peer: Option<SocketAddr>, reason: &dyn Display) {
        #[cfg(test)]
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push((peer, reason.to_string()));
        let (port, peer) = (self.port, peer.map(|peer| peer.to_string()).unwrap_or_default());
        let reason: String = reason.to_string().chars().take(REASON_CHARACTERS_MAX).collect();
        match self.is_to_be_told() {
            Some(left_out) => {
                tracing::warn!(port, peer, ?reason, left_out, "cut off: what came is not of this port's protocol");
            }
            None => tracing::debug!(port, peer, ?reason, "cut off: what came is not of this port's protocol"),
        }
    }

    /// All that was noted since it was last asked.
    #[cfg(test)]
    pub(crate) fn take_noted(&self) -> Vec<(Option<SocketAddr>, String)> {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many were left out since the last one, if this one is to be told.
    fn is_to_be_told(&self) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now.since(last) < TOLD_EVERY) {
            told.left_out += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.left_out))
    }
}

/// An error with everything behind it, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Whether the network failed, or the peer went away: everyday.
pub(crate) fn is_of_the_network(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<std::io::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rfs_common::clock::{ManualClock, Time};

    use super::*;

    #[test]
    fn one_a_minute_is_told_and_the_others_are_counted() {
        let clock = ManualClock::new(Time::EPOCH);
        let strangers = Strangers::new("test port", Arc::new(clock.clone()));
        assert_eq!(strangers.is_to_be_told(), Some(0));
        assert_eq!((strangers.is_to_be_told(), strangers.is_to_be_told()), (None, None));
        clock.advance(TOLD_EVERY);
        assert_eq!(strangers.is_to_be_told(), Some(2));
        assert_eq!(strangers.is_to_be_told(), None);
    }
}
