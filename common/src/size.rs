//! Sizes and durations as people write them: `64MiB`, `10G`, `1.5TiB`; `10ms`, `5s`, `1h30m`, `14d`.
//!
//! `K`, `M`, `G`, `T`, `P` and `KiB` to `PiB` are powers of 1024; `KB` to `PB` are powers of 1000, as makers of disks use
//! them. Units may be written in any case. A number without a unit is a number of bytes; a duration needs its unit.
//!
//! What always holds: what `Display` shows is read back as exactly the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// A text that is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a size.
    #[error("{0:?} is not a size; write a number and a unit, such as 4096, 512KiB, 64MiB or 1.5TiB")]
    NotASize(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write a number and a unit, such as 10ms, 5s, 30m, 2h or 14d")]
    NotADuration(String),
    /// A number without its unit.
    #[error("{0:?} has no unit; write for example {0}ms, {0}s, {0}m, {0}h or {0}d")]
    NoUnit(String),
    /// More than can be counted.
    #[error("{0:?} is more than can be counted")]
    TooLarge(String),
}

const BINARY_UNITS: [(&str, u64); 6] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// This many bytes.
    pub const fn new(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// This many KiB (1024 bytes).
    pub const fn kib(count: u64) -> ByteSize {
        ByteSize(count << 10)
    }

    /// This many MiB (1024 KiB).
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    /// This many GiB (1024 MiB).
    pub const fn gib(count: u64) -> ByteSize {
        ByteSize(count << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size with at most one decimal in its largest unit, as tables for people show it: `1.4TiB`.
    pub fn rounded(self) -> String {
        let (unit, factor) = BINARY_UNITS.into_iter().find(|(_, factor)| self.0 >= *factor).unwrap_or(("B", 1));
        if factor == 1 {
            return format!("{}B", self.0);
        }
        format!("{:.1}{unit}", self.0 as f64 / factor as f64)
    }

    fn factor_of(unit: &str) -> Option<u64> {
        let powers =
            |base: u64| ["k", "m", "g", "t", "p"].iter().zip(1..).map(move |(unit, power)| (unit, base.pow(power)));
        let unit = unit.to_ascii_lowercase();
        if matches!(unit.as_str(), "" | "b") {
            return Some(1);
        }
        let (prefix, base) = match unit.strip_suffix("ib") {
            Some(prefix) => (prefix, 1024),
            None => unit.strip_suffix('b').map_or((unit.as_str(), 1024), |prefix| (prefix, 1000)),
        };
        powers(base).find(|(known, _)| **known == prefix).map(|(_, factor)| factor)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BINARY_UNITS.into_iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = exact.unwrap_or(("B", 1));
        formatter.pad(&format!("{}{unit}", self.0 / factor))
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<ByteSize, SizeError> {
        let not_a_size = || SizeError::NotASize(text.to_owned());
        let (number, unit) = Number::parse(text.trim()).ok_or_else(not_a_size)?;
        let factor = ByteSize::factor_of(unit.trim()).ok_or_else(not_a_size)?;
        let bytes = number.times(u128::from(factor)).and_then(|bytes| u64::try_from(bytes).ok());
        bytes.map(ByteSize).ok_or_else(|| SizeError::TooLarge(text.to_owned()))
    }
}

/// A duration, as configuration and tools write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Period(Duration);

const PERIOD_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Period {
    /// This duration.
    pub const fn new(duration: Duration) -> Period {
        Period(duration)
    }

    /// This many milliseconds.
    pub const fn milliseconds(count: u64) -> Period {
        Period(Duration::from_millis(count))
    }

    /// This many seconds.
    pub const fn seconds(count: u64) -> Period {
        Period(Duration::from_secs(count))
    }

    /// This many minutes.
    pub const fn minutes(count: u64) -> Period {
        Period::seconds(count * 60)
    }

    /// This many hours.
    pub const fn hours(count: u64) -> Period {
        Period::minutes(count * 60)
    }

    /// This many days of 24 hours.
    pub const fn days(count: u64) -> Period {
        Period::hours(count * 24)
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Duration {
        period.0
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_nanos();
        if total == 0 {
            return formatter.pad("0s");
        }
        let exact = PERIOD_UNITS.into_iter().find(|(_, factor)| total.is_multiple_of(u128::from(*factor)));
        let (unit, factor) = exact.unwrap_or(("ns", 1));
        formatter.pad(&format!("{}{unit}", total / u128::from(factor)))
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Period {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Period, SizeError> {
        let not_a_duration = || SizeError::NotADuration(text.to_owned());
        let too_large = || SizeError::TooLarge(text.to_owned());
        let mut rest = text.trim();
        let mut total: u128 = 0;
        loop {
            let (number, after) = Number::parse(rest).ok_or_else(not_a_duration)?;
            let unit_end = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, following) = after.split_at(unit_end);
            if unit.is_empty() {
                return Err(if after.is_empty() { SizeError::NoUnit(text.to_owned()) } else { not_a_duration() });
            }
            let known = PERIOD_UNITS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(unit));
            let (_, factor) = known.ok_or_else(not_a_duration)?;
            let part = number.times(u128::from(factor)).ok_or_else(too_large)?;
            total = total.checked_add(part).ok_or_else(too_large)?;
            rest = following.trim_start();
            if rest.is_empty() {
                break;
            }
        }
        let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| too_large())?;
        Ok(Period(Duration::new(seconds, (total % 1_000_000_000) as u32)))
    }
}

/// A decimal number read from text: `digits` divided by `divisor`, so that no bit is lost to floating point.
struct Number {
    digits: u128,
    divisor: u128,
}

impl Number {
    /// The number at the start of the text, and what follows it. More than 30 digits are refused.
    fn parse(text: &str) -> Option<(Number, &str)> {
        let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let dot_without_fraction = number.contains('.') && fraction.is_empty();
        if whole.is_empty() || dot_without_fraction || fraction.contains('.') || whole.len() + fraction.len() > 30 {
            return None;
        }
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some((Number { digits, divisor: 10_u128.pow(fraction.len() as u32) }, rest))
    }

    /// The number times a factor, rounded down, if it can be counted.
    fn times(&self, factor: u128) -> Option<u128> {
        self.digits.checked_mul(factor).map(|product| product / self.divisor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"64MiB\", or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Period;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a duration such as \"10ms\", \"5s\" or \"14d\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        text.parse().ok().map(ByteSize::get)
    }

    fn period(text: &str) -> Option<Duration> {
        text.parse().ok().map(Period::get)
    }

    #[test]
    fn reads_sizes() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("12B", 12),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("10G", 10 << 30),
            ("10GB", 10_000_000_000),
            ("1.5TiB", 3 << 39),
            ("0.1K", 102),
            (" 2P ", 2 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text:?}");
        }
        for text in
            ["", "B", "-1", "1..5K", "1.K", ".5K", "1.2.3K", "1X", "1KiBi", "1 2", "18446744073709551616", "16384P"]
        {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn reads_durations() {
        for (text, milliseconds) in [
            ("10ms", 10),
            ("5s", 5_000),
            ("30m", 1_800_000),
            ("14d", 1_209_600_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
        ] {
            assert_eq!(period(text), Some(Duration::from_millis(milliseconds)), "{text:?}");
        }
        for text in ["", "5", "s", "5 s 3", "5x", "5s3", "-5s", "1e9s", "99999999999999999999d"] {
            assert_eq!(period(text), None, "{text:?}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let message = "5".parse::<Period>().unwrap_err().to_string();
        assert_eq!(message, "\"5\" has no unit; write for example 5ms, 5s, 5m, 5h or 5d");
        let message = "5 parsecs".parse::<ByteSize>().unwrap_err().to_string();
        assert!(message.starts_with("\"5 parsecs\" is not a size; write"), "{message}");
    }

    #[test]
    fn shows_sizes_for_people() {
        for (size, rounded) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (3 << 39, "1.5TiB")] {
            assert_eq!(ByteSize::new(size).rounded(), rounded);
        }
        assert_eq!(Period::minutes(90).to_string(), "90m");
        assert_eq!(format!("[{:>7}]", ByteSize::mib(64)), "[  64MiB]");
    }

    #[test]
    fn toml_takes_texts_and_counts_of_bytes() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Settings {
            cache: ByteSize,
            interval: Period,
        }
        let settings: Settings = toml::from_str("cache = 4096\ninterval = '10ms'").unwrap();
        assert_eq!(settings, Settings { cache: ByteSize::kib(4), interval: Period::milliseconds(10) });
        assert_eq!(toml::to_string(&settings).unwrap(), "cache = \"4KiB\"\ninterval = \"10ms\"\n");
        assert!(toml::from_str::<Settings>("cache = -1\ninterval = '10ms'").is_err());
        assert!(toml::from_str::<Settings>("cache = 1\ninterval = 10").is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(number: u64, shift in 0..64_u32, nanoseconds in 0..1_000_000_000_u32) {
            let size = ByteSize::new(number >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let period = Period::new(Duration::new(number >> shift, nanoseconds));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            let whole = Period::new(Duration::from_secs(number >> shift));
            prop_assert_eq!(whole.to_string().parse(), Ok(whole));
        }

        #[test]
        fn any_text_is_refused_or_read(text in "[0-9. KMGTPEBibdhmsnu-]{0,12}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Period>();
        }
    }
}
