//! Where the binaries under test are, and running commands with their words in the failure.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, bail};

/// Folder of the programs under test: `RFS_BIN_DIR`, else where this test was built.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("RFS_BIN_DIR").map_or_else(build_dir, PathBuf::from)
}

/// One of the programs under test.
///
/// # Panics
/// If it is not built.
pub fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.is_file(), "{} is not there: run `make build` first (`make test` does)", path.display());
    path
}

/// A program of the test crate itself.
pub(crate) fn test_program(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(path.is_file(), "{} is not there: run `make build` first (`make test` does)", path.display());
    path
}

/// `target/release`: two folders above the test's own executable (`deps/`).
fn build_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let folder = own.parent().expect("a folder");
    if folder.ends_with("deps") { folder.parent().expect("a folder").to_owned() } else { folder.to_owned() }
}

/// Runs a command that must succeed; its standard output.
///
/// # Errors
/// With the command and its standard error.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a line of shell that must succeed, in `folder`.
///
/// # Errors
/// With the line and what it printed.
pub fn shell(folder: &std::path::Path, line: &str) -> anyhow::Result<String> {
    run(Command::new("bash").args(["-euo", "pipefail", "-c", line]).current_dir(folder))
}

/// Fails the test, in words, unless it may mount.
///
/// # Panics
/// Without root or /dev/fuse.
pub fn require_root_and_fuse() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts filesystems: run it as root");
    assert!(std::path::Path::new("/dev/fuse").exists(), "this test needs /dev/fuse: load the fuse module");
}
