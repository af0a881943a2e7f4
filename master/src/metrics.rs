//! The master's own counters: every name, unit and meaning in one place, and their text form for Prometheus.
//!
//! Counters are atomics without order: they are read for people, never to decide anything.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use rfs_proto::frame::FrameType;

/// One number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($field:ident, $name:literal, $meaning:literal;)*) => {
        /// The counters of one master.
        #[derive(Debug)]
        pub struct Metrics {
            operations: Vec<Counter>,
            $(#[doc = $meaning] pub $field: Counter,)*
        }

        impl Metrics {
            /// All zero.
            pub fn new() -> Metrics {
                let operations = FrameType::ALL.iter().map(|_| Counter::default()).collect();
                Metrics { operations, $($field: Counter::default(),)* }
            }

            fn each(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($name, $meaning, self.$field.get()),)*]
            }
        }
    };
}

counters! {
    failures, "rfs_master_operation_failures_total", "Operations answered with an error number.";
    repetitions, "rfs_master_operation_repetitions_total", "Changes answered from memory because they had run before.";
    waits, "rfs_master_operation_waits_total", "Times an operation's thread slept until it was woken.";
    recalls, "rfs_master_recalls_total", "Recalls sent to sessions.";
    commits, "rfs_master_commits_total", "Commits to the metadata log.";
    commit_failures, "rfs_master_commit_failures_total", "Commits that the metadata log refused.";
    sessions_begun, "rfs_master_sessions_begun_total", "Sessions that clients began.";
    sessions_expired, "rfs_master_sessions_expired_total", "Sessions that ended because their client was silent.";
    chunks_settled, "rfs_master_chunks_settled_total", "Chunks brought to one version after their writer was gone.";
    connections, "rfs_master_session_connections_total", "Connections accepted on the session port.";
    connections_refused, "rfs_master_session_connections_refused_total",
        "Connections closed before their handshake was complete.";
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// An operation of this type was answered.
    pub fn count_operation(&self, frame_type: FrameType) {
        if let Some(at) = FrameType::ALL.iter().position(|other| *other == frame_type) {
            self.operations[at].add_one();
        }
    }

    /// Operations of every type answered so far.
    pub fn operations(&self) -> u64 {
        self.operations.iter().map(Counter::get).sum()
    }

    /// All of them as Prometheus reads them.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP rfs_master_operations_total Operations answered, by type.\n# TYPE rfs_master_operations_total counter\n",
        );
        for (frame_type, counter) in
            FrameType::ALL.iter().zip(&self.operations).filter(|(_, counter)| counter.get() > 0)
        {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "rfs_master_operations_total{{type=\"{frame_type:?}\"}} {}", counter.get());
        }
        for (name, meaning, value) in self.each() {
            let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} counter\n{name} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_every_counter_with_its_meaning() {
        let metrics = Metrics::new();
        metrics.count_operation(FrameType::Lookup);
        metrics.waits.add(3);
        let text = metrics.render();
        assert!(text.contains("rfs_master_operations_total{type=\"Lookup\"} 1\n"));
        assert!(text.contains("\nrfs_master_operation_waits_total 3\n"));
        assert_eq!(metrics.operations(), 1);
    }
}
