//! `cargo run -p xtask -- ...`: work on the tree itself: manual pages from the programs' own command lines, and checks that
//! no compiler makes.

mod man;

mod tidy;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Writes the manual pages of the four programs below this folder (man1/, man8/).
    Man {
        /// For example /usr/local/share/man.
        folder: PathBuf,
    },
    /// Checks what STYLE asks of every file; prints each violation.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Man { folder } => man::write_all(&folder),
        Task::Tidy => tidy::check(),
    }
}
