//! What happened lately that a person should know: kept in a ring for the status page and the tool, and logged once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rfs_common::clock::Time;

use crate::chunks::Severity;

/// Events that are kept.
const EVENTS_MAX: usize = 1_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Numbers the events of this start of the master, from 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// How serious it is.
    pub severity: Severity,
    /// What happened, to what, and what to do.
    pub message: String,
}

/// The latest events.
#[derive(Debug, Default)]
pub struct Events {
    kept: Mutex<(u64, VecDeque<Event>)>,
}

impl Events {
    /// None yet.
    pub fn new() -> Events {
        Events::default()
    }

    /// Logs an event and keeps it.
    pub fn report(&self, at: Time, severity: Severity, message: impl Into<String>) {
        let message = message.into();
        match severity {
            Severity::Information => tracing::info!("{message}"),
            Severity::Warning => tracing::warn!("{message}"),
            Severity::Error => tracing::error!("{message}"),
        }
        let mut kept = self.kept();
        kept.0 += 1;
        let number = kept.0;
        if kept.1.len() == EVENTS_MAX {
            kept.1.pop_front();
        }
        kept.1.push_back(Event { number, at, severity, message });
    }

    /// The latest events with a number above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<Event> {
        self.kept().1.iter().filter(|event| event.number > after).cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, (u64, VecDeque<Event>)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_numbers_stay() {
        let events = Events::new();
        for number in 1..=EVENTS_MAX as u64 + 5 {
            events.report(Time::EPOCH, Severity::Information, format!("event {number}"));
        }
        let all = events.after(0);
        assert_eq!((all.len(), all[0].number), (EVENTS_MAX, 6));
        assert_eq!(events.after(EVENTS_MAX as u64 + 4).len(), 1);
    }
}
