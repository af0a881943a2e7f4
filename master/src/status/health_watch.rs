//! Tells changes of health as events: DEGRADED and UNAVAILABLE with the line that says why, and OK when all is well again.
//!
//! A change that does not last is not told.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;

use super::gatherer::Gatherer;
use super::report::Health;
use crate::chunks::Severity;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What lasts less than this is not worth an event.
const LASTS: Duration = Duration::from_secs(3);

/// What was told last, and what is so now.
#[derive(Debug)]
struct Watch {
    told: Health,
    seen: Option<(Health, Monotonic)>,
}

impl Watch {
    fn new() -> Watch {
        Watch { told: Health::Ok, seen: None }
    }

    /// Looks once more; gives what is to be told.
    fn look(&mut self, now: Monotonic, health: Health, line: &str) -> Option<(Severity, String)> {
        let since = match self.seen {
            Some((seen, since)) if seen == health => since,
            _ => now,
        };
        self.seen = Some((health, since));
        if health == self.told || now.since(since) < LASTS {
            return None;
        }
        self.told = health;
        Some(match health {
            Health::Ok => (Severity::Information, format!("health is OK again: {line}")),
            Health::Degraded => (Severity::Warning, format!("health is DEGRADED: {line}")),
            Health::Unavailable => (Severity::Error, format!("health is UNAVAILABLE: {line}")),
        })
    }
}

/// Looks once a second; to be started as a worker.
pub struct HealthWatch {
    gatherer: Arc<Gatherer>,
    watch: Watch,
}

impl HealthWatch {
    /// Of what this one reports.
    pub fn new(gatherer: Arc<Gatherer>) -> HealthWatch {
        HealthWatch { gatherer, watch: Watch::new() }
    }
}

impl Worker for HealthWatch {
    fn name(&self) -> String {
        "health".to_owned()
    }

    fn step(&mut self) -> Step {
        let now = self.gatherer.state().clock().monotonic();
        let (health, line) = self.gatherer.health();
        if let Some((severity, message)) = self.watch.look(now, health, &line) {
            self.gatherer.state().report(severity, message);
        }
        Step::Idle(LOOK_EVERY)
    }

    fn state(&self) -> String {
        format!("health is {:?}", self.watch.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_health_that_lasts_is_told_once_with_its_line() {
        let mut watch = Watch::new();
        let mut told = Vec::new();
        let mut second = 0;
        let mut look = |health: Health, seconds: u64| {
            for _ in 0..seconds {
                second += 1;
                let now = Monotonic::from_start(Duration::from_secs(second));
                told.extend(watch.look(now, health, "why").map(|(_, text)| text));
            }
        };
        look(Health::Ok, 10);
        look(Health::Unavailable, 2);
        look(Health::Degraded, 10);
        look(Health::Ok, 2);
        look(Health::Degraded, 10);
        look(Health::Unavailable, 10);
        look(Health::Ok, 10);
        assert_eq!(told, ["health is DEGRADED: why", "health is UNAVAILABLE: why", "health is OK again: why"]);
    }
}
