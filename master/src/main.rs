//! Entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    rfs_master::cli::run()
}
