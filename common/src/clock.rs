//! Time as an argument: logic takes a [`Clock`], or the [`Time`] and [`Monotonic`] it read, and never asks the system.
//!
//! [`Time`] is the wall clock and may jump; it is what files carry as their timestamps. [`Monotonic`] never goes back and
//! is what leases, deadlines and intervals are measured with; its start is arbitrary. [`SystemClock`] is the one place
//! that asks the kernel. [`ManualClock`] moves only when a test moves it.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock. It can jump, in both directions.
    fn now(&self) -> Time;

    /// The time since an arbitrary start. It never goes back.
    fn monotonic(&self) -> Monotonic;

    /// Returns when this much monotonic time has passed.
    fn sleep(&self, duration: Duration);
}

/// A clock shared by the parts of one process.
pub type SharedClock = Arc<dyn Clock>;

/// The kernel's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The kernel's clocks, ready to be handed to the parts of a process.
    pub fn shared() -> SharedClock {
        Arc::new(SystemClock)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let time = rustix::time::clock_gettime(ClockId::Realtime);
        Time { seconds: time.tv_sec.saturating_add(offset_s()), nanoseconds: time.tv_nsec as u32 }
    }

    fn monotonic(&self) -> Monotonic {
        let time = rustix::time::clock_gettime(ClockId::Monotonic);
        Monotonic(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The variable that names a file with seconds to add to the wall clock. Only tests set it: they let the clock of one daemon jump
/// while it runs, without touching the machine's.
const OFFSET_FILE_VARIABLE: &str = "RFS_TEST_CLOCK_OFFSET";

/// 0, where the variable is not set or its file says nothing.
fn offset_s() -> i64 {
    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os(OFFSET_FILE_VARIABLE).map(PathBuf::from));
    let text = FILE.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// A moment of the wall clock: seconds since 1970 UTC (negative before it) and nanoseconds after that second.
///
/// `nanoseconds` is always below one billion, also before 1970, as in `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time {
    seconds: i64,
    nanoseconds: u32,
}

impl Time {
    /// The start of 1970 UTC.
    pub const EPOCH: Time = Time { seconds: 0, nanoseconds: 0 };

    /// The moment this far after (or before) 1970; nanoseconds beyond a second are carried into the seconds.
    pub const fn new(seconds: i64, nanoseconds: u32) -> Time {
        let carry = (nanoseconds / NANOSECONDS_PER_SECOND) as i64;
        Time { seconds: seconds.saturating_add(carry), nanoseconds: nanoseconds % NANOSECONDS_PER_SECOND }
    }

    /// The moment at the start of this second.
    pub const fn from_seconds(seconds: i64) -> Time {
        Time { seconds, nanoseconds: 0 }
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after the whole second, below one billion.
    pub const fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// How long ago `earlier` was, or zero if it is in the future.
    pub fn since(self, earlier: Time) -> Duration {
        let nanoseconds = self.total_nanoseconds() - earlier.total_nanoseconds();
        duration_of_nanoseconds(nanoseconds.max(0) as u128)
    }

    /// The moment this much earlier, not before the earliest there is.
    pub fn before(self, duration: Duration) -> Time {
        Time::of_nanoseconds(self.total_nanoseconds() - duration.as_nanos().min(i128::MAX as u128 / 2) as i128)
    }

    fn total_nanoseconds(self) -> i128 {
        i128::from(self.seconds) * i128::from(NANOSECONDS_PER_SECOND) + i128::from(self.nanoseconds)
    }

    fn of_nanoseconds(total: i128) -> Time {
        let per_second = i128::from(NANOSECONDS_PER_SECOND);
        let seconds = total.div_euclid(per_second);
        match i64::try_from(seconds) {
            Ok(seconds) => Time { seconds, nanoseconds: total.rem_euclid(per_second) as u32 },
            Err(_) if seconds < 0 => Time { seconds: i64::MIN, nanoseconds: 0 },
            Err(_) => Time { seconds: i64::MAX, nanoseconds: NANOSECONDS_PER_SECOND - 1 },
        }
    }
}

fn duration_of_nanoseconds(total: u128) -> Duration {
    let seconds = total / u128::from(NANOSECONDS_PER_SECOND);
    let rest = (total % u128::from(NANOSECONDS_PER_SECOND)) as u32;
    u64::try_from(seconds).map_or(Duration::MAX, |seconds| Duration::new(seconds, rest))
}

impl Add<Duration> for Time {
    type Output = Time;

    /// The moment this much later, not after the last there is.
    fn add(self, duration: Duration) -> Time {
        Time::of_nanoseconds(self.total_nanoseconds() + duration.as_nanos() as i128)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time::EPOCH + after,
            Err(error) => Time::EPOCH.before(error.duration()),
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> SystemTime {
        if time >= Time::EPOCH { UNIX_EPOCH + time.since(Time::EPOCH) } else { UNIX_EPOCH - Time::EPOCH.since(time) }
    }
}

impl fmt::Display for Time {
    /// The moment in UTC, as in `2026-11-21T12:14:01.000000123Z`, or the plain seconds where the calendar would need
    /// more than four digits for the year.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECONDS_PER_DAY: i64 = 86_400;
        let (days, second) = (self.seconds.div_euclid(SECONDS_PER_DAY), self.seconds.rem_euclid(SECONDS_PER_DAY));
        let Some((year, month, day)) = date_of_day(days) else {
            return write!(formatter, "{}.{:09}s", self.seconds, self.nanoseconds);
        };
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", self.nanoseconds)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar, for the years 0 to 9999.
///
/// Years are taken to begin in March, so that the leap day is the last day of a year and the lengths of the months
/// before it follow the line (153 * month + 2) / 5.
fn date_of_day(days_since_1970: i64) -> Option<(i64, i64, i64)> {
    const DAYS_FROM_MARCH_0000_TO_1970: i64 = 719_468;
    const DAYS_PER_400_YEARS: i64 = 146_097;
    let days = days_since_1970.checked_add(DAYS_FROM_MARCH_0000_TO_1970)?;
    let (era, day_of_era) = (days.div_euclid(DAYS_PER_400_YEARS), days.rem_euclid(DAYS_PER_400_YEARS));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (0..=9999).contains(&year).then_some((year, month, day))
}

/// A moment of a clock that never goes back, as the time since that clock's arbitrary start.
///
/// Only moments of one clock of one machine can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The clock's start.
    pub const START: Monotonic = Monotonic(Duration::ZERO);

    /// The moment this long after the clock's start.
    pub const fn from_start(duration: Duration) -> Monotonic {
        Monotonic(duration)
    }

    /// How long after the clock's start this is.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was, or zero if it has not come yet.
    pub fn since(self, earlier: Monotonic) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it still is until `deadline`, or zero if it has passed.
    pub fn until(self, deadline: Monotonic) -> Duration {
        deadline.since(self)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;

    /// The moment this much later; "for ever" (`Duration::MAX`) stays for ever.
    fn add(self, duration: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(duration))
    }
}

impl AddAssign<Duration> for Monotonic {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Monotonic {
    type Output = Duration;

    /// The same as [`Monotonic::since`].
    fn sub(self, earlier: Monotonic) -> Duration {
        self.since(earlier)
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    shared: Arc<Manual>,
}

#[derive(Debug)]
struct Manual {
    times: Mutex<(Time, Monotonic)>,
    moved: Condvar,
    sleepers: Sleepers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleepers {
    WaitForAdvance,
    MoveTheClock,
}

impl ManualClock {
    /// A clock showing this wall time. `sleep` blocks until another thread has advanced the clock far enough.
    pub fn new(now: Time) -> ManualClock {
        ManualClock::with_sleepers(now, Sleepers::WaitForAdvance)
    }

    /// A clock showing this wall time whose `sleep` moves the clock and returns at once, for single-threaded tests.
    pub fn moved_by_sleep(now: Time) -> ManualClock {
        ManualClock::with_sleepers(now, Sleepers::MoveTheClock)
    }

    fn with_sleepers(now: Time, sleepers: Sleepers) -> ManualClock {
        let times = Mutex::new((now, Monotonic::START));
        ManualClock { shared: Arc::new(Manual { times, moved: Condvar::new(), sleepers }) }
    }

    /// The same clock as a [`SharedClock`].
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Lets this much time pass, on both clocks, and wakes whoever has slept long enough.
    pub fn advance(&self, duration: Duration) {
        let mut times = self.times();
        *times = (times.0 + duration, times.1 + duration);
        self.shared.moved.notify_all();
    }

    /// Makes the wall clock jump; the monotonic clock stays where it is.
    pub fn set_wall(&self, now: Time) {
        self.times().0 = now;
    }

    fn times(&self) -> MutexGuard<'_, (Time, Monotonic)> {
        self.shared.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.times().0
    }

    fn monotonic(&self) -> Monotonic {
        self.times().1
    }

    fn sleep(&self, duration: Duration) {
        if self.shared.sleepers == Sleepers::MoveTheClock {
            return self.advance(duration);
        }
        let mut times = self.times();
        let wake_at = times.1 + duration;
        while times.1 < wake_at {
            times = self.shared.moved.wait(times).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn system_clock_agrees_with_the_standard_library() {
        #[allow(clippy::disallowed_methods, reason = "the standard library's clock is what ours is compared with")]
        let before = Time::from(SystemTime::now());
        let now = SystemClock.now();
        assert!(now.since(before) < Duration::from_secs(60), "{now} is long after {before}");
        assert!(now >= before, "{now} is before {before}");
        let first = SystemClock.monotonic();
        SystemClock.sleep(Duration::from_millis(2));
        assert!(SystemClock.monotonic() - first >= Duration::from_millis(2));
    }

    #[test]
    fn shows_times_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_795_263_241, "2026-11-21T12:14:01.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (i64::MAX, "9223372036854775807.000000000s"),
        ] {
            assert_eq!(Time::from_seconds(seconds).to_string(), text);
        }
    }

    #[test]
    fn times_saturate_at_their_ends() {
        let last = Time::from_seconds(i64::MAX) + Duration::MAX;
        assert_eq!((last.seconds(), last.nanoseconds()), (i64::MAX, 999_999_999));
        assert_eq!(Time::from_seconds(i64::MIN).before(Duration::MAX).seconds(), i64::MIN);
        assert_eq!(Monotonic::START.since(Monotonic::START + Duration::MAX), Duration::ZERO);
        assert_eq!(Time::new(1, 2_500_000_000), Time::new(3, 500_000_000));
    }

    #[test]
    fn manual_clock_moves_only_when_moved() {
        let clock = ManualClock::new(Time::from_seconds(100));
        let start = clock.monotonic();
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now(), Time::new(101, 500_000_000));
        assert_eq!(clock.monotonic() - start, Duration::from_millis(1500));
        clock.set_wall(Time::EPOCH);
        assert_eq!(clock.monotonic() - start, Duration::from_millis(1500));
        let quick = ManualClock::moved_by_sleep(Time::EPOCH);
        quick.sleep(Duration::from_secs(7));
        assert_eq!(quick.now(), Time::from_seconds(7));
    }

    #[test]
    fn manual_clock_wakes_sleepers_when_their_time_has_come() {
        let clock = ManualClock::new(Time::EPOCH);
        let sleeper = clock.clone();
        let thread = std::thread::spawn(move || {
            sleeper.sleep(Duration::from_secs(2));
            sleeper.monotonic()
        });
        clock.advance(Duration::from_secs(1));
        while !thread.is_finished() {
            clock.advance(Duration::from_secs(1));
            std::thread::yield_now();
        }
        assert!(thread.join().unwrap() >= Monotonic::from_start(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn time_arithmetic_is_consistent(
            seconds in -1_000_000_000_000_i64..1_000_000_000_000,
            nanoseconds in 0..NANOSECONDS_PER_SECOND,
            step in 0..u64::MAX / 4,
        ) {
            let time = Time::new(seconds, nanoseconds);
            let step = Duration::from_nanos(step);
            prop_assert_eq!((time + step).since(time), step);
            prop_assert_eq!((time + step).before(step), time);
            prop_assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
