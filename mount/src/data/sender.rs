//! One chain of copies and the frames that change them: writes, zeros, syncs, and what their answers mean.
//!
//! A change goes to the first copy with the rest of the chain as `next`; it is done when the answer has one OK for every
//! copy. Whatever else comes back names the copies that failed, which the master is told.

use rfs_common::errno::Errno;
use rfs_common::leaf::{LEAF_HASH_BYTES, hash_leaf, split_at_leaves, touched_leaves};
use rfs_proto::data::{self, ChangeReply, CopyResult, NextCopy, Status};

use super::chunk_state::{ActiveGrant, InFlight, Piece};
use super::connections::{CallError, DataConnection};
use super::places::{CopyFailure, Place};

/// Why a chunk's data is not on every copy.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// These copies failed: the master has to replace them.
    Copies(Vec<CopyFailure>),
    /// Nothing is known to be wrong with a copy: send again on a new connection.
    Resend,
    /// Not possible now.
    Later(Errno),
    /// Not possible.
    Final(Errno),
    /// What was being sent has been discarded meanwhile.
    Discarded,
}

impl Trouble {
    /// Whether nothing else is wrong than that copies have no space.
    pub(crate) fn is_want_of_space(&self) -> bool {
        matches!(self, Trouble::Copies(failures) if failures.iter().all(|failure| failure.errno == Errno::ENOSPC))
    }
}

/// The head of a change under a grant, as it stands at the moment of sending.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) places: Vec<Place>,
    next: Vec<NextCopy>,
    chunk: u64,
    pub(crate) version_from: u32,
    version: u32,
    pub(crate) cut_to: Option<u32>,
}

impl Chain {
    pub(crate) fn of(grant: &ActiveGrant) -> Chain {
        Chain {
            places: grant.grant.places.clone(),
            next: grant.grant.places.iter().skip(1).map(NextCopy::from).collect(),
            chunk: grant.grant.chunk.get(),
            version_from: grant.version_from().get(),
            version: grant.grant.version.get(),
            cut_to: grant.cut_to,
        }
    }

    /// The copies have the granted version, and are cut.
    pub(crate) fn was_raised(&mut self) {
        self.version_from = self.version;
        self.cut_to = None;
    }

    fn volume(&self) -> u64 {
        self.places[0].volume.get()
    }

    /// Sends one frame of pieces, or of none; the request's id.
    pub(crate) fn send_write(&self, connection: &mut DataConnection, frame: &InFlight) -> Result<u64, CallError> {
        let place = |piece: &Piece| data::Piece { offset: piece.offset, length: piece.bytes.len() as u32 };
        let (first, more) =
            frame.pieces.split_first().map_or((data::Piece::default(), &[][..]), |(first, more)| (place(first), more));
        let payload: Vec<&[u8]> = frame.pieces.iter().map(|piece| &piece.bytes[..]).collect();
        let request = data::Write {
            volume: self.volume(),
            chunk: self.chunk,
            version_from: self.version_from,
            version: self.version,
            cut_to: self.cut_to,
            offset: first.offset,
            length: first.length,
            hashes: hashes_of(&frame.pieces).into(),
            sync: frame.sync,
            next: self.next.clone(),
            more: more.iter().map(place).collect(),
        };
        connection.send(&request, &payload)
    }

    /// Zeroes a range, which may be empty, and cuts.
    pub(crate) fn zero(&self, connection: &mut DataConnection, offset: u32, length: u32) -> Result<(), Trouble> {
        if length == 0 {
            let nothing = InFlight { pieces: Vec::new(), sync: false };
            let id = self.send_write(connection, &nothing).map_err(|error| self.trouble(connection, &error))?;
            return self.receive::<data::Write>(connection, id, 0);
        }
        let request = data::Zero {
            volume: self.volume(),
            chunk: self.chunk,
            version_from: self.version_from,
            version: self.version,
            cut_to: self.cut_to,
            offset,
            length,
            next: self.next.clone(),
        };
        let id = connection.send(&request, &[]).map_err(|error| self.trouble(connection, &error))?;
        self.receive::<data::Zero>(connection, id, 0)
    }

    /// Has every copy sync the chunk.
    pub(crate) fn sync(&self, connection: &mut DataConnection) -> Result<(), Trouble> {
        let request = data::SyncChunk {
            volume: self.volume(),
            chunk: self.chunk,
            version: self.version,
            next: self.next.clone(),
        };
        let id = connection.send(&request, &[]).map_err(|error| self.trouble(connection, &error))?;
        self.receive::<data::SyncChunk>(connection, id, 0)
    }

    /// The answer to a change behind which so many more were sent.
    pub(crate) fn receive<C>(&self, connection: &mut DataConnection, id: u64, behind: usize) -> Result<(), Trouble>
    where
        C: rfs_proto::data_calls::DataCall<Reply = ChangeReply>,
    {
        let reply = connection.receive::<C>(id).map_err(|error| self.trouble(connection, &error))?;
        self.judge(&reply.results, behind)
    }

    /// What a failed connection to the first copy means.
    pub(crate) fn trouble(&self, connection: &DataConnection, error: &CallError) -> Trouble {
        if connection.died_idle(error) { Trouble::Resend } else { Trouble::Copies(vec![self.first_failed(error)]) }
    }

    pub(crate) fn first_failed(&self, error: &CallError) -> CopyFailure {
        self.places[0].failure(error.errno(), error.to_string())
    }

    /// What one result per copy means. What arrived damaged is sent again, unless more was sent behind it: that may still be
    /// taken, by a server that has not looked at it yet, after it was sent anew or even after younger bytes. Then the
    /// copy is replaced, which gives the chunk a version that those frames do not have.
    fn judge(&self, results: &[CopyResult], behind: usize) -> Result<(), Trouble> {
        let result_of = |place: &Place| {
            results.iter().find(|result| result.server == place.server.get() && result.volume == place.volume.get())
        };
        let is_damaged = |place: &&Place| result_of(place).is_some_and(|result| result.status() == Status::BadHashSent);
        if let Some(place) = self.places.iter().find(is_damaged) {
            let failure = || place.failure(Errno::EBADMSG, "what was sent arrived damaged, with more behind it");
            return Err(if behind == 0 { Trouble::Resend } else { Trouble::Copies(vec![failure()]) });
        }
        let mut failures: Vec<CopyFailure> = Vec::new();
        let mut unreached: Vec<&Place> = Vec::new();
        for place in &self.places {
            match result_of(place) {
                Some(result) if matches!(result.status(), Status::Ok | Status::NextFailed) => {}
                Some(result) => failures.push(place.failure(errno_of(result), reason_of(result))),
                None => unreached.push(place),
            }
        }
        // A copy that is not named is to blame only if none before it is: it was not asked.
        if let (true, Some(place)) = (failures.is_empty(), unreached.first()) {
            failures.push(place.failure(Errno::ETIMEDOUT, "the copy before it got no answer"));
        }
        if failures.is_empty() { Ok(()) } else { Err(Trouble::Copies(failures)) }
    }
}

/// One hash per part of a leaf.
fn hashes_of(pieces: &[Piece]) -> Vec<u8> {
    let count = |piece: &Piece| touched_leaves(piece.offset, piece.bytes.len() as u32).len();
    let mut hashes = Vec::with_capacity(pieces.iter().map(count).sum::<usize>() * LEAF_HASH_BYTES);
    for piece in pieces {
        let mut rest = &piece.bytes[..];
        for part in split_at_leaves(piece.offset, rest.len() as u32) {
            let (leaf, after) = rest.split_at(part.length);
            hashes.extend_from_slice(hash_leaf(part.leaf_index, leaf).as_bytes());
            rest = after;
        }
    }
    hashes
}

fn errno_of(result: &CopyResult) -> Errno {
    match result.status() {
        Status::NoSpace => Errno::ENOSPC,
        Status::NoChunk => Errno::ENOENT,
        Status::WrongVersion => Errno::ESTALE,
        Status::VolumeOut => Errno::ENODEV,
        Status::Timeout => Errno::ETIMEDOUT,
        Status::BadCopy => Errno::EBADMSG,
        _ => Errno::from_raw(result.errno as i32),
    }
}

fn reason_of(result: &CopyResult) -> String {
    match result.status() {
        Status::WrongVersion => format!("has version {}", result.have_version),
        status => format!("{}: {}", status.as_str_name(), result.message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rfs_common::ids::{ServerId, VolumeId};

    use super::*;

    #[test]
    fn a_damaged_frame_is_sent_again_only_if_none_was_sent_behind_it() {
        let place = |number| Place {
            server: ServerId::new(number),
            volume: VolumeId::new(number),
            address: Arc::from("127.0.0.1:1"),
        };
        let places = vec![place(1), place(2)];
        let chain = Chain { places, next: Vec::new(), chunk: 1, version_from: 1, version: 1, cut_to: None };
        let result = |number, status: Status| CopyResult {
            server: number,
            volume: number,
            status: status.into(),
            ..CopyResult::default()
        };
        let results = [result(1, Status::NextFailed), result(2, Status::BadHashSent)];
        assert!(matches!(chain.judge(&results, 0), Err(Trouble::Resend)));
        match chain.judge(&results, 2) {
            Err(Trouble::Copies(failures)) => assert_eq!((failures.len(), failures[0].server), (1, ServerId::new(2))),
            other => panic!("{other:?}"),
        }
    }
}
