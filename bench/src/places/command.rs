//! Runs a program to its end.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// Runs it with these words and then these paths, and gives what it printed.
pub(super) fn run(program: impl AsRef<Path>, words: &[&str], paths: &[&Path]) -> anyhow::Result<String> {
    let program = program.as_ref();
    let mut command = Command::new(program);
    command.args(words).args(paths);
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
