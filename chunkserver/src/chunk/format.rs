//! The chunk file's format (docs/formats/chunk.md): where header, leaf hashes and data stand, and the header's bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `RFSCHUNK` |
//! | 8..12 | format version, 1 |
//! | 12..16 | flags: 1 open (takes writes), 2 bad (a write or sync of it failed), 4 suspect (was open in a power cut) |
//! | 16..24 | chunk id |
//! | 24..28 | chunk version |
//! | 28..32 | data length in bytes |
//! | 32..36 | leaf size, 16384 |
//! | 36..40 | where the data begins, 147456 |
//! | 40..252 | zero |
//! | 252..256 | CRC-32C of bytes 0..252 |
//! | 256..131328 | 4096 leaf hashes of 32 bytes |
//! | 131328..147456 | never written |
//! | 147456.. | data |
//!
//! The table of leaf hashes begins within the header page, so its first 120 entries (1.9 MiB of data) share the page with
//! the header: a small chunk touches two pages. Data begins at a multiple of the leaf size, so that a leaf is whole
//! blocks on filesystems with blocks up to 16 KiB, holes can be punched leaf by leaf, and a reflink shares whole leaves.
//!
//! The header is smaller than a disk sector and aligned to one, and no leaf hash crosses a sector, so neither is torn by a
//! power cut on a disk that writes sectors whole.

use rfs_common::ids::{ChunkId, ChunkVersion};
use rfs_common::leaf::{CHUNK_BYTES, LEAF_BYTES, LEAF_HASH_BYTES, LEAVES_MAX};
use thiserror::Error;

/// Bytes of the header, checksum included.
pub const HEADER_BYTES: usize = 256;

/// Bytes of the page that begins with the header.
pub const HEADER_PAGE_BYTES: usize = 4096;

/// Where the table of leaf hashes begins.
pub const LEAVES_AT: u64 = HEADER_BYTES as u64;

/// Where the data begins.
pub const DATA_AT: u64 = 147_456;

/// Leaf hashes that stand in the header's page.
pub const LEAVES_IN_HEADER_PAGE: u32 = ((HEADER_PAGE_BYTES - HEADER_BYTES) / LEAF_HASH_BYTES) as u32;

const MAGIC: [u8; 8] = *b"RFSCHUNK";
const FORMAT_VERSION: u32 = 1;
const CHECKSUM_AT: usize = 252;

const _: () = assert!(DATA_AT.is_multiple_of(LEAF_BYTES as u64));
const _: () = assert!(LEAVES_AT + LEAVES_MAX as u64 * LEAF_HASH_BYTES as u64 <= DATA_AT);
const _: () = assert!(HEADER_BYTES.is_multiple_of(LEAF_HASH_BYTES) && HEADER_BYTES <= 512);

/// The chunk takes writes: after a power cut its leaves and data may disagree.
pub const FLAG_OPEN: u32 = 1;
/// A write or a sync of this copy failed: it is never good again.
pub const FLAG_BAD: u32 = 2;
/// The chunk was open in a power cut and has not been raised since: acknowledged writes may be missing.
pub const FLAG_SUSPECT: u32 = 4;

const FLAGS: u32 = FLAG_OPEN | FLAG_BAD | FLAG_SUSPECT;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which chunk this is a copy of.
    pub chunk: ChunkId,
    /// The copy's version.
    pub version: ChunkVersion,
    /// [`FLAG_OPEN`], [`FLAG_BAD`], [`FLAG_SUSPECT`].
    pub flags: u32,
    /// Bytes of data; what lies beyond reads as zeros.
    pub data_length: u32,
}

/// Why 256 bytes are not a chunk's header.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// Nothing but zeros, or too few bytes: the file was made, and a crash came before its header was written.
    #[error("byte 0: the header was never written")]
    NeverWritten,
    /// It begins with something else.
    #[error("byte 0: the file does not begin as a chunk (magic {0:02x?})")]
    Magic([u8; 8]),
    /// Written by another version of rfs, or damaged there.
    #[error("byte 8: the header has format version {0}; this chunkserver knows {FORMAT_VERSION}")]
    FormatVersion(u32),
    /// Damaged.
    #[error("bytes 0 to {CHECKSUM_AT}: the header's checksum is {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The checksum fits and yet a field cannot be.
    #[error("byte {at}: the header's {field} cannot be {value}")]
    Field {
        /// Where in the file.
        at: usize,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
}

impl Header {
    /// Of a new chunk without data, marked open.
    pub fn new(chunk: ChunkId, version: ChunkVersion) -> Header {
        Header { chunk, version, flags: FLAG_OPEN, data_length: 0 }
    }

    /// Whether the chunk takes writes.
    pub fn is_open(&self) -> bool {
        self.flags & FLAG_OPEN != 0
    }

    /// Whether it was open in a power cut and not raised since.
    pub fn is_suspect(&self) -> bool {
        self.flags & FLAG_SUSPECT != 0
    }

    /// Whether the copy is bad for good.
    pub fn is_bad(&self) -> bool {
        self.flags & FLAG_BAD != 0
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.chunk.get().to_le_bytes());
        bytes[24..28].copy_from_slice(&self.version.get().to_le_bytes());
        bytes[28..32].copy_from_slice(&self.data_length.to_le_bytes());
        bytes[32..36].copy_from_slice(&(LEAF_BYTES as u32).to_le_bytes());
        bytes[36..40].copy_from_slice(&(DATA_AT as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header and checks all of it. A file shorter than a header gives fewer bytes.
    ///
    /// # Errors
    /// [`HeaderError`] names what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(HeaderError::NeverWritten) };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(HeaderError::NeverWritten);
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = *bytes.first_chunk::<8>().expect("a header has more than eight bytes");
        if magic != MAGIC {
            return Err(HeaderError::Magic(magic));
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(HeaderError::FormatVersion(u32_at(8)));
        }
        let (stored, computed) = (u32_at(CHECKSUM_AT), crc32c::crc32c(&bytes[..CHECKSUM_AT]));
        if stored != computed {
            return Err(HeaderError::Checksum { stored, computed });
        }
        let chunk = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        let (version, data_length) = (u32_at(24), u32_at(28));
        let field = |at, field, value: u32| Err(HeaderError::Field { at, field, value: value.into() });
        match u32_at(12) {
            flags if flags & !FLAGS != 0 => field(12, "flags", flags),
            _ if version == 0 => field(24, "chunk version", version),
            _ if u64::from(data_length) > CHUNK_BYTES => field(28, "data length", data_length),
            _ if u32_at(32) != LEAF_BYTES as u32 => field(32, "leaf size", u32_at(32)),
            _ if u64::from(u32_at(36)) != DATA_AT => field(36, "place of the data", u32_at(36)),
            _ if bytes[40..CHECKSUM_AT].iter().any(|byte| *byte != 0) => field(40, "reserved part", 1),
            flags => Ok(Header { chunk: ChunkId::new(chunk), version: ChunkVersion::new(version), flags, data_length }),
        }
    }
}

/// Where the hash of this leaf stands.
pub const fn leaf_hash_at(leaf_index: u32) -> u64 {
    LEAVES_AT + leaf_index as u64 * LEAF_HASH_BYTES as u64
}

/// Where in the file a byte of the data stands.
pub const fn data_at(offset: u32) -> u64 {
    DATA_AT + offset as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            chunk: ChunkId::new(0x0102_0304_0506_0708),
            version: ChunkVersion::new(0x0a0b_0c0d),
            flags: FLAG_OPEN,
            data_length: 0x0100_0203,
        }
    }

    fn with_checksum(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The golden bytes of docs/formats/chunk.md: they may change only with the format version.
    #[test]
    fn the_format_is_the_documented_one() {
        let mut golden = [0; HEADER_BYTES];
        golden[..40].copy_from_slice(&[
            b'R', b'F', b'S', b'C', b'H', b'U', b'N', b'K', 1, 0, 0, 0, 1, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0x0d, 0x0c,
            0x0b, 0x0a, 3, 2, 0, 1, 0, 0x40, 0, 0, 0, 0x40, 2, 0,
        ]);
        golden[CHECKSUM_AT..].copy_from_slice(&[0x9c, 0xde, 0xf2, 0x77]);
        assert_eq!(header().encode(), golden);
        assert_eq!(Header::decode(&golden), Ok(header()));
        assert_eq!((leaf_hash_at(0), leaf_hash_at(4095), data_at(1)), (256, 131_296, 147_457));
        assert_eq!(LEAVES_IN_HEADER_PAGE, 120);
    }

    #[test]
    fn every_changed_byte_is_seen() {
        for at in 0..HEADER_BYTES {
            for change in [1, 0x80] {
                let mut bytes = header().encode();
                bytes[at] ^= change;
                assert!(Header::decode(&bytes).is_err(), "byte {at} was changed and not seen");
            }
        }
    }

    #[test]
    fn fields_that_cannot_be_are_named_even_with_a_right_checksum() {
        for (at, value, name) in [
            (12, 8, "flags"),
            (31, 0x10, "data length"),
            (33, 0, "leaf size"),
            (38, 3, "place of the data"),
            (100, 1, "reserved part"),
        ] {
            let mut bytes = header().encode();
            bytes[at] = value;
            let error = Header::decode(&with_checksum(bytes)).unwrap_err();
            assert!(matches!(error, HeaderError::Field { field, .. } if field == name), "{error}");
        }
        let mut bytes = header().encode();
        bytes[24..28].fill(0);
        assert!(matches!(Header::decode(&with_checksum(bytes)), Err(HeaderError::Field { .. })));
        assert_eq!(Header::decode(&[0; 300]), Err(HeaderError::NeverWritten));
        assert_eq!(Header::decode(&header().encode()[..255]), Err(HeaderError::NeverWritten));
    }
}
