//! `rfs`, the one tool for users and administrators: shows the cluster's state, answers where a file's bytes are, sets
//! goals, asks the master for exports and checkpoints, and starts small clusters.
//!
//! Each command is a function that gets its arguments and a way to the master, and prints either a table for people
//! or, with `--json`, one document for programs. Nothing is printed to standard output but results.

pub mod cli;

mod find_master;

mod master_link;

mod output;

mod status;

mod cluster_lists;

mod mounts;

mod file;

mod goal;

mod admin;

mod upkeep;

mod quickstart;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

/// Runs `rfs` with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            if cli.json {
                // If it cannot be printed, the status still says so.
                let _ = output::print_json(&serde_json::json!({ "error": format!("{error:#}") }));
            }
            output::complain(&format!("rfs: {error:#}"));
            ExitCode::from(1)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let form = output::Form::of(cli.json);
    let link = |path: Option<&std::path::Path>| {
        find_master::find(cli.master.as_ref(), path).and_then(|endpoint| master_link::MasterLink::connect(&endpoint))
    };
    match &cli.command {
        Command::Status(arguments) => return status::status(&link, arguments, form),
        Command::Servers => cluster_lists::servers(&mut link(None)?, form)?,
        Command::Volumes => cluster_lists::volumes(&mut link(None)?, form)?,
        Command::Sessions => cluster_lists::sessions(&mut link(None)?, form)?,
        Command::Mounts => mounts::mounts(form)?,
        Command::Events(arguments) => cluster_lists::events(&mut link(None)?, arguments, form)?,
        Command::Fileinfo(arguments) => file::fileinfo(&link, cli.master.as_ref(), arguments, form)?,
        Command::Getgoal(arguments) => return goal::getgoal(&link, cli.master.as_ref(), arguments, form),
        Command::Setgoal(arguments) => return goal::setgoal(&link, cli.master.as_ref(), arguments, form),
        Command::Volume(arguments) => upkeep::volume(&link, arguments, form)?,
        Command::Server(arguments) => upkeep::server(&link, arguments, form)?,
        Command::Admin(arguments) => admin::admin(&link, arguments, form)?,
        Command::Quickstart(arguments) => quickstart::quickstart(arguments, form)?,
    }
    Ok(ExitCode::SUCCESS)
}
