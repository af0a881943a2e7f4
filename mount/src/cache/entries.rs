//! The entries of one directory that are known here: names, absent names, and the whole listing if it was read.
//!
//! Valid while the directory's READ lease is held; whoever gives up the lease drops all of it. A directory keeps at most
//! [`NAMES_MAX`] names; what finds no room is not kept, by the kernel either: every entry that the kernel may keep stands
//! here, so that all of them can be taken back from it.

use std::collections::HashMap;
use std::sync::Arc;

use rfs_common::ids::InodeId;

use super::attributes::Kind;

/// Names kept for one directory.
pub const NAMES_MAX: usize = 100_000;

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its name.
    pub name: Box<[u8]>,
    /// The node.
    pub inode: InodeId,
    /// What the node is.
    pub kind: Kind,
    /// Its place in the directory.
    pub cookie: u64,
}

/// What is known about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It names this node.
    Node(InodeId),
    /// There is no such entry.
    Absent,
    /// Nothing.
    Unknown,
}

/// The known entries of a directory.
#[derive(Debug, Default)]
pub struct Entries {
    names: HashMap<Box<[u8]>, Option<InodeId>>,
    /// Every entry there is stands in `names`.
    complete: bool,
    listing: Option<(Arc<[ListedEntry]>, InodeId)>,
    /// The kernel may have names that do not stand here.
    doubtful: bool,
    /// Rises whenever something was changed or forgotten, so that a listing read in parts is known to be of one piece.
    generation: u64,
}

impl Entries {
    /// What is known about this name.
    pub fn get(&self, name: &[u8]) -> Known {
        match self.names.get(name) {
            Some(Some(inode)) => Known::Node(*inode),
            Some(None) => Known::Absent,
            None if self.complete => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// Notes what the master said about a name, without any change to the directory. False if there is no room.
    pub fn learn(&mut self, name: &[u8], inode: Option<InodeId>) -> bool {
        if let Some(known) = self.names.get_mut(name) {
            *known = inode;
        } else if self.names.len() < NAMES_MAX {
            self.names.insert(name.into(), inode);
        } else {
            self.complete = false;
            return false;
        }
        true
    }

    /// Notes a change made by this client: the listing is no longer right, all other names are. False if there is no
    /// room.
    pub fn change(&mut self, name: &[u8], inode: Option<InodeId>) -> bool {
        self.listing = None;
        self.generation += 1;
        self.learn(name, inode)
    }

    /// Forgets a name, which somebody else is changing.
    pub fn forget(&mut self, name: &[u8]) {
        self.names.remove(name);
        self.complete = false;
        self.listing = None;
        self.generation += 1;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Entries { generation: self.generation + 1, doubtful: self.doubtful, ..Entries::default() };
    }

    /// From now on the kernel counts as knowing any name: it may not have been told in time to forget one.
    pub fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Whether the kernel may know that this name names something.
    pub fn kernel_may_know(&self, name: &[u8]) -> bool {
        self.doubtful || matches!(self.names.get(name), Some(Some(_)))
    }

    /// Changes whenever something was changed or forgotten.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes the whole listing and the parent directory.
    pub fn learn_all(&mut self, listing: &Arc<[ListedEntry]>, parent: InodeId) {
        if listing.len() > NAMES_MAX {
            return;
        }
        self.names = listing.iter().map(|entry| (entry.name.clone(), Some(entry.inode))).collect();
        self.complete = true;
        self.listing = Some((Arc::clone(listing), parent));
    }

    /// The whole listing and the parent directory, if known.
    pub fn listing(&self) -> Option<(Arc<[ListedEntry]>, InodeId)> {
        self.listing.clone()
    }

    /// The names that the kernel may know too.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().filter(|(_, inode)| inode.is_some()).map(|(name, _)| &**name)
    }

    /// How many names are kept.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &[u8], inode: u64) -> ListedEntry {
        ListedEntry { name: name.into(), inode: InodeId::new(inode), kind: Kind::File, cookie: inode + 10 }
    }

    #[test]
    fn a_whole_listing_knows_what_is_absent_until_a_name_is_forgotten() {
        let mut entries = Entries::default();
        assert_eq!(entries.get(b"a"), Known::Unknown);
        entries.learn_all(&Arc::from([listed(b"a", 5)]), InodeId::ROOT);
        assert_eq!(entries.get(b"a"), Known::Node(InodeId::new(5)));
        assert_eq!(entries.get(b"b"), Known::Absent);
        entries.change(b"b", Some(InodeId::new(6)));
        assert_eq!(entries.get(b"c"), Known::Absent, "our own change leaves the rest known");
        assert!(entries.listing().is_none());
        assert!(entries.kernel_may_know(b"a") && !entries.kernel_may_know(b"c"));
        entries.forget(b"a");
        assert!(!entries.kernel_may_know(b"a"));
        assert_eq!(entries.get(b"a"), Known::Unknown);
        assert_eq!(entries.get(b"c"), Known::Unknown);
        assert_eq!(entries.get(b"b"), Known::Node(InodeId::new(6)));
        entries.doubt();
        entries.clear();
        assert!(entries.kernel_may_know(b"c"), "whatever was cleared may be known to the kernel still");
    }
}
