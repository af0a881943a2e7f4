//! The lock table against a model that knows the holder of every byte, and the cases that the rules are about.

use proptest::prelude::*;

use super::*;

fn owner(session: u64, owner: u64) -> LockOwner {
    LockOwner { session: SessionId::new(session), owner }
}

fn lock(owner: LockOwner, lock_type: LockType, start: u64, end: u64) -> Lock {
    Lock { owner, lock_type, range: ByteRange::new(start, end).expect("a range"), process_id: 1 }
}

const FILE: InodeId = InodeId::new(7);
const OTHER: InodeId = InodeId::new(8);
use LockType::{Exclusive, Shared};

fn posix(locks: &mut Locks, inode: InodeId, wanted: Lock, ticket: u64) -> (LockOutcome, Vec<GrantedWait>) {
    let mut granted = Vec::new();
    let outcome = locks.acquire(inode, LockKind::Posix, wanted, Patience::Wait(Ticket(ticket)), &mut granted);
    (outcome, granted)
}

#[test]
fn waiters_are_served_in_the_order_of_asking() {
    let mut locks = Locks::new();
    assert_eq!(posix(&mut locks, FILE, lock(owner(1, 1), Exclusive, 0, 9), 1).0, LockOutcome::Granted);
    assert_eq!(posix(&mut locks, FILE, lock(owner(2, 1), Exclusive, 0, 4), 2).0, LockOutcome::Queued);
    assert_eq!(posix(&mut locks, FILE, lock(owner(3, 1), Exclusive, 0, 4), 3).0, LockOutcome::Queued);
    assert_eq!(posix(&mut locks, FILE, lock(owner(4, 1), Shared, 5, 9), 4).0, LockOutcome::Queued);
    let mut granted = Vec::new();
    locks.unlock(FILE, LockKind::Posix, owner(1, 1), ByteRange::ALL, &mut granted);
    let sessions: Vec<u64> = granted.iter().map(|wait| wait.session.get()).collect();
    assert_eq!(sessions, [2, 4]);
    granted.clear();
    locks.end_session(SessionId::new(2), &mut granted);
    assert_eq!(granted, [GrantedWait { session: SessionId::new(3), inode: FILE, ticket: Ticket(3) }]);
    assert_eq!(locks.cancel(SessionId::new(3), FILE, Ticket(3)), CancelOutcome::AlreadyGranted);
}

#[test]
fn a_circle_of_waits_over_two_nodes_and_three_sessions_is_refused() {
    let mut locks = Locks::new();
    let third = InodeId::new(9);
    for (session, node) in [(1, FILE), (2, OTHER), (3, third)] {
        assert_eq!(posix(&mut locks, node, lock(owner(session, 5), Exclusive, 0, 0), 0).0, LockOutcome::Granted);
    }
    assert_eq!(posix(&mut locks, OTHER, lock(owner(1, 5), Shared, 0, 0), 1).0, LockOutcome::Queued);
    assert_eq!(posix(&mut locks, third, lock(owner(2, 5), Shared, 0, 0), 2).0, LockOutcome::Queued);
    assert_eq!(posix(&mut locks, FILE, lock(owner(3, 5), Shared, 0, 0), 3).0, LockOutcome::Deadlock);
    // Another process of the same session is not in the circle.
    assert_eq!(posix(&mut locks, FILE, lock(owner(3, 6), Shared, 0, 0), 4).0, LockOutcome::Queued);
    assert_eq!(locks.cancel(SessionId::new(1), OTHER, Ticket(1)), CancelOutcome::Cancelled);
    assert_eq!(posix(&mut locks, FILE, lock(owner(3, 5), Shared, 0, 0), 5).0, LockOutcome::Queued);
}

#[test]
fn two_flock_upgrades_at_once_both_come_through() {
    let mut locks = Locks::new();
    let mut granted = Vec::new();
    let mut flock = |locks: &mut Locks, session, lock_type, ticket| {
        let wanted = lock(owner(session, 1), lock_type, 0, RANGE_END_MAX);
        locks.acquire(FILE, LockKind::Flock, wanted, Patience::Wait(Ticket(ticket)), &mut granted)
    };
    assert_eq!(flock(&mut locks, 1, Shared, 1), LockOutcome::Granted);
    assert_eq!(flock(&mut locks, 2, Shared, 2), LockOutcome::Granted);
    assert_eq!(flock(&mut locks, 1, Exclusive, 3), LockOutcome::Queued);
    assert_eq!(flock(&mut locks, 2, Exclusive, 4), LockOutcome::Queued);
    assert_eq!(granted, [GrantedWait { session: SessionId::new(1), inode: FILE, ticket: Ticket(3) }]);
    granted.clear();
    locks.unlock(FILE, LockKind::Flock, owner(1, 1), ByteRange::ALL, &mut granted);
    assert_eq!(granted, [GrantedWait { session: SessionId::new(2), inode: FILE, ticket: Ticket(4) }]);
}

#[test]
fn an_impatient_flock_conversion_that_fails_has_lost_what_it_held_as_on_linux() {
    let mut locks = Locks::new();
    let mut granted = Vec::new();
    for session in [1, 2] {
        let wanted = lock(owner(session, 1), Shared, 0, RANGE_END_MAX);
        locks.acquire(FILE, LockKind::Flock, wanted, Patience::None, &mut granted);
    }
    let upgrade = lock(owner(1, 1), Exclusive, 0, RANGE_END_MAX);
    assert_eq!(locks.acquire(FILE, LockKind::Flock, upgrade, Patience::None, &mut granted), LockOutcome::Conflict);
    assert_eq!(locks.totals(), (1, 0));
    assert!(!locks.sessions[&SessionId::new(1)].nodes.contains(&FILE));
}

#[test]
fn a_downgrade_lets_a_waiting_reader_in() {
    let mut locks = Locks::new();
    posix(&mut locks, FILE, lock(owner(1, 1), Exclusive, 0, 99), 0);
    assert_eq!(posix(&mut locks, FILE, lock(owner(2, 1), Shared, 10, 19), 8).0, LockOutcome::Queued);
    let (outcome, granted) = posix(&mut locks, FILE, lock(owner(1, 1), Shared, 0, 49), 0);
    assert_eq!((outcome, granted.len()), (LockOutcome::Granted, 1));
    let asked = lock(owner(3, 1), Shared, 0, RANGE_END_MAX);
    assert_eq!(locks.conflict(FILE, LockKind::Posix, &asked), Some(lock(owner(1, 1), Exclusive, 50, 99)));
}

#[test]
fn posix_and_flock_do_not_see_each_other_and_nothing_is_left_behind() {
    let mut locks = Locks::new();
    let mut granted = Vec::new();
    posix(&mut locks, FILE, lock(owner(1, 1), Exclusive, 0, 9), 0);
    let whole = lock(owner(2, 1), Exclusive, 0, RANGE_END_MAX);
    assert_eq!(locks.acquire(FILE, LockKind::Flock, whole, Patience::None, &mut granted), LockOutcome::Granted);
    locks.unlock(FILE, LockKind::Posix, owner(1, 1), ByteRange::ALL, &mut granted);
    locks.end_session(SessionId::new(2), &mut granted);
    assert!(locks.nodes.is_empty() && locks.sessions[&SessionId::new(1)].nodes.is_empty());
}

const BYTES: usize = 24;

/// For every byte what each of four owners holds there.
type Model = [[Option<LockType>; 4]; BYTES];

fn model_conflicts(model: &Model, who: usize, wanted: LockType, range: ByteRange) -> bool {
    model[range.start as usize..=range.end as usize].iter().any(|holders| {
        let others = holders.iter().enumerate().filter(|(other, _)| *other != who);
        others.filter_map(|(_, held)| *held).any(|held| held == Exclusive || wanted == Exclusive)
    })
}

fn model_of(held: &[Lock]) -> Model {
    let mut model = Model::default();
    for lock in held {
        for byte in lock.range.start..=lock.range.end {
            let who = (lock.owner.session.get() * 2 + lock.owner.owner) as usize;
            assert!(model[byte as usize][who].is_none(), "an owner holds byte {byte} twice");
            model[byte as usize][who] = Some(lock.lock_type);
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Requests without patience against the model of bytes.
    #[test]
    fn ranges_are_what_a_model_of_bytes_says(
        steps in prop::collection::vec((0..4_usize, 0..3_u8, 0..BYTES as u64, 0..BYTES as u64), 1..60)
    ) {
        let (mut locks, mut model) = (Locks::new(), Model::default());
        for (who, what, from, to) in steps {
            let range = ByteRange { start: from.min(to), end: from.max(to) };
            let holder = owner(who as u64 / 2, who as u64 % 2);
            let wanted = match what { 0 => None, 1 => Some(Shared), _ => Some(Exclusive) };
            let mut granted = Vec::new();
            let allowed = match wanted {
                None => { locks.unlock(FILE, LockKind::Posix, holder, range, &mut granted); true }
                Some(lock_type) => {
                    let asked = lock(holder, lock_type, range.start, range.end);
                    let allowed = !model_conflicts(&model, who, lock_type, range);
                    prop_assert_eq!(locks.conflict(FILE, LockKind::Posix, &asked).is_none(), allowed);
                    let outcome = locks.acquire(FILE, LockKind::Posix, asked, Patience::None, &mut granted);
                    prop_assert_eq!(outcome == LockOutcome::Granted, allowed);
                    allowed
                }
            };
            if allowed {
                model[range.start as usize..=range.end as usize].iter_mut().for_each(|holders| holders[who] = wanted);
            }
            let held = locks.nodes.get(&FILE).map_or(&[][..], |node| &node.posix);
            prop_assert_eq!(model_of(held), model);
            for (at, first) in held.iter().enumerate() {
                for second in &held[at + 1..] {
                    let same = first.owner == second.owner && first.lock_type == second.lock_type;
                    prop_assert!(!(same && first.range.touches(second.range)), "{first:?} and {second:?} are one");
                }
            }
        }
    }

    /// With waits: what is held never conflicts, and nobody waits for what could be had.
    #[test]
    fn nobody_waits_for_what_is_free(
        steps in prop::collection::vec((0..4_usize, 0..4_u8, 0..2_u64, 0..6_u64, 0..6_u64), 1..60)
    ) {
        let mut locks = Locks::new();
        for (ticket, (who, what, node, from, to)) in steps.into_iter().enumerate() {
            let (inode, holder) = (InodeId::new(node), owner(who as u64 / 2, who as u64 % 2));
            let range = ByteRange { start: from.min(to), end: from.max(to) };
            let mut granted = Vec::new();
            match what {
                0 => locks.unlock(inode, LockKind::Posix, holder, range, &mut granted),
                1 => locks.end_session(holder.session, &mut granted),
                _ => {
                    let lock_type = if what == 2 { Shared } else { Exclusive };
                    posix(&mut locks, inode, lock(holder, lock_type, range.start, range.end), ticket as u64);
                }
            }
            for node in locks.nodes.values() {
                for held in &node.posix {
                    prop_assert!(node.conflict(LockKind::Posix, held).is_none());
                }
                for wait in &node.waiting {
                    prop_assert!(node.conflict(LockKind::Posix, &wait.lock).is_some());
                }
                prop_assert!(!node.is_empty());
            }
        }
    }
}

#[test]
fn a_session_that_cannot_be_told_misses_none_of_its_locks() {
    let mut locks = Locks::new();
    assert_eq!(posix(&mut locks, FILE, lock(owner(1, 1), Exclusive, 0, 9), 0).0, LockOutcome::Granted);
    for ticket in 1..=2_000 {
        assert_eq!(posix(&mut locks, FILE, lock(owner(2, ticket), Shared, 0, 9), ticket).0, LockOutcome::Queued);
    }
    let mut granted = Vec::new();
    locks.unlock(FILE, LockKind::Posix, owner(1, 1), ByteRange::ALL, &mut granted);
    let waiter = SessionId::new(2);
    assert_eq!((granted.len(), locks.granted_lately(waiter).len()), (2_000, 2_000));
    locks.granted_told(waiter);
    assert_eq!(
        locks.granted_lately(waiter).last(),
        Some(&GrantedWait { session: waiter, inode: FILE, ticket: Ticket(2_000) })
    );
    assert_eq!(locks.granted_lately(waiter).len(), GRANTED_TICKETS_MAX);
}
