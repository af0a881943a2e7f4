//! Forgetting chunkservers and volumes that never come back: refused while they are in use, and while they have the last copies
//! of something, unless that is asked for by name.
//!
//! What is given up that way is lost, and reads as an error from then on: before a chunkserver goes, it is noted of each
//! chunk that copies of it were somewhere (`expect_copies`), or the chunk could be taken for one that a power cut took
//! before it was on any disk, which is begun anew with zeros. Other chunks may lose their other copies while that goes on,
//! so what is given up is asked again in the step that forgets.

use rfs_common::ids::{ChunkId, ServerId, VolumeId};
use rfs_proto::admin as wire;
use tonic::Status;

use super::find_volume;
use crate::chunks::{Chunks, ServerView, Severity, VolumeView};
use crate::cluster::{asked, known};
use crate::namespace::source::Change;
use crate::status::{MasterState, MasterStateExt, counted};

/// How often what is given up may change while it is noted, before the administrator is asked again.
const TRIES: usize = 5;

/// Forgets a chunkserver.
pub(super) fn server(
    state: &dyn MasterState,
    request: &wire::ForgetServerRequest,
) -> Result<wire::ForgetServerReply, Status> {
    let server = ServerId::new(request.server);
    let view = state.with_chunks(|chunks, _| chunks.server(server));
    let view = view.ok_or_else(|| Status::not_found(format!("no chunkserver {server} is known; see `rfs servers`")))?;
    let what = format!("chunkserver {server} on {}", view.host);
    if view.connected {
        return Err(Status::failed_precondition(format!("{what} is connected; stop it before it is forgotten")));
    }
    give_up(
        state,
        &what,
        request.last_copies,
        &Giving {
            last_copies: &|chunks| chunks.last_copies_of(server),
            is_away: &|chunks| chunks.server(server).is_some_and(|view| !view.connected),
            change: &|| {
                let asked = state.with_chunks(|chunks, _| asked::changes_to_forget_server(chunks, server));
                Ok(asked.into_iter().chain([known::change_to_forget(server)]).collect())
            },
            forget: &|chunks| chunks.forget_server(server),
        },
    )?;
    Ok(wire::ForgetServerReply {})
}

/// Forgets a volume.
pub(super) fn volume(
    state: &dyn MasterState,
    request: &wire::ForgetVolumeRequest,
) -> Result<wire::ForgetVolumeReply, Status> {
    let id = VolumeId::new(request.volume);
    let (server, volume) = find_volume(state, id)?;
    let what = format!("volume {id} ({} on {})", volume.report.path, server.host);
    if server.connected && volume.named {
        return Err(Status::failed_precondition(format!(
            "{what} is still named in the settings of its chunkserver: take it out of `data` there and restart the chunkserver \
             before it is forgotten"
        )));
    }
    let holder = server.server;
    give_up(
        state,
        &what,
        request.last_copies,
        &Giving {
            last_copies: &|chunks| chunks.last_copies_of_volume(id),
            is_away: &|chunks| {
                let server = chunks.server(holder);
                server.is_some_and(|view| volume_of(&view, id).is_some_and(|volume| !(view.connected && volume.named)))
            },
            change: &|| {
                let change = known::change_to_forget_volume(state.source(), id);
                let change = change.map_err(|error| crate::grpc::failed(error.to_string()))?;
                let asked = state.with_chunks(|chunks, _| asked::changes_to_forget_volume(chunks, id));
                Ok(change.into_iter().chain(asked).collect())
            },
            forget: &|chunks| chunks.forget_volume(id),
        },
    )?;
    Ok(wire::ForgetVolumeReply {})
}

/// What is to be forgotten: a chunkserver, or one volume.
struct Giving<'a> {
    last_copies: &'a dyn Fn(&Chunks) -> Vec<ChunkId>,
    is_away: &'a dyn Fn(&Chunks) -> bool,
    change: &'a dyn Fn() -> Result<Vec<Change>, Status>,
    forget: &'a dyn Fn(&mut Chunks) -> bool,
}

fn give_up(state: &dyn MasterState, what: &str, even_last_copies: bool, giving: &Giving<'_>) -> Result<(), Status> {
    for _ in 0..TRIES {
        let lost = state.with_chunks(|chunks, _| (giving.last_copies)(chunks));
        if !lost.is_empty() && !even_last_copies {
            return Err(Status::failed_precondition(format!(
                "{what} has, or may have, the last copies of {}, which would be lost: bring it back, or forget it with \
                 --last-copies",
                counted(lost.len() as u64, "chunk")
            )));
        }
        state.expect_copies(&lost).map_err(crate::grpc::failed)?;
        let changes = (giving.change)()?;
        let decide = |chunks: &Chunks| {
            let is_noted = |chunk: &ChunkId| lost.binary_search(chunk).is_ok();
            let may_go = (giving.is_away)(chunks) && (giving.last_copies)(chunks).iter().all(is_noted);
            may_go.then(|| changes.clone())
        };
        let mut follow = |chunks: &mut Chunks| {
            (giving.forget)(chunks);
        };
        if state.commit_with_chunks(&decide, &mut follow).map_err(crate::grpc::failed)? {
            let words = lost_words(lost.len());
            state.report(Severity::Warning, format!("{what} was forgotten by an administrator{words}"));
            return Ok(());
        }
        if !state.with_chunks(|chunks, _| (giving.is_away)(chunks)) {
            return Err(Status::aborted(format!("{what} has just come back; it was not forgotten")));
        }
    }
    Err(Status::aborted(format!(
        "{what} was not forgotten: copies of other chunks are being lost at the moment (see `rfs status`); try again"
    )))
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
