//! The rules of leases one by one, and the invariant under random sequences.

use proptest::prelude::*;
use rfs_common::clock::Monotonic;
use std::time::Duration;

use super::*;

const A: SessionId = SessionId::new(1);
const B: SessionId = SessionId::new(2);
const FILE: InodeId = InodeId::new(10);
const DIRECTORY: InodeId = InodeId::new(11);

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn conflicts(leases: &Leases, session: SessionId, need: Need) -> BTreeMap<SessionId, RecallItems> {
    leases.conflicts(session, &[need], &Forgotten::default())
}

#[test]
fn readers_share_and_a_writer_must_have_all_of_them_out() {
    let mut leases = Leases::new(1);
    assert_eq!(leases.answer(A, FILE).mode, LeaseMode::Read);
    let held = leases.answer(B, FILE);
    assert_eq!(held.mode, LeaseMode::Read);
    assert!(conflicts(&leases, A, Need::Read(FILE)).is_empty());
    let found = conflicts(&leases, A, Need::ChangeData(FILE));
    assert_eq!(found.keys().collect::<Vec<_>>(), [&B]);
    let asked = found[&B].leases[0];
    assert_eq!(asked, Lease { mode: LeaseMode::None, ..held });
    leases.lower(B, asked);
    assert!(conflicts(&leases, A, Need::ChangeData(FILE)).is_empty());
    leases.take_write(A, FILE);
    assert_eq!(conflicts(&leases, B, Need::Read(FILE))[&A].leases[0].mode, LeaseMode::Read);
    assert_eq!(leases.answer(B, FILE).mode, LeaseMode::None);
    assert_eq!(leases.known_by(FILE), [A, B]);
}

#[test]
fn a_frozen_node_gives_no_lease_but_keeps_who_knows_it() {
    let mut leases = Leases::new(1);
    leases.freeze(FILE);
    assert_eq!(leases.answer(A, FILE).mode, LeaseMode::None);
    assert_eq!(leases.known_by(FILE), [A]);
    assert_eq!(leases.take_write(A, FILE).mode, LeaseMode::Write);
    assert_eq!(leases.answer(A, FILE).mode, LeaseMode::None);
    assert!(leases.may_write(A, FILE));
    leases.thaw(FILE);
    assert_eq!(leases.answer(A, FILE).mode, LeaseMode::Write);
}

#[test]
fn an_answer_to_an_old_recall_does_not_end_a_newer_lease() {
    let mut leases = Leases::new(1);
    let old = leases.answer(A, FILE);
    let new = leases.take_write(A, FILE);
    assert!(new.grant > old.grant);
    leases.lower(A, Lease { mode: LeaseMode::None, ..old });
    assert!(leases.may_write(A, FILE));
    leases.lower(A, Lease { mode: LeaseMode::None, ..new });
    assert!(!leases.may_write(A, FILE));
}

#[test]
fn entries_are_forgotten_once_per_operation_and_the_lease_stays() {
    let mut leases = Leases::new(1);
    leases.answer(A, DIRECTORY);
    let needs = [Need::ChangeEntries(DIRECTORY, vec![name("x"), name("y")])];
    let mut forgotten = Forgotten::default();
    let found = leases.conflicts(B, &needs, &forgotten);
    assert_eq!(found[&A].entries, [(DIRECTORY, vec![name("x"), name("y")])]);
    assert_eq!(found[&A].attributes, [DIRECTORY]);
    forgotten.add(A, &found[&A]);
    assert!(leases.conflicts(B, &needs, &forgotten).is_empty());
    assert_eq!(leases.held(A, DIRECTORY).map(|lease| lease.mode), Some(LeaseMode::Read));
    let more = [Need::ChangeEntries(DIRECTORY, vec![name("y"), name("z")])];
    assert_eq!(leases.conflicts(B, &more, &forgotten)[&A].entries, [(DIRECTORY, vec![name("z")])]);
}

#[test]
fn what_is_given_anew_to_a_session_has_to_be_forgotten_again() {
    let mut leases = Leases::new(1);
    leases.answer(A, FILE);
    let needs = [Need::ChangeAttributes(FILE)];
    let mut forgotten = Forgotten::default();
    forgotten.add(A, &leases.conflicts(B, &needs, &forgotten)[&A]);
    assert!(leases.conflicts(B, &needs, &forgotten).is_empty());
    // WRITE is given although an operation waits that had A forget the attributes, and brings them anew.
    leases.take_write(A, FILE);
    forgotten.given_anew(A, FILE);
    let found = leases.conflicts(B, &needs, &forgotten);
    assert_eq!((found[&A].leases[0].mode, &found[&A].attributes[..]), (LeaseMode::Read, &[FILE][..]));
}

#[test]
fn changing_attributes_brings_a_writer_down_and_others_forget() {
    let mut leases = Leases::new(1);
    leases.take_write(A, FILE);
    let found = conflicts(&leases, B, Need::ChangeAttributes(FILE));
    assert_eq!((found[&A].leases[0].mode, &found[&A].attributes[..]), (LeaseMode::Read, &[FILE][..]));
    let both = leases.conflicts(B, &[Need::Read(FILE), Need::ChangeData(FILE)], &Forgotten::default());
    assert_eq!(both[&A].leases.len(), 1);
    assert_eq!(both[&A].leases[0].mode, LeaseMode::None);
}

#[test]
fn reclaims_are_taken_unless_another_forbids_them() {
    let mut leases = Leases::new(3);
    let grant = LeaseGrant::new(7);
    assert!(leases.reclaim(A, Lease { inode: FILE, mode: LeaseMode::Write, grant }));
    assert!(!leases.reclaim(B, Lease { inode: FILE, mode: LeaseMode::Read, grant }));
    assert_eq!(leases.known_by(FILE), [A, B]);
    leases.end_session(A);
    assert!(leases.reclaim(B, Lease { inode: FILE, mode: LeaseMode::Read, grant }));
    leases.end_session(B);
    assert!(leases.nodes.is_empty() && leases.sessions.is_empty());
    assert!(leases.answer(A, FILE).grant > grant);
}

#[test]
fn recalls_end_with_the_answer_or_the_session() {
    let mut recalls: Recalls<u32> = Recalls::new(1);
    let at = |seconds| Monotonic::from_start(Duration::from_secs(seconds));
    let outstanding =
        |session, waiter| Outstanding { session, items: RecallItems::default(), waiter: Some(waiter), since: at(5) };
    let first = recalls.begin(outstanding(A, 1));
    let second = recalls.begin(outstanding(B, 1));
    assert!(recalls.answer(B, first).is_none());
    assert!(recalls.answer(A, first).is_some());
    assert!(recalls.answer(A, first).is_none());
    assert_eq!(recalls.of_session(B).map(|(recall, _)| recall).collect::<Vec<_>>(), [second]);
    let overdue =
        |recalls: &Recalls<u32>, now| recalls.overdue(at(now), Duration::from_secs(10), Duration::from_secs(30));
    assert!(overdue(&recalls, 15).is_empty());
    assert_eq!(overdue(&recalls, 16), [B]);
    recalls.worked_on(A, [second], at(15));
    assert_eq!(overdue(&recalls, 16), [B], "only who owes the answer can be at work on it");
    for now in (15..=40).step_by(5) {
        recalls.worked_on(B, [first, second], at(now));
    }
    assert!(overdue(&recalls, 35).is_empty());
    assert_eq!(overdue(&recalls, 36), [B], "no recall is worked on for ever");
    recalls.abandon(1);
    assert_eq!(recalls.end_session(B).into_iter().map(|owed| owed.waiter).collect::<Vec<_>>(), [None]);
    assert_eq!(recalls.count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Sessions do what they like, recalls are answered at any time, also late: never a writer and another holder.
    #[test]
    fn at_most_one_writer_and_then_nobody_else(
        steps in prop::collection::vec((0..4_u64, 0..3_u64, 0..8_u8), 1..200)
    ) {
        let mut leases = Leases::new(1);
        let mut asked: Vec<(SessionId, Lease)> = Vec::new();
        let mut frozen = [0_u32; 3];
        for (session, node, what) in steps {
            let (who, inode) = (SessionId::new(session), InodeId::new(node));
            match what {
                0 | 1 => { leases.answer(who, inode); }
                2 | 3 => {
                    let found = conflicts(&leases, who, Need::ChangeData(inode));
                    if found.is_empty() {
                        leases.take_write(who, inode);
                    }
                    asked.extend(found.iter().flat_map(|(from, items)| items.leases.iter().map(|lease| (*from, *lease))));
                }
                4 => if !asked.is_empty() {
                    let (from, lease) = asked.swap_remove(session as usize * 7 % asked.len());
                    leases.lower(from, lease);
                }
                5 => { leases.freeze(inode); frozen[node as usize] += 1; }
                6 => if frozen[node as usize] > 0 { leases.thaw(inode); frozen[node as usize] -= 1; }
                _ => if session == 0 { leases.end_session(who) } else { leases.forget(who, inode) },
            }
            for node in leases.nodes.values() {
                node.check();
            }
            for (session, known) in &leases.sessions {
                prop_assert!(known.iter().all(|inode| leases.nodes[inode].holder(*session).is_some()));
            }
        }
        for session in 0..4 {
            leases.end_session(SessionId::new(session));
        }
        prop_assert_eq!(leases.nodes.len(), frozen.iter().filter(|count| **count > 0).count());
    }
}
