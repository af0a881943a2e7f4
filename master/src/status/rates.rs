//! How often things happen: counters looked at once a second, averaged over ten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;

use super::master_state::{MasterState, MasterStateExt};
use super::report::Rate;

const WINDOW: Duration = Duration::from_secs(10);
const NAMES: [&str; 5] = ["operations", "chunk reads", "chunk writes", "bytes read", "bytes written"];

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Monotonic,
    counters: [u64; NAMES.len()],
}

/// The samples. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rates(Arc<Mutex<VecDeque<Sample>>>);

impl Rates {
    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while samples.front().is_some_and(|oldest| sample.at.since(oldest.at) > WINDOW) {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Per second, over the time that the samples span.
    pub(super) fn rates(&self) -> Vec<Rate> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = match (samples.front(), samples.back()) {
            (Some(first), Some(last)) => last.at.since(first.at).as_secs_f64(),
            _ => 0.0,
        };
        let risen = |index: usize| -> u64 {
            // A server that came or went changes the sum of its counters: a fall, or a leap, is not a rate.
            let steps = samples.iter().zip(samples.iter().skip(1));
            steps.map(|(before, after)| after.counters[index].saturating_sub(before.counters[index])).sum()
        };
        let rate = |(index, name): (usize, &&'static str)| {
            let per_second = if seconds > 0.0 { risen(index) as f64 / seconds } else { 0.0 };
            Rate { name, per_second }
        };
        NAMES.iter().enumerate().map(rate).collect()
    }
}

/// Takes the samples; to be started as a worker.
pub struct RateSampler {
    state: Arc<dyn MasterState>,
    rates: Rates,
}

impl RateSampler {
    /// A sampler of the master's counters into `rates`.
    pub fn new(state: Arc<dyn MasterState>, rates: Rates) -> RateSampler {
        RateSampler { state, rates }
    }
}

impl Worker for RateSampler {
    fn name(&self) -> String {
        "rates".to_owned()
    }

    fn step(&mut self) -> Step {
        let (traffic, at) = self.state.with_chunks(|chunks, now| (chunks.traffic(), now));
        let counters =
            [self.state.operations(), traffic.reads, traffic.writes, traffic.read_bytes, traffic.written_bytes];
        self.rates.add(Sample { at, counters });
        Step::Idle(Duration::from_secs(1))
    }

    fn state(&self) -> String {
        "looks at the counters once a second".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_over_the_window_and_forgets_what_is_older() {
        let rates = Rates::default();
        for second in 0..30_u64 {
            let operations = if second < 15 { second * 1000 } else { 15_000 + (second - 15) * 10 };
            let at = Monotonic::from_start(Duration::from_secs(second));
            rates.add(Sample { at, counters: [operations, 0, 0, 0, 0] });
        }
        assert_eq!(rates.rates()[0], Rate { name: "operations", per_second: 10.0 });
        // A server that is gone takes its counters with it.
        rates.add(Sample { at: Monotonic::from_start(Duration::from_secs(30)), counters: [0; 5] });
        assert!(rates.rates()[0].per_second > 5.0);
    }
}
