//! Bytes that say where they belong, and sparse images of files made of them.
//!
//! A file's bytes are cells of 16 bytes: file (its inode number), write, and place. A write may begin and end within a cell.

use std::collections::BTreeMap;
use std::fmt;

const CELL_BYTES: u64 = 16;
const MARK: u16 = 0xA55A;

/// The least that a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

const BLOCK_BYTES: u64 = 4096;

/// `length` bytes at `offset` of write `generation` to file `inode`.
pub fn stamped(inode: u64, generation: u32, offset: u64, length: usize) -> Vec<u8> {
    let end = offset + length as u64;
    let first = offset / CELL_BYTES;
    let mut bytes = Vec::with_capacity(length + 2 * CELL_BYTES as usize);
    for cell in first..end.div_ceil(CELL_BYTES) {
        bytes.extend(MARK.to_le_bytes());
        bytes.extend(&(cell as u32).to_le_bytes());
        bytes.extend(&generation.to_le_bytes());
        bytes.extend(&inode.to_le_bytes()[..6]);
    }
    let skip = (offset - first * CELL_BYTES) as usize;
    bytes.drain(..skip);
    bytes.truncate(length);
    bytes
}

/// Which write a sector's bytes claim to be of, cell by cell, for the report of a failure.
pub struct Described<'a> {
    /// Where the bytes begin in the file; at a cell.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cells: Vec<(String, u64)> = Vec::new();
        for (at, cell) in self.bytes.chunks(CELL_BYTES as usize).enumerate() {
            let said = describe_cell(self.offset / CELL_BYTES + at as u64, cell);
            match cells.last_mut().filter(|(last, _)| *last == said) {
                Some((_, count)) => *count += 1,
                None => cells.push((said, 1)),
            }
        }
        for (at, (what, count)) in cells.iter().take(8).enumerate() {
            write!(out, "{}{count} x {what}", if at > 0 { ", " } else { "" })?;
        }
        if cells.len() > 8 { write!(out, ", and {} more runs", cells.len() - 8) } else { Ok(()) }
    }
}

fn describe_cell(index: u64, cell: &[u8]) -> String {
    if cell.iter().all(|byte| *byte == 0) {
        return "zeros".into();
    }
    let Ok(cell) = <[u8; 16]>::try_from(cell) else { return "a part of a cell".into() };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    if number(&cell[..2]) != u64::from(MARK) {
        return "a mixed cell or none of ours".into();
    }
    let place = if number(&cell[2..6]) == index { String::new() } else { format!(" for cell {}", number(&cell[2..6])) };
    format!("file {} write {:#x}{place}", number(&cell[10..]), number(&cell[6..10]))
}

/// Content of a file: a length, and the blocks that are not zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    length: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Image {
    /// How long the file is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Sets these bytes; the file grows as it must.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % BLOCK_BYTES) as usize;
            let take = rest.len().min(BLOCK_BYTES as usize - within);
            let block = self.blocks.entry(at / BLOCK_BYTES).or_insert_with(|| vec![0; BLOCK_BYTES as usize]);
            block[within..within + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            at += take as u64;
        }
        self.length = self.length.max(at);
    }

    /// Cuts it, or makes it longer by zeros.
    pub fn truncate(&mut self, length: u64) {
        self.blocks.split_off(&length.div_ceil(BLOCK_BYTES));
        if let Some(block) = self.blocks.get_mut(&(length / BLOCK_BYTES)) {
            block[(length % BLOCK_BYTES) as usize..].fill(0);
        }
        self.length = length;
    }

    /// The bytes from `offset` on, zeros behind the end.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let end = offset + length as u64;
        for (index, block) in self.blocks.range(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)) {
            let start = (index * BLOCK_BYTES).max(offset);
            let stop = ((index + 1) * BLOCK_BYTES).min(end);
            let from = (start - index * BLOCK_BYTES) as usize;
            let take = (stop - start) as usize;
            bytes[(start - offset) as usize..][..take].copy_from_slice(&block[from..from + take]);
        }
        bytes
    }

    /// Places of the blocks that are not holes.
    pub fn blocks(&self) -> impl Iterator<Item = u64> {
        self.blocks.keys().map(|index| index * BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_was_written_into_it() {
        let mut image = Image::default();
        image.write(4090, &[1; 20]);
        image.truncate(4100);
        image.truncate(5000);
        assert_eq!(image.length(), 5000);
        assert_eq!(image.read(4088, 14), [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!(image.blocks().collect::<Vec<_>>(), [0, 4096]);
    }

    #[test]
    fn bytes_say_where_they_belong() {
        let whole = stamped(7, 3, 0, 4096);
        assert_eq!(stamped(7, 3, 100, 50), whole[100..150]);
        assert_eq!(Described { offset: 512, bytes: &whole[512..1024] }.to_string(), "32 x file 7 write 0x3");
        assert!(Described { offset: 0, bytes: &whole[512..1024] }.to_string().contains("for cell 32"));
    }
}
