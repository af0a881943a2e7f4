//! The `chunkserver` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    rfs_chunkserver::cli::run()
}
