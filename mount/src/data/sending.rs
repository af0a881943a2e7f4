//! One pass over a claimed chunk: get the grant, repair what was lost, send pieces down the chain, take the answers.
//!
//! Up to four pieces are on their way at once, on one connection. An answer frees the bytes: first the block cache forgets
//! the range, then the piece is dropped, both under the file's lock, so that a reader finds either the piece or the copies.

use std::collections::VecDeque;

use rfs_proto::data;

use super::chunk_state::{Extent, Repair, Step};
use super::connections::DataConnection;
use super::file::FileData;
use super::sender::{Chain, Trouble};
use super::writer::refusal;

impl FileData {
    /// Sends what `extent` says, once; on any trouble what was on its way is unsent again.
    pub(crate) fn send_once(&self, index: u32, extent: Extent, epoch: u64) -> Result<(), Trouble> {
        if !self.has_work(index, extent, epoch)? {
            return Ok(());
        }
        self.ensure_grant(index, epoch)?;
        let mut chain = Chain::of(self.state().chunk_of(index, epoch)?.grant.as_ref().ok_or(Trouble::Resend)?);
        let Some(first) = chain.places.first().cloned() else {
            return Err(Trouble::Later(rfs_common::errno::Errno::EIO));
        };
        let mut connection = match self.path.connections.take(&first, self.path.settings.write_timeout) {
            Ok(connection) => connection,
            Err(error) => {
                self.path.connections.failed(&first);
                return Err(Trouble::Copies(vec![chain.first_failed(&error)]));
            }
        };
        match self.send_on(&mut connection, &mut chain, index, extent, epoch) {
            Ok(()) => {
                self.path.connections.put_back(&first, connection);
                Ok(())
            }
            Err(trouble) => {
                self.path.connections.drop_idle(&first);
                let mut state = self.state();
                if let Ok(chunk) = state.chunk_of_mut(index, epoch) {
                    chunk.take_back(&self.path.buffers);
                    self.settle_bytes(&mut state);
                }
                Err(trouble)
            }
        }
    }

    fn has_work(&self, index: u32, extent: Extent, epoch: u64) -> Result<bool, Trouble> {
        let state = self.state();
        let chunk = state.chunk_of(index, epoch)?;
        Ok(match extent {
            Extent::WholePieces => chunk.dirty.next_whole_piece(0).is_some(),
            Extent::Everything => chunk.is_dirty(),
            Extent::EverythingSynced => chunk.is_dirty() || chunk.is_unsynced(),
        })
    }

    pub(super) fn ensure_grant(&self, index: u32, epoch: u64) -> Result<(), Trouble> {
        if self.state().chunk_of_mut(index, epoch)?.present_grant().is_some() {
            return Ok(());
        }
        let grant = self.path.master.grant(self.inode, index).map_err(refusal)?;
        if grant.version_from.get() == 0 {
            self.path.full.clear();
        }
        self.path.reader.local.forget_chunk(grant.chunk);
        let mut state = self.state();
        let chunk = state.chunk_of_mut(index, epoch)?;
        chunk.replace_grant(grant);
        state.located.remove(&index);
        state.located_epoch += 1;
        Ok(())
    }

    fn send_on(
        &self,
        connection: &mut DataConnection,
        chain: &mut Chain,
        index: u32,
        extent: Extent,
        epoch: u64,
    ) -> Result<(), Trouble> {
        self.send_repairs(connection, chain, index, epoch)?;
        let mut sent: VecDeque<u64> = VecDeque::new();
        let mut cursor = 0;
        loop {
            let step = self.state().chunk_of_mut(index, epoch)?.next_step(extent, &mut cursor, &self.path.buffers);
            match step {
                Step::Send(frame) => {
                    let id = chain.send_write(connection, &frame);
                    sent.push_back(id.map_err(|error| chain.trouble(connection, &error))?);
                }
                Step::Await => {
                    let id = sent.pop_front().ok_or(Trouble::Resend)?;
                    chain.receive::<data::Write>(connection, id, sent.len())?;
                    chain.was_raised();
                    self.frame_acknowledged(index, epoch)?;
                }
                Step::Done => break,
            }
        }
        if extent == Extent::EverythingSynced && self.state().chunk_of(index, epoch)?.is_unsynced() {
            chain.sync(connection)?;
            let mut state = self.state();
            if let Some(grant) = &mut state.chunk_of_mut(index, epoch)?.grant {
                grant.unsynced = false;
            }
        }
        Ok(())
    }

    fn frame_acknowledged(&self, index: u32, epoch: u64) -> Result<(), Trouble> {
        let mut guard = self.state();
        let state = &mut *guard;
        let chunk = state.chunk_of_mut(index, epoch)?;
        let Some(frame) = chunk.frame_acknowledged() else { return Ok(()) };
        if let Some(grant) = &chunk.grant {
            for piece in &frame.pieces {
                self.path.cache.invalidate_bytes(self.inode, grant.grant.chunk, piece.range());
            }
        }
        let end_in_chunk = frame.pieces.last().map_or(0, |last| last.range().end);
        let end = u64::from(index) * rfs_common::leaf::CHUNK_BYTES + u64::from(end_in_chunk);
        state.acknowledged_end = state.acknowledged_end.max(end);
        state.bytes -= frame.bytes();
        drop(guard);
        self.changed.notify_all();
        self.path.budget.release(frame.bytes());
        frame.pieces.into_iter().for_each(|piece| self.path.buffers.give_back(piece.bytes));
        Ok(())
    }

    /// Zeroes on every copy what was zeroed, or lost after it may have been sent; what was lost unsent is as it was before. The copies are also cut to the valid bytes: beyond them some may
    /// have taken what others have not.
    fn send_repairs(
        &self,
        connection: &mut DataConnection,
        chain: &mut Chain,
        index: u32,
        epoch: u64,
    ) -> Result<(), Trouble> {
        let (repairs, valid_length, chunk_exists) = {
            let state = self.state();
            let chunk = state.chunk_of(index, epoch)?;
            let grant = chunk.grant.as_ref().ok_or(Trouble::Resend)?;
            (chunk.repairs.clone(), grant.valid_length, !grant.makes_chunk())
        };
        if repairs.is_empty() {
            return Ok(());
        }
        let (repairs, unsent): (Vec<Repair>, Vec<Repair>) = repairs.into_iter().partition(Repair::concerns_copies);
        self.state().chunk_of_mut(index, epoch)?.drop_repairs(&unsent);
        if repairs.is_empty() {
            return Ok(());
        }
        if chunk_exists {
            for repair in &repairs {
                chain.cut_to = Some(valid_length);
                let end = repair.range.end.min(valid_length);
                let start = repair.range.start.min(end);
                chain.zero(connection, start, end - start)?;
                chain.was_raised();
            }
        }
        self.repairs_done(index, epoch, &repairs, chunk_exists)
    }

    fn repairs_done(&self, index: u32, epoch: u64, done: &[Repair], sent: bool) -> Result<(), Trouble> {
        let mut state = self.state();
        let chunk = state.chunk_of_mut(index, epoch)?;
        if sent {
            chunk.repairs_acknowledged(done);
            if let Some(grant) = &chunk.grant {
                for repair in done {
                    self.path.cache.invalidate_bytes(self.inode, grant.grant.chunk, repair.range.clone());
                }
            }
        } else {
            chunk.repairs.clear();
        }
        Ok(())
    }
}
