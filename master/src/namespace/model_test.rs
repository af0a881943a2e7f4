//! Random operations, compared with a tree in a map; then the records are checked and replayed.
//!
//! The model is the filesystem without records: nodes in a map, names in the directories. It says what each operation
//! answers and what is there afterwards. Everything is done by root: permissions have tests of their own. Nodes with odd
//! ids are known to the session, so that they are kept when they lose their last name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use proptest::prelude::*;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;
use rfs_common::leaf::CHUNK_BYTES;
use rfs_common::name::Name;

use super::ops::link::Link;
use super::ops::make::{Content, Make, Place};
use super::ops::read_directory::ReadDirectory;
use super::ops::release;
use super::ops::rename::{Rename, Target};
use super::ops::set_attributes::SetAttributes;
use super::ops::unlink::{Removes, Unlink};
use super::ops::world::World;
use super::ops::write::{Commit, GrantWrite, PunchHole, WrittenChunk};
use super::ops::xattrs::{SetXattr, XattrChange};
use super::records::NodeKind;
use super::source::{Change, MemorySource, Source};
use crate::operation::Caller;
use crate::store::Table;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ModelNode {
    kind: Option<NodeKind>,
    names: u32,
    entries: BTreeMap<Name, u64>,
    parent: u64,
    length: u64,
    nameable: bool,
}

impl ModelNode {
    fn is_directory(&self) -> bool {
        self.kind == Some(NodeKind::Directory)
    }
}

#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<u64, ModelNode>,
}

/// What the model knows of names.
impl Model {
    fn node(&self, id: u64) -> Result<&ModelNode, Errno> {
        self.nodes.get(&id).ok_or(Errno::ESTALE)
    }

    fn directory(&self, id: u64) -> Result<&ModelNode, Errno> {
        self.node(id).and_then(|node| if node.is_directory() { Ok(node) } else { Err(Errno::ENOTDIR) })
    }

    fn is_alive(&self, directory: u64) -> bool {
        directory == 1 || self.nodes[&directory].names > 0
    }

    fn can_add(&self, parent: u64, name: &Name) -> Result<(), Errno> {
        match self.directory(parent)?.entries.contains_key(name) {
            true => Err(Errno::EEXIST),
            false if self.is_alive(parent) => Ok(()),
            false => Err(Errno::ENOENT),
        }
    }

    fn is_at_or_above(&self, upper: u64, mut lower: u64) -> bool {
        while lower != upper && lower > 1 {
            lower = self.nodes.get(&lower).map_or(0, |node| node.parent);
        }
        lower == upper
    }

    fn add(&mut self, parent: u64, name: &Name, id: u64) {
        self.nodes.get_mut(&parent).unwrap().entries.insert(name.clone(), id);
        let node = self.nodes.get_mut(&id).unwrap();
        (node.names, node.nameable) = (node.names + 1, false);
        node.parent = if node.is_directory() { parent } else { 0 };
    }

    fn remove(&mut self, parent: u64, name: &Name) {
        let id = self.nodes.get_mut(&parent).unwrap().entries.remove(name).unwrap();
        let node = self.nodes.get_mut(&id).unwrap();
        (node.names, node.parent) = (node.names - 1, 0);
        if node.names == 0 && id.is_multiple_of(2) {
            self.nodes.remove(&id);
        }
    }

    fn unlink(&mut self, parent: u64, name: &Name, removes: Removes) -> Result<(), Errno> {
        let id = *self.directory(parent)?.entries.get(name).ok_or(Errno::ENOENT)?;
        match (removes, self.nodes[&id].is_directory()) {
            (Removes::NonDirectory, true) => Err(Errno::EISDIR),
            (Removes::Directory, false) => Err(Errno::ENOTDIR),
            (Removes::Directory, true) if !self.nodes[&id].entries.is_empty() => Err(Errno::ENOTEMPTY),
            _ => {
                self.remove(parent, name);
                Ok(())
            }
        }
    }

    fn link(&mut self, id: u64, parent: u64, name: &Name) -> Result<(), Errno> {
        let node = self.node(id)?.clone();
        self.can_add(parent, name)?;
        match node.is_directory() {
            true => Err(Errno::EPERM),
            false if node.names == 0 && !node.nameable => Err(Errno::ENOENT),
            false => {
                self.add(parent, name, id);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: (u64, &Name), to: (u64, &Name), target: Target) -> Result<(), Errno> {
        self.directory(from.0).and(self.directory(to.0))?;
        let source = *self.nodes[&from.0].entries.get(from.1).ok_or(Errno::ENOENT)?;
        let existing = self.nodes[&to.0].entries.get(to.1).copied();
        let is_directory = |id: u64| self.nodes[&id].is_directory();
        match (target, existing) {
            (Target::Keep, Some(_)) => return Err(Errno::EEXIST),
            (Target::Exchange, None) => return Err(Errno::ENOENT),
            _ if is_directory(source) && self.is_at_or_above(source, to.0) => return Err(Errno::EINVAL),
            (Target::Exchange, Some(id)) if is_directory(id) && self.is_at_or_above(id, from.0) => {
                return Err(Errno::EINVAL);
            }
            (_, Some(id)) if is_directory(id) && self.is_at_or_above(id, from.0) => return Err(Errno::ENOTEMPTY),
            (_, Some(id)) if id == source => return Ok(()),
            _ if !self.is_alive(to.0) => return Err(Errno::ENOENT),
            (Target::Exchange, Some(id)) => {
                for (at, id) in [(from, id), (to, source)] {
                    self.nodes.get_mut(&at.0).unwrap().entries.insert(at.1.clone(), id);
                    let node = self.nodes.get_mut(&id).unwrap();
                    node.parent = if node.is_directory() { at.0 } else { 0 };
                }
                return Ok(());
            }
            (_, Some(id)) => match (is_directory(source), is_directory(id)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ if !self.nodes[&id].entries.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => self.remove(to.0, to.1),
            },
            (_, None) => {}
        }
        self.add(to.0, to.1, source);
        self.nodes.get_mut(&from.0).unwrap().entries.remove(from.1);
        self.nodes.get_mut(&source).unwrap().names -= 1;
        Ok(())
    }

    fn file(&mut self, id: u64) -> Result<&mut ModelNode, Errno> {
        let node = self.nodes.get_mut(&id).ok_or(Errno::ESTALE)?;
        match node.kind {
            Some(NodeKind::File) => Ok(node),
            Some(NodeKind::Directory) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// One random operation; the numbers choose among the nodes ever made and among four names.
#[derive(Debug, Clone)]
struct Step {
    operation: u8,
    nodes: (u8, u8),
    names: (u8, u8),
    number: u32,
}

fn step() -> impl Strategy<Value = Step> {
    (0..16_u8, (any::<u8>(), any::<u8>()), (0..4_u8, 0..4_u8), any::<u32>())
        .prop_map(|(operation, nodes, names, number)| Step { operation, nodes, names, number })
}

/// What the namespace answers, and what the model says that it must.
type Answers = (Result<(), Errno>, Result<(), Errno>);

struct Pair {
    world: World,
    model: Model,
    ever: Vec<u64>,
}

impl Pair {
    fn new() -> Pair {
        let root = ModelNode { kind: Some(NodeKind::Directory), parent: 1, ..ModelNode::default() };
        Pair { world: World::new(), model: Model { nodes: BTreeMap::from([(1, root)]) }, ever: vec![1] }
    }

    /// Does one step in both; what each answers.
    fn run(&mut self, step: &Step) -> Answers {
        let (first, second) = (self.pick(step.nodes.0), self.pick(step.nodes.1));
        let name = |number: u8| Name::new(&[b'a' + number]).unwrap();
        let (name, new_name) = (name(step.names.0), name(step.names.1));
        match step.operation {
            0..=2 => self.make(first, &Place::Name(name), Content::Directory),
            3..=4 => self.make(first, &Place::Name(name), Content::File),
            5 => self.make(first, &Place::Name(name), Content::Symlink(b"x".to_vec())),
            6 => self.make(first, &Place::Unnamed, Content::File),
            7 => self.link(first, second, name),
            8 => self.unlink(first, name, Removes::NonDirectory),
            9 => self.unlink(first, name, Removes::Directory),
            10..=11 => {
                let target = [Target::Replace, Target::Keep, Target::Exchange][step.number as usize % 3];
                self.rename((first, name), (second, new_name), target)
            }
            12 => self.truncate(first, u64::from(step.number % 5) * CHUNK_BYTES / 2),
            13 => self.write(first, step.number % 3, step.number % (CHUNK_BYTES as u32 + 1)),
            14 if step.number.is_multiple_of(4) => self.release(),
            14 => self.punch(first, step.number % 3),
            _ => self.set_xattr(first, step),
        }
    }

    /// Half of the numbers choose a directory that exists, the others any node that ever was.
    fn pick(&self, number: u8) -> u64 {
        let directories: Vec<u64> =
            self.model.nodes.iter().filter(|(_, node)| node.is_directory()).map(|(id, _)| *id).collect();
        let from = if number.is_multiple_of(2) { &directories } else { &self.ever };
        from[usize::from(number / 2) % from.len()]
    }

    fn make(&mut self, parent: u64, place: &Place, content: Content) -> Answers {
        let kind = match content {
            Content::Directory => NodeKind::Directory,
            Content::File => NodeKind::File,
            _ => NodeKind::Symlink,
        };
        let expected = match place {
            Place::Name(name) => self.model.can_add(parent, name),
            _ => match self.model.directory(parent) {
                Ok(_) if !self.model.is_alive(parent) => Err(Errno::ENOENT),
                checked => checked.map(|_| ()),
            },
        };
        let make = Make {
            caller: Caller::root(),
            parent: InodeId::new(parent),
            place: place.clone(),
            content,
            mode: 0o755,
            umask: 0,
        };
        let made = self.world.run(&make);
        if let Ok(made) = &made {
            let (id, nameable) = (made.node.inode.get(), *place == Place::Unnamed);
            assert!(!self.ever.contains(&id), "id {id} was given twice");
            self.ever.push(id);
            if id % 2 == 1 {
                self.world.known_by.insert(made.node.inode, vec![self.world.session]);
            }
            self.model.nodes.insert(id, ModelNode { kind: Some(kind), nameable, ..ModelNode::default() });
            if let Place::Name(name) = place {
                self.model.add(parent, name, id);
            }
        }
        (made.map(|_| ()), expected)
    }

    fn link(&mut self, id: u64, parent: u64, name: Name) -> Answers {
        let expected = self.model.link(id, parent, &name);
        let (inode, parent) = (InodeId::new(id), InodeId::new(parent));
        (self.world.run(&Link { caller: Caller::root(), inode, parent, name }).map(|_| ()), expected)
    }

    fn unlink(&mut self, parent: u64, name: Name, removes: Removes) -> Answers {
        let expected = self.model.unlink(parent, &name, removes);
        let parent = InodeId::new(parent);
        (self.world.run(&Unlink { caller: Caller::root(), parent, name, removes }).map(|_| ()), expected)
    }

    fn rename(&mut self, from: (u64, Name), to: (u64, Name), target: Target) -> Answers {
        let expected = self.model.rename((from.0, &from.1), (to.0, &to.1), target);
        let rename = Rename {
            caller: Caller::root(),
            parent: InodeId::new(from.0),
            name: from.1,
            new_parent: InodeId::new(to.0),
            new_name: to.1,
            target,
        };
        (self.world.run(&rename).map(|_| ()), expected)
    }

    fn truncate(&mut self, id: u64, length: u64) -> Answers {
        let expected = self.model.file(id).map(|file| file.length = length);
        let truncate = SetAttributes { length: Some(length), ..SetAttributes::of(Caller::root(), InodeId::new(id)) };
        (self.world.run(&truncate).map(|_| ()), expected)
    }

    fn write(&mut self, id: u64, index: u32, bytes: u32) -> Answers {
        let inode = InodeId::new(id);
        let grant = self.world.run(&GrantWrite { inode, index });
        let expected = self.model.file(id).map(|_| ());
        // One in four is given up before it is committed.
        if let (Ok(grant), true) = (&grant, !bytes.is_multiple_of(4)) {
            let end = u64::from(index) * CHUNK_BYTES + u64::from(bytes);
            let file = self.model.file(id).unwrap();
            file.length = file.length.max(end);
            let chunk = WrittenChunk { index, chunk: grant.chunk, version: grant.version, length: bytes };
            let length = Some(file.length);
            self.world
                .run(&Commit { inode, length, modified: None, chunks: vec![chunk], kill_set_id: false, durable: true })
                .unwrap();
        }
        (grant.map(|_| ()), expected)
    }

    fn punch(&mut self, id: u64, first_index: u32) -> Answers {
        let expected = self.model.file(id).map(|_| ());
        let punch = PunchHole { inode: InodeId::new(id), first_index, end_index: first_index + 1 };
        (self.world.run(&punch).map(|_| ()), expected)
    }

    fn release(&mut self) -> Answers {
        let session = self.world.session;
        self.model.nodes.retain(|id, node| *id == 1 || node.names > 0);
        (self.world.with(|transaction| release::end_session(transaction, session)).map(|_| ()), Ok(()))
    }

    fn set_xattr(&mut self, id: u64, step: &Step) -> Answers {
        let expected = self.model.node(id).map(|_| ());
        let change = match step.number % 3 {
            0 => XattrChange::Remove,
            _ => XattrChange::Set { value: vec![1; step.number as usize % 50], exists: None },
        };
        let name = [b"trusted.", &[b'a' + step.names.0][..]].concat();
        let set = self.world.run(&SetXattr { caller: Caller::root(), inode: InodeId::new(id), name, change });
        (if set == Err(Errno::ENODATA) { Ok(()) } else { set.map(|_| ()) }, expected)
    }

    /// Both have the same tree.
    fn compare(&mut self) {
        assert_eq!(self.world.system().inodes, self.model.nodes.len() as u64);
        for (id, node) in &self.model.nodes {
            let inode = InodeId::new(*id);
            let record = self.world.node(inode);
            assert_eq!((Some(record.kind()), record.length), (node.kind, node.length), "inode {id}");
            if !node.is_directory() {
                assert_eq!(record.links, node.names, "inode {id}");
                continue;
            }
            assert_eq!(record.parent, node.parent, "directory {id}");
            let caller = Caller::root();
            let list = ReadDirectory { caller, inode, after: None, entries_max: 99, with_attributes: false };
            let listing = self.world.run(&list).unwrap();
            let listed: BTreeMap<Name, u64> =
                listing.entries.iter().map(|entry| (Name::new(&entry.name).unwrap(), entry.inode.get())).collect();
            assert_eq!(listed, node.entries, "directory {id}");
        }
    }
}

fn dump(source: &dyn Source) -> Vec<Change> {
    let mut records = Vec::new();
    for table in Table::ALL {
        let visit = &mut |key: &[u8], value: &[u8]| {
            records.push(Change::Put { table, key: key.to_vec(), value: value.to_vec() });
            ControlFlow::Continue(())
        };
        source.scan(table, Bound::Unbounded, Bound::Unbounded, visit).unwrap();
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_namespace_behaves_like_a_tree_in_a_map(steps in prop::collection::vec(step(), 1..150)) {
        let mut pair = Pair::new();
        for step in &steps {
            let (answer, expected) = pair.run(step);
            prop_assert_eq!(answer, expected, "{:?}", step);
        }
        pair.compare();
        pair.world.check();
        let replayed = MemorySource::default();
        replayed.apply(&pair.world.log);
        replayed.apply(&pair.world.log);
        prop_assert_eq!(dump(&replayed), dump(&*pair.world.source));
    }
}

/// The random steps reach every answer that the model can give: otherwise they would prove little.
#[test]
fn random_steps_reach_successes_and_errors() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut answers = BTreeSet::new();
    for _ in 0..100 {
        let mut pair = Pair::new();
        for step in prop::collection::vec(step(), 150).new_tree(&mut runner).unwrap().current() {
            answers.insert((step.operation, pair.run(&step).0.err()));
        }
    }
    for (operation, errno) in [
        (0, None),
        (0, Some(Errno::ENOENT)),
        (7, None),
        (7, Some(Errno::EPERM)),
        (7, Some(Errno::ENOENT)),
        (8, None),
        (9, Some(Errno::ENOTEMPTY)),
        (10, None),
        (10, Some(Errno::EINVAL)),
        (10, Some(Errno::ENOTEMPTY)),
        (10, Some(Errno::EISDIR)),
        (12, Some(Errno::ESTALE)),
        (13, None),
        (14, None),
    ] {
        assert!(answers.contains(&(operation, errno)), "operation {operation} never answered {errno:?}");
    }
}
