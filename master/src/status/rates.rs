//! How often things happen: counters looked at once a second, averaged over ten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::clock::Monotonic;
use rfs_proto::frame::FrameType;

use super::master_state::{MasterState, MasterStateExt};
use super::report::Rate;

const WINDOW: Duration = Duration::from_secs(10);
const NAMES: [&str; 5] = ["operations", "chunk reads", "chunk writes", "bytes read", "bytes written"];

#[derive(Debug, Clone)]
struct Sample {
    at: Monotonic,
    counters: [u64; NAMES.len()],
    /// Always the same types in the same order.
    operations: Vec<(FrameType, u64)>,
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
        let rate = |(index, name): (usize, &&str)| Rate {
            name: (*name).to_owned(),
            per_second: per_second(&samples, |sample| sample.counters[index]),
        };
        NAMES.iter().enumerate().map(rate).collect()
    }

    /// The operations by type, only those that happened in that time, the most frequent first.
    pub(super) fn operations(&self) -> Vec<Rate> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = samples.back() else { return Vec::new() };
        let rate = |(index, (frame_type, _)): (usize, &(FrameType, u64))| Rate {
            name: in_words(*frame_type),
            per_second: per_second(&samples, |sample| sample.operations.get(index).map_or(0, |(_, count)| *count)),
        };
        let mut rates: Vec<Rate> = last.operations.iter().enumerate().map(rate).collect();
        rates.retain(|rate| rate.per_second > 0.0);
        rates.sort_by(|one, other| other.per_second.total_cmp(&one.per_second).then_with(|| one.name.cmp(&other.name)));
        rates
    }
}

fn per_second(samples: &VecDeque<Sample>, counter: impl Fn(&Sample) -> u64) -> f64 {
    let seconds = match (samples.front(), samples.back()) {
        (Some(first), Some(last)) => last.at.since(first.at).as_secs_f64(),
        _ => 0.0,
    };
    // A server that came or went changes the sum of its counters: a fall, or a leap, is not a rate.
    let steps = samples.iter().zip(samples.iter().skip(1));
    let risen: u64 = steps.map(|(before, after)| counter(after).saturating_sub(counter(before))).sum();
    if seconds > 0.0 { risen as f64 / seconds } else { 0.0 }
}

/// `ReadDirectory` as "read directory".
fn in_words(frame_type: FrameType) -> String {
    let mut words = String::new();
    for letter in format!("{frame_type:?}").chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
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
        let operations = self.state.operations();
        let all = operations.iter().map(|(_, count)| count).sum();
        let counters = [all, traffic.reads, traffic.writes, traffic.read_bytes, traffic.written_bytes];
        self.rates.add(Sample { at, counters, operations });
        Step::Idle(Duration::from_secs(1))
    }

    fn state(&self) -> String {
        "looks at the counters once a second".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, operations: u64) -> Sample {
        let counted =
            vec![(FrameType::Lookup, operations / 4), (FrameType::ReadDirectory, operations - operations / 4)];
        let at = Monotonic::from_start(Duration::from_secs(second));
        Sample { at, counters: [operations, 0, 0, 0, 0], operations: counted }
    }

    #[test]
    fn averages_over_the_window_and_forgets_what_is_older() {
        let rates = Rates::default();
        for second in 0..30_u64 {
            rates.add(sample(second, if second < 15 { second * 1000 } else { 15_000 + (second - 15) * 20 }));
        }
        let named = |name: &str, per_second| Rate { name: name.to_owned(), per_second };
        assert_eq!(rates.rates()[0], named("operations", 20.0));
        assert_eq!(rates.operations(), [named("read directory", 15.0), named("lookup", 5.0)]);
        // A server that is gone takes its counters with it.
        rates.add(sample(30, 0));
        assert!(rates.rates()[0].per_second > 5.0);
    }
}
