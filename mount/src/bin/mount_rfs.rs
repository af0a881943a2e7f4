//! `mount.rfs`: mounts the file system of an rfs cluster. What it does stands in `rfs_mount::daemon`.

use std::ffi::OsString;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    std::process::exit(rfs_mount::daemon::run(&arguments).code());
}
