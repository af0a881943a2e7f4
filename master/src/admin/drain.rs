//! Emptying volumes and chunkservers, and leaving them as they are again. What is asked is on record, and on the disk, before
//! it is answered.

use rfs_common::ids::{ServerId, VolumeId};
use rfs_proto::admin as wire;
use tonic::Status;

use super::find_volume;
use crate::chunks::{Chunks, DrainMark, Severity};
use crate::cluster::asked::{self, AskedOfServerRecord};
use crate::namespace::source::Change;
use crate::status::{DrainRow, MasterState, MasterStateExt};

/// Drains a volume, or no longer.
pub(super) fn volume(state: &dyn MasterState, request: &wire::DrainVolumeRequest) -> Result<wire::DrainReply, Status> {
    let id = VolumeId::new(request.volume);
    let (server, view) = find_volume(state, id)?;
    let what = format!("volume {id} ({} on {})", view.report.path, server.host);
    let with_server = state.with_chunks(|chunks, _| chunks.is_server_draining(server.server));
    if request.cancel && with_server {
        return Err(Status::failed_precondition(format!(
            "{what} is drained with its whole chunkserver: `rfs server drain {} --cancel` ends that",
            server.server
        )));
    }
    let new = |chunks: &Chunks| {
        let drained = chunks.drain_mark(id).drained && (with_server || chunks.drain_mark(id).wanted);
        if request.cancel { DrainMark::default() } else { DrainMark { wanted: true, drained } }
    };
    let asks = |chunks: &Chunks| {
        let mark = new(chunks);
        (mark != chunks.drain_mark(id)).then(|| vec![asked::change_of_volume(id, mark)])
    };
    let mut follow = |chunks: &mut Chunks| chunks.set_drain_mark(id, new(chunks));
    ask(state, &what, request.cancel, &asks, &mut follow)?;
    reply(state, &[id])
}

/// Drains a chunkserver with all volumes that it has or gets, or no longer.
pub(super) fn server(state: &dyn MasterState, request: &wire::DrainServerRequest) -> Result<wire::DrainReply, Status> {
    let id = ServerId::new(request.server);
    let view = state.with_chunks(|chunks, _| chunks.server(id));
    let view = view.ok_or_else(|| Status::not_found(format!("no chunkserver {id} is known; see `rfs servers`")))?;
    let what = format!("chunkserver {id} on {}", view.host);
    let volumes: Vec<VolumeId> = view.volumes.iter().map(|volume| volume.report.volume).collect();
    let marked = |chunks: &Chunks| -> Vec<VolumeId> {
        volumes.iter().copied().filter(|volume| chunks.drain_mark(*volume) != DrainMark::default()).collect()
    };
    let asks = |chunks: &Chunks| {
        // The end of it is that of its volumes' own drains as well, and of what is known of them.
        let unmarked: Vec<VolumeId> = if request.cancel { marked(chunks) } else { Vec::new() };
        let changes = unmarked.iter().map(|volume| asked::change_of_volume(*volume, DrainMark::default()));
        let of_server = (chunks.is_server_draining(id) == request.cancel).then(|| {
            let record = AskedOfServerRecord { drain: !request.cancel, ..AskedOfServerRecord::of(chunks, id) };
            asked::change_of_server(id, &record)
        });
        let changes: Vec<Change> = changes.chain(of_server).collect();
        (!changes.is_empty()).then_some(changes)
    };
    let mut follow = |chunks: &mut Chunks| {
        let unmarked = if request.cancel { marked(chunks) } else { Vec::new() };
        unmarked.into_iter().for_each(|volume| chunks.set_drain_mark(volume, DrainMark::default()));
        chunks.set_server_draining(id, !request.cancel);
    };
    ask(state, &what, request.cancel, &asks, &mut follow)?;
    reply(state, &volumes)
}

/// Has it recorded; what is so already is no change.
fn ask(
    state: &dyn MasterState,
    what: &str,
    cancel: bool,
    asks: &dyn Fn(&Chunks) -> Option<Vec<Change>>,
    follow: &mut dyn FnMut(&mut Chunks),
) -> Result<(), Status> {
    if !state.commit_with_chunks(asks, follow).map_err(crate::grpc::failed)? {
        return match cancel {
            true => Err(Status::failed_precondition(format!("{what} is not being drained"))),
            false => Ok(()),
        };
    }
    let told = if cancel { "is not drained any more" } else { "is to be drained" };
    state.report(Severity::Information, format!("{what} {told}, as an administrator asked"));
    Ok(())
}

fn reply(state: &dyn MasterState, volumes: &[VolumeId]) -> Result<wire::DrainReply, Status> {
    let mut reply = wire::DrainReply::default();
    for server in state.with_chunks(|chunks, _| chunks.servers()) {
        for view in server.volumes.iter().filter(|view| volumes.contains(&view.report.volume)) {
            let Some(drain) = view.drain.clone() else { continue };
            let row = DrainRow::from(drain);
            let path = format!("{} on {}", view.report.path, server.host);
            reply.volumes.push(wire::DrainedVolume {
                volume: view.report.volume.get(),
                path,
                words: row.words.clone(),
                drain: Some(row.into()),
            });
        }
    }
    // Nor does a power cut take back that a volume is drained.
    state.wait_until_durable().map_err(crate::grpc::failed)?;
    Ok(reply)
}
