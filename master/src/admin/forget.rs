//! Forgetting chunkservers and volumes that never come back: refused while they are in use, and while they have the last copies
//! of something, unless that is asked for by name.

use rfs_common::ids::{ServerId, VolumeId};
use rfs_proto::admin as wire;
use tonic::Status;

use crate::chunks::{ServerView, Severity, VolumeView};
use crate::cluster::known;
use crate::status::{MasterState, MasterStateExt, counted};

/// Forgets a chunkserver.
pub(super) fn server(
    state: &dyn MasterState,
    request: &wire::ForgetServerRequest,
) -> Result<wire::ForgetServerReply, Status> {
    let server = ServerId::new(request.server);
    let view = state.with_chunks(|chunks, _| chunks.server(server));
    let view = view.ok_or_else(|| Status::not_found(format!("no chunkserver {server} is known; see `rfs servers`")))?;
    if view.connected {
        return Err(Status::failed_precondition(format!(
            "chunkserver {server} on {} is connected; stop it before it is forgotten",
            view.host
        )));
    }
    let lost_chunks = state.with_chunks(|chunks, _| chunks.last_copies_of(server));
    let last_copies = lost_chunks.len();
    if last_copies > 0 && !request.last_copies {
        return Err(Status::failed_precondition(format!(
            "chunkserver {server} on {} has the last copies of {}, which would be lost: bring it back, or forget \
             it with --last-copies",
            view.host,
            counted(last_copies as u64, "chunk")
        )));
    }
    state.expect_copies(&lost_chunks).map_err(Status::internal)?;
    let change = known::change_to_forget(server);
    state.commit(vec![change]).map_err(Status::internal)?;
    let forgotten = state.with_chunks(|chunks, _| chunks.forget_server(server));
    if !forgotten {
        return Err(Status::aborted(format!("chunkserver {server} has just come back; it was not forgotten")));
    }
    let lost = lost_words(last_copies);
    let what = format!("chunkserver {server} on {} was forgotten by an administrator{lost}", view.host);
    state.report(Severity::Warning, what);
    Ok(wire::ForgetServerReply {})
}

/// Forgets a volume.
pub(super) fn volume(
    state: &dyn MasterState,
    request: &wire::ForgetVolumeRequest,
) -> Result<wire::ForgetVolumeReply, Status> {
    let id = VolumeId::new(request.volume);
    let servers = state.with_chunks(|chunks, _| chunks.servers());
    let found = servers.iter().find_map(|server| Some((server, volume_of(server, id)?)));
    let (server, volume) =
        found.ok_or_else(|| Status::not_found(format!("no volume {id} is known; see `rfs volumes`")))?;
    let what = format!("volume {id} ({} on {})", volume.report.path, server.host);
    if server.connected && volume.named {
        return Err(Status::failed_precondition(format!(
            "{what} is still named in the settings of its chunkserver: take it out of `data` there and restart the chunkserver \
             before it is forgotten"
        )));
    }
    let lost_chunks = state.with_chunks(|chunks, _| chunks.last_copies_of_volume(id));
    let last_copies = lost_chunks.len();
    if last_copies > 0 && !request.last_copies {
        return Err(Status::failed_precondition(format!(
            "{what} has the last copies of {}, which would be lost: bring it back, or forget it with --last-copies",
            counted(last_copies as u64, "chunk")
        )));
    }
    state.expect_copies(&lost_chunks).map_err(Status::internal)?;
    let change =
        known::change_to_forget_volume(state.source(), id).map_err(|error| Status::internal(error.to_string()))?;
    state.commit(change.into_iter().collect()).map_err(Status::internal)?;
    if !state.with_chunks(|chunks, _| chunks.forget_volume(id)) {
        return Err(Status::aborted(format!("{what} has just come back; it was not forgotten")));
    }
    state.report(Severity::Warning, format!("{what} was forgotten by an administrator{}", lost_words(last_copies)));
    Ok(wire::ForgetVolumeReply {})
}

fn volume_of(server: &ServerView, id: VolumeId) -> Option<&VolumeView> {
    server.volumes.iter().find(|volume| volume.report.volume == id)
}

fn lost_words(last_copies: usize) -> String {
    match last_copies {
        0 => String::new(),
        count => format!(", with the last copies of {}", counted(count as u64, "chunk")),
    }
}
