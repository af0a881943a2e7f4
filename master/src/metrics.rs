//! The master's own counters, and their text form for Prometheus. Every name and meaning stands in [`names`].
//!
//! Counters are atomics without order: they are read for people, never to decide anything.

pub mod names;

use std::sync::atomic::{AtomicU64, Ordering};

use rfs_proto::frame::FrameType;

use self::names::Metric;

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
    ($($field:ident, $metric:ident;)*) => {
        /// The counters of one master; what each means stands in [`names`].
        #[derive(Debug)]
        pub struct Metrics {
            operations: Vec<Counter>,
            $(#[doc = concat!("See [`names::", stringify!($metric), "`].")] pub $field: Counter,)*
        }

        impl Metrics {
            /// All zero.
            pub fn new() -> Metrics {
                let operations = FrameType::ALL.iter().map(|_| Counter::default()).collect();
                Metrics { operations, $($field: Counter::default(),)* }
            }

            fn each(&self) -> Vec<(Metric, u64)> {
                vec![$((names::$metric, self.$field.get()),)*]
            }
        }
    };
}

counters! {
    failures, OPERATION_FAILURES;
    repetitions, OPERATION_REPETITIONS;
    waits, OPERATION_WAITS;
    lock_waits, LOCK_WAITS;
    lock_wait_microseconds, LOCK_WAIT_MICROSECONDS;
    recalls, RECALLS;
    commits, COMMITS;
    commit_failures, COMMIT_FAILURES;
    slow_disk_waits, SLOW_DISK_WAITS;
    sessions_begun, SESSIONS_BEGUN;
    sessions_expired, SESSIONS_EXPIRED;
    chunks_settled, CHUNKS_SETTLED;
    connections, CONNECTIONS;
    connections_refused, CONNECTIONS_REFUSED;
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

    /// Operations answered so far, by type.
    pub fn operations(&self) -> Vec<(FrameType, u64)> {
        FrameType::ALL.iter().copied().zip(self.operations.iter().map(Counter::get)).collect()
    }

    /// All of them as Prometheus reads them.
    pub fn render(&self) -> String {
        let mut text = String::new();
        names::OPERATIONS.write_head(&mut text);
        for (frame_type, count) in self.operations().into_iter().filter(|(_, count)| *count > 0) {
            names::OPERATIONS.write_labelled(&mut text, &format!("type=\"{frame_type:?}\""), count);
        }
        for (metric, value) in self.each() {
            metric.write_value(&mut text, value);
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
        assert_eq!(metrics.operations().iter().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
