//! The command line of `rfs`; the manual page is made from the same definitions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};

const EXIT_STATUSES: &str = "\
Exit statuses: 0 done; 1 refused or failed, standard error says why (with --json, {\"error\": ...} on standard output as well); 2 wrong \
arguments. `rfs status`: 0 all is well; 3 something lacks copies or needs attention, or --wait ran out; 4 something cannot be read or \
changed; 1 the master does not answer.";

/// The tool of rfs: state of the cluster, places of files, goals, administration, small clusters.
#[derive(Debug, Parser)]
#[command(name = "rfs", version, max_term_width = 100, after_help = EXIT_STATUSES)]
pub struct Cli {
    /// The master (port 9421 if none is given). Without it: RFS_MASTER, else the mount that the given path or the
    /// current folder is on, else the only rfs mount of this machine, else this machine.
    #[arg(long, short = 'm', global = true, env = "RFS_MASTER", value_parser = parse_endpoint, value_name = "HOST[:PORT]")]
    pub master: Option<Endpoint>,
    /// Print one JSON document instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    Endpoint::parse(text, CLIENT_TO_MASTER_PORT).map_err(|error| error.to_string())
}

fn parse_goal(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|goal| (1..=9).contains(goal))
        .ok_or_else(|| "a goal is a number of copies in 1..=9".to_owned())
}

fn parse_count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a whole number".to_owned())
}

/// What `rfs` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Health, what is wrong and what to do about it, files that lack copies, space, chunks by goal and live copies. Ends
    /// with 0 if all is well, 3 if something lacks copies or needs attention, 4 if something cannot be read or changed, 1
    /// if the master does not answer.
    Status(StatusArguments),
    /// The chunkservers and whether they are there.
    Servers,
    /// The volumes with state and space.
    Volumes,
    /// The mounts and what they hold.
    Sessions,
    /// The mounts of this machine: whether they reach their master, which calls of programs take long, and what for. Works also
    /// while the master is away; as root it shows everybody's.
    Mounts,
    /// What happened lately.
    Events(EventsArguments),
    /// Where the bytes of a file are: chunks, versions, copies, volumes, health.
    Fileinfo(PathsArguments),
    /// The goal of files and folders: how many copies are to be kept.
    Getgoal(PathsArguments),
    /// Sets the goal of files and folders.
    Setgoal(SetgoalArguments),
    /// What is done with one volume: emptying it before it is taken away.
    Volume(VolumeArguments),
    /// What is done with one chunkserver: emptying it before it is taken away, and maintenance.
    Server(ServerArguments),
    /// Administration: export, restore and fold the metadata, forget a chunkserver or volume.
    Admin(AdminArguments),
    /// Starts a whole cluster on this machine in the background and mounts it; or ends it.
    Quickstart(QuickstartArguments),
}

/// Arguments of `rfs status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Wait, showing progress, until everything is fully replicated; at most this long (for example 5m).
    #[arg(long, value_name = "TIME")]
    pub wait: Option<rfs_common::size::Period>,
    /// How many of the files that lack copies to name, the worst first.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = parse_count)]
    pub files: u32,
}

/// Arguments of `rfs events`.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// How many; the newest stands last.
    #[arg(long, short = 'n', default_value_t = 20, value_parser = parse_count)]
    pub limit: u32,
}

/// Commands about files.
#[derive(Debug, Args)]
pub struct PathsArguments {
    /// Files or folders: paths on a mount of rfs, or, with --from-root, paths from the filesystem's root.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// The paths are from the root of the filesystem; no mount is needed.
    #[arg(long)]
    pub from_root: bool,
}

/// Arguments of `rfs setgoal`.
#[derive(Debug, Args)]
pub struct SetgoalArguments {
    /// How many copies, 1 to 9.
    #[arg(value_parser = parse_goal)]
    pub goal: u8,
    /// What to set it on.
    #[command(flatten)]
    pub paths: PathsArguments,
    /// Also everything below.
    #[arg(short, long)]
    pub recursive: bool,
}

/// Arguments of `rfs volume`.
#[derive(Debug, Args)]
pub struct VolumeArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: VolumeCommand,
}

/// What is done with a volume.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Moves everything away from a volume: nothing new is put there, each copy is made elsewhere first and then removed.
    /// Goes on by itself, also after a restart of the master; asked again it tells how far it is, as `rfs status` does.
    Drain {
        /// Its id, 16 hexadecimal digits, as `rfs volumes` shows it.
        volume: rfs_common::ids::VolumeId,
        /// Leave it as it is, and take it into use again.
        #[arg(long, conflicts_with = "wait")]
        cancel: bool,
        /// Whether to wait.
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// Arguments of `rfs server`.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: ServerCommand,
}

/// What is done with a chunkserver.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Moves everything away from all volumes of a chunkserver, those that it gets later included.
    Drain {
        /// Its id, 16 hexadecimal digits, as `rfs servers` shows it.
        server: rfs_common::ids::ServerId,
        /// Leave its volumes as they are, and take them into use again.
        #[arg(long, conflicts_with = "wait")]
        cancel: bool,
        /// Whether to wait.
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// For a while the chunkserver may go away without what it holds being made anew; new copies go elsewhere meanwhile.
    Maintenance {
        /// What to do.
        #[command(subcommand)]
        command: MaintenanceCommand,
    },
}

/// Maintenance of a chunkserver.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Begins it, or gives it another end. Names what nobody can read while the chunkserver is away.
    On {
        /// Its id, 16 hexadecimal digits, as `rfs servers` shows it.
        server: rfs_common::ids::ServerId,
        /// How long from now (for example 30m; 7d at most).
        #[arg(long = "for", value_name = "TIME", default_value = "30m")]
        time: rfs_common::size::Period,
    },
    /// Ends it before its time: what the chunkserver holds is made anew if it is away.
    Off {
        /// Its id, 16 hexadecimal digits, as `rfs servers` shows it.
        server: rfs_common::ids::ServerId,
    },
}

/// Waiting for the end of something.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Wait, showing progress, until it is done; at most this long (for example 2h).
    #[arg(long, value_name = "TIME")]
    pub wait: Option<rfs_common::size::Period>,
}

/// Arguments of `rfs admin`.
#[derive(Debug, Args)]
pub struct AdminArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// Administration of the master's metadata.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Has the master write a checksummed export of the whole metadata into its folder for exports.
    Export {
        /// Also copy it into this new file, on this machine.
        path: Option<PathBuf>,
    },
    /// Makes a new metadata folder from an export (on the master's machine, with the master stopped).
    Restore {
        /// The export.
        export: PathBuf,
        /// The folder to make; must not exist or be empty.
        folder: PathBuf,
    },
    /// Has the master fold its log into its pages now.
    Checkpoint,
    /// Removes a chunkserver that will never come back from the lists.
    ForgetServer {
        /// Its id, 16 hexadecimal digits, as `rfs servers` shows it.
        server: rfs_common::ids::ServerId,
        /// Also if it has the last copies of chunks: what is in them is lost.
        #[arg(long)]
        last_copies: bool,
    },
    /// Removes a volume that will never come back, and that its chunkserver does not name any more, from the lists.
    ForgetVolume {
        /// Its id, 16 hexadecimal digits, as `rfs status` and `rfs --json volumes` show it.
        volume: rfs_common::ids::VolumeId,
        /// Also if it has the last copies of chunks: what is in them is lost.
        #[arg(long)]
        last_copies: bool,
    },
}

/// Arguments of `rfs quickstart`.
#[derive(Debug, Clone, Args)]
pub struct QuickstartArguments {
    /// Folder of the cluster: process ids, logs, and all data that is not placed elsewhere.
    #[arg(long, default_value = "rfs-quickstart")]
    pub dir: PathBuf,
    /// Where to mount it [default: DIR/mnt].
    #[arg(long, value_name = "MNT")]
    pub mount: Option<PathBuf>,
    /// How many chunkservers [default: 3, or as many as --data].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub chunkservers: Option<u16>,
    /// Copies to keep of each chunk [default: 2, or 1 with one chunkserver].
    #[arg(long, value_name = "G", value_parser = parse_goal)]
    pub goal: Option<u8>,
    /// Folder for the master's metadata; made if it is not there [default: DIR/master].
    #[arg(long, value_name = "DIR")]
    pub meta: Option<PathBuf>,
    /// Folder for a chunkserver's volume, once for each chunkserver [default: DIR/chunkserverN].
    #[arg(long, value_name = "DIR")]
    pub data: Vec<PathBuf>,
    /// First of the ports; the others follow from it [default: the first free ones from 9420].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub port_base: Option<u16>,
    /// Ends the cluster in DIR: unmounts it, then stops its daemons.
    #[arg(long)]
    pub stop: bool,
    /// With --stop: also removes everything that the cluster made.
    #[arg(long, requires = "stop")]
    pub purge: bool,
}

/// The whole command line, for the manual page.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}
