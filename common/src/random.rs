//! Chance as an argument: logic takes a [`Random`] and never asks the system for randomness.
//!
//! [`SystemRandom`] is for daemons. [`SeededRandom`] gives the same numbers for the same seed in every version of rfs,
//! so that a failed test can be repeated from the seed it printed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where random numbers come from. All of them follow from `u64`.
pub trait Random: Send + Sync + fmt::Debug {
    /// A number, each equally likely.
    fn u64(&self) -> u64;

    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(8) {
            part.copy_from_slice(&self.u64().to_le_bytes()[..part.len()]);
        }
    }

    /// A number below `limit`, each equally likely. Panics if the limit is 0.
    fn below(&self, limit: u64) -> u64 {
        assert!(limit > 0, "there is no number below 0");
        // The high half of the product is uniform once the low halves that would favour some results are refused.
        let refused = limit.wrapping_neg() % limit;
        loop {
            let product = u128::from(self.u64()) * u128::from(limit);
            if product as u64 >= refused {
                return (product >> 64) as u64;
            }
        }
    }

    /// Between half of the duration and all of it, so that what waits for the same thing does not come back together.
    fn jitter(&self, duration: Duration) -> Duration {
        let half = duration / 2;
        let spread_nanoseconds = u64::try_from((duration - half).as_nanos()).unwrap_or(u64::MAX - 1);
        half + Duration::from_nanos(self.below(spread_nanoseconds + 1))
    }

    /// The index of one of `length` things, or nothing if there are none.
    fn index(&self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.below(length as u64) as usize)
    }
}

/// A source of randomness shared by the parts of one process.
pub type SharedRandom = Arc<dyn Random>;

/// Random numbers from the operating system, stretched by a generator per thread that is fit for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl SystemRandom {
    /// The system's randomness, ready to be handed to the parts of a process.
    pub fn shared() -> SharedRandom {
        Arc::new(SystemRandom)
    }
}

impl Random for SystemRandom {
    fn u64(&self) -> u64 {
        rand::random()
    }
}

/// Numbers that follow from a seed (the SplitMix64 generator); fit for tests, not for secrets.
#[derive(Debug)]
pub struct SeededRandom {
    seed: u64,
    state: AtomicU64,
}

impl SeededRandom {
    /// The numbers that follow from this seed.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom { seed, state: AtomicU64::new(seed) }
    }

    /// The seed, for the message of a test that failed.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Random for SeededRandom {
    fn u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_numbers_never_change() {
        let random = SeededRandom::new(1_234_567);
        let numbers = [random.u64(), random.u64(), random.u64()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_eq!(random.seed(), 1_234_567);
    }

    #[test]
    fn below_reaches_every_number_about_equally() {
        let random = SeededRandom::new(1);
        let mut counts = [0_u32; 5];
        (0..5_000).for_each(|_| counts[random.below(5) as usize] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
        assert_eq!(random.index(0), None);
    }

    /// Without refusals, numbers of the form 3n would come twice as often as others below three quarters of 2^64.
    #[test]
    fn below_favours_no_number_when_the_limit_is_large() {
        let random = SeededRandom::new(4);
        let multiples = (0..3_000).filter(|_| random.below(3 << 62).is_multiple_of(3)).count();
        assert!((850..1150).contains(&multiples), "{multiples}");
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let random = SeededRandom::new(2);
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::from_nanos(7), Duration::from_secs(10)] {
            for _ in 0..200 {
                let jittered = random.jitter(duration);
                assert!(jittered >= duration / 2 && jittered <= duration, "{jittered:?} of {duration:?}");
            }
        }
        assert!(random.jitter(Duration::MAX) <= Duration::MAX);
    }

    #[test]
    fn fill_reaches_the_last_byte() {
        for random in [SystemRandom::shared(), Arc::new(SeededRandom::new(3))] {
            let mut buffer = [0_u8; 19];
            let mut seen = [0_u8; 19];
            for _ in 0..20 {
                random.fill(&mut buffer);
                seen.iter_mut().zip(buffer).for_each(|(seen, byte)| *seen |= byte);
            }
            assert!(seen.iter().all(|byte| *byte != 0), "{seen:?}");
        }
    }
}
