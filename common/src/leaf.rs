//! The leaves of a chunk's BLAKE3 tree: how content is cut, hashed, and summed up in one digest.
//!
//! A chunk's content is cut into leaves of [`LEAF_BYTES`]; only the last may be shorter, and no leaf is empty. A
//! [`LeafHash`] is the chaining value that BLAKE3 itself computes for that part of the content (BLAKE3 paper, section
//! 2.1), so leaf hashes merge into the BLAKE3 hash of the whole content without reading the content again.
//!
//! What always holds:
//! - A leaf's hash depends on its bytes **and on its place**: BLAKE3 numbers the 1 KiB blocks of its input. Two leaves of
//!   zeros in different places have different hashes, and a leaf that moved is not taken for the one it replaced.
//! - [`chunk_digest`] of two or more leaves is `blake3::hash` of the content. Of one leaf it is the leaf's hash, since the
//!   root flag of BLAKE3 cannot be added without the bytes; of none it is `blake3::hash` of nothing. BLAKE3 keeps root and
//!   inner values apart, so these three cases cannot meet.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

/// Bytes of a full leaf: the smallest unit that is checked, and near the speed limit of BLAKE3.
pub const LEAF_BYTES: usize = 16 * 1024;

/// Bytes of a full chunk.
pub const CHUNK_BYTES: u64 = 64 * 1024 * 1024;

/// Leaves of a full chunk.
pub const LEAVES_MAX: u32 = (CHUNK_BYTES / LEAF_BYTES as u64) as u32;

/// Bytes of a [`LeafHash`] as it is stored and sent.
pub const LEAF_HASH_BYTES: usize = 32;

// A leaf must be a whole subtree of BLAKE3's tree, and every offset in a chunk must fit 32 bits.
const _: () = assert!(LEAF_BYTES.is_power_of_two() && LEAF_BYTES >= blake3::CHUNK_LEN);
const _: () = assert!(LEAVES_MAX as u64 * LEAF_BYTES as u64 == CHUNK_BYTES && CHUNK_BYTES <= u32::MAX as u64);

/// The BLAKE3 chaining value of one leaf, or of a subtree of leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[repr(transparent)]
pub struct LeafHash(pub [u8; LEAF_HASH_BYTES]);

impl LeafHash {
    /// The hash as bytes.
    pub const fn as_bytes(&self) -> &[u8; LEAF_HASH_BYTES] {
        &self.0
    }

    /// The hash in these bytes, if they are as many as a hash has.
    pub fn from_slice(bytes: &[u8]) -> Option<LeafHash> {
        bytes.try_into().ok().map(LeafHash)
    }
}

impl fmt::Display for LeafHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for LeafHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LeafHash({self})")
    }
}

/// The hash of one leaf, given its place in the chunk and its bytes: [`LEAF_BYTES`] of them, or fewer in the last leaf.
///
/// Panics if there are no bytes, too many, or the place is beyond a full chunk; the caller has cut the content.
pub fn hash_leaf(leaf_index: u32, bytes: &[u8]) -> LeafHash {
    assert!(leaf_index < LEAVES_MAX, "leaf {leaf_index} is beyond the end of a chunk");
    assert!((1..=LEAF_BYTES).contains(&bytes.len()), "a leaf cannot have {} bytes", bytes.len());
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(u64::from(leaf_index) * LEAF_BYTES as u64);
    hasher.update(bytes);
    LeafHash(hasher.finalize_non_root())
}

/// The hashes of consecutive leaves: `bytes` begins at the start of leaf `first_leaf`, and only its last leaf may be short.
pub fn hash_leaves(first_leaf: u32, bytes: &[u8]) -> impl Iterator<Item = LeafHash> {
    (first_leaf..).zip(bytes.chunks(LEAF_BYTES)).map(|(leaf_index, leaf)| hash_leaf(leaf_index, leaf))
}

/// The hash of a leaf of `length` zeros at this place, as holes have. That of full leaves is computed once per process.
pub fn hash_zero_leaf(leaf_index: u32, length: usize) -> LeafHash {
    static ZEROS: [u8; LEAF_BYTES] = [0; LEAF_BYTES];
    static FULL: [OnceLock<LeafHash>; LEAVES_MAX as usize] = [const { OnceLock::new() }; LEAVES_MAX as usize];
    if length == LEAF_BYTES {
        *FULL[leaf_index as usize].get_or_init(|| hash_leaf(leaf_index, &ZEROS))
    } else {
        hash_leaf(leaf_index, &ZEROS[..length])
    }
}

/// The digest of a chunk's whole content, from the hashes of its leaves; see the top of this file for what it is.
///
/// Panics if `leaves` are not as many as a content of `length` bytes has.
pub fn chunk_digest(leaves: &[LeafHash], length: u32) -> [u8; LEAF_HASH_BYTES] {
    assert!(leaves.len() == leaves_of(length) as usize, "{} leaves cannot hold {length} bytes", leaves.len());
    match leaves {
        [] => *blake3::hash(&[]).as_bytes(),
        [only] => only.0,
        _ => {
            let (left, right) = leaves.split_at(left_leaves(leaves.len()));
            *merge_subtrees_root(&subtree_hash(left).0, &subtree_hash(right).0, Mode::Hash).as_bytes()
        }
    }
}

/// The hash of the subtree above these leaves (at least one). They must be the leaves of one subtree of the chunk: they
/// begin at a multiple of their number rounded up to a power of two.
pub fn subtree_hash(leaves: &[LeafHash]) -> LeafHash {
    match leaves {
        [] => panic!("no subtree is above no leaves"),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(left_leaves(leaves.len()));
            LeafHash(merge_subtrees_non_root(&subtree_hash(left).0, &subtree_hash(right).0, Mode::Hash))
        }
    }
}

/// BLAKE3 gives the left side of a node the largest power of two that leaves something for the right side.
fn left_leaves(leaves: usize) -> usize {
    leaves.next_power_of_two() / 2
}

/// How many leaves a content of this many bytes has.
pub const fn leaves_of(length: u32) -> u32 {
    length.div_ceil(LEAF_BYTES as u32)
}

/// How many bytes a leaf has in a content of this length; zero if it lies beyond the end.
pub const fn leaf_length(leaf_index: u32, length: u32) -> usize {
    let start = leaf_index as u64 * LEAF_BYTES as u64;
    let rest = (length as u64).saturating_sub(start);
    if rest < LEAF_BYTES as u64 { rest as usize } else { LEAF_BYTES }
}

/// The leaves that the bytes from `offset` to `offset + length` touch.
pub fn touched_leaves(offset: u32, length: u32) -> Range<u32> {
    let first = offset / LEAF_BYTES as u32;
    if length == 0 {
        return first..first;
    }
    let last = (u64::from(offset) + u64::from(length) - 1) / LEAF_BYTES as u64;
    first..last as u32 + 1
}

/// The part of a byte range that lies in one leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafPart {
    /// Which leaf of the chunk.
    pub leaf_index: u32,
    /// Where in the leaf the part begins.
    pub start: usize,
    /// How many bytes it has; never 0.
    pub length: usize,
}

impl LeafPart {
    /// Where in the chunk the part begins.
    pub const fn offset(&self) -> u32 {
        self.leaf_index * LEAF_BYTES as u32 + self.start as u32
    }

    /// Whether the part is a full leaf.
    pub const fn is_full(&self) -> bool {
        self.length == LEAF_BYTES
    }
}

/// Cuts the bytes from `offset` to `offset + length` of a chunk at the borders of leaves, in order.
pub fn split_at_leaves(offset: u32, length: u32) -> impl Iterator<Item = LeafPart> {
    let end = u64::from(offset) + u64::from(length);
    touched_leaves(offset, length).map(move |leaf_index| {
        let leaf_start = u64::from(leaf_index) * LEAF_BYTES as u64;
        let from = u64::from(offset).max(leaf_start);
        let to = end.min(leaf_start + LEAF_BYTES as u64);
        LeafPart { leaf_index, start: (from - leaf_start) as usize, length: (to - from) as usize }
    })
}

/// The leaves in which two copies differ, in order; a leaf that only one of them has differs too.
pub fn differing(first: &[LeafHash], second: &[LeafHash]) -> Vec<u32> {
    let leaves = first.len().max(second.len());
    (0..leaves).filter(|index| first.get(*index) != second.get(*index)).map(|index| index as u32).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without repetition that would hide a leaf at the wrong place.
    fn content(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn digest_of(bytes: &[u8]) -> [u8; 32] {
        let leaves: Vec<LeafHash> = hash_leaves(0, bytes).collect();
        chunk_digest(&leaves, bytes.len() as u32)
    }

    #[test]
    fn digest_of_several_leaves_is_blake3_of_the_content() {
        let bytes = content(40 * LEAF_BYTES);
        for leaves in 1..40 {
            for length in [leaves * LEAF_BYTES + 1, leaves * LEAF_BYTES + 1025, (leaves + 1) * LEAF_BYTES] {
                assert_eq!(digest_of(&bytes[..length]), *blake3::hash(&bytes[..length]).as_bytes(), "{length} bytes");
            }
        }
    }

    #[test]
    fn digest_of_a_full_chunk_is_blake3_of_the_content() {
        let zeros = vec![0; CHUNK_BYTES as usize];
        let leaves: Vec<LeafHash> = (0..LEAVES_MAX).map(|leaf| hash_zero_leaf(leaf, LEAF_BYTES)).collect();
        assert_eq!(chunk_digest(&leaves, CHUNK_BYTES as u32), *blake3::hash(&zeros).as_bytes());
    }

    #[test]
    fn digest_of_one_leaf_is_its_hash_and_not_the_root() {
        for length in [1, 1024, LEAF_BYTES] {
            let bytes = content(length);
            assert_eq!(digest_of(&bytes), hash_leaf(0, &bytes).0);
            assert_ne!(digest_of(&bytes), *blake3::hash(&bytes).as_bytes());
        }
        assert_eq!(digest_of(&[]), *blake3::hash(&[]).as_bytes());
    }

    #[test]
    fn zero_leaves_depend_on_place_and_length() {
        assert_ne!(hash_zero_leaf(0, LEAF_BYTES), hash_zero_leaf(1, LEAF_BYTES));
        assert_ne!(hash_zero_leaf(0, LEAF_BYTES), hash_zero_leaf(0, LEAF_BYTES - 1));
        assert_eq!(hash_zero_leaf(5, 10), hash_leaf(5, &[0; 10]));
        assert_eq!(hash_zero_leaf(4095, LEAF_BYTES), hash_leaf(4095, &[0; LEAF_BYTES]));
    }

    #[test]
    fn counts_leaves() {
        let leaf = LEAF_BYTES as u32;
        let cases = [(0, 0), (1, 1), (leaf, 1), (leaf + 1, 2), (CHUNK_BYTES as u32, LEAVES_MAX)];
        for (length, leaves) in cases {
            assert_eq!(leaves_of(length), leaves, "{length} bytes");
        }
        assert_eq!(leaf_length(0, 5), 5);
        assert_eq!(leaf_length(1, leaf + 7), 7);
        assert_eq!(leaf_length(0, leaf + 7), LEAF_BYTES);
        assert_eq!(leaf_length(2, leaf + 7), 0);
    }

    #[test]
    fn empty_ranges_touch_nothing() {
        assert_eq!(split_at_leaves(0, 0).count(), 0);
        assert_eq!(split_at_leaves(LEAF_BYTES as u32, 0).count(), 0);
        assert_eq!(touched_leaves(CHUNK_BYTES as u32 - 1, 1), LEAVES_MAX - 1..LEAVES_MAX);
    }

    #[test]
    fn finds_leaves_that_differ() {
        let first: Vec<LeafHash> = hash_leaves(0, &content(5 * LEAF_BYTES)).collect();
        let mut second = first.clone();
        assert_eq!(differing(&first, &second), [0_u32; 0]);
        second[3] = LeafHash::default();
        second.push(LeafHash::default());
        assert_eq!(differing(&first, &second), [3, 5]);
        assert_eq!(differing(&second, &first), [3, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn digest_matches_blake3(length in LEAF_BYTES + 1..600_000_usize) {
            let bytes = content(length);
            prop_assert_eq!(digest_of(&bytes), *blake3::hash(&bytes).as_bytes());
        }

        #[test]
        fn parts_cover_the_range_once(offset in 0..CHUNK_BYTES as u32, wanted in 0..500_000_u32) {
            let length = wanted.min(CHUNK_BYTES as u32 - offset);
            let mut next = offset;
            for part in split_at_leaves(offset, length) {
                prop_assert_eq!(part.offset(), next);
                prop_assert!(part.length > 0 && part.start + part.length <= LEAF_BYTES);
                next += part.length as u32;
            }
            prop_assert_eq!(next, offset + length);
        }
    }
}
