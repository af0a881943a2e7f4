//! What the writer of a file knows of one of its chunks: the grant, what is unsent, what is on its way, what was lost.
//! Pure: it decides what is to be sent next and what an answer means; the sending stands in `sender.rs`.
//!
//! What always holds:
//! - No piece is sent while an older one that it overlaps is unacknowledged, so the order of arrival does not matter.
//! - Until the first write under a grant is acknowledged by every copy, nothing else is under way: it raises and cuts.
//! - `valid_length` counts acknowledged bytes only.
//! - A range that was zeroed by the application, or lost after some copy may have taken it, is a [`Repair`] until every copy has
//!   zeros there. One that was lost unsent is a repair without work: the copies still have what was there before.

use std::ops::Range;
use std::sync::Arc;

use rfs_common::ids::ChunkVersion;

use super::dirty::{BufferPool, DirtyMap, PIECE_BYTES, gaps_between, lay_over};
use super::places::{ChunkPlaces, WriteGrant};

/// Frames of one chunk that may be on their way at once.
const IN_FLIGHT_MAX: usize = 4;
/// Pieces of one frame: with two hashes each they are well below the limit of a frame's message.
const PIECES_MAX: usize = 256;

/// Who may send for a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// No one: it can be claimed.
    #[default]
    Free,
    /// One thread sends.
    Sender,
    /// A commit is under way: nothing may be sent under this grant any more.
    Commit,
}

/// How much of a chunk's dirty data is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Extent {
    /// Whole pieces only; the rest may still grow.
    WholePieces,
    /// Everything that is there.
    Everything,
    /// Everything, and every copy syncs it.
    EverythingSynced,
}

/// What a range reads as until it has been zeroed on every copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadsAs {
    /// The application zeroed it.
    Zeros,
    /// Its bytes were lost, and some copies may have taken them.
    Error,
    /// Its bytes were lost before any was sent: nothing is to be zeroed.
    ErrorUnsent,
}

/// A range that every copy is to zero, unless no copy can have taken anything there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) range: Range<u32>,
    pub(crate) reads_as: ReadsAs,
}

impl Repair {
    /// Whether copies have to do anything for it.
    pub(crate) fn concerns_copies(&self) -> bool {
        self.reads_as != ReadsAs::ErrorUnsent
    }
}

/// What one frame carries: pieces in their order, which do not touch.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) sync: bool,
}

impl InFlight {
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }
}

/// Bytes on their way to one place.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u32,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Piece {
    pub(crate) fn range(&self) -> Range<u32> {
        self.offset..self.offset + self.bytes.len() as u32
    }
}

/// A grant and what was done under it.
#[derive(Clone, Debug)]
pub(crate) struct ActiveGrant {
    pub(crate) grant: WriteGrant,
    /// Every copy has the granted version.
    pub(crate) raised: bool,
    /// The next write cuts the copies to this.
    pub(crate) cut_to: Option<u32>,
    /// Bytes that count, all acknowledged.
    pub(crate) valid_length: u32,
    /// Something was acknowledged that has not been committed.
    pub(crate) written: bool,
    /// Something was acknowledged that has not been synced.
    pub(crate) unsynced: bool,
}

impl ActiveGrant {
    pub(crate) fn new(grant: WriteGrant) -> ActiveGrant {
        let is_new = grant.version_from.get() == 0;
        ActiveGrant {
            raised: grant.version_from == grant.version,
            cut_to: (!is_new).then_some(grant.length),
            valid_length: if is_new { 0 } else { grant.length },
            written: false,
            unsynced: false,
            grant,
        }
    }

    /// The version that a copy must have to take the next write.
    pub(crate) fn version_from(&self) -> ChunkVersion {
        if self.raised { self.grant.version } else { self.grant.version_from }
    }

    /// The next write makes the chunk.
    pub(crate) fn makes_chunk(&self) -> bool {
        !self.raised && self.grant.version_from.get() == 0
    }

    /// Goes on with the grant that followed a failure. The range that no copy has any more, which is empty unless the
    /// master had to begin a new chunk.
    fn replace(&mut self, grant: WriteGrant) -> Range<u32> {
        if grant.version_from.get() == 0 || grant.chunk != self.grant.chunk {
            let had = self.valid_length;
            *self = ActiveGrant::new(grant);
            return self.valid_length.min(had)..had;
        }
        self.raised = grant.version_from == grant.version;
        self.unsynced = self.written;
        self.grant = grant;
        0..0
    }

    /// Where acknowledged bytes are to be read; `None`: there are none.
    pub(crate) fn places(&self) -> Option<ChunkPlaces> {
        (!self.makes_chunk()).then(|| ChunkPlaces {
            index: self.grant.index,
            chunk: self.grant.chunk,
            version: self.version_from(),
            length: self.valid_length,
            places: self.grant.places.clone(),
            lost_version: self.grant.lost_version,
        })
    }

    /// Whether what was acknowledged and not synced may be gone now that the chunk goes on under this grant.
    fn is_lost_by(&self, next: &WriteGrant) -> bool {
        self.unsynced && next.lost_version > self.grant.version
    }

    fn acknowledge(&mut self) {
        self.raised = true;
        self.cut_to = None;
        self.written = true;
        self.unsynced = true;
    }
}

/// What the sender does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this, which now is on its way.
    Send(InFlight),
    /// Receive the oldest answer.
    Await,
    /// Nothing is left and nothing on its way.
    Done,
}

/// One chunk of a file that is being written.
#[derive(Debug, Default)]
pub(crate) struct ChunkState {
    pub(crate) grant: Option<ActiveGrant>,
    /// The lease that the grant was given under is gone, while somebody looked whether there is anything to send.
    pub(crate) grant_ended: bool,
    pub(crate) dirty: DirtyMap,
    pub(crate) in_flight: Vec<InFlight>,
    pub(crate) repairs: Vec<Repair>,
    /// What was sent and has not been acknowledged by every copy since: some may have it.
    tried: Vec<Range<u32>>,
    pub(crate) owner: Owner,
    /// What a flusher is to send once it can claim the chunk.
    pub(crate) wanted: Option<Extent>,
    /// A flusher's job for this chunk is in the queue.
    pub(crate) queued: bool,
    /// Rises with every acknowledgement: progress.
    pub(crate) acknowledged: u64,
}

impl ChunkState {
    /// Bytes held for this chunk.
    pub(crate) fn bytes(&self) -> usize {
        self.dirty.bytes() + self.in_flight.iter().map(InFlight::bytes).sum::<usize>()
    }

    /// Not everything has been acknowledged.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.in_flight.is_empty() || !self.repairs.is_empty()
    }

    /// All that is left to be sent are zeros where bytes were lost before, or were zeroed: no byte is lost by giving up.
    pub(crate) fn has_only_repairs(&self) -> bool {
        self.dirty.is_empty() && self.in_flight.is_empty()
    }

    /// Something was acknowledged that is not committed.
    pub(crate) fn is_written(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.written)
    }

    /// Something was acknowledged that is not synced.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.unsynced)
    }

    /// Drops a grant under which nothing was written and nothing is to be.
    pub(crate) fn end_unused_grant(&mut self) {
        if self.is_dirty() || self.is_written() {
            return;
        }
        if self.owner == Owner::Free && !self.queued {
            (self.grant, self.grant_ended) = (None, false);
        } else {
            self.grant_ended = self.grant.is_some();
        }
    }

    /// The grant, unless it has ended.
    pub(crate) fn present_grant(&mut self) -> Option<&ActiveGrant> {
        if std::mem::take(&mut self.grant_ended) {
            self.grant = None;
        }
        self.grant.as_ref()
    }

    /// Nothing is known here that is not known elsewhere.
    pub(crate) fn is_idle(&self) -> bool {
        self.grant.is_none() && !self.is_dirty() && self.owner == Owner::Free && !self.queued
    }

    /// Decides what is sent next; `cursor` is where this pass through the chunk has come to.
    pub(crate) fn next_step(&mut self, extent: Extent, cursor: &mut u32, pool: &BufferPool) -> Step {
        let exclusive = self.grant.as_ref().is_none_or(|grant| !grant.raised || grant.cut_to.is_some());
        let limit = if exclusive { 1 } else { IN_FLIGHT_MAX };
        if self.in_flight.len() >= limit {
            return Step::Await;
        }
        let run = match extent {
            Extent::WholePieces => self.dirty.next_whole_piece(*cursor),
            Extent::Everything | Extent::EverythingSynced => self.dirty.next_run(*cursor),
        };
        let Some(run) = run else {
            return if self.in_flight.is_empty() { Step::Done } else { Step::Await };
        };
        if self.is_on_its_way(&run) {
            return Step::Await;
        }
        let mut pieces = vec![self.take_piece(&run, cursor, pool)];
        if extent != Extent::WholePieces {
            self.gather(&mut pieces, cursor, pool);
        }
        let is_last = self.dirty.next_run(*cursor).is_none();
        let frame = InFlight { pieces, sync: extent == Extent::EverythingSynced && is_last };
        self.in_flight.push(frame.clone());
        Step::Send(frame)
    }

    /// Adds the pieces that follow as long as a frame has room: small ones cost more apart than their bytes are worth.
    fn gather(&mut self, pieces: &mut Vec<Piece>, cursor: &mut u32, pool: &BufferPool) {
        let mut room = PIECE_BYTES - pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>();
        while pieces.len() < PIECES_MAX
            && let Some(run) = self.dirty.next_run(*cursor)
            && run.len() <= room
            && !self.is_on_its_way(&run)
        {
            room -= run.len();
            pieces.push(self.take_piece(&run, cursor, pool));
        }
    }

    fn is_on_its_way(&self, run: &Range<u32>) -> bool {
        let overlaps = |piece: &Piece| piece.range().start < run.end && run.start < piece.range().end;
        self.in_flight.iter().flat_map(|frame| &frame.pieces).any(overlaps)
    }

    fn take_piece(&mut self, run: &Range<u32>, cursor: &mut u32, pool: &BufferPool) -> Piece {
        *cursor = run.end;
        Piece { offset: run.start, bytes: Arc::new(self.dirty.take_run(run, pool)) }
    }

    /// Every copy has the oldest frame on its way; its pieces are the caller's to give back.
    pub(crate) fn frame_acknowledged(&mut self) -> Option<InFlight> {
        if self.in_flight.is_empty() {
            return None;
        }
        let frame = self.in_flight.remove(0);
        self.acknowledged += 1;
        for piece in &frame.pieces {
            self.tried = without(&self.tried, &piece.range());
        }
        if let Some(grant) = &mut self.grant {
            grant.acknowledge();
            grant.unsynced = !frame.sync;
            let end = frame.pieces.last().map_or(0, |last| last.range().end);
            grant.valid_length = grant.valid_length.max(end);
        }
        Some(frame)
    }

    /// These repairs are done without the copies.
    pub(crate) fn drop_repairs(&mut self, done: &[Repair]) {
        self.repairs.retain(|repair| !done.contains(repair));
        for repair in done {
            self.tried = without(&self.tried, &repair.range);
        }
    }

    /// Every copy has carried out these repairs.
    pub(crate) fn repairs_acknowledged(&mut self, done: &[Repair]) {
        self.acknowledged += 1;
        self.drop_repairs(done);
        if let Some(grant) = &mut self.grant {
            grant.acknowledge();
        }
    }

    /// What was on its way is unsent again, below what has been written since.
    pub(crate) fn take_back(&mut self, pool: &BufferPool) {
        let pieces = std::mem::take(&mut self.in_flight).into_iter().rev().flat_map(|frame| frame.pieces);
        for piece in pieces {
            // What is sent again and again is named once.
            self.tried = without(&self.tried, &piece.range());
            self.tried.push(piece.range());
            self.dirty.write_below(piece.offset, &piece.bytes, pool);
            pool.give_back(piece.bytes);
        }
    }

    /// Goes on under the grant that followed a failure of copies. Whether acknowledged bytes were lost with them.
    pub(crate) fn replace_grant(&mut self, new: WriteGrant) -> bool {
        self.present_grant();
        match &mut self.grant {
            None => {
                self.grant = Some(ActiveGrant::new(new));
                false
            }
            Some(grant) => {
                let unsynced_lost = grant.is_lost_by(&new);
                let lost = grant.replace(new);
                let any = !lost.is_empty();
                if any {
                    self.add_repair(lost, ReadsAs::Error);
                }
                any || unsynced_lost
            }
        }
    }

    /// Gives up what is unsent: those ranges read as errors until they are written or repaired. Whether there was any.
    pub(crate) fn lose_dirty(&mut self) -> bool {
        let mut lost: Vec<Range<u32>> = self.dirty.ranges().collect();
        let in_flight: Vec<Range<u32>> =
            self.in_flight.drain(..).flat_map(|frame| frame.pieces).map(|it| it.range()).collect();
        lost.extend(in_flight.iter().cloned());
        self.dirty = DirtyMap::default();
        let any = !lost.is_empty();
        let mut sent = std::mem::take(&mut self.tried);
        sent.extend(in_flight);
        sent.extend(self.repairs.iter().filter(|repair| repair.concerns_copies()).map(|repair| repair.range.clone()));
        for range in lost {
            let unsent = gaps_between(range.clone(), sent.clone());
            for range in gaps_between(range, unsent.clone()) {
                self.add_repair(range, ReadsAs::Error);
            }
            for range in unsent {
                self.add_repair(range, ReadsAs::ErrorUnsent);
            }
        }
        any
    }

    /// A range is to be zeroed on every copy; what is unsent there is no longer wanted.
    pub(crate) fn zero(&mut self, range: Range<u32>) {
        self.dirty.remove(range.clone());
        self.add_repair(range, ReadsAs::Zeros);
    }

    /// The ranges that have not been acknowledged.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = Range<u32>> {
        let in_flight = self.in_flight.iter().flat_map(|frame| &frame.pieces).map(Piece::range);
        self.dirty.ranges().chain(in_flight)
    }

    /// The ranges that the application zeroed.
    pub(crate) fn zeroed(&self) -> impl Iterator<Item = Range<u32>> {
        let zeroed = self.repairs.iter().filter(|repair| repair.reads_as == ReadsAs::Zeros);
        zeroed.map(|repair| repair.range.clone())
    }

    /// The chunk ends here since what follows is lost. One of which nothing is left has nothing to be committed.
    pub(crate) fn cut_lost(&mut self, length: u32) {
        self.cut(length);
        if let Some(grant) = self.grant.as_mut().filter(|grant| grant.valid_length == 0) {
            (grant.written, grant.unsynced) = (false, false);
        }
    }

    fn add_repair(&mut self, range: Range<u32>, reads_as: ReadsAs) {
        let mut kept = Vec::with_capacity(self.repairs.len() + 1);
        for repair in std::mem::take(&mut self.repairs) {
            let outside = gaps_between(repair.range.clone(), vec![range.clone()]);
            kept.extend(outside.into_iter().map(|range| Repair { range, reads_as: repair.reads_as }));
        }
        match kept.last_mut() {
            Some(last) if last.range.end == range.start && last.reads_as == reads_as => last.range.end = range.end,
            _ => kept.push(Repair { range, reads_as }),
        }
        self.repairs = kept;
    }

    /// The chunk ends here now.
    pub(crate) fn cut(&mut self, length: u32) {
        self.dirty.remove(length..u32::MAX);
        self.tried = without(&self.tried, &(length..u32::MAX));
        self.repairs.retain_mut(|repair| {
            repair.range.end = repair.range.end.min(length);
            !repair.range.is_empty()
        });
        if let Some(grant) = &mut self.grant {
            // Also where no byte that counts is cut off: copies may have taken some that were lost or are unacknowledged.
            if !grant.makes_chunk() {
                grant.cut_to = Some(grant.cut_to.unwrap_or(length).min(length));
            }
            grant.valid_length = grant.valid_length.min(length);
        }
    }

    /// Copies what is not acknowledged over `out`, which begins at `offset`; the ranges that are still to be read from
    /// the copies. `None`: some of the bytes were lost.
    pub(crate) fn read_over(&self, offset: u32, out: &mut [u8]) -> Option<Vec<Range<u32>>> {
        let range = offset..offset + out.len() as u32;
        let mut zeroed = Vec::new();
        for repair in self.repairs.iter().filter(|repair| repair.reads_as == ReadsAs::Zeros) {
            let (from, to) = (repair.range.start.max(range.start), repair.range.end.min(range.end));
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize].fill(0);
                zeroed.push(from..to);
            }
        }
        let mut covered = zeroed;
        for piece in self.in_flight.iter().flat_map(|frame| &frame.pieces) {
            lay_over(offset, out, piece.offset, &piece.bytes, &mut covered);
        }
        self.dirty.read_into(offset, out, &mut covered);
        let gaps = gaps_between(range, covered);
        let lost = |gap: &Range<u32>| {
            self.repairs.iter().any(|repair| {
                repair.reads_as != ReadsAs::Zeros && repair.range.start < gap.end && gap.start < repair.range.end
            })
        };
        (!gaps.iter().any(lost)).then_some(gaps)
    }
}

/// These ranges, except for what lies in that one.
fn without(ranges: &[Range<u32>], taken: &Range<u32>) -> Vec<Range<u32>> {
    ranges.iter().flat_map(|range| gaps_between(range.clone(), vec![taken.clone()])).collect()
}

#[cfg(test)]
mod tests {
    use rfs_common::ids::ChunkId;

    use super::*;

    #[test]
    fn only_what_a_copy_may_have_taken_of_lost_bytes_is_zeroed() {
        let pool = BufferPool::default();
        let mut chunk = ChunkState::default();
        let lost = |chunk: &ChunkState| {
            let mut parts: Vec<_> =
                chunk.repairs.iter().map(|repair| (repair.range.clone(), repair.reads_as)).collect();
            parts.sort_by_key(|(range, _)| range.start);
            parts
        };
        chunk.dirty.write(0, &[1; 100], &pool);
        assert!(matches!(chunk.next_step(Extent::Everything, &mut 0, &pool), Step::Send(_)));
        chunk.take_back(&pool);
        assert!(matches!(chunk.next_step(Extent::Everything, &mut 0, &pool), Step::Send(_)));
        chunk.take_back(&pool);
        assert_eq!((chunk.tried.len(), &chunk.tried[0]), (1, &(0..100)), "what is tried again does not add up");
        chunk.dirty.write(50, &[2; 100], &pool);
        assert!(chunk.lose_dirty());
        assert_eq!(lost(&chunk), [(0..100, ReadsAs::Error), (100..150, ReadsAs::ErrorUnsent)]);
        // What still has to be zeroed there is not forgotten when it is written and lost again.
        chunk.dirty.write(90, &[3; 20], &pool);
        assert!(chunk.lose_dirty());
        let parts = [(0..90, ReadsAs::Error), (90..100, ReadsAs::Error), (100..110, ReadsAs::ErrorUnsent)];
        assert_eq!(lost(&chunk)[..3], parts);
        assert_eq!(chunk.read_over(140, &mut [0; 10]), None);
    }

    #[test]
    fn what_every_copy_has_acknowledged_since_is_not_zeroed() {
        let pool = BufferPool::default();
        let mut chunk = ChunkState::default();
        chunk.dirty.write(0, &[1; 100], &pool);
        for acknowledged in [false, true] {
            assert!(matches!(chunk.next_step(Extent::Everything, &mut 0, &pool), Step::Send(_)));
            if acknowledged {
                assert!(chunk.frame_acknowledged().is_some());
            } else {
                chunk.take_back(&pool);
            }
        }
        chunk.dirty.write(0, &[2; 100], &pool);
        assert!(chunk.lose_dirty());
        assert_eq!(chunk.repairs, [Repair { range: 0..100, reads_as: ReadsAs::ErrorUnsent }]);
    }

    #[test]
    fn a_grant_that_ends_while_somebody_has_the_chunk_is_not_used_again() {
        let version = ChunkVersion::new(2);
        let grant = WriteGrant {
            index: 0,
            chunk: ChunkId::new(9),
            version_from: version,
            version,
            length: 1000,
            places: Vec::new(),
            lost_version: ChunkVersion::new(0),
        };
        let active = || Some(ActiveGrant::new(grant.clone()));
        let mut chunk = ChunkState { grant: active(), queued: true, ..ChunkState::default() };
        chunk.end_unused_grant();
        chunk.dirty.write(0, &[1; 10], &BufferPool::default());
        assert!(chunk.present_grant().is_none(), "what is written later needs one of its own");
        assert!(!chunk.replace_grant(grant.clone()) && chunk.present_grant().is_some());
        let mut chunk = ChunkState { grant: active(), ..ChunkState::default() };
        chunk.end_unused_grant();
        assert!(chunk.is_idle());
    }

    #[test]
    fn a_cut_beyond_the_valid_bytes_cuts_what_copies_took_of_lost_ones() {
        let version = ChunkVersion::new(2);
        let grant = WriteGrant {
            index: 0,
            chunk: ChunkId::new(9),
            version_from: version,
            version,
            length: 1000,
            places: Vec::new(),
            lost_version: ChunkVersion::new(0),
        };
        let mut chunk = ChunkState { grant: Some(ActiveGrant::new(grant)), ..ChunkState::default() };
        chunk.repairs_acknowledged(&[]);
        assert_eq!(chunk.grant.as_ref().unwrap().cut_to, None);
        chunk.dirty.write(2000, &[1; 1000], &BufferPool::default());
        assert!(chunk.lose_dirty() && !chunk.lose_dirty());
        chunk.cut(1500);
        assert_eq!((chunk.grant.unwrap().cut_to, chunk.repairs.len()), (Some(1500), 0));
    }
}
