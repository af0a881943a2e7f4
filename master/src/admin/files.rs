//! Finding a node for the administrator, and showing where every copy of a file is.

use std::ops::{Bound, ControlFlow};

use prost::Message;
use rfs_common::ids::InodeId;
use rfs_proto::admin as wire;
use tonic::Status;

use super::status_of;
use crate::chunks::{CopyState, CopyView};
use crate::namespace::metadata::Transaction;
use crate::namespace::path::resolve_path;
use crate::namespace::records::{ChunkRecord, ChunkRef, InodeRecord, NodeKind, ref_key};
use crate::namespace::source::{Source, Table};
use crate::status::{MasterState, MasterStateExt};

/// Chunks that are looked up under one hold of the lock.
const CHUNKS_AT_ONCE: usize = 256;

/// The node that is named by number or, if that is 0, by path from the root.
pub(super) fn find(state: &dyn MasterState, inode: u64, path: &str) -> Result<(InodeId, InodeRecord), Status> {
    let mut view = Transaction::new(state.source());
    let what = if inode == 0 { path.to_owned() } else { format!("inode {inode}") };
    let inode = match inode {
        0 => resolve_path(&mut view, InodeId::ROOT, path.as_bytes()).map_err(|errno| status_of(errno, &what))?,
        number => InodeId::new(number),
    };
    let node = view.node(inode).map_err(|errno| status_of(errno, &what))?;
    Ok((inode, node))
}

/// The node's kind in words.
pub(super) fn kind_name(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Symlink => "symbolic link",
        NodeKind::CharacterDevice => "character device",
        NodeKind::BlockDevice => "block device",
        NodeKind::Fifo => "named pipe",
        NodeKind::Socket => "socket",
    }
}

/// Everything about a file and its copies.
pub(super) fn info(state: &dyn MasterState, inode: u64, path: &str) -> Result<wire::FileInfo, Status> {
    let (inode, node) = find(state, inode, path)?;
    let refs = refs(state.source(), inode).map_err(crate::grpc::failed)?;
    let mut chunks = Vec::with_capacity(refs.len());
    for part in refs.chunks(CHUNKS_AT_ONCE) {
        let copies: Vec<Vec<CopyView>> = state
            .with_chunks(|table, _| part.iter().map(|(_, reference)| table.copies(reference.chunk_id())).collect());
        for ((index, reference), copies) in part.iter().zip(copies) {
            let record = chunk_record(state.source(), reference)?;
            chunks.push(file_chunk(*index, reference, &record, copies));
        }
    }
    Ok(wire::FileInfo {
        inode: inode.get(),
        path: path.to_owned(),
        kind: kind_name(node.kind()).to_owned(),
        length: node.length,
        goal: node.goal,
        health: file_health(&chunks),
        chunks,
    })
}

fn refs(source: &dyn Source, inode: InodeId) -> Result<Vec<(u32, ChunkRef)>, String> {
    let (from, to) = (ref_key(inode, 0), ref_key(inode, u32::MAX));
    let mut refs = Vec::new();
    let scanned = source.scan(Table::Refs, Bound::Included(&from), Bound::Included(&to), &mut |key, value| {
        let index = key.get(8..12).and_then(|index| index.try_into().ok()).map(u32::from_be_bytes);
        if let (Some(index), Ok(reference)) = (index, ChunkRef::decode(value)) {
            refs.push((index, reference));
        }
        ControlFlow::Continue(())
    });
    scanned.map(|()| refs).map_err(|error| error.to_string())
}

fn chunk_record(source: &dyn Source, reference: &ChunkRef) -> Result<ChunkRecord, Status> {
    let chunk = reference.chunk_id();
    let record = Transaction::new(source).chunk(chunk).map_err(|errno| status_of(errno, &format!("chunk {chunk}")))?;
    // A chunk that was freed since the reference was read shows without copies.
    Ok(record.unwrap_or_default())
}

fn file_chunk(index: u32, reference: &ChunkRef, record: &ChunkRecord, copies: Vec<CopyView>) -> wire::FileChunk {
    let live = copies.iter().filter(|copy| matches!(copy.state, CopyState::Current | CopyState::Writing)).count();
    let health = match (live, record.goal as usize) {
        _ if !record.is_settled() => "being written".to_owned(),
        (0, _) => "no copy is live".to_owned(),
        (live, goal) if live < goal => format!("{live} of {goal} copies"),
        (live, goal) if live > goal => format!("{} copies too many", live - goal),
        _ => "ok".to_owned(),
    };
    let copy = |copy: CopyView| wire::Copy {
        server: copy.server.get(),
        volume: copy.volume.get(),
        host: copy.host,
        path: copy.path,
        address: copy.address.to_string(),
        version: copy.version.get(),
        state: copy.state.text().to_owned(),
    };
    wire::FileChunk {
        index,
        chunk: reference.chunk,
        version: record.version,
        length: reference.length,
        copies: copies.into_iter().map(copy).collect(),
        health,
    }
}

fn file_health(chunks: &[wire::FileChunk]) -> String {
    let dead = chunks.iter().filter(|chunk| chunk.health == "no copy is live").count();
    let written = chunks.iter().filter(|chunk| chunk.health == "being written").count();
    let well = chunks.iter().filter(|chunk| chunk.health == "ok").count();
    let lacking = chunks.iter().filter(|chunk| chunk.health.ends_with(" copies")).count();
    match chunks.len() {
        _ if dead > 0 => {
            format!("{dead} of {} chunks cannot be read: bring the missing chunkservers back", chunks.len())
        }
        0 => "ok (no data)".to_owned(),
        all if well == all => "ok".to_owned(),
        all if written > 0 => format!("{written} of {all} chunks are being written"),
        all if lacking > 0 => format!("{lacking} of {all} chunks lack copies: `rfs status` says why"),
        all => format!("{} of {all} chunks have copies too many, which will be deleted", all - well),
    }
}
