//! Whether a stored namespace is whole: every rule that operations keep, checked from the records alone.
//!
//! One pass over each table, in this order: counters, nodes, entries, orphans, attributes, references, chunks; then what only
//! the whole can show: counts, reachability. A summary of each node and each chunk is held in memory (about 100 bytes each).
//!
//! What is found is told in words, for people; `mfs-master check` prints it. Nothing is repaired.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, ControlFlow};

use rfs_common::ids::Goal;
use rfs_common::leaf::CHUNK_BYTES;
use rfs_common::name::{Escaped, Name};

use super::acl::{ACCESS_XATTR, Acl, DEFAULT_XATTR};
use super::entries::COOKIE_FIRST;
use super::permission::MODE_BITS;
use super::records::{
    self, ChunkRecord, ChunkRef, EntryRecord, InodeRecord, NodeKind, OrphanRecord, Record, SystemKind, SystemRecord,
    XattrRecord,
};
use super::source::{Source, StoreError};

/// Findings beyond are counted and not told.
const FINDINGS_MAX: usize = 1_000;
const ROOT: u64 = 1;

/// What a check saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, each in a sentence; empty: the namespace is whole.
    pub findings: Vec<String>,
    /// How many more findings there are.
    pub findings_left_out: u64,
    /// The counters as they should be.
    pub counted: SystemRecord,
}

/// Checks every record that `source` holds.
///
/// # Errors
/// If the store cannot be read.
pub fn check(source: &dyn Source) -> Result<Report, StoreError> {
    let mut checker = Checker::new(source);
    checker.counters()?;
    checker.nodes()?;
    checker.entries()?;
    checker.orphans()?;
    checker.xattrs()?;
    checker.references()?;
    checker.chunks()?;
    checker.counts();
    checker.reachability();
    checker.compare_counters();
    Ok(checker.report)
}

/// A node's record, and what the other tables say of it.
struct Seen {
    record: InodeRecord,
    names: u32,
    named_in: u64,
    entries: u64,
    subdirectories: u32,
    cookies: HashSet<u64>,
    allocated: u64,
    xattrs: u32,
    access_acl: bool,
    default_acl: bool,
    orphan: bool,
}

struct Checker<'a> {
    source: &'a dyn Source,
    report: Report,
    system: SystemRecord,
    nodes: BTreeMap<u64, Seen>,
    referred: HashMap<u64, (u64, u32, u32)>,
}

impl<'a> Checker<'a> {
    fn new(source: &'a dyn Source) -> Checker<'a> {
        Checker {
            source,
            report: Report::default(),
            system: SystemRecord::default(),
            nodes: BTreeMap::new(),
            referred: HashMap::new(),
        }
    }

    fn find(&mut self, finding: String) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        } else {
            self.report.findings_left_out += 1;
        }
    }

    fn ensure(&mut self, holds: bool, finding: impl FnOnce() -> String) {
        if !holds {
            self.find(finding());
        }
    }

    /// Visits each record of a table whose key begins with an id; what does not decode is a finding.
    fn each<R: Record>(&mut self, visit: impl Fn(&mut Self, u64, &[u8], R)) -> Result<(), StoreError> {
        let source = self.source;
        source.scan(R::TABLE, Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            match (records::split_key(key), R::decode(value)) {
                (None, _) => self.find(format!("table {:?}: the key {key:02x?} is too short", R::TABLE)),
                (_, Err(error)) => self.find(format!("table {:?}: the record {key:02x?} is damaged: {error}", R::TABLE)),
                (Some((id, rest)), Ok(record)) => visit(self, id, rest, record),
            }
            ControlFlow::Continue(())
        })
    }

    /// What is known of a node that another record names.
    fn node(&mut self, inode: u64, named_by: impl FnOnce() -> String) -> Option<&mut Seen> {
        if !self.nodes.contains_key(&inode) {
            let named_by = named_by();
            self.find(format!("{named_by} names inode {inode}, which does not exist"));
        }
        self.nodes.get_mut(&inode)
    }
}

/// The tables.
impl Checker<'_> {
    fn counters(&mut self) -> Result<(), StoreError> {
        let stored = self.source.get(SystemRecord::TABLE, &records::system_key(SystemKind::Counters, 0))?;
        match stored.map(|value| <SystemRecord as prost::Message>::decode(value.as_slice())) {
            Some(Ok(system)) => self.system = system,
            Some(Err(error)) => self.find(format!("the counters are damaged: {error}")),
            None => self.find("the counters are missing".to_owned()),
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<(), StoreError> {
        self.each::<InodeRecord>(|checker, inode, rest, record| {
            let (inode_next, kind) = (checker.system.inode_next, NodeKind::try_from(record.kind));
            checker.ensure(rest.is_empty(), || format!("inode {inode}: its key is too long"));
            checker.ensure(inode > 0 && inode < inode_next, || {
                format!("inode {inode}: the next id to be given is {inode_next}")
            });
            checker.ensure(kind.is_ok(), || format!("inode {inode}: its kind {} is not known", record.kind));
            checker.ensure(record.mode & !MODE_BITS == 0, || format!("inode {inode}: its mode is {:o}", record.mode));
            checker.ensure(Goal::try_from(record.goal).is_ok(), || format!("inode {inode}: its goal is {}", record.goal));
            checker.ensure(record.inode_next <= record.inode_end && record.inode_end <= inode_next, || {
                format!("inode {inode}: it has set aside ids up to {}", record.inode_end)
            });
            checker.ensure(record.is_file() || (record.length, record.allocated) == (0, 0), || {
                format!("inode {inode}: it is no file and has a length")
            });
            checker.count_node(&record);
            checker.nodes.insert(inode, Seen::new(record));
        })?;
        let root = self.nodes.get(&ROOT).is_some_and(|root| root.record.is_directory() && root.record.parent == ROOT);
        self.ensure(root, || "the root directory is missing or damaged".to_owned());
        Ok(())
    }

    fn count_node(&mut self, record: &InodeRecord) {
        let counted = &mut self.report.counted;
        counted.inodes += 1;
        counted.files += u64::from(record.is_file());
        counted.directories += u64::from(record.is_directory());
        counted.bytes = counted.bytes.wrapping_add(record.length);
    }

    fn entries(&mut self) -> Result<(), StoreError> {
        self.each::<EntryRecord>(|checker, directory, name, entry| {
            let words = || format!("entry \"{}\" of directory {directory}", Escaped(name));
            checker.ensure(Name::check(name).is_ok(), || format!("{} has a name that is not possible", words()));
            let Some(parent) = checker.node(directory, words) else { return };
            let is_directory = parent.record.is_directory();
            let cookie_fits = entry.cookie >= COOKIE_FIRST && entry.cookie < parent.record.cookie_next;
            let cookie_is_new = parent.cookies.insert(entry.cookie);
            parent.entries += 1;
            parent.subdirectories += u32::from(entry.kind() == NodeKind::Directory);
            checker.ensure(is_directory, || format!("{}: that is no directory", words()));
            checker.ensure(cookie_fits && cookie_is_new, || format!("{}: its cookie is {}", words(), entry.cookie));
            let Some(child) = checker.node(entry.inode, words) else { return };
            child.names += 1;
            child.named_in = directory;
            let same_kind = child.record.kind == entry.kind;
            let same_parent = !child.record.is_directory() || child.record.parent == directory;
            checker.ensure(same_kind, || format!("{}: inode {} is of another kind", words(), entry.inode));
            checker.ensure(same_parent, || format!("{}: inode {} says it is elsewhere", words(), entry.inode));
        })
    }

    fn orphans(&mut self) -> Result<(), StoreError> {
        self.each::<OrphanRecord>(|checker, inode, _, orphan| {
            checker.report.counted.orphans += 1;
            checker.ensure(!orphan.sessions.is_empty(), || format!("orphan {inode}: it is kept for no session"));
            if let Some(node) = checker.node(inode, || "an orphan record".to_owned()) {
                node.orphan = true;
            }
        })
    }

    fn xattrs(&mut self) -> Result<(), StoreError> {
        self.each::<XattrRecord>(|checker, inode, name, xattr| {
            let words = || format!("attribute \"{}\" of inode {inode}", Escaped(name));
            let is_acl = name == ACCESS_XATTR || name == DEFAULT_XATTR;
            checker.ensure(!is_acl || matches!(Acl::decode(&xattr.value), Ok(Some(_))), || {
                format!("{} is no access control list", words())
            });
            if let Some(node) = checker.node(inode, words) {
                node.xattrs += 1;
                node.access_acl |= name == ACCESS_XATTR;
                node.default_acl |= name == DEFAULT_XATTR;
            }
        })
    }

    fn references(&mut self) -> Result<(), StoreError> {
        self.each::<ChunkRef>(|checker, inode, rest, reference| {
            let Ok(index) = rest.try_into().map(u32::from_be_bytes) else {
                return checker.find(format!("a chunk reference of inode {inode} has the key {rest:02x?}"));
            };
            let words = || format!("chunk {index} of inode {inode}");
            let end = u64::from(index) * CHUNK_BYTES + u64::from(reference.length);
            let earlier = checker.referred.insert(reference.chunk, (inode, index, reference.length));
            checker.ensure(earlier.is_none(), || format!("{}: another file has the same chunk", words()));
            let Some(node) = checker.node(inode, words) else { return };
            node.allocated += u64::from(reference.length);
            let (is_file, length) = (node.record.is_file(), node.record.length);
            checker.ensure(is_file, || format!("{}: that is no file", words()));
            checker.ensure(u64::from(reference.length) <= CHUNK_BYTES && (reference.length == 0 || end <= length), || {
                format!("{}: it has {} valid bytes, beyond the file's end", words(), reference.length)
            });
        })
    }

    fn chunks(&mut self) -> Result<(), StoreError> {
        self.each::<ChunkRecord>(|checker, chunk, _, record| {
            let chunk_next = checker.system.chunk_next;
            checker.ensure(chunk > 0 && chunk < chunk_next, || {
                format!("chunk {chunk}: the next id to be given is {chunk_next}")
            });
            checker.ensure(record.version <= record.granted && record.granted > 0, || {
                format!("chunk {chunk}: version {} with granted {}", record.version, record.granted)
            });
            checker.ensure(Goal::try_from(record.goal).is_ok(), || format!("chunk {chunk}: its goal is {}", record.goal));
            let reference = checker.referred.remove(&chunk);
            if record.deleted {
                checker.report.counted.deleted_chunks += 1;
                checker.ensure(reference.is_none(), || format!("chunk {chunk}: it is deleted and a file refers to it"));
                return;
            }
            checker.report.counted.chunks += 1;
            match reference {
                None => checker.find(format!("chunk {chunk}: no file refers to it")),
                Some((inode, index, length)) => {
                    checker.ensure((inode, index) == (record.inode, record.index), || {
                        format!("chunk {chunk}: it is chunk {index} of inode {inode} and says otherwise")
                    });
                    checker.ensure(!record.is_pending() || length == 0, || {
                        format!("chunk {chunk}: it was never committed and has {length} valid bytes")
                    });
                }
            }
        })?;
        let missing: Vec<(u64, (u64, u32, u32))> = self.referred.drain().collect();
        for (chunk, (inode, index, _)) in missing {
            self.find(format!("chunk {index} of inode {inode}: chunk id {chunk} does not exist"));
        }
        Ok(())
    }
}

/// What only the whole can show.
impl Checker<'_> {
    fn counts(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        for (inode, node) in &nodes {
            for finding in node.findings(*inode) {
                self.find(format!("inode {inode}: {finding}"));
            }
        }
        self.nodes = nodes;
    }

    /// Every directory that has a name is below the root.
    fn reachability(&mut self) {
        let mut reached = HashSet::from([ROOT]);
        let mut lost = Vec::new();
        for (inode, node) in self.nodes.iter().filter(|(_, node)| node.record.is_directory() && node.names > 0) {
            let mut way = vec![*inode];
            let mut parent = node.record.parent;
            while !reached.contains(&parent) && !way.contains(&parent) {
                way.push(parent);
                parent = self.nodes.get(&parent).map_or(0, |node| node.record.parent);
            }
            if reached.contains(&parent) { reached.extend(way) } else { lost.push(*inode) }
        }
        for inode in lost {
            self.find(format!("directory {inode}: it cannot be reached from the root"));
        }
    }

    fn compare_counters(&mut self) {
        let (stored, counted) = (self.system.clone(), &self.report.counted);
        let pairs = [
            ("inodes", stored.inodes, counted.inodes),
            ("files", stored.files, counted.files),
            ("directories", stored.directories, counted.directories),
            ("chunks", stored.chunks, counted.chunks),
            ("bytes", stored.bytes, counted.bytes),
            ("orphans", stored.orphans, counted.orphans),
            ("deleted chunks", stored.deleted_chunks, counted.deleted_chunks),
        ];
        for (what, stored, counted) in pairs {
            self.ensure(stored == counted, || format!("the counter of {what} says {stored}, there are {counted}"));
        }
    }
}

impl Seen {
    fn new(record: InodeRecord) -> Seen {
        Seen {
            record,
            names: 0,
            named_in: 0,
            entries: 0,
            subdirectories: 0,
            cookies: HashSet::new(),
            allocated: 0,
            xattrs: 0,
            access_acl: false,
            default_acl: false,
            orphan: false,
        }
    }

    fn findings(&self, inode: u64) -> Vec<String> {
        let record = &self.record;
        let is_root = inode == ROOT;
        let unnamed = self.names == 0 && !is_root;
        let links = match record.is_directory() {
            true if unnamed => 0,
            true => 2 + self.subdirectories,
            false => self.names,
        };
        let names_max = if is_root { 0 } else { 1 };
        let acl_flags = (record.access_acl, record.default_acl);
        [
            (record.links != links, format!("it counts {} links and has {links}", record.links)),
            (record.is_directory() && self.names > names_max, format!("the directory has {} names", self.names)),
            (record.entries != self.entries, format!("it counts {} entries and has {}", record.entries, self.entries)),
            (unnamed && !self.orphan, "it has no name and is kept for no session".to_owned()),
            (!unnamed && self.orphan, format!("it has a name (in {}) and is kept as an orphan", self.named_in)),
            (
                record.allocated != self.allocated,
                format!("it counts {} valid bytes and has {}", record.allocated, self.allocated),
            ),
            (record.xattrs != self.xattrs, format!("it counts {} attributes and has {}", record.xattrs, self.xattrs)),
            (acl_flags != (self.access_acl, self.default_acl), "it is wrong about its access control lists".to_owned()),
        ]
        .into_iter()
        .filter_map(|(wrong, finding)| wrong.then_some(finding))
        .collect()
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
