//! The ids that travel through every part of rfs, each a type of its own so that one cannot be given for another.
//!
//! Counted ids (inodes, sessions, log positions) are shown as decimal numbers. Ids chosen at random when a thing is first
//! set up (servers, volumes, clusters) are shown, and stored in text files, as hexadecimal, because TOML has no unsigned
//! 64-bit integers and because nobody should take them for counts. So are chunks: their files have these names.
//!
//! What always holds: `Display` and `FromStr` are inverses, and the order of ids is the order of their numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdError {
    text: String,
    expected: &'static str,
}

impl IdError {
    fn new(text: &str, expected: &'static str) -> IdError {
        IdError { text: text.to_owned(), expected }
    }
}

/// Declares an id over an unsigned integer, shown in decimal.
macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident($number:ty), $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($number);

        impl $name {
            /// The id with this number.
            pub const fn new(number: $number) -> $name {
                $name(number)
            }

            /// The number of this id.
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                parse_decimal(text).map($name).ok_or_else(|| IdError::new(text, $expected))
            }
        }
    };
}

/// Declares an id that is shown in hexadecimal and stored as that text.
macro_rules! hexadecimal_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id with this number.
            pub const fn new(number: u64) -> $name {
                $name(number)
            }

            /// The number of this id.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                let number = if text.len() == 16 { parse_hexadecimal(text) } else { None };
                match number.and_then(|number| u64::try_from(number).ok()) {
                    Some(number) => Ok($name(number)),
                    None => Err(IdError::new(text, $expected)),
                }
            }
        }

        text_in_serde!($name);
    };
}

/// Lets serde store an id as the text that `Display` gives.
macro_rules! text_in_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

counted_id! {
    /// A file, directory or other object of the namespace. Never given to another object after it was freed.
    InodeId(u64), "an inode number (a decimal number)"
}

impl InodeId {
    /// The root directory; 1 is also what FUSE calls the root of a mount.
    pub const ROOT: InodeId = InodeId(1);

    /// The inode numbered one higher.
    pub const fn next(self) -> InodeId {
        InodeId(self.0 + 1)
    }
}

hexadecimal_id! {
    /// A piece of up to 64 MiB of one file's content, of which chunkservers keep copies.
    ChunkId, "a chunk id (16 hexadecimal digits)"
}

impl ChunkId {
    /// The chunk numbered one higher.
    pub const fn next(self) -> ChunkId {
        ChunkId(self.0 + 1)
    }
}

counted_id! {
    /// How often the set of a chunk's valid copies was decided anew. A copy with an older version than the master's is
    /// never read and never counted.
    ChunkVersion(u32), "a chunk version (a decimal number below 4294967296)"
}

impl ChunkVersion {
    /// The version of a chunk that was just created.
    pub const FIRST: ChunkVersion = ChunkVersion(1);

    /// The version that makes copies with this one stale.
    pub const fn next(self) -> ChunkVersion {
        ChunkVersion(self.0 + 1)
    }
}

counted_id! {
    /// One client's connection to the namespace, over as many TCP connections and master restarts as it takes.
    SessionId(u64), "a session id (a decimal number)"
}

counted_id! {
    /// One grant of a lease. A recall names the grant, so that an answer to an old recall cannot end a newer lease.
    LeaseGrant(u64), "a lease grant (a decimal number)"
}

impl LeaseGrant {
    /// The grant numbered one higher.
    pub const fn next(self) -> LeaseGrant {
        LeaseGrant(self.0 + 1)
    }
}

counted_id! {
    /// The place of an entry in the master's op log. The first entry has position 1; 0 means "before everything".
    LogPosition(u64), "a log position (a decimal number)"
}

impl LogPosition {
    /// Before the first entry.
    pub const START: LogPosition = LogPosition(0);

    /// The position of the entry that follows.
    pub const fn next(self) -> LogPosition {
        LogPosition(self.0 + 1)
    }
}

hexadecimal_id! {
    /// A chunkserver, chosen at random when it is first initialised.
    ServerId, "a server id (16 hexadecimal digits)"
}

hexadecimal_id! {
    /// A volume of a chunkserver, chosen at random by `chunkserver init`.
    VolumeId, "a volume id (16 hexadecimal digits)"
}

/// A cluster, chosen at random when its master is first initialised and shown as a UUID. Whatever carries another
/// cluster's id is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u128);

impl ClusterId {
    /// The id with this number.
    pub const fn new(number: u128) -> ClusterId {
        ClusterId(number)
    }

    /// The number of this id.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The id as two halves, for formats that know 64-bit numbers only: first the high half, then the low one.
    pub const fn to_halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// The id whose halves these are; the inverse of [`ClusterId::to_halves`].
    pub const fn from_halves(high: u64, low: u64) -> ClusterId {
        ClusterId(((high as u128) << 64) | low as u128)
    }

    /// The id made of these random bits, marked as a random (version 4) UUID.
    pub const fn from_random(bits: u128) -> ClusterId {
        const VERSION: u128 = 0xf << 76;
        const VARIANT: u128 = 0b11 << 62;
        ClusterId((bits & !VERSION & !VARIANT) | (4 << 76) | (0b10 << 62))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = self.to_halves();
        write!(
            formatter,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClusterId({self})")
    }
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<ClusterId, IdError> {
        let error = || IdError::new(text, "a cluster id (a UUID such as 6f9619ff-8b86-4d01-b42d-00cf4fc964ff)");
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return Err(error());
        }
        parse_hexadecimal(&groups.concat()).map(ClusterId).ok_or_else(error)
    }
}

text_in_serde!(ClusterId);

/// How many copies of each chunk of a file are wanted: 1 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Goal(u8);

impl Goal {
    /// One copy: nothing is protected against the loss of a volume.
    pub const ONE: Goal = Goal(1);
    /// Two copies, the usual goal.
    pub const TWO: Goal = Goal(2);
    /// The highest goal.
    pub const MAX: Goal = Goal(9);

    /// The goal of this many copies, or nothing if it is not 1 to 9.
    pub const fn new(copies: u8) -> Option<Goal> {
        if copies >= 1 && copies <= Goal::MAX.0 { Some(Goal(copies)) } else { None }
    }

    /// The number of copies wanted.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A number of copies that is not a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a goal of {0} copies is not possible; choose 1 to 9")]
pub struct GoalError(pub u64);

impl TryFrom<u8> for Goal {
    type Error = GoalError;

    fn try_from(copies: u8) -> Result<Goal, GoalError> {
        Goal::new(copies).ok_or(GoalError(u64::from(copies)))
    }
}

impl TryFrom<u32> for Goal {
    type Error = GoalError;

    fn try_from(copies: u32) -> Result<Goal, GoalError> {
        let goal = u8::try_from(copies).ok().and_then(Goal::new);
        goal.ok_or(GoalError(u64::from(copies)))
    }
}

impl From<Goal> for u8 {
    fn from(goal: Goal) -> u8 {
        goal.0
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl FromStr for Goal {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Goal, IdError> {
        let goal = parse_decimal(text).and_then(Goal::new);
        goal.ok_or_else(|| IdError::new(text, "a goal (a number of copies, 1 to 9)"))
    }
}

/// The number a text of digits stands for; unlike `FromStr` of integers, no sign is allowed.
fn parse_decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits_only { text.parse().ok() } else { None }
}

fn parse_hexadecimal(text: &str) -> Option<u128> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits_only { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_ids_as_documented() {
        assert_eq!(InodeId::ROOT.to_string(), "1");
        assert_eq!(format!("{:?}", ChunkId::new(7)), "ChunkId(0000000000000007)");
        assert_eq!(ChunkId::new(0x1f).to_string(), "000000000000001f");
        assert_eq!(ServerId::new(0xab).to_string(), "00000000000000ab");
        let cluster = ClusterId::new(0x6f96_19ff_8b86_4d01_b42d_00cf_4fc9_64ff);
        assert_eq!(cluster.to_string(), "6f9619ff-8b86-4d01-b42d-00cf4fc964ff");
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in ["", "+1", "-1", " 1", "1 ", "0x1", "18446744073709551616"] {
            assert!(text.parse::<InodeId>().is_err(), "{text:?}");
        }
        for text in ["", "ab", "+0000000000000ab", "00000000000000ag", "000000000000000ab"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text:?}");
        }
        for text in ["", "6f9619ff8b864d01b42d00cf4fc964ff", "6f9619ff-8b86-4d01-b42d-00cf4fc964fg"] {
            assert!(text.parse::<ClusterId>().is_err(), "{text:?}");
        }
        let message = "ab".parse::<VolumeId>().unwrap_err().to_string();
        assert_eq!(message, "\"ab\" is not a volume id (16 hexadecimal digits)");
    }

    #[test]
    fn random_cluster_ids_are_version_4_uuids() {
        for bits in [0, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let text = ClusterId::from_random(bits).to_string();
            assert_eq!(&text[14..15], "4", "{text}");
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }

    #[test]
    fn goals_are_one_to_nine() {
        let valid: Vec<u8> = (0..=255).filter(|copies| Goal::try_from(*copies).is_ok()).collect();
        assert_eq!(valid, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(Goal::try_from(258_u32).is_err());
        assert_eq!("2".parse(), Ok(Goal::TWO));
        assert!("0".parse::<Goal>().is_err());
    }

    #[test]
    fn serde_keeps_every_bit_of_random_ids_in_toml() {
        let ids = BTreeMap::from([("volume", VolumeId::new(u64::MAX))]);
        let text = toml::to_string(&ids).unwrap();
        assert_eq!(text, "volume = \"ffffffffffffffff\"\n");
        let back: BTreeMap<String, VolumeId> = toml::from_str(&text).unwrap();
        assert_eq!(back["volume"], VolumeId::new(u64::MAX));
        assert!(toml::from_str::<BTreeMap<String, Goal>>("goal = 10").is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(number: u64, wide: u128) {
            prop_assert_eq!(InodeId::new(number).to_string().parse(), Ok(InodeId::new(number)));
            prop_assert_eq!(ServerId::new(number).to_string().parse(), Ok(ServerId::new(number)));
            prop_assert_eq!(ClusterId::new(wide).to_string().parse(), Ok(ClusterId::new(wide)));
            let (high, low) = ClusterId::new(wide).to_halves();
            prop_assert_eq!(ClusterId::from_halves(high, low), ClusterId::new(wide));
        }
    }
}
