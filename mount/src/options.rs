//! What `mount.rfs` is told: its command line, and what stands after `-o`.
//!
//! mount(8) calls a helper as `mount.rfs SOURCE DIRECTORY [-nsv] [-o OPTION,...] [-t TYPE]`, fstab and people write the
//! same, and `mount.fuse.rfs` is the same program again. The outer command is clap's; the options after `-o` are one
//! table ([`OPTIONS`]) that is read by the parser and by the help text, so that no option works without being documented.
//!
//! What always holds: of two options that contradict each other the later one counts, as in mount(8); an unknown option is
//! refused by its name, unless `-s` (sloppy) was given.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint, EndpointError};
use rfs_common::ids::ClusterId;
use rfs_common::logging::LogFormat;
use rfs_common::size::{ByteSize, Period};

use crate::client::{AccessRule, Accesses};

/// The subtype of the mount, so that its type in the mount table is `fuse.rfs`.
pub const SUBTYPE: &str = "rfs";

/// FUSE threads that a mount can have: each takes a slot of the session while it asks the master, and a session has 64, of
/// which the client's own threads need some.
pub const THREADS_MAX: usize = 48;

/// What an option's value must look like, for the help text; empty for options without one.
type ValueName = &'static str;

/// One option after `-o`.
struct OptionEntry {
    name: &'static str,
    value: ValueName,
    help: &'static str,
    apply: fn(&mut MountOptions, &str) -> Result<(), String>,
}

/// Mount the file system of an rfs cluster
///
/// Called by mount(8) for the types rfs and fuse.rfs, or by hand. The command returns when the file system can be used, and
/// goes on in the background until it is unmounted with umount(8) or ended with SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "mount.rfs", bin_name = "mount.rfs", version, max_term_width = 110)]
struct Cli {
    /// The master, and the folder of the file system to show, if not all of it
    #[arg(value_name = "MASTER[:PORT][:/SUBDIR]")]
    source: String,

    /// The folder to mount on
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Stay in the foreground, and log to stderr
    #[arg(short = 'f', long)]
    foreground: bool,

    /// Log in detail
    #[arg(short = 'v', long)]
    verbose: bool,

    /// Accepted as mount(8) passes it; there is no mtab to write
    #[arg(short = 'n')]
    no_mtab: bool,

    /// Ignore unknown options instead of refusing them
    #[arg(short = 's')]
    sloppy: bool,

    /// Options, with commas between them; see below
    #[arg(short = 'o', value_name = "OPTION[,OPTION...]", action = clap::ArgAction::Append)]
    options: Vec<String>,

    /// Accepted as mount(8) passes it; ignored
    #[arg(short = 't', value_name = "TYPE", hide_short_help = true)]
    kind: Option<String>,
}

/// The command line of `mount.rfs`, of which the help text and the manual page are made.
pub fn command() -> clap::Command {
    Cli::command().after_long_help(describe_options())
}

/// Each option after `-o` as it is written, and what it does; for the help text and the manual page.
pub fn option_descriptions() -> Vec<(String, &'static str)> {
    let written = |entry: &OptionEntry| match entry.value {
        "" => entry.name.to_owned(),
        value => format!("{}={value}", entry.name),
    };
    let described = OPTIONS.iter().map(|entry| (written(entry), entry.help));
    described.chain([("x-...".to_owned(), "Notes for other programs; ignored")]).collect()
}

/// What follows the options in the help text.
fn describe_options() -> String {
    let mut text = String::from("Options after -o:\n");
    for (option, help) in option_descriptions() {
        let _infallible = writeln!(text, "  {option:<28}{help}");
    }
    text.push_str(
        "\nExit status: 0 mounted, 1 wrong usage, 2 an error of this system, 32 the mount failed (mount(8) uses the same).\n\n\
         Without -f the log goes to -o log_file, else to the journal, else to syslog, else to /var/log/mount.rfs.log.\n\n\
         mount(8) passes its own -f (a mount that is only pretended) as -f to helpers; do not use it with this type.",
    );
    text
}

/// Everything a mount needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// Where the file system comes from.
    pub source: MountSource,
    /// The same as it was typed: mount(8) knows by it that a line of fstab is mounted already.
    pub source_typed: String,
    /// The folder to mount on, as given.
    pub mount_point: PathBuf,
    /// Whether the process stays in the foreground.
    pub foreground: bool,
    /// What stood after `-o`.
    pub options: MountOptions,
}

/// Why a command line is not a mount.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Help or the version was asked for, or clap refuses the arguments; the error prints itself.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The source is not one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such option.
    #[error("unknown option {name:?} after -o; run mount.rfs --help for the list, or use -s to ignore unknown options")]
    UnknownOption {
        /// What stands before the equals sign.
        name: String,
    },
    /// An option's value is missing, unexpected or wrong.
    #[error("option {name}: {reason}")]
    BadOption {
        /// The option.
        name: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
}

impl MountRequest {
    /// Reads a command line, the program's name included.
    pub fn parse<I, T>(arguments: I) -> Result<MountRequest, UsageError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let matches = command().try_get_matches_from(arguments)?;
        let cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches)?;
        let mut options = MountOptions::default();
        if cli.verbose {
            options.log_level = "debug".to_owned();
        }
        for list in &cli.options {
            options.apply_list(list, cli.sloppy)?;
        }
        let mut source: MountSource = cli.source.parse()?;
        if let Some(port) = options.port {
            source.master = Endpoint::new(source.master.host(), port);
        }
        let (source_typed, mount_point, foreground) = (cli.source, cli.mount_point, cli.foreground);
        Ok(MountRequest { source, source_typed, mount_point, foreground, options })
    }
}

/// Where a mounted file system comes from: the first column of the mount table, `MASTER:PORT[:/SUBDIR]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The master, always with a port.
    pub master: Endpoint,
    /// The folder shown as the root, with its leading slash; nothing if that is the root itself.
    pub subdirectory: Option<String>,
}

/// A text that is not a mount's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// What stands before the folder is not a master.
    #[error(
        "{text:?} does not name a master to mount from: {reason}; write MASTER, MASTER:PORT or MASTER:PORT:/SUBDIR"
    )]
    Master {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: EndpointError,
    },
    /// The folder leads out of the file system.
    #[error("the folder in {text:?} must not contain \"..\"; write the path from the root of the file system")]
    DotDot {
        /// What was written.
        text: String,
    },
}

impl FromStr for MountSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<MountSource, SourceError> {
        // fstab entries for mount.fuse are written with the program's name in front.
        let plain = text.strip_prefix("rfs#").or_else(|| text.strip_prefix("mount.rfs#")).unwrap_or(text);
        let (master, folder) = match plain.find(":/") {
            Some(colon) => (&plain[..colon], &plain[colon + 1..]),
            None => (plain, ""),
        };
        let master = Endpoint::parse(master, CLIENT_TO_MASTER_PORT)
            .map_err(|reason| SourceError::Master { text: text.to_owned(), reason })?;
        let parts: Vec<&str> = folder.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(SourceError::DotDot { text: text.to_owned() });
        }
        let subdirectory = if parts.is_empty() { None } else { Some(format!("/{}", parts.join("/"))) };
        Ok(MountSource { master, subdirectory })
    }
}

impl fmt::Display for MountSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.master)?;
        match &self.subdirectory {
            Some(folder) => write!(formatter, ":{folder}"),
            None => Ok(()),
        }
    }
}

/// What stood after `-o`, over the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// An existing mount is to become read-only or writable.
    pub remount: bool,
    /// Nothing can be changed through this mount.
    pub read_only: bool,
    /// Users other than the one who mounts may use it; nothing said: yes for root, no for others.
    pub allow_other: Option<bool>,
    /// Set-user-id and set-group-id bits work.
    pub suid: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Programs can be run.
    pub exec: bool,
    /// Which reads change access times.
    pub access_times: AccessRule,
    /// Access times of directories are kept up, too.
    pub directory_access_times: bool,
    /// Every write is durable before it returns.
    pub sync: bool,
    /// Every change of a directory is durable before it returns.
    pub dirsync: bool,
    /// The mount point may contain files, which the mount hides.
    pub nonempty: bool,
    /// Replaces `MASTER:PORT[:/SUBDIR]` in the mount table.
    pub source_name: Option<String>,
    /// Replaces `rfs` in the type `fuse.rfs`.
    pub subtype: String,
    /// Replaces the port of the source.
    pub port: Option<u16>,
    /// The cluster that the master must belong to.
    pub cluster: Option<ClusterId>,
    /// FUSE threads that are usually reading requests.
    pub threads: usize,
    /// FUSE threads there can be while many requests wait for the master.
    pub threads_max: usize,
    /// Memory for written data on its way to the chunkservers.
    pub write_cache: ByteSize,
    /// Memory for data that was read.
    pub read_cache: ByteSize,
    /// How far a file read in order is read ahead from the chunkservers.
    pub read_ahead: ByteSize,
    /// How far the kernel asks ahead.
    pub kernel_read_ahead: ByteSize,
    /// Programs on this host are met over Unix sockets, and copies on it read from their files.
    pub local: bool,
    /// How long mounting waits for the master.
    pub connect_timeout: Duration,
    /// How long a request waits for a master that is away before it fails; nothing: for ever.
    pub master_timeout: Option<Duration>,
    /// How long a chunk of which no copy can be reached is waited for, before reading fails and written data is lost.
    pub chunk_timeout: Duration,
    /// Where the log goes, if not to the journal.
    pub log_file: Option<PathBuf>,
    /// What is logged.
    pub log_level: String,
    /// How lines of the log look.
    pub log_format: LogFormat,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            remount: false,
            read_only: false,
            allow_other: None,
            suid: true,
            dev: true,
            exec: true,
            access_times: AccessRule::WhenDue,
            directory_access_times: true,
            sync: false,
            dirsync: false,
            nonempty: false,
            source_name: None,
            subtype: SUBTYPE.to_owned(),
            port: None,
            cluster: None,
            threads: 3,
            threads_max: 16,
            write_cache: ByteSize::mib(64),
            read_cache: ByteSize::mib(128),
            read_ahead: ByteSize::mib(8),
            kernel_read_ahead: ByteSize::mib(1),
            local: true,
            connect_timeout: Duration::from_secs(3),
            master_timeout: None,
            chunk_timeout: Duration::from_secs(60),
            log_file: None,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl MountOptions {
    /// Applies one list as it stands after `-o`.
    fn apply_list(&mut self, list: &str, sloppy: bool) -> Result<(), UsageError> {
        for option in split_list(list) {
            match self.apply(&option) {
                Err(UsageError::UnknownOption { .. }) if sloppy => {}
                applied => applied?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, option: &str) -> Result<(), UsageError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        if name.is_empty() && value.is_none() || name.starts_with("x-") || name.starts_with("X-") {
            return Ok(());
        }
        let entry = OPTIONS.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| UsageError::UnknownOption { name: name.to_owned() })?;
        let bad = |reason| UsageError::BadOption { name: name.to_owned(), reason };
        match (entry.value, value) {
            // mount(8) may say who it is.
            ("", Some(_)) if name == "user" => (entry.apply)(self, "").map_err(bad),
            ("", Some(_)) => Err(bad("it takes no value".to_owned())),
            ("", None) => (entry.apply)(self, "").map_err(bad),
            (expected, None | Some("")) => Err(bad(format!("it needs a value: {name}={expected}"))),
            (_, Some(value)) => (entry.apply)(self, value).map_err(bad),
        }
    }

    /// Which accesses are noted. A mount that may change nothing notes none.
    pub fn accesses(&self) -> Accesses {
        match self.read_only {
            true => Accesses::NONE,
            false => Accesses { rule: self.access_times, directories: self.directory_access_times },
        }
    }

    /// What `user` and its relatives imply, unless later options say otherwise: such mounts are made by people whom the
    /// administrator of this machine does not trust with the rights that a file system can give.
    fn distrust(&mut self) {
        (self.suid, self.dev, self.exec) = (false, false, false);
    }
}

/// Splits at commas, except within double quotes or after a backslash.
fn split_list(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in list.chars() {
        let current = options.last_mut().expect("it starts with one and only grows");
        match character {
            _ if escaped => {
                current.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(String::new()),
            _ => current.push(character),
        }
    }
    options
}

/// The value, if it can be read as what the option needs.
fn read<T: FromStr>(value: &str) -> Result<T, String>
where
    T::Err: fmt::Display,
{
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn read_between(value: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{value:?} is not possible; write a number from {least} to {most}"))
}

fn read_size_between(value: &str, least: ByteSize, most: ByteSize) -> Result<ByteSize, String> {
    let size: ByteSize = read(value)?;
    let fits = (least..=most).contains(&size);
    if fits { Ok(size) } else { Err(format!("{size} is not possible; write a size from {least} to {most}")) }
}

fn read_period(value: &str) -> Result<Duration, String> {
    // mount options of other file systems give seconds without a unit.
    let period = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => read::<Period>(value)?.get(),
    };
    if period.is_zero() {
        Err("no time at all is not possible; write a duration such as 10s".to_owned())
    } else {
        Ok(period)
    }
}

fn nothing(_: &mut MountOptions, _: &str) -> Result<(), String> {
    Ok(())
}

/// An option without a value, which sets fields.
macro_rules! flag {
    ($name:literal, $help:literal, $($field:ident = $value:expr),*) => {
        OptionEntry { name: $name, value: "", help: $help, apply: |options, _| {
            $(options.$field = $value;)*
            Ok(())
        } }
    };
}

/// An option without an effect on this file system.
macro_rules! accepted {
    ($name:literal, $help:literal) => {
        OptionEntry { name: $name, value: "", help: $help, apply: nothing }
    };
}

/// An option with a value for one field.
macro_rules! setting {
    ($name:literal, $value_name:literal, $help:literal, $field:ident, $read:expr) => {
        OptionEntry {
            name: $name,
            value: $value_name,
            help: $help,
            apply: |options, value| {
                let read: fn(&str) -> Result<_, String> = $read;
                options.$field = read(value)?;
                Ok(())
            },
        }
    };
}

/// An option that makes the mount one of a person who is not trusted.
macro_rules! distrusted {
    ($name:literal, $help:literal) => {
        OptionEntry {
            name: $name,
            value: "",
            help: $help,
            apply: |options, _| {
                options.distrust();
                Ok(())
            },
        }
    };
}

/// All options after `-o`, in the order of the help text.
const OPTIONS: &[OptionEntry] = &[
    setting!("port", "PORT", "The master's port for clients, instead of one in MASTER:PORT (9421)", port, |value| {
        let port = value.parse().ok().filter(|port| *port != 0);
        port.map(Some).ok_or_else(|| format!("{value:?} is not a port; write a number from 1 to 65535"))
    }),
    setting!("cluster", "UUID", "Refuse to mount if the master belongs to another cluster", cluster, |value| read(
        value
    )
    .map(Some)),
    setting!("threads", "N", "Threads that take requests of the kernel (3)", threads, |value| read_between(
        value,
        1,
        THREADS_MAX
    )),
    setting!(
        "threads_max",
        "N",
        "Threads there can be while requests wait for the master (16)",
        threads_max,
        |value| read_between(value, 1, THREADS_MAX)
    ),
    setting!(
        "write_cache",
        "SIZE",
        "Memory for written data on its way to chunkservers (64MiB)",
        write_cache,
        |value| read_size_between(value, ByteSize::mib(4), ByteSize::gib(256))
    ),
    setting!("read_cache", "SIZE", "Memory for data that was read (128MiB)", read_cache, |value| read_size_between(
        value,
        ByteSize::mib(4),
        ByteSize::gib(1024)
    )),
    setting!(
        "read_ahead",
        "SIZE",
        "How far ahead of a reader data is fetched from chunkservers (8MiB)",
        read_ahead,
        |value| read_size_between(value, ByteSize::new(0), ByteSize::mib(64))
    ),
    setting!(
        "kernel_read_ahead",
        "SIZE",
        "How far ahead of a reader the kernel asks for data (1MiB)",
        kernel_read_ahead,
        |value| read_size_between(value, ByteSize::new(0), ByteSize::mib(64))
    ),
    setting!(
        "connect_timeout",
        "TIME",
        "How long mounting waits for a master that does not answer (3s)",
        connect_timeout,
        read_period
    ),
    setting!(
        "master_timeout",
        "TIME",
        "How long requests wait for a master that is away before they fail with EIO (never)",
        master_timeout,
        |value| if value == "never" { Ok(None) } else { read_period(value).map(Some) }
    ),
    setting!(
        "chunk_timeout",
        "TIME",
        "How long reads and writes of a chunk without live copies wait before they fail (60s)",
        chunk_timeout,
        read_period
    ),
    setting!("log_file", "FILE", "Append the log to this file", log_file, |value| Ok(Some(PathBuf::from(value)))),
    setting!("log_level", "LEVEL", "error, warn, info, debug or trace (info)", log_level, |value| Ok(value.to_owned())),
    OptionEntry {
        name: "log_format",
        value: "FORMAT",
        help: "text or json (text)",
        apply: |options, value| {
            options.log_format = match value {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("{value:?} is not a format; write text or json")),
            };
            Ok(())
        },
    },
    flag!(
        "nolocal",
        "Meet programs on this host as those on others: over TCP, without reading their files",
        local = false
    ),
    flag!("nonempty", "Allow a mount point with files in it, which the mount hides", nonempty = true),
    flag!("ro", "Read only; the master refuses changes, too", read_only = true),
    flag!("rw", "Read and write; the default", read_only = false),
    flag!(
        "remount",
        "Make an existing mount read-only (ro) or writable again (rw); nothing else changes",
        remount = true
    ),
    flag!("allow_other", "All users may use the mount; the default when root mounts", allow_other = Some(true)),
    flag!("noallow_other", "Only the user who mounts may use the mount", allow_other = Some(false)),
    accepted!("default_permissions", "The kernel checks permissions; always so, and the master checks them again"),
    flag!("suid", "Set-user-id and set-group-id bits work; the default when root mounts", suid = true),
    flag!("nosuid", "Set-user-id and set-group-id bits do nothing", suid = false),
    flag!("dev", "Device nodes work; the default when root mounts", dev = true),
    flag!("nodev", "Device nodes cannot be opened", dev = false),
    flag!("exec", "Programs can be run; the default", exec = true),
    flag!("noexec", "Programs cannot be run", exec = false),
    flag!(
        "relatime",
        "The first read after a change sets the access time, and one each day; the default",
        access_times = AccessRule::WhenDue
    ),
    flag!("noatime", "Reading does not change access times", access_times = AccessRule::Never),
    flag!(
        "strictatime",
        "Every read sets the access time; reads go past the kernel's page cache for it",
        access_times = AccessRule::Always
    ),
    flag!("atime", "Not noatime: like relatime", access_times = AccessRule::WhenDue),
    flag!("nostrictatime", "Not strictatime: like relatime", access_times = AccessRule::WhenDue),
    accepted!("norelatime", "Accepted; as for other file systems, it means relatime"),
    flag!("diratime", "Also listing a directory sets its access time; the default", directory_access_times = true),
    flag!("nodiratime", "Listing a directory does not change its access time", directory_access_times = false),
    accepted!("lazytime", "Accepted; access times always get to the master a second later, and many at once"),
    accepted!("nolazytime", "Accepted, like lazytime"),
    flag!("sync", "Every write is on the disks of all copies before it returns", sync = true, dirsync = true),
    flag!(
        "async",
        "Writes are durable after fsync and shortly after close; the default",
        sync = false,
        dirsync = false
    ),
    flag!("dirsync", "Every change of a directory is on the master's disk before it returns", dirsync = true),
    accepted!("defaults", "The defaults"),
    accepted!("_netdev", "For fstab: mount when the network is up; ignored here"),
    accepted!("auto", "For fstab; ignored here"),
    accepted!("noauto", "For fstab; ignored here"),
    accepted!("nofail", "For fstab; ignored here"),
    distrusted!("user", "For fstab: users may mount; implies noexec, nosuid, nodev unless said otherwise after it"),
    OptionEntry {
        name: "user_id",
        value: "UID",
        help: "Accepted for the sake of libfuse's tools; ignored",
        apply: nothing,
    },
    OptionEntry {
        name: "group_id",
        value: "GID",
        help: "Accepted for the sake of libfuse's tools; ignored",
        apply: nothing,
    },
    accepted!("nouser", "For fstab; ignored here"),
    distrusted!("users", "For fstab: users may mount and unmount; implies what user implies"),
    accepted!("nousers", "For fstab; ignored here"),
    distrusted!("owner", "For fstab; implies what user implies"),
    distrusted!("group", "For fstab; implies what user implies"),
    setting!(
        "fsname",
        "NAME",
        "Name in the mount table instead of the source, by which rfs finds the master",
        source_name,
        |value| Ok(Some(value.to_owned()))
    ),
    setting!(
        "subtype",
        "NAME",
        "The type in the mount table is fuse.NAME (rfs)",
        subtype,
        |value| Ok(value.to_owned())
    ),
    OptionEntry { name: "comment", value: "TEXT", help: "Ignored", apply: nothing },
    OptionEntry { name: "uhelper", value: "NAME", help: "For umount(8); ignored here", apply: nothing },
    OptionEntry { name: "helper", value: "NAME", help: "For umount(8); ignored here", apply: nothing },
];

/// The name that stands in the mount table for this request.
impl MountRequest {
    /// The first column of the mount table.
    pub fn source_name(&self) -> String {
        match (&self.options.source_name, self.options.port) {
            (Some(name), _) => name.clone(),
            (None, None) => self.source_typed.clone(),
            // The tool finds the master by this name, so the port has to be in it.
            (None, Some(_)) => self.source.to_string(),
        }
    }

    /// The mount point without symbolic links and relative parts, if it can be resolved.
    pub fn absolute_mount_point(&self) -> PathBuf {
        let resolved = self.mount_point.canonicalize().or_else(|_| std::path::absolute(&self.mount_point));
        resolved.unwrap_or_else(|_| Path::new("/").join(&self.mount_point))
    }
}

#[cfg(test)]
#[path = "options_test.rs"]
mod tests;
