//! `rfs`: the tool for users and administrators. Everything is in [`rfs_mount::tool`].

use std::process::ExitCode;

fn main() -> ExitCode {
    rfs_mount::tool::main()
}
