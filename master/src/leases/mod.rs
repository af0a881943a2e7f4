//! Which session may keep what of which node: leases, and who knows a node at all.
//!
//! A pure state machine without clock or IO (docs/protocol.md, section 2). [`Leases::conflicts`] says what must be
//! recalled from whom before something may happen; [`Leases::answer`] gives the lease that an answer carries;
//! [`Leases::take_write`] gives the exclusive one once nothing conflicts. `recalls.rs` keeps the recalls on their way.
//!
//! What always holds, and is asserted: a node has at most one holder of a WRITE lease, and then nobody else holds any; no
//! answer gives a lease on a frozen node. A session that was ever told of a node stays among those that know it
//! (mode [`LeaseMode::None`]) until it forgets it or ends.

mod recalls;

use std::collections::{BTreeMap, HashMap, HashSet};

use rfs_common::ids::{InodeId, LeaseGrant, SessionId};
use rfs_common::name::Name;

use crate::operation::Need;

pub use recalls::{Outstanding, RecallId, Recalls};

/// What a session may keep of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LeaseMode {
    /// Nothing; but it knows the node.
    #[default]
    None,
    /// Attributes, data, entries.
    Read,
    /// The same, and it may change a file's length, times and data first and tell the master later.
    Write,
}

/// A lease as it is told to the session that has it, or, in a recall, the mode that it is to come down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node.
    pub inode: InodeId,
    /// What may be kept.
    pub mode: LeaseMode,
    /// Which grant this is, or, in a recall, up to which grant it counts.
    pub grant: LeaseGrant,
}

/// What one session is asked to give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecallItems {
    /// Leases to bring down.
    pub leases: Vec<Lease>,
    /// Names to forget; the lease on the directory stays.
    pub entries: Vec<(InodeId, Vec<Name>)>,
    /// Attributes to forget; the lease on the node stays.
    pub attributes: Vec<InodeId>,
}

/// What sessions have forgotten for the sake of one waiting operation. It counts for as long as the nodes stay frozen,
/// since no session can be given the same again meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Forgotten {
    entries: HashSet<(SessionId, InodeId, Name)>,
    attributes: HashSet<(SessionId, InodeId)>,
}

impl Forgotten {
    /// Notes what a session has carried out.
    pub fn add(&mut self, session: SessionId, items: &RecallItems) {
        for (directory, names) in &items.entries {
            self.entries.extend(names.iter().map(|name| (session, *directory, name.clone())));
        }
        self.attributes.extend(items.attributes.iter().map(|inode| (session, *inode)));
    }

    /// The session has been given a lease although the node is frozen, and may have learned anew what it had forgotten.
    pub fn given_anew(&mut self, session: SessionId, inode: InodeId) {
        self.attributes.remove(&(session, inode));
        self.entries.retain(|(of, directory, _)| (*of, *directory) != (session, inode));
    }
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    mode: LeaseMode,
    grant: LeaseGrant,
}

#[derive(Debug, Default)]
struct Node {
    holders: Vec<Holder>,
    /// How many operations wait for leases on it.
    frozen: u32,
}

impl Node {
    fn holder(&self, session: SessionId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.session == session)
    }

    fn others(&self, session: SessionId) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.session != session)
    }

    fn set(&mut self, session: SessionId, mode: LeaseMode, grant: LeaseGrant) {
        match self.holders.iter_mut().find(|holder| holder.session == session) {
            Some(holder) => (holder.mode, holder.grant) = (mode, grant),
            None => self.holders.push(Holder { session, mode, grant }),
        }
        self.check();
    }

    fn check(&self) {
        let held = self.holders.iter().filter(|holder| holder.mode > LeaseMode::None);
        let (mut count, mut writers) = (0, 0);
        for holder in held {
            count += 1;
            writers += u32::from(holder.mode == LeaseMode::Write);
        }
        assert!(writers == 0 || count == 1, "{writers} of {count} lease holders of one node may write");
    }
}

/// All leases.
#[derive(Debug)]
pub struct Leases {
    nodes: HashMap<InodeId, Node>,
    sessions: HashMap<SessionId, HashSet<InodeId>>,
    grant_last: LeaseGrant,
}

impl Leases {
    /// No leases. Grants are numbered above every grant of earlier starts of the master.
    pub fn new(master_start: u64) -> Leases {
        const GRANTS_PER_START: u32 = 40;
        let grant_last = LeaseGrant::new(master_start << GRANTS_PER_START);
        Leases { nodes: HashMap::new(), sessions: HashMap::new(), grant_last }
    }

    /// What must be recalled, and from whom, before `session` may do what has these needs. What a session has already
    /// forgotten for this operation is left out. Empty: nothing is in the way.
    pub fn conflicts(
        &self,
        session: SessionId,
        needs: &[Need],
        forgotten: &Forgotten,
    ) -> BTreeMap<SessionId, RecallItems> {
        let mut found: BTreeMap<SessionId, RecallItems> = BTreeMap::new();
        for need in needs {
            match need {
                Need::Read(inode) => self.lower_others(session, *inode, LeaseMode::Read, &mut found),
                Need::ChangeData(inode) => self.lower_others(session, *inode, LeaseMode::None, &mut found),
                Need::ChangeAttributes(inode) => {
                    self.lower_others(session, *inode, LeaseMode::Read, &mut found);
                    self.forget_attributes(session, *inode, forgotten, &mut found);
                }
                Need::ChangeEntries(directory, names) => {
                    self.forget_entries(session, *directory, names, forgotten, &mut found);
                    self.forget_attributes(session, *directory, forgotten, &mut found);
                }
                Need::Write(_) => {}
            }
        }
        found
    }

    fn lower_others(
        &self,
        session: SessionId,
        inode: InodeId,
        to: LeaseMode,
        found: &mut BTreeMap<SessionId, RecallItems>,
    ) {
        let Some(node) = self.nodes.get(&inode) else { return };
        for holder in node.others(session).filter(|holder| holder.mode > to) {
            let leases = &mut found.entry(holder.session).or_default().leases;
            match leases.iter_mut().find(|lease| lease.inode == inode) {
                Some(lease) => lease.mode = lease.mode.min(to),
                None => leases.push(Lease { inode, mode: to, grant: holder.grant }),
            }
        }
    }

    fn forget_attributes(
        &self,
        session: SessionId,
        inode: InodeId,
        forgotten: &Forgotten,
        found: &mut BTreeMap<SessionId, RecallItems>,
    ) {
        let Some(node) = self.nodes.get(&inode) else { return };
        let keeping = node.others(session).filter(|holder| holder.mode > LeaseMode::None);
        for holder in keeping.filter(|holder| !forgotten.attributes.contains(&(holder.session, inode))) {
            let attributes = &mut found.entry(holder.session).or_default().attributes;
            if !attributes.contains(&inode) {
                attributes.push(inode);
            }
        }
    }

    fn forget_entries(
        &self,
        session: SessionId,
        directory: InodeId,
        names: &[Name],
        forgotten: &Forgotten,
        found: &mut BTreeMap<SessionId, RecallItems>,
    ) {
        let Some(node) = self.nodes.get(&directory) else { return };
        for holder in node.others(session).filter(|holder| holder.mode > LeaseMode::None) {
            let is_new = |name: &&Name| !forgotten.entries.contains(&(holder.session, directory, (*name).clone()));
            let names: Vec<Name> = names.iter().filter(is_new).cloned().collect();
            if !names.is_empty() {
                found.entry(holder.session).or_default().entries.push((directory, names));
            }
        }
    }

    /// The lease that an answer about the node carries to the session, which knows it from now on: what it holds anyway,
    /// or READ if nobody may write and nobody waits; otherwise NONE, "use once".
    pub fn answer(&mut self, session: SessionId, inode: InodeId) -> Lease {
        let grant = self.next_grant();
        let node = self.nodes.entry(inode).or_default();
        self.sessions.entry(session).or_default().insert(inode);
        let held = node.holder(session).map_or(LeaseMode::None, |holder| holder.mode);
        let others_write = node.others(session).any(|holder| holder.mode == LeaseMode::Write);
        if node.frozen > 0 || others_write {
            if node.holder(session).is_none() {
                node.set(session, LeaseMode::None, grant);
            }
            return Lease { inode, mode: LeaseMode::None, grant };
        }
        let mode = held.max(LeaseMode::Read);
        node.set(session, mode, grant);
        Lease { inode, mode, grant }
    }

    /// Gives the session the WRITE lease. Nobody else may hold any: [`Leases::conflicts`] with [`Need::ChangeData`] was
    /// empty. That others wait for the node does not matter.
    pub fn take_write(&mut self, session: SessionId, inode: InodeId) -> Lease {
        let grant = self.next_grant();
        let node = self.nodes.entry(inode).or_default();
        node.set(session, LeaseMode::Write, grant);
        self.sessions.entry(session).or_default().insert(inode);
        Lease { inode, mode: LeaseMode::Write, grant }
    }

    /// What the session holds on the node.
    pub fn held(&self, session: SessionId, inode: InodeId) -> Option<Lease> {
        let holder = self.nodes.get(&inode)?.holder(session)?;
        Some(Lease { inode, mode: holder.mode, grant: holder.grant })
    }

    /// Whether the session holds the WRITE lease.
    pub fn may_write(&self, session: SessionId, inode: InodeId) -> bool {
        self.held(session, inode).is_some_and(|lease| lease.mode == LeaseMode::Write)
    }

    /// Who holds the WRITE lease, with it.
    pub fn writer(&self, inode: InodeId) -> Option<(SessionId, Lease)> {
        let holder = self.nodes.get(&inode)?.holders.iter().find(|holder| holder.mode == LeaseMode::Write)?;
        Some((holder.session, Lease { inode, mode: holder.mode, grant: holder.grant }))
    }

    /// The files that some session holds the WRITE lease on.
    pub fn written_nodes(&self) -> Vec<InodeId> {
        let written = |node: &Node| node.holders.iter().any(|holder| holder.mode == LeaseMode::Write);
        self.nodes.iter().filter(|(_, node)| written(node)).map(|(inode, _)| *inode).collect()
    }

    /// The sessions that know the node, whatever they hold, ascending.
    pub fn known_by(&self, inode: InodeId) -> Vec<SessionId> {
        let holders = self.nodes.get(&inode).into_iter().flat_map(|node| &node.holders);
        let mut sessions: Vec<SessionId> = holders.map(|holder| holder.session).collect();
        sessions.sort_unstable();
        sessions
    }

    /// The session brings its lease down, as asked or by itself. A newer grant than `lease.grant` stays.
    pub fn lower(&mut self, session: SessionId, lease: Lease) {
        let Some(node) = self.nodes.get_mut(&lease.inode) else { return };
        let Some(holder) = node.holders.iter_mut().find(|holder| holder.session == session) else { return };
        if holder.grant <= lease.grant {
            holder.mode = holder.mode.min(lease.mode);
        }
    }

    /// The session no longer knows the node, and so holds nothing on it.
    pub fn forget(&mut self, session: SessionId, inode: InodeId) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.remove(&inode);
        }
        self.drop_holder(session, inode);
    }

    /// The session is gone, with all it held and knew.
    pub fn end_session(&mut self, session: SessionId) {
        for inode in self.sessions.remove(&session).unwrap_or_default() {
            self.drop_holder(session, inode);
        }
    }

    fn drop_holder(&mut self, session: SessionId, inode: InodeId) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        node.holders.retain(|holder| holder.session != session);
        self.drop_if_unused(inode);
    }

    /// Takes a lease that the session says it held before the master restarted. False if another holds what forbids it;
    /// the session knows the node in either case.
    pub fn reclaim(&mut self, session: SessionId, lease: Lease) -> bool {
        let node = self.nodes.entry(lease.inode).or_default();
        self.sessions.entry(session).or_default().insert(lease.inode);
        let highest = node.others(session).map(|holder| holder.mode).max().unwrap_or_default();
        let allowed = match lease.mode {
            LeaseMode::None => true,
            LeaseMode::Read => highest < LeaseMode::Write,
            LeaseMode::Write => highest == LeaseMode::None,
        };
        let mode = if allowed { lease.mode } else { LeaseMode::None };
        node.set(session, mode, lease.grant.min(self.grant_last));
        allowed
    }

    /// Until the matching [`Leases::thaw`], answers about the node carry no lease.
    pub fn freeze(&mut self, inode: InodeId) {
        self.nodes.entry(inode).or_default().frozen += 1;
    }

    /// The counterpart of [`Leases::freeze`].
    pub fn thaw(&mut self, inode: InodeId) {
        let node = self.nodes.get_mut(&inode).expect("a frozen node is kept");
        node.frozen = node.frozen.checked_sub(1).expect("each thaw follows its freeze");
        self.drop_if_unused(inode);
    }

    /// Nodes that somebody knows, and leases of each mode (READ, WRITE) on them.
    pub fn totals(&self) -> LeaseTotals {
        let mut totals = LeaseTotals { nodes: self.nodes.len(), ..LeaseTotals::default() };
        for holder in self.nodes.values().flat_map(|node| &node.holders) {
            match holder.mode {
                LeaseMode::None => {}
                LeaseMode::Read => totals.read += 1,
                LeaseMode::Write => totals.write += 1,
            }
        }
        totals
    }

    /// How many leases a session holds, and how many of them are for writing.
    pub fn counts_of(&self, session: SessionId) -> (u64, u64) {
        let known = self.sessions.get(&session).into_iter().flatten();
        let held = known.filter_map(|inode| self.held(session, *inode)).filter(|lease| lease.mode > LeaseMode::None);
        held.fold((0, 0), |(all, write), lease| (all + 1, write + u64::from(lease.mode == LeaseMode::Write)))
    }

    fn next_grant(&mut self) -> LeaseGrant {
        self.grant_last = self.grant_last.next();
        self.grant_last
    }

    fn drop_if_unused(&mut self, inode: InodeId) {
        if self.nodes.get(&inode).is_some_and(|node| node.holders.is_empty() && node.frozen == 0) {
            self.nodes.remove(&inode);
        }
    }
}

/// Counts for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseTotals {
    /// Nodes that some session knows.
    pub nodes: usize,
    /// READ leases.
    pub read: usize,
    /// WRITE leases.
    pub write: usize,
}

#[cfg(test)]
#[path = "leases_test.rs"]
mod tests;
