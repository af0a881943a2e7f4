//! Names for nodes that are known by number only, for people: records of files do not say which directories name them, so
//! the entries are walked. That reads much: only for what a person asked for, and only so far.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use prost::Message;
use rfs_common::ids::InodeId;

use super::records::{EntryRecord, InodeRecord, entry_key, inode_key};
use super::source::{Source, StoreError, Table};

/// Directories above a node; a longer way up is a damaged one.
const DEPTH_MAX: usize = 4096;

/// One path, from the root, of each of these nodes. Looks at `entries_max` entries at most; what has no name by then, or
/// none at all, is not in the answer.
///
/// # Errors
/// If the store cannot be read.
pub fn paths_of(
    source: &dyn Source,
    nodes: &BTreeSet<InodeId>,
    entries_max: u64,
) -> Result<BTreeMap<InodeId, Vec<u8>>, StoreError> {
    let mut walk = Walk { source, left: entries_max, directories: BTreeMap::from([(InodeId::ROOT, Vec::new())]) };
    let mut paths = BTreeMap::new();
    for (node, (directory, name)) in walk.names(nodes, Bound::Unbounded, Bound::Unbounded)? {
        if let Some(mut path) = walk.directory(directory)? {
            path.push(b'/');
            path.extend(name);
            paths.insert(node, path);
        }
    }
    if nodes.contains(&InodeId::ROOT) {
        paths.insert(InodeId::ROOT, b"/".to_vec());
    }
    Ok(paths)
}

/// A directory, and a name in it.
type Named = (InodeId, Vec<u8>);

struct Walk<'a> {
    source: &'a dyn Source,
    /// Entries that may still be looked at.
    left: u64,
    /// Paths of directories that are known already; the root's is empty.
    directories: BTreeMap<InodeId, Vec<u8>>,
}

impl Walk<'_> {
    /// The first entry of each of these nodes between two keys.
    fn names(
        &mut self,
        nodes: &BTreeSet<InodeId>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<BTreeMap<InodeId, Named>, StoreError> {
        let mut found = BTreeMap::new();
        let left = &mut self.left;
        self.source.scan(Table::Entries, from, to, &mut |key, value| {
            if *left == 0 || found.len() == nodes.len() {
                return ControlFlow::Break(());
            }
            *left -= 1;
            let directory = key.first_chunk::<8>().map(|bytes| InodeId::new(u64::from_be_bytes(*bytes)));
            if let (Some(directory), Ok(entry)) = (directory, EntryRecord::decode(value))
                && nodes.contains(&entry.inode_id())
            {
                found.entry(entry.inode_id()).or_insert_with(|| (directory, key[8..].to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The path of a directory, without a slash at its end.
    fn directory(&mut self, directory: InodeId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut way = Vec::new();
        let mut at = directory;
        while !self.directories.contains_key(&at) {
            let Some((parent, name)) = self.name_of_directory(at)? else { return Ok(None) };
            way.push((at, name));
            if way.len() > DEPTH_MAX {
                return Ok(None);
            }
            at = parent;
        }
        let mut path = self.directories[&at].clone();
        for (below, name) in way.into_iter().rev() {
            path.push(b'/');
            path.extend(name);
            self.directories.insert(below, path.clone());
        }
        Ok(Some(path))
    }

    fn name_of_directory(&mut self, directory: InodeId) -> Result<Option<Named>, StoreError> {
        let record = self.source.get(Table::Inodes, &inode_key(directory))?;
        let Some(record) = record.and_then(|value| InodeRecord::decode(&value[..]).ok()) else { return Ok(None) };
        let parent = InodeId::new(record.parent);
        let (first, end) = (entry_key(parent, b""), entry_key(InodeId::new(record.parent + 1), b""));
        let wanted = BTreeSet::from([directory]);
        let mut names = self.names(&wanted, Bound::Included(&first), Bound::Excluded(&end))?;
        Ok(names.remove(&directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::source::{Change, MemorySource};

    fn add(source: &MemorySource, parent: u64, name: &str, inode: u64) {
        let node = InodeRecord { parent, ..Default::default() };
        let entry = EntryRecord { inode, ..Default::default() };
        source.apply(&[
            Change::Put { table: Table::Inodes, key: inode_key(InodeId::new(inode)), value: node.encode_to_vec() },
            Change::Put {
                table: Table::Entries,
                key: entry_key(InodeId::new(parent), name.as_bytes()),
                value: entry.encode_to_vec(),
            },
        ]);
    }

    fn wanted(numbers: &[u64]) -> BTreeSet<InodeId> {
        numbers.iter().map(|number| InodeId::new(*number)).collect()
    }

    #[test]
    fn a_node_gets_its_whole_path_and_one_without_a_name_gets_none() {
        let source = MemorySource::default();
        // The directory that holds the file has a higher number than the file, and a lower one than its own parent.
        add(&source, 1, "top", 90);
        add(&source, 90, "middle", 50);
        add(&source, 50, "file", 7);
        add(&source, 1, "other", 8);
        let paths = paths_of(&source, &wanted(&[1, 7, 8, 99]), 1000).unwrap();
        let path = |number| paths.get(&InodeId::new(number)).map(|path| String::from_utf8_lossy(path).into_owned());
        assert_eq!(path(7).as_deref(), Some("/top/middle/file"));
        assert_eq!((path(8).as_deref(), path(1).as_deref(), path(99)), (Some("/other"), Some("/"), None));
    }

    #[test]
    fn no_more_entries_are_looked_at_than_allowed() {
        let source = MemorySource::default();
        (0..100).for_each(|number| add(&source, 1, &format!("file{number:02}"), 100 + number));
        assert!(paths_of(&source, &wanted(&[199]), 99).unwrap().is_empty());
        assert_eq!(paths_of(&source, &wanted(&[199]), 100).unwrap().len(), 1);
    }
}
