//! The names at the offsets of a directory's entries, as one open handle has read them.
//!
//! The master goes on after a name, a program at an offset, and an entry that a program saw may be gone when it goes on
//! there. Offsets do not rise with names, so nothing but the name says where an offset is. A directory of a million
//! entries costs some 50 MB for as long as a handle that has read it all is open.

use std::collections::HashMap;

/// Offsets and their names.
#[derive(Default)]
pub(super) struct ListingPlaces {
    /// Where in `names` the name at an offset is.
    at: HashMap<u64, (u32, u16)>,
    names: Vec<u8>,
}

impl ListingPlaces {
    /// Notes the name at an offset, which never changes.
    pub(super) fn note(&mut self, offset: u64, name: &[u8]) {
        let place = (u32::try_from(self.names.len()), u16::try_from(name.len()));
        let (Ok(start), Ok(length)) = place else { return };
        self.at.entry(offset).or_insert_with(|| {
            self.names.extend_from_slice(name);
            (start, length)
        });
    }

    /// The name at an offset, if it was noted.
    pub(super) fn name_at(&self, offset: u64) -> Option<&[u8]> {
        let (start, length) = *self.at.get(&offset)?;
        self.names.get(start as usize..start as usize + usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_offsets() {
        let mut places = ListingPlaces::default();
        for (offset, name) in [(7, &b"a"[..]), (3, b"bb"), (9, b"ccc"), (3, b"bb")] {
            places.note(offset, name);
        }
        assert_eq!(
            [7, 3, 9, 4].map(|offset| places.name_at(offset)),
            [Some(&b"a"[..]), Some(b"bb"), Some(b"ccc"), None]
        );
        assert_eq!(places.names, b"abbccc");
    }
}
