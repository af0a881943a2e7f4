//! The requests about data, which tie records to the places of copies.

use rfs_common::errno::Errno;
use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};
use rfs_proto::session;

use super::calls::{Live, Remembered, Serve, Served, lease_from};
use super::translate::data::{located, write_grant};
use super::translate::{Translate, parts};
use crate::engine::Refusal;
use crate::engine::copy_failed::FailedCopy;
use crate::engine::grants::PlacedGrant;
use crate::engine::turn::{Performed, Turn};

/// Copies that one message may report.
const FAILURES_MAX: usize = 64;

/// Bytes of a client's words that are kept.
const REASON_BYTES_MAX: usize = 300;

impl Serve for session::Locate {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let (node, chunks) = turn.locate(&self.operation()?)?;
        let placed: Vec<_> = chunks.iter().map(|chunk| (chunk.located.chunk, chunk.places.clone())).collect();
        let versions: Vec<u32> = chunks.iter().map(|chunk| chunk.version.get()).collect();
        let located = chunks.into_iter().map(|chunk| chunk.located).collect();
        let mut reply = <Self as Translate>::reply((node, located), &mut Live { turn, placed: &placed });
        for (chunk, version) in reply.chunks.iter_mut().zip(versions) {
            chunk.version = version;
        }
        Ok(reply)
    }
}

impl Serve for session::Lookup {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let Performed { outcome: (parent, found), .. } = turn.perform(&self.operation()?)?;
        let with_bytes = found.as_ref().filter(|found| found.record.is_file() && found.record.length > 0);
        let first = match with_bytes.map(|found| found.inode) {
            Some(inode) => turn.first_chunk(inode)?,
            None => None,
        };
        let placed: Vec<_> = first.into_iter().map(|first| (first.located, first.places)).collect();
        let places: Vec<_> = placed.iter().map(|(located, places)| (located.chunk, places.clone())).collect();
        let mut live = Live { turn, placed: &places };
        let mut reply = <Self as Translate>::reply((parent, found), &mut live);
        reply.first_chunk = placed.first().map(|(first, _)| located(first, &mut live));
        Ok(reply)
    }
}

fn grant_reply(turn_session: rfs_common::ids::SessionId, placed: &PlacedGrant) -> session::GrantWriteReply {
    let places = [(placed.grant.chunk, placed.places.clone())];
    let mut surroundings = Remembered { session: turn_session, placed: &places };
    session::GrantWriteReply { grant: Some(write_grant(&placed.grant, &mut surroundings)) }
}

/// The first write raises the copies of a chunk that exists to the version of the grant, on their disks: a power cut of the
/// master must not take back the record of that version, or no copy would be current. Of a new chunk it may.
fn keep_grant(reply: &session::GrantWriteReply, turn: &Turn<'_>, served: &mut Served) {
    if reply.grant.as_ref().is_some_and(|grant| grant.version_from > 0) {
        served.durable = Some(turn.position());
    }
}

impl Serve for session::GrantWrite {
    fn serve(self, turn: &mut Turn<'_>, served: &mut Served) -> Result<Self::Reply, Refusal> {
        let session = turn.session();
        let reply = turn.grant_write(&self.operation()?, |placed| grant_reply(session, placed))?;
        keep_grant(&reply, turn, served);
        Ok(reply)
    }
}

impl Serve for session::CopyFailed {
    fn serve(self, turn: &mut Turn<'_>, served: &mut Served) -> Result<Self::Reply, Refusal> {
        let session = turn.session();
        let failures = parts::list(&self.failures, FAILURES_MAX)?;
        let failed: Vec<FailedCopy> = failures
            .iter()
            .map(|failure| FailedCopy { volume: VolumeId::new(failure.volume), reason: reason(failure).into() })
            .collect();
        let reply = turn.copy_failed(&self.operation()?, &failed, |placed| grant_reply(session, placed))?;
        keep_grant(&reply, turn, served);
        Ok(reply)
    }
}

impl Serve for session::ReportBadCopy {
    fn serve(self, turn: &mut Turn<'_>, _served: &mut Served) -> Result<Self::Reply, Refusal> {
        let failure = self.failure.as_ref().ok_or(Errno::EINVAL)?;
        let (chunk, version) = (ChunkId::new(self.chunk), ChunkVersion::new(self.version));
        turn.report_bad_copy(chunk, version, VolumeId::new(failure.volume), &reason(failure));
        Ok(session::Empty {})
    }
}

impl Serve for session::Commit {
    fn serve(self, turn: &mut Turn<'_>, served: &mut Served) -> Result<Self::Reply, Refusal> {
        let operation = self.operation()?;
        let return_lease = self.return_lease.as_ref().map(lease_from).transpose()?;
        if return_lease.is_some_and(|lease| lease.inode != operation.inode) {
            return Err(Errno::EINVAL.into());
        }
        let session = turn.session();
        let (_, node, position) = turn.commit_written(&operation, return_lease, |node| {
            <Self as Translate>::reply(node.clone(), &mut Remembered { session, placed: &[] })
        })?;
        served.durable = self.durable.then_some(position);
        Ok(<Self as Translate>::reply(node, &mut Live { turn, placed: &[] }))
    }
}

/// A client's words about a failure, cut to what a log line bears.
fn reason(failure: &session::CopyFailure) -> String {
    let words: String =
        failure.reason.chars().filter(|character| !character.is_control()).take(REASON_BYTES_MAX).collect();
    match (words.is_empty(), failure.errno) {
        (true, errno) => format!("errno {errno}"),
        (false, 0) => words,
        (false, errno) => format!("{words} (errno {errno})"),
    }
}
