//! What can be done to a cluster in a round, by name, and what it excuses.

use std::fmt;
use std::str::FromStr;

use anyhow::Context as _;

use super::journal::Act;
use super::oracle::Moment;
use crate::network::Silence;

/// What is done to a cluster in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Every machine loses power.
    Everything,
    /// All chunkservers lose power.
    AllChunkservers,
    /// One does.
    OneChunkserver,
    /// The master does.
    Master,
    /// `kill -9` of all chunkservers.
    KillChunkservers,
    /// Writes to the volumes of all chunkservers hang for a while, as when the SAN is away.
    FreezeChunkservers,
    /// One daemon has this trouble.
    On(Victim, Trouble),
}

/// Whose trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Victim {
    /// The master.
    Master,
    /// One chunkserver.
    Chunkserver,
    /// mount.rfs.
    Client,
}

/// What can happen to one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// `kill -9`; of a client also of those who use it.
    Kill,
    /// SIGSTOP for longer than sessions last.
    Pause,
    /// Its machine is cut off for as long.
    Cut(Silence),
    /// Its volume is full.
    Full,
    /// Its disk gives EIO for all reads.
    ReadErrors,
    /// For all writes.
    WriteErrors,
    /// For the writes that a sync waits for, while the filesystem lives.
    SyncErrors,
    /// Its disk answers nothing for a while.
    Hang,
    /// It finds its volume mounted read-only when it starts.
    ReadOnly,
    /// Its volume is unmounted beneath it, and comes back.
    Unmounted,
    /// It finds another one's volume where its own was.
    WrongVolume,
    /// A second daemon is started on its folder.
    TwoDaemons,
    /// A second daemon is started on a copy of its volume.
    TwoVolumes,
    /// Its wall clock jumps a day forward, two back, and one forward.
    ClockJump,
}

impl Fault {
    /// Those of all daemons together, and power cuts.
    pub const OF_MANY: [Self; 6] = [
        Self::Everything,
        Self::AllChunkservers,
        Self::OneChunkserver,
        Self::Master,
        Self::KillChunkservers,
        Self::FreezeChunkservers,
    ];

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let victims = [Victim::Master, Victim::Chunkserver, Victim::Client];
        let troubles =
            victims.into_iter().flat_map(|victim| victim.troubles().map(move |trouble| Self::On(victim, trouble)));
        Self::OF_MANY.into_iter().chain(troubles)
    }

    /// What the master has in memory and not on its disk may be lost.
    pub(super) fn master_loses_power(self) -> bool {
        self == Self::Everything || self.master_alone_loses_power()
    }

    /// The same, under clients that live: one that was told of more than the log has begins a new session.
    pub(super) fn master_alone_loses_power(self) -> bool {
        matches!(self, Self::Master | Self::On(Victim::Master, Trouble::WriteErrors | Trouble::SyncErrors))
    }

    /// The master answers EIO to what needs its disk.
    pub(super) fn fails_the_masters_disk(self) -> bool {
        let errors = [Trouble::ReadErrors, Trouble::WriteErrors, Trouble::SyncErrors, Trouble::Full];
        matches!(self, Self::On(Victim::Master, trouble) if errors.contains(&trouble))
    }

    /// Whether the master may hear nothing of a client that lives for longer than a session lasts.
    pub(super) fn silences_the_client(self) -> bool {
        matches!(
            self,
            Self::On(Victim::Client, Trouble::Pause | Trouble::Cut(_)) | Self::On(Victim::Master, Trouble::Cut(_))
        )
    }

    /// Whether the actors go on when it is over.
    pub fn client_lives(self) -> bool {
        !matches!(self, Self::Everything | Self::On(Victim::Client, Trouble::Kill))
    }

    /// Whether it excuses that this call failed.
    pub(super) fn excuses(self, act: &Act, errno: i32, moment: Moment) -> bool {
        let is_of_bytes = matches!(act, Act::Write(..) | Act::Truncate(..) | Act::Fsync(_) | Act::Close(_));
        match self {
            Self::AllChunkservers => is_of_bytes,
            // What the log lost is not there any more.
            _ if self.master_alone_loses_power() => true,
            // Their own end.
            _ if !self.client_lives() => true,
            // A session that is over takes its files with it.
            _ if moment.session_ended => true,
            // EIO: what is not in the master's memory, and all changes once its log has failed.
            _ if self.fails_the_masters_disk() => matches!(errno, libc::EIO | libc::ENOSPC),
            Self::On(_, Trouble::Full) => errno == libc::ENOSPC,
            _ => false,
        }
    }
}

impl Victim {
    /// What can happen to it, but for power cuts.
    pub fn troubles(self) -> impl Iterator<Item = Trouble> {
        let any = [
            Trouble::Kill,
            Trouble::Pause,
            Trouble::Cut(Silence::BothWays),
            Trouble::Cut(Silence::Incoming),
            Trouble::Cut(Silence::Outgoing),
            Trouble::ClockJump,
        ];
        let with_volume = [
            Trouble::Full,
            Trouble::ReadErrors,
            Trouble::WriteErrors,
            Trouble::SyncErrors,
            Trouble::Hang,
            Trouble::ReadOnly,
            Trouble::Unmounted,
            Trouble::WrongVolume,
            Trouble::TwoDaemons,
        ];
        let with_volume = with_volume.into_iter().filter(move |_| self != Self::Client);
        let of_many = [Trouble::TwoVolumes].into_iter().filter(move |_| self == Self::Chunkserver);
        any.into_iter().chain(with_volume).chain(of_many)
    }
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Cut(Silence::BothWays) => "cut-off",
            Self::Cut(Silence::Incoming) => "deaf",
            Self::Cut(Silence::Outgoing) => "mute",
            Self::Full => "full",
            Self::ReadErrors => "read-errors",
            Self::WriteErrors => "write-errors",
            Self::SyncErrors => "sync-errors",
            Self::Hang => "hang",
            Self::ReadOnly => "read-only",
            Self::Unmounted => "unmounted",
            Self::WrongVolume => "wrong-volume",
            Self::TwoDaemons => "two-daemons",
            Self::TwoVolumes => "two-volumes",
            Self::ClockJump => "clock-jump",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&match self {
            Self::Everything => "everything-power".to_owned(),
            Self::AllChunkservers => "chunkservers-power".to_owned(),
            Self::OneChunkserver => "chunkserver-power".to_owned(),
            Self::Master => "master-power".to_owned(),
            Self::KillChunkservers => "chunkservers-kill".to_owned(),
            Self::FreezeChunkservers => "chunkservers-freeze".to_owned(),
            Self::On(Victim::Master, trouble) => format!("master-{}", trouble.name()),
            Self::On(Victim::Chunkserver, trouble) => format!("chunkserver-{}", trouble.name()),
            Self::On(Victim::Client, trouble) => format!("client-{}", trouble.name()),
        })
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let names = || Self::all().map(|fault| fault.to_string()).collect::<Vec<_>>().join(", ");
        Self::all()
            .find(|fault| fault.to_string() == name)
            .with_context(|| format!("{name} is not a fault; these are: {}", names()))
    }
}
