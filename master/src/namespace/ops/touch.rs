//! Noting that nodes were read.
//!
//! A client tells it some time later and of many nodes at once. So each touch may come too late, and is then dropped: when
//! the node is not the one any more that was read (its revision says so), when another access is noted that is younger, or
//! when, by relatime's rule, another client's access has made this one superfluous. A time of access never goes back.

use rfs_common::access_time::Times;
use rfs_common::clock::Time;
use rfs_common::errno::Errno;
use rfs_common::ids::InodeId;

use crate::namespace::metadata::Transaction;
use crate::namespace::records::InodeRecord;
use crate::operation::{Context, Need, Operation};

/// A node that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The node.
    pub inode: InodeId,
    /// When.
    pub accessed: Time,
    /// What the node must still be.
    pub seen: Seen,
    /// Which accesses are noted.
    pub rule: AccessRule,
}

/// What a client knew of the node when it told of the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was this one.
    Revision(u64),
    /// It was asked to forget the node's attributes, and nothing has happened to the node since: it is the present one.
    Present,
}

/// Which accesses are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRule {
    /// Those that are due by relatime's rule.
    WhenDue,
    /// All.
    Always,
}

/// What became of a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The node.
    pub inode: InodeId,
    /// The node's revision afterwards; 0 if there is none.
    pub revision: u64,
    /// Whether its time of access has changed.
    pub applied: bool,
}

/// Notes accesses of nodes. It needs nothing out of other sessions' hands: they are told afterwards.
#[derive(Debug, Clone)]
pub struct TouchNodes {
    /// The accesses.
    pub touches: Vec<Touch>,
}

impl Operation for TouchNodes {
    type Outcome = Vec<Touched>;
    const CHANGES: bool = true;

    fn needs(&self, _view: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Need>, Errno> {
        Ok(Vec::new())
    }

    fn run(&self, transaction: &mut Transaction<'_>, _context: &Context<'_>) -> Result<Vec<Touched>, Errno> {
        self.touches.iter().map(|touch| touch.run(transaction)).collect()
    }
}

impl Touch {
    fn run(&self, transaction: &mut Transaction<'_>) -> Result<Touched, Errno> {
        let inode = self.inode;
        let Some(node) = transaction.inode(inode)? else { return Ok(Touched { inode, revision: 0, applied: false }) };
        if !self.counts_for(&node) {
            return Ok(Touched { inode, revision: node.revision, applied: false });
        }
        let node = transaction.update(inode, |node| node.accessed = self.accessed.into())?;
        Ok(Touched { inode, revision: node.revision, applied: true })
    }

    fn counts_for(&self, node: &InodeRecord) -> bool {
        let times =
            Times { accessed: node.accessed.into(), modified: node.modified.into(), changed: node.changed.into() };
        let is_same = match self.seen {
            Seen::Revision(revision) => revision == node.revision,
            Seen::Present => true,
        };
        let wanted = self.rule == AccessRule::Always || times.access_is_due(self.accessed);
        is_same && wanted && self.accessed > times.accessed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::ops::set_attributes::{SetAttributes, TimeChange};
    use crate::namespace::ops::world::World;
    use crate::operation::Caller;

    const ROOT: InodeId = InodeId::ROOT;

    fn touch(world: &World, inode: InodeId, seconds: i64) -> Touch {
        let revision = world.stored(inode).unwrap().revision;
        let (accessed, seen) = (Time::from_seconds(seconds), Seen::Revision(revision));
        Touch { inode, accessed, seen, rule: AccessRule::WhenDue }
    }

    fn run(world: &mut World, touch: Touch) -> bool {
        world.run(&TouchNodes { touches: vec![touch] }).unwrap()[0].applied
    }

    fn accessed(world: &World, inode: InodeId) -> Time {
        world.stored(inode).unwrap().accessed.into()
    }

    #[test]
    fn only_the_time_of_access_changes_and_never_goes_back() {
        let mut world = World::new();
        let inode = world.file(ROOT, "f", 0o644);
        let before = world.stored(inode).unwrap();
        let (first, earlier) = (touch(&world, inode, 5_000), touch(&world, inode, 4_000));
        assert!(run(&mut world, first));
        let after = world.stored(inode).unwrap();
        assert_eq!((after.modified, after.changed, after.mode), (before.modified, before.changed, before.mode));
        assert_eq!(accessed(&world, inode), Time::from_seconds(5_000));
        assert!(!run(&mut world, Touch { rule: AccessRule::Always, seen: Seen::Present, ..earlier }));
        assert_eq!(accessed(&world, inode), Time::from_seconds(5_000));
        world.check();
    }

    #[test]
    fn relatime_notes_one_access_and_strictatime_all() {
        let mut world = World::new();
        let inode = world.file(ROOT, "f", 0o644);
        let first = touch(&world, inode, 5_000);
        assert!(run(&mut world, first));
        let second = touch(&world, inode, 5_001);
        assert!(!run(&mut world, second), "nothing has changed since the first");
        assert!(run(&mut world, Touch { rule: AccessRule::Always, ..second }));
        let next_day = touch(&world, inode, 5_001 + 86_400);
        assert!(run(&mut world, next_day));
    }

    #[test]
    fn a_late_touch_does_not_undo_what_was_set() {
        let mut world = World::new();
        let inode = world.file(ROOT, "f", 0o644);
        let late = touch(&world, inode, 5_000);
        let back = TimeChange::To(Time::from_seconds(7));
        world.run(&SetAttributes { accessed: back, ..SetAttributes::of(Caller::root(), inode) }).unwrap();
        assert!(!run(&mut world, late));
        assert_eq!(accessed(&world, inode), Time::from_seconds(7));
        let gone = Touch { inode: InodeId::new(99_999), ..late };
        let result = world.run(&TouchNodes { touches: vec![gone] }).unwrap();
        assert_eq!((result[0].revision, result[0].applied), (0, false));
    }
}
