//! The command line of `mfs-master`, and what each command does.
//!
//! Exit statuses: 0 done, 1 failed (the message says why and what to do), 2 wrong arguments, 3 `check` found something.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use rfs_common::clock::SystemClock;
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::{ClusterId, Goal};
use rfs_common::logging::LogArguments;
use rfs_common::process;
use rfs_common::random::SystemRandom;

use crate::config::{ENVIRONMENT_PREFIX, MasterConfig};
use crate::daemon;
use crate::namespace::bootstrap::new_cluster_of;
use crate::namespace::check::check;
use crate::namespace::restored;
use crate::store::{Store, StoreOptions, Verified, restore_amended};

/// Status of `check` when it found something.
const FOUND_SOMETHING: u8 = 3;

/// How often a bar without an end is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// The rfs master: names, attributes, and where every file's data is
#[derive(Debug, Parser)]
#[command(name = "mfs-master", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    log: LogArguments,
}

/// Without a command: run the master
#[derive(Debug, Args)]
struct RunArguments {
    /// Read settings from this TOML file (`mfs-master config` prints one with all defaults)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder with the metadata, made by `mfs-master init`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Make one setting, such as -o listen.clients=0.0.0.0:9421
    #[arg(short = 'o', value_name = "KEY=VALUE", value_parser = rfs_common::config::parse_override)]
    setting: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an empty filesystem in an empty folder
    Init {
        /// The folder; made if it does not exist
        dir: PathBuf,
        /// Copies of each file's data, where nothing else is said
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        goal: u8,
        /// Whose the filesystem's root directory is, in numbers
        #[arg(long, value_name = "USER:GROUP", default_value = "0:0", value_parser = parse_owner)]
        owner: (u32, u32),
    },
    /// Check the metadata of a master that does not run: every checksum, every rule
    Check {
        /// Its folder
        dir: PathBuf,
    },
    /// Make a folder from an export of the metadata
    Restore {
        /// The export
        export: PathBuf,
        /// The new folder
        dir: PathBuf,
    },
    /// Print every setting with its default
    Config,
}

/// The command line, for manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    process::keep_new_files_private();
    let result = match &cli.command {
        None => run_master(&cli.run, &cli.log).map(|()| ExitCode::SUCCESS),
        Some(command) => log_of_command(&cli.log).and_then(|()| run_command(command)),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "mfs-master: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_command(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init { dir, goal, owner } => init(dir, *goal, *owner).map(|()| ExitCode::SUCCESS),
        Command::Check { dir } => check_folder(dir),
        Command::Restore { export, dir } => restore_folder(export, dir).map(|()| ExitCode::SUCCESS),
        Command::Config => print_config().map(|()| ExitCode::SUCCESS),
    }
}

/// Commands print what they have to say; their log begins with warnings unless another level is asked for.
fn log_of_command(log: &LogArguments) -> anyhow::Result<()> {
    let mut log = log.clone();
    if log.log_level == LogArguments::default().log_level {
        log.log_level = "warn".to_owned();
    }
    Ok(rfs_common::logging::init(&log)?)
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn run_master(arguments: &RunArguments, log: &LogArguments) -> anyhow::Result<()> {
    rfs_common::logging::init(log)?;
    process::raise_open_files_limit();
    let environment = std::env::vars().filter(|(key, _)| key.starts_with(ENVIRONMENT_PREFIX));
    let mut config: MasterConfig =
        rfs_common::config::load(arguments.config.as_deref(), ENVIRONMENT_PREFIX, environment, &arguments.setting)?;
    if let Some(data) = &arguments.data {
        config.data.clone_from(data);
    }
    if let Err(rule) = config.check() {
        bail!("the settings make no sense: {rule}");
    }
    daemon::run(&config)
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    numbers.ok_or_else(|| "write two numbers, such as 1000:1000".to_owned())
}

fn init(dir: &Path, goal: u8, owner: (u32, u32)) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let random = SystemRandom::shared();
    let cluster = ClusterId::from_random(u128::from(random.u64()) << 64 | u128::from(random.u64()));
    let goal = Goal::try_from(u32::from(goal)).ok().context("a goal is from 1 to 9 copies")?;
    let first = new_cluster_of(owner, goal, clock.now());
    Store::create_filled(dir, cluster.get().to_be_bytes(), &first, clock.clone())?;
    say(&format!("made an empty filesystem in {}: cluster {cluster}, goal {goal}", dir.display()))?;
    say(&format!("start its master with: mfs-master --data {}", dir.display()))
}

fn check_folder(dir: &Path) -> anyhow::Result<ExitCode> {
    daemon::require_store(dir)?;
    let _lock = FolderLock::acquire(dir)?;
    let bar = bar_of(verified_bytes(dir));
    let verified = Store::verify_with(dir, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let Verified { damages, torn_end } = verified?;
    for damage in &damages {
        say(&format!("{} at byte {}: {}", damage.file.display(), damage.offset, damage.what))?;
    }
    if !damages.is_empty() {
        let damages = if damages.len() == 1 { "1 damage".to_owned() } else { format!("{} damages", damages.len()) };
        say(&format!("{damages}: {}", daemon::way_back(&dir.join("exports"))))?;
        return Ok(ExitCode::from(FOUND_SOMETHING));
    }
    if let Some((position, torn)) = torn_end {
        say(&format!(
            "{} at byte {}: the log ends in a record after position {position} that a crash cut off ({}); it was never \
             promised to be kept and is dropped when the store is opened: just start the master",
            torn.file.display(),
            torn.offset,
            torn.what
        ))?;
    }
    let store = Store::open(dir, StoreOptions::default(), SystemClock::shared())?;
    let bar = ProgressBar::new_spinner().with_message("comparing the records with each other");
    bar.enable_steady_tick(BAR_INTERVAL);
    let report = check(&store);
    bar.finish_and_clear();
    let report = report?;
    report.findings.iter().try_for_each(|finding| say(finding))?;
    let findings = report.findings.len() as u64 + report.findings_left_out;
    let counted = report.counted;
    say(&format!(
        "{} nodes ({} files, {} directories), {} bytes, {} chunks: {findings} findings",
        counted.inodes, counted.files, counted.directories, counted.bytes, counted.chunks
    ))?;
    Ok(if findings == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND_SOMETHING) })
}

/// How much there is to verify: sled's files, some of them twice.
fn verified_bytes(dir: &Path) -> u64 {
    let folders = ["pages", "pages/blobs"].map(|folder| std::fs::read_dir(dir.join(folder)));
    let files = folders.into_iter().flatten().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    2 * files.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum::<u64>()
}

/// On stderr, and only if that is a terminal.
fn bar_of(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn restore_folder(export: &Path, dir: &Path) -> anyhow::Result<()> {
    // It is read twice.
    let bar = bar_of(2 * std::fs::metadata(export).map_or(0, |file| file.len()));
    let restored = restore_amended(export, dir, &restored::amended, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let report = restored?;
    say(&format!(
        "restored {} records as of log position {} into {}: check it with `mfs-master check {}`",
        report.records,
        report.position,
        dir.display(),
        dir.display()
    ))
}

fn print_config() -> anyhow::Result<()> {
    say(rfs_common::config::default_toml::<MasterConfig>()?.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let cli = Cli::try_parse_from(["mfs-master", "--data", "/x", "-o", "copies_min=1"]).expect("parsed");
        assert_eq!(cli.run.setting, [("copies_min".to_owned(), "1".to_owned())]);
        assert!(Cli::try_parse_from(["mfs-master", "init"]).is_err());
        assert_eq!(parse_owner("1000:100"), Ok((1000, 100)));
        assert!(parse_owner("somebody").is_err());
    }

    #[test]
    fn init_makes_what_check_finds_sound_and_does_not_touch_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("meta");
        init(&dir, 2, (0, 0)).expect("made");
        assert_eq!(check_folder(&dir).expect("checked"), ExitCode::SUCCESS);
        assert!(init(&dir, 2, (0, 0)).is_err());
        let said = format!("{:#}", check_folder(folder.path()).expect_err("nothing there"));
        assert!(said.contains("mfs-master init"), "{said}");
    }
}
