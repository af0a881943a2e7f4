//! The command line of `chunkserver`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use rfs_common::clock::SystemClock;
use rfs_common::config;
use rfs_common::endpoint::Endpoint;
use rfs_common::ids::ChunkId;
use rfs_common::logging::{self, LogArguments};
use rfs_common::process;
use rfs_common::random::SystemRandom;
use rfs_common::shutdown::Shutdown;

use crate::config::Config;
use crate::daemon::Daemon;
use crate::init::{Done, InitArguments, init};
use crate::link::stream::End;
use crate::verify::{VerifyArguments, verify};

/// Keeps copies of chunks on its volumes and serves them.
#[derive(Debug, Parser)]
#[command(name = "chunkserver", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// A volume's folder; may be given several times
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,

    /// The master's address for clients
    #[arg(long, value_name = "HOST[:PORT]")]
    master: Option<Endpoint>,

    /// Read settings from this TOML file (`chunkserver config` prints one with all defaults)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Folder for the file `addresses`, which says where this daemon listens
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Make one setting, such as -o listen=0.0.0.0:9422
    #[arg(short = 'o', value_name = "KEY=VALUE", value_parser = config::parse_override)]
    set: Vec<(String, String)>,

    #[command(flatten)]
    log: LogArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make folders volumes of a cluster
    Init(InitArguments),
    /// Compare all chunks of a volume with their hashes, while no chunkserver uses it. Ends with 0 if all are good, 1 if
    /// some are bad, 2 if the volume could not be checked
    Verify(VerifyArguments),
    /// Print every setting with its default
    Config,
}

/// Runs the program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    process::keep_new_files_private();
    let mut log = arguments.log.clone();
    if arguments.command.is_some() && log.log_level == LogArguments::default().log_level {
        // Commands print what they have to say; their log begins with warnings.
        log.log_level = "warn".to_owned();
    }
    if let Err(error) = logging::init(&log) {
        return failed(&error.into());
    }
    match &arguments.command {
        Some(Command::Init(init_arguments)) => run_init(init_arguments),
        Some(Command::Verify(verify_arguments)) => run_verify(verify_arguments),
        Some(Command::Config) => print_config(),
        None => run_daemon(&arguments).unwrap_or_else(|error| failed(&error)),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&format!("chunkserver: {error:#}"));
    ExitCode::FAILURE
}

/// A reader that has seen enough (`| head`) is no error, and where nobody reads there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn run_init(arguments: &InitArguments) -> ExitCode {
    match init(arguments, &SystemRandom) {
        Ok(initialised) => {
            for (folder, identity, done) in initialised.volumes {
                let what = match done {
                    Done::Made => "is now",
                    Done::Changed => "already was, and is now said to be on another host or storage machine:",
                    Done::Kept => "already was",
                };
                say(&format!(
                    "{} {what} volume {} of chunkserver {} on {}{} in cluster {}",
                    folder.display(),
                    identity.volume,
                    identity.server,
                    identity.host,
                    storage_machine_words(&identity.storage_machine),
                    identity.cluster
                ));
            }
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn storage_machine_words(storage_machine: &str) -> String {
    if storage_machine.is_empty() { String::new() } else { format!(" (storage machine {storage_machine})") }
}

fn run_verify(arguments: &VerifyArguments) -> ExitCode {
    const COULD_NOT_CHECK: u8 = 2;
    const WHAT_TO_DO: &str = "Move the bad files out of the volume and start its chunkserver: the master has new copies made \
                              from the good ones. Where `rfs status` then names files that cannot be read, there is no \
                              other copy: stop the chunkserver, and put the file back to save what can be saved.";
    let verified = match verify(&arguments.folder) {
        Ok(verified) => verified,
        Err(error) => {
            complain(&format!("chunkserver: {error:#}"));
            return ExitCode::from(COULD_NOT_CHECK);
        }
    };
    if arguments.json {
        match serde_json::to_string_pretty(&verified) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error.into()),
        }
    } else {
        for finding in &verified.bad {
            let chunk = ChunkId::new(finding.chunk);
            say(&format!("bad: chunk {chunk} in {}: {}", finding.file.display(), finding.problem));
        }
        for finding in &verified.unsettled {
            let chunk = ChunkId::new(finding.chunk);
            say(&format!("open in a crash, not settled yet: chunk {chunk}: {}", finding.problem));
        }
        if verified.lost > 0 {
            say(&format!("in the folder lost, without a header: {} files (docs/formats/volume.md)", verified.lost));
        }
        say(&format!("{} chunks, {} bytes verified, {} bad", verified.chunks, verified.bytes, verified.bad.len()));
    }
    if !verified.bad.is_empty() && !arguments.json {
        say(WHAT_TO_DO);
    }
    if verified.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// They have no default that could be printed.
const SETTINGS_WITHOUT_DEFAULT: &str = "\
# The master's address for clients: HOST or HOST:PORT.
#master = \"mfs-master.example\"
# The address that others are told, if not the one with which this machine reaches the master.
#data_address = \"10.0.0.5:9422\"
# The name of this machine, if not the one given at `chunkserver init`.
#host = \"storage1\"
# Folder for the file `addresses`, which says where this daemon listens.
#run_dir = \"/run/chunkserver\"";

fn print_config() -> ExitCode {
    match config::default_toml::<Config>() {
        Ok(text) => {
            say(SETTINGS_WITHOUT_DEFAULT);
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.into()),
    }
}

fn load_config(arguments: &Arguments) -> anyhow::Result<Config> {
    let mut config: Config =
        config::load(arguments.config.as_deref(), "RFS_CHUNKSERVER_", std::env::vars(), &arguments.set)?;
    if !arguments.data.is_empty() {
        config.data.clone_from(&arguments.data);
    }
    config.master = arguments.master.clone().or(config.master);
    config.run_dir = arguments.run_dir.clone().or(config.run_dir);
    for folder in &mut config.data {
        // As others see it: tables and events name it where nobody knows this program's working directory.
        *folder = std::path::absolute(&folder)?;
    }
    config.check().map_err(|rule| anyhow::anyhow!("the settings make no sense: {rule}"))?;
    Ok(config)
}

fn run_daemon(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = load_config(arguments)?;
    let shutdown = Shutdown::on_signals()?;
    process::raise_open_files_limit();
    let clock = SystemClock::shared();
    let running = Daemon::start(&config, &Arc::clone(&clock), &SystemRandom, &shutdown)?;
    shutdown.wait();
    tracing::info!("stopping: finishing requests, syncing and closing chunks");
    match running.stop() {
        End::Left => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        End::Refused(reason) => {
            tracing::error!("{reason}");
            complain(&format!("chunkserver: {reason}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The whole command line, for the manual page.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}
