//! One page: the records of a range of keys of one table, in order, in one flat buffer.
//!
//! The buffer is what is stored, so encoding a page copies it once and decoding it checks it and notes where each record
//! begins. A page knows the log position it includes, but not its range: that is given by its own first key and that of
//! the next page, and it is the business of `pages.rs`.
//!
//! What always holds: keys ascend strictly; `offsets` has one entry per record; the buffer has nothing but records.

use super::Table;
use super::format::{Damage, KEY_BYTES_MAX, VALUE_BYTES_MAX, u16_at, u32_at, u64_at};

/// Bytes of an encoded page before its records.
pub(crate) const PAGE_HEAD_BYTES: usize = 28;
/// Bytes of a record before its key.
const RECORD_HEAD_BYTES: usize = 6;
/// No page is longer: it holds two records at most when they are large.
pub(crate) const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"RPAG");
const PAGE_VERSION: u16 = 1;

const _: () = assert!(2 * (KEY_BYTES_MAX + VALUE_BYTES_MAX + RECORD_HEAD_BYTES) < PAGE_BYTES_MAX);

/// A page's records and the log position they include.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) position: u64,
    data: Vec<u8>,
    offsets: Vec<u32>,
}

impl Page {
    /// Memory the page takes, roughly.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.data.capacity() + self.offsets.capacity() * 4 + 64) as u64
    }

    /// Bytes of its records.
    pub(crate) fn record_bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn record_count(&self) -> usize {
        self.offsets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.find(key).ok().map(|index| self.record(index).1)
    }

    /// Where the key is, or where it would have to be put.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.offsets.binary_search_by(|offset| self.key_at(*offset as usize).cmp(key))
    }

    /// The record with this index, which must exist.
    pub(crate) fn record(&self, index: usize) -> (&[u8], &[u8]) {
        let record = &self.data[self.offsets[index] as usize..];
        let value_from = RECORD_HEAD_BYTES + usize::from(u16_at(record, 0));
        (&record[RECORD_HEAD_BYTES..value_from], &record[value_from..value_from + u32_at(record, 2) as usize])
    }

    fn key_at(&self, offset: usize) -> &[u8] {
        let from = offset + RECORD_HEAD_BYTES;
        &self.data[from..from + usize::from(u16_at(&self.data, offset))]
    }

    fn range_of(&self, index: usize) -> std::ops::Range<usize> {
        let end = self.offsets.get(index + 1).map_or(self.data.len(), |offset| *offset as usize);
        self.offsets[index] as usize..end
    }

    /// Puts a record and returns its index.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> usize {
        let length = RECORD_HEAD_BYTES + key.len() + value.len();
        let (index, replaced) = match self.find(key) {
            Ok(index) => (index, self.range_of(index)),
            Err(index) => {
                let at = self.offsets.get(index).map_or(self.data.len(), |offset| *offset as usize);
                self.offsets.insert(index, at as u32);
                (index, at..at)
            }
        };
        let removed = replaced.len();
        let header = (key.len() as u16).to_le_bytes().into_iter().chain((value.len() as u32).to_le_bytes());
        if replaced.start == self.data.len() {
            self.data.extend(header);
            self.data.extend_from_slice(key);
            self.data.extend_from_slice(value);
        } else {
            let start = replaced.start;
            self.resize_gap(replaced, length);
            let gap = &mut self.data[start..start + length];
            gap[..2].copy_from_slice(&(key.len() as u16).to_le_bytes());
            gap[2..6].copy_from_slice(&(value.len() as u32).to_le_bytes());
            gap[RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + key.len()].copy_from_slice(key);
            gap[RECORD_HEAD_BYTES + key.len()..].copy_from_slice(value);
        }
        self.shift_after(index, length as i64 - removed as i64);
        index
    }

    /// Makes the range this long, moving what follows it.
    fn resize_gap(&mut self, range: std::ops::Range<usize>, length: usize) {
        let end = self.data.len();
        if length > range.len() {
            self.data.resize(end + length - range.len(), 0);
        }
        self.data.copy_within(range.end..end, range.start + length);
        self.data.truncate(end + length - range.len());
    }

    fn shift_after(&mut self, index: usize, by: i64) {
        for offset in &mut self.offsets[index + 1..] {
            *offset = (i64::from(*offset) + by) as u32;
        }
    }

    /// Deletes a record and says whether there was one.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let Ok(index) = self.find(key) else { return false };
        let range = self.range_of(index);
        self.shift_after(index, -(range.len() as i64));
        self.offsets.remove(index);
        self.resize_gap(range, 0);
        true
    }

    /// Drops the records from this key on: those that a neighbour has taken over.
    pub(crate) fn truncate_from(&mut self, key: &[u8]) {
        let index = self.find(key).unwrap_or_else(|index| index);
        if let Some(offset) = self.offsets.get(index) {
            self.data.truncate(*offset as usize);
            self.offsets.truncate(index);
        }
    }

    /// Moves the records from `index` on into a page of their own, and returns it with its first key.
    pub(crate) fn split_off(&mut self, index: usize) -> (Vec<u8>, Page) {
        let at = self.offsets[index];
        let data = self.data.split_off(at as usize);
        let offsets = self.offsets.split_off(index).into_iter().map(|offset| offset - at).collect();
        let right = Page { position: self.position, data, offsets };
        (right.record(0).0.to_vec(), right)
    }

    /// The index that divides the page into halves of about the same number of bytes; neither is empty.
    pub(crate) fn middle(&self) -> usize {
        let half = (self.data.len() / 2) as u32;
        self.offsets.partition_point(|offset| *offset < half).clamp(1, self.offsets.len() - 1)
    }

    /// Takes over the records of the right neighbour.
    pub(crate) fn append(&mut self, right: &Page) {
        let base = self.data.len() as u32;
        self.data.extend_from_slice(&right.data);
        self.offsets.extend(right.offsets.iter().map(|offset| offset + base));
    }

    /// The page as it is stored.
    pub(crate) fn encode(&self, table: Table) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PAGE_HEAD_BYTES + self.data.len());
        bytes.extend_from_slice(&PAGE_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&PAGE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[table as u8, 0]);
        bytes.extend_from_slice(&self.position.to_le_bytes());
        bytes.extend_from_slice(&(self.offsets.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &self.data);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// Reads a stored page of this table.
    pub(crate) fn decode(table: Table, bytes: &[u8]) -> Result<Page, Damage> {
        let Some((head, data)) = bytes.split_at_checked(PAGE_HEAD_BYTES) else {
            return Err(Damage::new(format!("the page's head is cut short: {} bytes", bytes.len())));
        };
        if u32_at(head, 0) != PAGE_MAGIC {
            return Err(Damage::new("the magic number of the page does not match"));
        }
        if u32_at(head, 24) != crc32c::crc32c_append(crc32c::crc32c(&head[..24]), data) {
            return Err(Damage::new("the checksum of the page does not match"));
        }
        if u16_at(head, 4) != PAGE_VERSION {
            return Err(Damage::new(format!("page version {} is not known to this program", u16_at(head, 4))));
        }
        if head[6] != table as u8 || head[7] != 0 {
            return Err(Damage::new("the page belongs to another table"));
        }
        if u32_at(head, 20) as usize != data.len() || data.len() > PAGE_BYTES_MAX {
            return Err(Damage::new(format!(
                "the page has {} bytes of records and not as many as it says",
                data.len()
            )));
        }
        let offsets = find_records(data, u32_at(head, 16))?;
        Ok(Page { position: u64_at(head, 8), data: data.to_vec(), offsets })
    }
}

/// Where each record begins, having checked that they fill the buffer and ascend.
fn find_records(data: &[u8], count: u32) -> Result<Vec<u32>, Damage> {
    let mut offsets = Vec::with_capacity((count as usize).min(data.len() / RECORD_HEAD_BYTES));
    let mut at = 0;
    let mut key_before: Option<&[u8]> = None;
    while at < data.len() {
        let Some(head) = data.get(at..at + RECORD_HEAD_BYTES) else {
            return Err(Damage::new(format!("the record at byte {at} of the page is cut short")));
        };
        let key_from = at + RECORD_HEAD_BYTES;
        let value_from = key_from + usize::from(u16_at(head, 0));
        let end = value_from + u32_at(head, 2) as usize;
        if end > data.len() {
            return Err(Damage::new(format!("the record at byte {at} of the page reaches beyond it")));
        }
        let key = &data[key_from..value_from];
        if key_before.is_some_and(|before| before >= key) {
            return Err(Damage::new(format!("the record at byte {at} of the page is out of order")));
        }
        key_before = Some(key);
        offsets.push(at as u32);
        at = end;
    }
    if offsets.len() == count as usize {
        Ok(offsets)
    } else {
        Err(Damage::new(format!("the page has {} records and says {count}", offsets.len())))
    }
}
