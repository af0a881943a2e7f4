//! Nodes without a name, and the sessions for which they are kept.

use std::ops::{Bound, ControlFlow};

use rfs_common::errno::Errno;
use rfs_common::ids::{InodeId, SessionId};

use crate::namespace::entries;
use crate::namespace::metadata::Transaction;
use crate::namespace::records::{self, OrphanRecord};
use crate::operation::{Context, Need, Operation};

/// The session is done with these orphans. Nodes that are none, or not kept for it, are passed over.
#[derive(Debug, Clone)]
pub struct ReleaseOrphans {
    /// The nodes.
    pub inodes: Vec<InodeId>,
}

impl Operation for ReleaseOrphans {
    /// The nodes that are gone now.
    type Outcome = Vec<InodeId>;
    // A session that may change nothing has open files of others too, and must be able to let go of them.
    const CHANGES: bool = false;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, context: &Context<'_>) -> Result<Vec<InodeId>, Errno> {
        let mut gone = Vec::new();
        for inode in &self.inodes {
            if release(transaction, *inode, context.session)? {
                gone.push(*inode);
            }
        }
        Ok(gone)
    }
}

/// Releases every orphan that is kept for a session which has ended; the nodes that are gone now.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn end_session(transaction: &mut Transaction<'_>, session: SessionId) -> Result<Vec<InodeId>, Errno> {
    let mut kept = Vec::new();
    transaction.scan::<OrphanRecord>(Bound::Unbounded, Bound::Unbounded, &mut |key, orphan| {
        if let Some((inode, _)) = records::split_key(key)
            && orphan.sessions.contains(&session.get())
        {
            kept.push(InodeId::new(inode));
        }
        ControlFlow::Continue(())
    })?;
    let mut gone = Vec::new();
    for inode in kept {
        if release(transaction, inode, session)? {
            gone.push(inode);
        }
    }
    Ok(gone)
}

/// Keeps an orphan for one more session (one that says, after a restart of the master, that it has the node open). False
/// if the node is no orphan.
///
/// # Errors
/// `EIO` if records cannot be read.
pub fn keep_for(transaction: &mut Transaction<'_>, inode: InodeId, session: SessionId) -> Result<bool, Errno> {
    let Some(mut orphan) = transaction.orphan(inode)? else { return Ok(false) };
    if let Err(at) = orphan.sessions.binary_search(&session.get()) {
        orphan.sessions.insert(at, session.get());
        transaction.put_orphan(inode, &orphan)?;
    }
    Ok(true)
}

/// Takes a session off an orphan; the last one takes the node with it. Whether it did.
fn release(transaction: &mut Transaction<'_>, inode: InodeId, session: SessionId) -> Result<bool, Errno> {
    let Some(mut orphan) = transaction.orphan(inode)? else { return Ok(false) };
    let before = orphan.sessions.len();
    orphan.sessions.retain(|kept_for| *kept_for != session.get());
    if orphan.sessions.len() == before {
        return Ok(false);
    }
    if orphan.sessions.is_empty() {
        entries::erase(transaction, inode)?;
        return Ok(true);
    }
    transaction.put_orphan(inode, &orphan)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::ops::world::World;

    #[test]
    fn a_session_that_ends_lets_go_of_all_its_orphans() {
        let mut world = World::new();
        let (first, second) = (SessionId::new(1), SessionId::new(2));
        let shared = world.file(InodeId::ROOT, "shared", 0o644);
        let own = world.mkdir(InodeId::ROOT, "own", 0o755);
        world.known_by.insert(shared, vec![first, second]);
        world.known_by.insert(own, vec![second]);
        world.unlink(InodeId::ROOT, "shared").unwrap();
        world.rmdir(InodeId::ROOT, "own").unwrap();
        world.check();
        assert_eq!(world.with(|transaction| end_session(transaction, second)), Ok(vec![own]));
        assert_eq!(world.with(|transaction| keep_for(transaction, shared, second)), Ok(true));
        assert_eq!(world.with(|transaction| end_session(transaction, first)), Ok(vec![]));
        world.check();
        assert_eq!(world.with(|transaction| end_session(transaction, second)), Ok(vec![shared]));
        assert_eq!(world.system().orphans, 0);
        world.check();
    }

    #[test]
    fn passes_over_what_is_not_the_sessions_orphan() {
        let mut world = World::new();
        let file = world.file(InodeId::ROOT, "f", 0o644);
        world.read_only = true;
        let release = ReleaseOrphans { inodes: vec![file, InodeId::new(12345)] };
        assert_eq!(world.run(&release), Ok(vec![]));
        assert!(world.stored(file).is_some());
    }
}
