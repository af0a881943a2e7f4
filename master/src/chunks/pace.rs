//! How fast what is left becomes less, and when it is done at that pace.

use std::collections::VecDeque;
use std::time::Duration;

use rfs_common::clock::Monotonic;

/// The pace is that of the last minute.
const WINDOW: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What has been watched for less than this has no pace yet.
const WATCHED_MIN: Duration = Duration::from_secs(3);
/// Making and deleting a copy costs as much as copying so many bytes more, so that small files are not taken for nothing.
const BYTES_PER_COPY: u64 = 128 << 10;

/// Copies that are still to be made or moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) copies: u64,
    pub(super) bytes: u64,
}

impl Left {
    fn work(self) -> u64 {
        self.bytes.saturating_add(self.copies.saturating_mul(BYTES_PER_COPY))
    }
}

/// What was left at moments of the last minute.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seen: VecDeque<(Monotonic, u64)>,
}

impl Pace {
    /// Looks, at most once a second. Forgets everything when nothing is left.
    pub(super) fn look(&mut self, now: Monotonic, left: Left) {
        if left == Left::default() {
            self.seen.clear();
            return;
        }
        if self.seen.back().is_some_and(|(last, _)| now.since(*last) < LOOK_EVERY) {
            return;
        }
        while self.seen.front().is_some_and(|(first, _)| now.since(*first) > WINDOW) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, left.work()));
    }

    /// How long it takes at the present pace until nothing is left; nothing if nothing has become less lately.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let ((first, _), (last, left)) = (*self.seen.front()?, *self.seen.back()?);
        let watched = last.since(first);
        // What came on top meanwhile does not make what was done undone.
        let steps = self.seen.iter().zip(self.seen.iter().skip(1));
        let done: u64 = steps.map(|((_, before), (_, after))| before.saturating_sub(*after)).sum();
        if watched < WATCHED_MIN || done == 0 {
            return None;
        }
        Some(Duration::from_secs_f64(watched.as_secs_f64() * left as f64 / done as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pace: &mut Pace, second: u64, mebibytes: u64) {
        let left = Left { copies: 0, bytes: mebibytes << 20 };
        pace.look(Monotonic::from_start(Duration::from_secs(second)), left);
    }

    #[test]
    fn the_time_left_follows_the_pace_of_the_last_minute() {
        let mut pace = Pace::default();
        for second in 0..100 {
            look(&mut pace, second, 1000 - second * 2);
        }
        assert_eq!(pace.time_left().unwrap().as_secs(), 401);
        for second in 100..200 {
            look(&mut pace, second, 1000 - 200 - (second - 100));
        }
        assert_eq!(pace.time_left().unwrap().as_secs(), 701);
        // Another server went away: what was done counts all the same.
        look(&mut pace, 200, 7000);
        assert!(pace.time_left().unwrap().as_secs() > 6_900);
    }

    #[test]
    fn there_is_no_estimate_before_something_moves_nor_after_the_end() {
        let mut pace = Pace::default();
        look(&mut pace, 0, 10);
        look(&mut pace, 1, 9);
        assert_eq!(pace.time_left(), None, "too early");
        let mut still = Pace::default();
        (0..30).for_each(|second| look(&mut still, second, 10));
        assert_eq!(still.time_left(), None, "nothing moves");
        look(&mut still, 30, 0);
        look(&mut still, 31, 500);
        assert_eq!(still.time_left(), None, "the next time begins anew");
    }
}
