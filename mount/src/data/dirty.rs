//! The unsent bytes of one chunk, as segments that never overlap and never cross a border of 1 MiB.
//!
//! Accepted bytes are copied once, into the segment that they continue or into one of their own; a rewrite replaces what
//! is still unsent. Segments that have grown beyond [`SMALL_BYTES`] live in buffers of a whole piece that are used again
//! ([`BufferPool`]), because fresh memory costs more than the copy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest piece that is sent in one frame, and what pieces are aligned to.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Up to here a segment grows in memory of its own size.
const SMALL_BYTES: usize = 64 << 10;
/// Pieces kept for use again.
const FREE_BUFFERS_MAX: usize = 32;

/// Buffers of [`PIECE_BYTES`] for use again.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    fn take(&self) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES))
    }

    /// Takes back a buffer, if it is one of a whole piece and no one else has it.
    pub(crate) fn give_back(&self, buffer: Arc<Vec<u8>>) {
        if let Ok(mut buffer) = Arc::try_unwrap(buffer) {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if buffer.capacity() >= PIECE_BYTES && free.len() < FREE_BUFFERS_MAX {
                buffer.clear();
                free.push(buffer);
            }
        }
    }
}

/// The unsent bytes of one chunk.
#[derive(Debug, Default)]
pub(crate) struct DirtyMap {
    segments: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
}

impl DirtyMap {
    /// How many bytes are unsent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Takes in bytes, over what is there. Whether that completed a whole piece.
    pub(crate) fn write(&mut self, offset: u32, bytes: &[u8], pool: &BufferPool) -> bool {
        let mut completed = false;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(piece_end(at) as usize - at as usize));
            completed |= self.write_in_piece(at, part, pool) == PIECE_BYTES;
            at += part.len() as u32;
            rest = after;
        }
        completed
    }

    /// Takes in bytes only where nothing is there: older ones, which newer ones have replaced.
    pub(crate) fn write_below(&mut self, offset: u32, bytes: &[u8], pool: &BufferPool) {
        for gap in self.gaps(offset..offset + bytes.len() as u32) {
            let part = &bytes[(gap.start - offset) as usize..(gap.end - offset) as usize];
            self.write(gap.start, part, pool);
        }
    }

    /// Length of the segment that now holds them.
    fn write_in_piece(&mut self, start: u32, bytes: &[u8], pool: &BufferPool) -> usize {
        let end = start + bytes.len() as u32;
        let before = self.segments.range(..=start).next_back().map(|(at, segment)| (*at, at + segment.len() as u32));
        let base = match before {
            Some((at, segment_end)) if piece_end(at) == piece_end(start) && segment_end >= start => at,
            _ => start,
        };
        let segment = self.segments.entry(base).or_default();
        let overlap = (segment.len() - (start - base) as usize).min(bytes.len());
        let at = (start - base) as usize;
        segment[at..at + overlap].copy_from_slice(&bytes[..overlap]);
        self.bytes += bytes.len() - overlap;
        grow(segment, &bytes[overlap..], pool);
        let segment_end = base + segment.len() as u32;
        debug_assert!(segment_end >= end);
        self.absorb_after(base, segment_end, pool)
    }

    /// Removes the segments that begin inside the one at `base`, which has just grown to `end`, keeping what lies beyond.
    fn absorb_after(&mut self, base: u32, end: u32, pool: &BufferPool) -> usize {
        let mut end = end;
        while let Some(next) = self.segments.range(base + 1..end).next().map(|(at, _)| *at) {
            let absorbed = self.segments.remove(&next).unwrap_or_default();
            let inside = ((end - next) as usize).min(absorbed.len());
            self.bytes -= inside;
            let segment = self.segments.entry(base).or_default();
            grow(segment, &absorbed[inside..], pool);
            end = base + segment.len() as u32;
        }
        (end - base) as usize
    }

    /// Copies the bytes that lie in `offset..offset + out.len()` to their places in `out` and names their ranges.
    pub(crate) fn read_into(&self, offset: u32, out: &mut [u8], covered: &mut Vec<Range<u32>>) {
        for (start, segment) in self.overlapping(offset..offset + out.len() as u32) {
            lay_over(offset, out, start, segment, covered);
        }
    }

    /// Forgets the bytes of a range.
    pub(crate) fn remove(&mut self, range: Range<u32>) {
        let touched: Vec<u32> = self.overlapping(range.clone()).map(|(start, _)| start).collect();
        for start in touched {
            let Some(mut segment) = self.segments.remove(&start) else { continue };
            let end = start + segment.len() as u32;
            self.bytes -= segment.len();
            if end > range.end {
                let tail = segment.split_off((range.end - start) as usize);
                self.bytes += tail.len();
                self.segments.insert(range.end, tail);
            }
            if start < range.start {
                segment.truncate((range.start - start) as usize);
                self.bytes += segment.len();
                self.segments.insert(start, segment);
            }
        }
    }

    /// The range of the next piece that begins at or after `from`: adjacent segments within one piece's borders.
    pub(crate) fn next_run(&self, from: u32) -> Option<Range<u32>> {
        let mut segments = self.segments.range(from..).map(|(start, segment)| *start..start + segment.len() as u32);
        let mut run = segments.next()?;
        let border = piece_end(run.start);
        for next in segments {
            if next.start != run.end || next.start >= border {
                break;
            }
            run.end = next.end;
        }
        Some(run)
    }

    /// The next whole piece that begins at or after `from`.
    pub(crate) fn next_whole_piece(&self, from: u32) -> Option<Range<u32>> {
        let whole = self.segments.range(from..).find(|(_, segment)| segment.len() == PIECE_BYTES);
        whole.map(|(start, segment)| *start..start + segment.len() as u32)
    }

    /// Takes out a run that [`Self::next_run`] named, as one buffer.
    pub(crate) fn take_run(&mut self, run: &Range<u32>, pool: &BufferPool) -> Vec<u8> {
        let mut buffer = self.segments.remove(&run.start).unwrap_or_default();
        while run.start + (buffer.len() as u32) < run.end {
            let Some(next) = self.segments.remove(&(run.start + buffer.len() as u32)) else { break };
            grow(&mut buffer, &next, pool);
        }
        self.bytes -= buffer.len();
        buffer
    }

    /// The ranges of all segments.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u32>> {
        self.segments.iter().map(|(start, segment)| *start..start + segment.len() as u32)
    }

    fn gaps(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let covered: Vec<Range<u32>> =
            self.overlapping(range.clone()).map(|(start, segment)| start..start + segment.len() as u32).collect();
        gaps_between(range, covered)
    }

    fn overlapping(&self, range: Range<u32>) -> impl Iterator<Item = (u32, &Vec<u8>)> {
        let before = self.segments.range(..range.start).next_back();
        let before = before.filter(|(start, segment)| **start + segment.len() as u32 > range.start);
        before.into_iter().chain(self.segments.range(range)).map(|(start, segment)| (*start, segment))
    }
}

/// Copies what `bytes` (at `start`) has of the range of `out` (at `offset`), and names the range.
pub(crate) fn lay_over(offset: u32, out: &mut [u8], start: u32, bytes: &[u8], covered: &mut Vec<Range<u32>>) {
    let from = start.max(offset);
    let to = (start + bytes.len() as u32).min(offset + out.len() as u32);
    if from < to {
        let source = &bytes[(from - start) as usize..(to - start) as usize];
        out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        covered.push(from..to);
    }
}

/// What of `range` none of `covered` covers, in order.
pub(crate) fn gaps_between(range: Range<u32>, mut covered: Vec<Range<u32>>) -> Vec<Range<u32>> {
    covered.sort_by_key(|part| part.start);
    let mut gaps = Vec::new();
    let mut next = range.start;
    for part in covered {
        if part.start > next {
            gaps.push(next..part.start.min(range.end));
        }
        next = next.max(part.end);
    }
    if next < range.end {
        gaps.push(next..range.end);
    }
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

/// The end of the piece that this offset lies in.
fn piece_end(offset: u32) -> u32 {
    (offset / PIECE_BYTES as u32 + 1) * PIECE_BYTES as u32
}

/// Appends, moving to a buffer of a whole piece once a segment is no longer small.
fn grow(segment: &mut Vec<u8>, bytes: &[u8], pool: &BufferPool) {
    let length = segment.len() + bytes.len();
    if length > SMALL_BYTES && segment.capacity() < length {
        let mut buffer = pool.take();
        buffer.extend_from_slice(segment);
        *segment = buffer;
    }
    segment.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sequence_becomes_whole_pieces() {
        let (pool, mut dirty) = (BufferPool::default(), DirtyMap::default());
        let mut completed = 0;
        for block in 0..300_u32 {
            completed += u32::from(dirty.write(block * 4096, &[block as u8; 4096], &pool));
        }
        assert_eq!(completed, 1);
        assert_eq!(dirty.next_whole_piece(0), Some(0..1 << 20));
        assert_eq!(dirty.next_run(1), Some(1 << 20..300 * 4096));
        let piece = dirty.take_run(&(0..1 << 20), &pool);
        assert!(piece.chunks(4096).enumerate().all(|(block, bytes)| bytes == [block as u8; 4096]));
        assert_eq!(dirty.bytes(), 44 * 4096);
    }

    #[test]
    fn writes_in_descending_order_still_go_as_one_run() {
        let (pool, mut dirty) = (BufferPool::default(), DirtyMap::default());
        for block in (0..8_u32).rev() {
            dirty.write(block * 100, &[block as u8; 100], &pool);
        }
        let run = dirty.next_run(0).unwrap();
        assert_eq!(run, 0..800);
        assert_eq!(dirty.take_run(&run, &pool).len(), 800);
        assert!(dirty.is_empty() && dirty.bytes() == 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u32, usize, u8),
        Below(u32, usize, u8),
        Remove(u32, u32),
        Take(u32),
    }

    const SPACE: u32 = 3 << 20;

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = 0..SPACE - 300_000;
        let near = prop_oneof![at, PIECE_BYTES as u32 - 400..PIECE_BYTES as u32 + 400, 0..2000_u32];
        let length = prop_oneof![1..300_000_usize, 1..600_usize];
        let step = prop_oneof![
            (near.clone(), length.clone(), 1..=255_u8).prop_map(|(at, length, fill)| Step::Write(at, length, fill)),
            (near.clone(), length.clone(), 1..=255_u8).prop_map(|(at, length, fill)| Step::Below(at, length, fill)),
            (near.clone(), length).prop_map(|(at, length)| Step::Remove(at, length as u32)),
            near.prop_map(Step::Take),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_an_array(steps in steps()) {
            let (pool, mut dirty) = (BufferPool::default(), DirtyMap::default());
            let mut model = vec![0_u8; SPACE as usize];
            for step in steps {
                match step {
                    Step::Write(at, length, fill) => {
                        dirty.write(at, &vec![fill; length], &pool);
                        model[at as usize..at as usize + length].fill(fill);
                    }
                    Step::Below(at, length, fill) => {
                        dirty.write_below(at, &vec![fill; length], &pool);
                        let unset = model[at as usize..at as usize + length].iter_mut().filter(|byte| **byte == 0);
                        unset.for_each(|byte| *byte = fill);
                    }
                    Step::Remove(at, length) => {
                        dirty.remove(at..at + length);
                        model[at as usize..(at + length) as usize].fill(0);
                    }
                    Step::Take(from) => if let Some(run) = dirty.next_run(from) {
                        prop_assert!(run.start >= from && run.len() <= PIECE_BYTES && run.end <= piece_end(run.start));
                        let part = &mut model[run.start as usize..run.end as usize];
                        prop_assert_eq!(&dirty.take_run(&run, &pool)[..], &part[..]);
                        part.fill(0);
                    }
                }
                prop_assert_eq!(dirty.bytes(), model.iter().filter(|byte| **byte != 0).count());
                prop_assert_eq!(dirty.bytes(), dirty.ranges().map(|range| range.len()).sum::<usize>());
            }
            let (mut out, mut covered) = (vec![0; SPACE as usize], Vec::new());
            dirty.read_into(0, &mut out, &mut covered);
            prop_assert!(out == model);
        }
    }
}
