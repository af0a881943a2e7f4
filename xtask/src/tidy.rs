//! Checks of the tree that no compiler makes: each file says what it is for, none is too long, dependencies point one way,
//! every format has its page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Longer files have more than one subject.
const LINES_MAX: usize = 800;

/// Crates that a crate must not depend on (ARCHITECTURE.md).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("common", &["tonic", "prost", "sled", "fuser", "rfs-proto"]),
    ("proto", &["sled", "fuser", "rfs-master", "rfs-chunkserver", "rfs-mount"]),
    ("master", &["fuser", "rfs-chunkserver", "rfs-mount"]),
    ("chunkserver", &["fuser", "sled", "rfs-master", "rfs-mount"]),
    ("mount", &["sled", "rfs-master", "rfs-chunkserver"]),
    ("tests", &["rfs-master", "rfs-chunkserver", "rfs-mount", "rfs-proto"]),
    ("bench", &["rfs-master", "rfs-chunkserver", "rfs-mount", "rfs-proto"]),
];

/// Runs all checks.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let mut violations = Vec::new();
    for (folder, forbidden) in FORBIDDEN {
        check_dependencies(&root.join(folder), forbidden, &mut violations)?;
        for file in rust_files(&root.join(folder))? {
            check_file(root, &file, &mut violations)?;
        }
    }
    for violation in &violations {
        eprintln_line(violation);
    }
    if violations.is_empty() { Ok(()) } else { bail!("{} violations", violations.len()) }
}

fn check_dependencies(folder: &Path, forbidden: &[&str], violations: &mut Vec<String>) -> anyhow::Result<()> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for name in forbidden {
        if text.lines().any(|line| line.starts_with(&format!("{name}.")) || line.starts_with(&format!("{name} "))) {
            violations.push(format!("{}: must not depend on {name} (ARCHITECTURE.md)", path.display()));
        }
    }
    Ok(())
}

fn check_file(root: &Path, file: &Path, violations: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let shown = file.strip_prefix(root).unwrap_or(file).display();
    if !text.starts_with("//!") {
        violations.push(format!("{shown}: does not open with //! (what it is for, how it works, what always holds)"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        violations.push(format!("{shown}: {lines} lines; is it one subject?"));
    }
    if file.file_name().is_some_and(|name| name == "format.rs") && !text.contains("docs/formats/") {
        violations.push(format!("{shown}: does not name its page under docs/formats/"));
    }
    Ok(())
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[allow(clippy::print_stderr)]
fn eprintln_line(text: &str) {
    eprintln!("{text}");
}
