//! A filesystem in one screen: what rfs must be like, without disks, networks or time. Random operations run against it
//! and against a real folder, and every answer is compared.

use std::collections::BTreeMap;

use rfs_common::errno::Errno;

type Id = usize;
type Path = Vec<String>;

/// A node of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Content and mode.
    File(Vec<u8>, u32),
    /// Target.
    Symlink(String),
    /// Names and mode.
    Directory(BTreeMap<String, Id>, u32),
}

/// The model: nodes by number, number 0 the root.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Self {
        Self { nodes: vec![Node::Directory(BTreeMap::new(), 0o755)] }
    }
}

/// What can be done. Paths are lists of names from the root of the test.
#[derive(Clone, Debug)]
pub enum Operation {
    /// open(O_CREAT | O_EXCL), close
    Create(Path),
    /// pwrite
    Write(Path, u64, Vec<u8>),
    /// truncate
    Truncate(Path, u64),
    /// mkdir
    Mkdir(Path),
    /// unlink
    Unlink(Path),
    /// rmdir
    Rmdir(Path),
    /// rename
    Rename(Path, Path),
    /// link
    Link(Path, Path),
    /// symlink
    Symlink(String, Path),
    /// chmod
    Chmod(Path, u32),
    /// read all of it
    Read(Path),
    /// names in a directory, sorted
    List(Path),
    /// kind, length, links of a file, mode
    Stat(Path),
}

/// What an operation answers, in a form that can be compared.
pub type Answer = Result<String, Errno>;

/// A content in a form that can be compared and read: its length and its runs of equal bytes.
pub fn describe(content: &[u8]) -> String {
    let runs = content.chunk_by(|one, next| one == next).map(|run| format!(" {:02x}*{}", run[0], run.len()));
    format!("{} bytes:{}", content.len(), runs.collect::<String>())
}

impl Model {
    /// Runs one.
    ///
    /// # Errors
    /// What the real thing must answer too.
    pub fn run(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Create(path) => self.add(path, Node::File(Vec::new(), 0o644)),
            Operation::Mkdir(path) => self.add(path, Node::Directory(BTreeMap::new(), 0o755)),
            Operation::Symlink(target, path) => self.add(path, Node::Symlink(target.clone())),
            Operation::Write(path, offset, data) => {
                let content = self.file(path)?;
                let end = usize::try_from(*offset).expect("small") + data.len();
                content.resize(content.len().max(end), 0);
                content[end - data.len()..end].copy_from_slice(data);
                Ok(String::new())
            }
            Operation::Truncate(path, length) => {
                self.file(path)?.resize(usize::try_from(*length).expect("small"), 0);
                Ok(String::new())
            }
            Operation::Read(path) => self.file(path).map(|content| describe(content)),
            Operation::Unlink(path) => {
                let (parent, name, id) = self.entry(path)?;
                if matches!(self.nodes[id], Node::Directory(..)) {
                    return Err(Errno::EISDIR);
                }
                self.names(parent)?.remove(&name);
                Ok(String::new())
            }
            Operation::Rmdir(path) => {
                let (parent, name, id) = self.entry(path)?;
                self.must_be_empty(id)?;
                self.names(parent)?.remove(&name);
                Ok(String::new())
            }
            Operation::Rename(from, to) => self.rename(from, to),
            Operation::Link(from, to) => {
                let (_, _, id) = self.entry(from)?;
                let (parent, name) = self.place(to)?;
                if self.names(parent)?.contains_key(&name) {
                    return Err(Errno::EEXIST);
                }
                if matches!(self.nodes[id], Node::Directory(..)) {
                    return Err(Errno::EPERM);
                }
                self.names(parent)?.insert(name, id);
                Ok(String::new())
            }
            Operation::Chmod(path, new) => {
                let (_, _, id) = self.entry(path)?;
                match &mut self.nodes[id] {
                    Node::File(_, mode) | Node::Directory(_, mode) => *mode = *new,
                    Node::Symlink(_) => return Err(Errno::ELOOP),
                }
                Ok(String::new())
            }
            Operation::List(path) => {
                let id = self.find(path)?;
                Ok(self.names(id)?.keys().cloned().collect::<Vec<_>>().join(" "))
            }
            Operation::Stat(path) => {
                let id = self.find(path)?;
                let links = self.nodes.iter().map(|node| match node {
                    Node::Directory(names, _) => names.values().filter(|other| **other == id).count(),
                    _ => 0,
                });
                Ok(match &self.nodes[id] {
                    Node::File(content, mode) => format!("file {} {} {mode:o}", content.len(), links.sum::<usize>()),
                    Node::Symlink(target) => format!("link {target}"),
                    Node::Directory(_, mode) => format!("directory {mode:o}"),
                })
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Answer {
        // Linux looks both parents up, then refuses loops, before it looks at the names.
        let (from_parent, from_name) = self.place(from)?;
        let (to_parent, to_name) = self.place(to)?;
        let id = *self.names(from_parent)?.get(&from_name).ok_or(Errno::ENOENT)?;
        if to.len() > from.len() && to.starts_with(from) {
            return Err(Errno::EINVAL);
        }
        if let Some(&replaced) = self.names(to_parent)?.get(&to_name) {
            if from.len() > to.len() && from.starts_with(to) {
                return Err(Errno::ENOTEMPTY);
            }
            if replaced == id {
                return Ok(String::new());
            }
            match (&self.nodes[id], &self.nodes[replaced]) {
                (Node::Directory(..), Node::Directory(..)) => self.must_be_empty(replaced)?,
                (Node::Directory(..), _) => return Err(Errno::ENOTDIR),
                (_, Node::Directory(..)) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        self.names(from_parent)?.remove(&from_name);
        self.names(to_parent)?.insert(to_name, id);
        Ok(String::new())
    }

    fn add(&mut self, path: &Path, node: Node) -> Answer {
        let (parent, name) = self.place(path)?;
        if self.names(parent)?.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        let id = self.nodes.len();
        self.nodes.push(node);
        self.names(parent)?.insert(name, id);
        Ok(String::new())
    }

    fn find(&self, path: &[String]) -> Result<Id, Errno> {
        path.iter().try_fold(0, |id, name| match &self.nodes[id] {
            Node::Directory(names, _) => names.get(name).copied().ok_or(Errno::ENOENT),
            // The tests' links lead nowhere.
            Node::Symlink(_) => Err(Errno::ENOENT),
            Node::File(..) => Err(Errno::ENOTDIR),
        })
    }

    fn place(&self, path: &Path) -> Result<(Id, String), Errno> {
        let (name, parent) = path.split_last().expect("never the root");
        let id = self.find(parent)?;
        match self.nodes[id] {
            Node::Directory(..) => Ok((id, name.clone())),
            Node::Symlink(_) => Err(Errno::ENOENT),
            Node::File(..) => Err(Errno::ENOTDIR),
        }
    }

    fn entry(&mut self, path: &Path) -> Result<(Id, String, Id), Errno> {
        let (parent, name) = self.place(path)?;
        let id = *self.names(parent)?.get(&name).ok_or(Errno::ENOENT)?;
        Ok((parent, name, id))
    }

    fn file(&mut self, path: &Path) -> Result<&mut Vec<u8>, Errno> {
        let id = self.find(path)?;
        match &mut self.nodes[id] {
            Node::File(content, _) => Ok(content),
            Node::Directory(..) => Err(Errno::EISDIR),
            Node::Symlink(_) => Err(Errno::ELOOP),
        }
    }

    fn names(&mut self, id: Id) -> Result<&mut BTreeMap<String, Id>, Errno> {
        match &mut self.nodes[id] {
            Node::Directory(names, _) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn must_be_empty(&self, id: Id) -> Result<(), Errno> {
        match &self.nodes[id] {
            Node::Directory(names, _) if names.is_empty() => Ok(()),
            Node::Directory(..) => Err(Errno::ENOTEMPTY),
            _ => Err(Errno::ENOTDIR),
        }
    }
}
