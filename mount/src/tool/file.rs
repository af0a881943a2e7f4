//! `rfs fileinfo`: where the bytes of a file are. Also how a path that the user gives becomes a node at the master.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context as _;
use rfs_common::endpoint::Endpoint;
use rfs_common::ids::{ChunkId, ServerId, VolumeId};
use rfs_proto::admin::{Copy, FileChunk, FileInfo, FileRequest};
use serde_json::{Value, json};

use super::cli::PathsArguments;
use super::find_master;
use super::master_link::{MasterLink, ask};
use super::output::{Form, bytes, print_json, print_table, print_text};

/// How a command reaches the master of a path.
pub(super) type Link<'a> = &'a dyn Fn(Option<&Path>) -> anyhow::Result<MasterLink>;

/// What the master is asked about.
pub(super) struct Target {
    /// 0: by path.
    pub(super) inode: u64,
    /// From the root; empty: by inode.
    pub(super) path: String,
}

/// Finds master and node of a path.
pub(super) fn target(
    link: Link<'_>,
    named: Option<&Endpoint>,
    path: &Path,
    from_root: bool,
) -> anyhow::Result<(MasterLink, Target)> {
    if from_root {
        return Ok((link(None)?, Target { inode: 0, path: path.to_string_lossy().into_owned() }));
    }
    ask_first(path)?;
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    // The path decides which master is meant, whatever RFS_MASTER says: an inode number means nothing to another.
    // For a link, its folder stands on the same filesystem, while canonicalizing would follow it.
    let place =
        if metadata.is_symlink() { path.parent().filter(|parent| !parent.as_os_str().is_empty()) } else { Some(path) };
    let endpoint = find_master::find(None, Some(place.unwrap_or(Path::new("."))))?;
    let link = match named {
        Some(named) if named == &endpoint => link(None)?,
        _ => MasterLink::connect(&endpoint)?,
    };
    Ok((link, Target { inode: metadata.ino(), path: String::new() }))
}

/// A path on a mount whose master hangs could be looked at for ever; the master is asked before, for a bounded time.
fn ask_first(path: &Path) -> anyhow::Result<()> {
    // By its letters: every look at the path itself could hang as well.
    let Ok(absolute) = std::path::absolute(path) else { return Ok(()) };
    let mounts = find_master::mounts()?;
    match find_master::mount_of(&mounts, &absolute) {
        Some(mount) => ask(&mount.master).map(drop),
        None => Ok(()),
    }
}

/// `rfs fileinfo PATH...`
pub(super) fn fileinfo(
    link: Link<'_>,
    named: Option<&Endpoint>,
    arguments: &PathsArguments,
    form: Form,
) -> anyhow::Result<()> {
    let mut documents = Vec::new();
    for path in &arguments.paths {
        let (mut link, target) = target(link, named, path, arguments.from_root)?;
        let request = FileRequest { inode: target.inode, path: target.path };
        let info = link
            .call_soon(|mut client| async move { client.get_file_info(request).await })
            .with_context(|| format!("cannot tell about {}", path.display()))?;
        match form {
            Form::Programs => documents.push(document(path, &info)),
            Form::People => show(path, &info)?,
        }
    }
    if form == Form::Programs { print_json(&documents) } else { Ok(()) }
}

fn show(path: &Path, info: &FileInfo) -> anyhow::Result<()> {
    print_text(&format!(
        "{}: {}, inode {}, {}, goal {}, {}",
        rfs_common::name::Escaped(path.as_os_str().as_bytes()),
        info.kind,
        info.inode,
        bytes(info.length),
        info.goal,
        info.health
    ))?;
    if info.chunks.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::new();
    for chunk in &info.chunks {
        let head = |text: String, copy: usize| if copy == 0 { text } else { String::new() };
        if chunk.copies.is_empty() {
            rows.push(chunk_row(chunk, &head, 0, vec!["none".into(), String::new(), String::new(), String::new()]));
        }
        for (at, copy) in chunk.copies.iter().enumerate() {
            rows.push(chunk_row(chunk, &head, at, copy_cells(copy)));
        }
    }
    print_table(
        &["chunk", "id", "version", "length", "health", "copy on", "volume", "copy's version", "state"],
        rows,
        "",
    )
}

fn chunk_row(chunk: &FileChunk, head: &dyn Fn(String, usize) -> String, at: usize, copy: Vec<String>) -> Vec<String> {
    let mut row = vec![
        head(chunk.index.to_string(), at),
        head(ChunkId::new(chunk.chunk).to_string(), at),
        head(chunk.version.to_string(), at),
        head(bytes(u64::from(chunk.length)), at),
        head(chunk.health.clone(), at),
    ];
    row.extend(copy);
    row
}

fn copy_cells(copy: &Copy) -> Vec<String> {
    vec![format!("{} ({})", copy.host, copy.address), copy.path.clone(), copy.version.to_string(), copy.state.clone()]
}

fn document(path: &Path, info: &FileInfo) -> Value {
    let copy = |copy: &Copy| {
        json!({
            "server": ServerId::new(copy.server).to_string(), "volume": VolumeId::new(copy.volume).to_string(),
            "host": copy.host, "path": copy.path, "address": copy.address, "version": copy.version, "state": copy.state,
        })
    };
    let chunks: Vec<Value> = info
        .chunks
        .iter()
        .map(|chunk| {
            json!({
                "index": chunk.index, "chunk": ChunkId::new(chunk.chunk).to_string(), "version": chunk.version, "length": chunk.length,
                "health": chunk.health, "copies": chunk.copies.iter().map(copy).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "path": path.to_string_lossy(), "inode": info.inode, "kind": info.kind, "length": info.length,
        "goal": info.goal, "health": info.health, "chunks": chunks,
    })
}
