//! Where the other programs of rfs are: beside this one, else in the usual folders.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

/// The path of one of our programs.
pub(in crate::tool) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let beside = own.parent().map(|folder| folder.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"];
    let candidates = beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|folder| folder.join(name)))
        .chain(usual.iter().map(|folder| PathBuf::from(folder).join(name)));
    for candidate in candidates {
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "the program {name} is neither beside {} nor in PATH; build it with `make build`, or install it",
        own.display()
    )
}

/// How a person calls this program: by its name where PATH leads to it, else by its path.
pub(super) fn own_name() -> String {
    let Ok(own) = std::env::current_exe() else { return "rfs".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("rfs")).find(|candidate| candidate.is_file());
    match found.and_then(|found| found.canonicalize().ok()) {
        Some(found) if found == own => "rfs".to_owned(),
        _ => own.display().to_string(),
    }
}

/// The mount program: installed as `mount.rfs`, built as `mount-rfs`.
pub(super) fn mount_program() -> anyhow::Result<PathBuf> {
    program("mount-rfs").or_else(|_| program("mount.rfs"))
}
