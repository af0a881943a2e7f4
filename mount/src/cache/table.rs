//! All nodes known to this client, in shards, and those that nobody needs any more, oldest first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rfs_common::clock::Monotonic;
use rfs_common::ids::InodeId;

use super::node::Node;

const SHARDS: usize = 32;

/// The table.
#[derive(Debug)]
pub struct Table<C> {
    shards: Vec<Mutex<HashMap<InodeId, Arc<Node<C>>>>>,
    /// Nodes that the kernel forgot and nobody has open, with the time when that began. A node may stand here more than
    /// once, or be needed again: whoever evicts looks.
    idle: Mutex<VecDeque<(InodeId, Monotonic)>>,
}

impl<C> Default for Table<C> {
    fn default() -> Table<C> {
        Table { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), idle: Mutex::default() }
    }
}

impl<C> Table<C> {
    /// The node, if it is known.
    pub fn get(&self, inode: InodeId) -> Option<Arc<Node<C>>> {
        self.shard(inode).get(&inode).cloned()
    }

    /// The node, known from now on.
    pub fn get_or_insert(&self, inode: InodeId) -> Arc<Node<C>> {
        Arc::clone(self.shard(inode).entry(inode).or_insert_with(|| Arc::new(Node::new(inode))))
    }

    /// Takes out a node that `unneeded` still says is not needed; asked while nobody can find it anew.
    pub fn remove_if(&self, inode: InodeId, unneeded: impl FnOnce(&Arc<Node<C>>) -> bool) -> bool {
        let mut shard = self.shard(inode);
        let remove = shard.get(&inode).is_some_and(unneeded);
        if remove {
            shard.remove(&inode);
        }
        remove
    }

    /// All nodes.
    pub fn all(&self) -> Vec<Arc<Node<C>>> {
        let lock = |shard: &Mutex<HashMap<_, _>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(lock).collect()
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that nobody needs a node now.
    pub fn note_idle(&self, inode: InodeId, now: Monotonic) {
        self.idle().push_back((inode, now));
    }

    /// Nodes that began to be idle before `before`, or are the oldest beyond `count_max`; at most `batch`.
    pub fn take_idle(&self, before: Monotonic, count_max: usize, batch: usize) -> Vec<InodeId> {
        let mut idle = self.idle();
        let mut taken = Vec::new();
        while taken.len() < batch {
            let too_many = idle.len() > count_max;
            match idle.front() {
                Some((inode, since)) if too_many || *since < before => {
                    taken.push(*inode);
                    idle.pop_front();
                }
                _ => break,
            }
        }
        taken
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(InodeId, Monotonic)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, inode: InodeId) -> MutexGuard<'_, HashMap<InodeId, Arc<Node<C>>>> {
        self.shards[inode.get() as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
