//! Where a reader of a directory is: cookies, which the kernel keeps, turned into names, by which the client goes on.
//!
//! The kernel asks for entries after an offset that it was given with an entry earlier: the entry's cookie. The master goes
//! on after a *name*. So an open directory remembers the name behind every cookie it gave out. It forgets them when the
//! reader starts over (`rewinddir`), as POSIX allows, and when the directory is closed.
//!
//! What always holds: reading goes on correctly after any cookie given out since the start, whatever became of its entry
//! meanwhile, because a name that is gone still has its place in the order of names.

use std::collections::HashMap;

/// Offset of a reader that has nothing yet.
const START: u64 = 0;
/// Offset after ".".
pub(super) const AFTER_DOT: u64 = 1;
/// Offset after "..". The cookies of entries are higher.
pub(super) const AFTER_DOT_DOT: u64 = 2;

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// "." comes first.
    pub(super) dot: bool,
    /// ".." comes before the entries.
    pub(super) dot_dot: bool,
    /// The entries after this name come then; empty: from the first.
    pub(super) after: Vec<u8>,
}

/// The cookies that one open directory gave out. Names lie end to end in one buffer: an entry costs some 20 bytes and its
/// name, so that even a directory of a million entries is remembered in 40 MB, while it is being read.
#[derive(Debug, Default)]
pub(super) struct Cookies {
    names: Vec<u8>,
    starts: HashMap<u64, (u32, u8)>,
}

impl Cookies {
    /// Where a reader with this offset goes on; nothing if this offset was never given out.
    pub(super) fn position(&mut self, offset: u64) -> Option<Position> {
        if offset == START {
            *self = Cookies::default();
        }
        let after = match offset {
            START | AFTER_DOT | AFTER_DOT_DOT => Vec::new(),
            cookie => self.name(cookie)?.to_vec(),
        };
        Some(Position { dot: offset == START, dot_dot: offset <= AFTER_DOT, after })
    }

    /// Remembers an entry that the reader was given.
    pub(super) fn given(&mut self, cookie: u64, name: &[u8]) {
        let Ok(start) = u32::try_from(self.names.len()) else { return };
        // A name has at most 255 bytes (`rfs_common::name::NAME_BYTES_MAX`).
        let Ok(length) = u8::try_from(name.len()) else { return };
        if let std::collections::hash_map::Entry::Vacant(place) = self.starts.entry(cookie) {
            place.insert((start, length));
            self.names.extend_from_slice(name);
        }
    }

    fn name(&self, cookie: u64) -> Option<&[u8]> {
        let (start, length) = *self.starts.get(&cookie)?;
        let start = start as usize;
        self.names.get(start..start + usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A directory as the master keeps it: names in order, each with a cookie that says nothing about the order.
    struct Directory(BTreeMap<Vec<u8>, u64>);

    impl Directory {
        fn of(count: u64) -> Directory {
            Directory((0..count).map(|number| (format!("n{number:03}").into_bytes(), 1000 - number * 7)).collect())
        }

        /// Reads at most `count` entries from this offset, as one request of the kernel does.
        fn read(&self, cookies: &mut Cookies, offset: u64, count: usize) -> Vec<(u64, Vec<u8>)> {
            let position = cookies.position(offset).expect("an offset that was given out");
            let mut given = Vec::new();
            if position.dot {
                given.push((AFTER_DOT, b".".to_vec()));
            }
            if position.dot_dot {
                given.push((AFTER_DOT_DOT, b"..".to_vec()));
            }
            let entries = self.0.iter().filter(|(name, _)| **name > position.after);
            given.extend(entries.map(|(name, cookie)| (*cookie, name.clone())));
            given.truncate(count);
            for (cookie, name) in &given {
                if *cookie > AFTER_DOT_DOT {
                    cookies.given(*cookie, name);
                }
            }
            given
        }

        fn read_all(&self, cookies: &mut Cookies, mut offset: u64, count: usize) -> Vec<(u64, Vec<u8>)> {
            let mut all = Vec::new();
            loop {
                let part = self.read(cookies, offset, count);
                let Some(last) = part.last() else { return all };
                offset = last.0;
                all.extend(part);
            }
        }
    }

    #[test]
    fn an_offset_that_was_not_given_out_is_refused() {
        assert_eq!(Cookies::default().position(77), None);
    }

    #[test]
    fn starting_over_forgets() {
        let mut cookies = Cookies::default();
        cookies.given(9, b"a");
        assert_eq!(cookies.position(9).unwrap().after, b"a");
        cookies.position(0).unwrap();
        assert_eq!(cookies.position(9), None);
        assert!(cookies.names.is_empty());
    }

    proptest! {
        #[test]
        fn every_reader_sees_every_entry_once(entries in 0..60_u64, count in 1..20_usize) {
            let directory = Directory::of(entries);
            let all = directory.read_all(&mut Cookies::default(), 0, count);
            let names: Vec<_> = all.into_iter().map(|(_, name)| name).collect();
            let mut expected = vec![b".".to_vec(), b"..".to_vec()];
            expected.extend(directory.0.keys().cloned());
            prop_assert_eq!(names, expected);
        }

        #[test]
        fn reading_goes_on_anywhere_also_where_an_entry_was_removed(count in 1..20_usize, resumed: usize, removed: Vec<u8>) {
            let mut directory = Directory::of(50);
            let mut cookies = Cookies::default();
            let all = directory.read_all(&mut cookies, 0, count);
            for number in removed {
                directory.0.remove(format!("n{:03}", number % 50).as_bytes());
            }
            let resumed = resumed % all.len();
            let rest = directory.read_all(&mut cookies, all[resumed].0, count);
            let is_left = |name: &Vec<u8>| name[0] == b'.' || directory.0.contains_key(name);
            let expected: Vec<_> = all[resumed + 1..].iter().filter(|(_, name)| is_left(name)).cloned().collect();
            prop_assert_eq!(rest, expected);
        }
    }
}
