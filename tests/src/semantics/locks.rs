//! fcntl and flock locks between processes.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use rustix::io::Errno;

use super::calls::{Family, Patience, RecordLock};
use super::checks::{make_file, same};
use super::lock_holder::{LockHolder, Order};
use super::{Case, cases};

pub(super) const CASES: &[Case] = cases![
    a_write_lock_excludes_both_kinds,
    read_locks_are_shared,
    locks_of_different_ranges_do_not_meet,
    unlocking_the_middle_splits_a_lock,
    neighbouring_locks_are_one,
    a_lock_to_the_end_covers_everything_behind,
    a_read_lock_is_upgraded_and_downgraded,
    an_upgrade_waits_for_other_readers,
    the_holder_is_told,
    own_locks_are_not_in_the_way,
    closing_any_descriptor_releases_all,
    the_end_of_a_process_releases_its_locks,
    a_wait_ends_with_the_unlock,
    a_wait_is_interrupted_by_a_signal,
    an_interrupted_wait_leaves_no_lock,
    a_killed_waiter_leaves_no_lock,
    a_deadlock_is_refused,
    a_deadlock_of_three_is_refused,
    flock_shared_and_exclusive,
    flock_is_converted,
    flock_waits_and_is_interrupted,
    flock_is_released_by_close,
    a_lock_is_free_when_close_has_returned,
    flock_and_fcntl_are_independent,
    open_file_locks_exclude_processes,
    open_file_locks_end_with_the_open_file,
    many_ranges_are_kept,
    locks_end_beyond_four_gibibytes,
];

const READ: i32 = libc::F_RDLCK;
const WRITE: i32 = libc::F_WRLCK;
const NONE: i32 = libc::F_UNLCK;
/// Long enough to see that someone waits.
const A_WHILE: Duration = Duration::from_millis(150);
const SOON: Duration = Duration::from_secs(10);

fn range(kind: i32, start: i64, length: i64) -> RecordLock {
    RecordLock { kind, start, length, pid: 0 }
}

/// F_SETLK of a range.
fn set(kind: i32, start: i64, length: i64) -> Order {
    Order::Set(Family::Process, range(kind, start, length), Patience::DoNotWait)
}

/// F_SETLKW of a range.
fn wait(kind: i32, start: i64, length: i64) -> Order {
    Order::Set(Family::Process, range(kind, start, length), Patience::Wait)
}

fn get(kind: i32, start: i64, length: i64) -> Order {
    Order::Get(Family::Process, range(kind, start, length))
}

fn open_file(kind: i32, start: i64, length: i64) -> Order {
    Order::Set(Family::OpenFile, range(kind, start, length), Patience::DoNotWait)
}

const SHARED: Order = Order::Flock(libc::LOCK_SH | libc::LOCK_NB);
const EXCLUSIVE: Order = Order::Flock(libc::LOCK_EX | libc::LOCK_NB);
const EXCLUSIVE_WAIT: Order = Order::Flock(libc::LOCK_EX);
const UNLOCK: Order = Order::Flock(libc::LOCK_UN);

fn two(folder: &Path) -> anyhow::Result<(LockHolder, LockHolder)> {
    let path = folder.join("file");
    make_file(&path, b"0123456789")?;
    Ok((LockHolder::start(&path)?, LockHolder::start(&path)?))
}

fn waits(holder: &mut LockHolder) -> anyhow::Result<()> {
    let answer = holder.answer_within(A_WHILE)?;
    ensure!(answer.is_none(), "it must wait, and answers {answer:?}");
    Ok(())
}

fn answers(holder: &mut LockHolder, expected: Result<(), Errno>) -> anyhow::Result<()> {
    same(holder.answer_within(SOON)?.map(|answer| answer.map(drop)), Some(expected), "the answer of the one who waited")
}

fn a_write_lock_excludes_both_kinds(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.must_not(set(WRITE, 5, 1), Errno::AGAIN)?;
    other.must_not(set(READ, 9, 5), Errno::AGAIN)?;
    one.must(set(NONE, 0, 10))?;
    other.must(set(WRITE, 5, 1)).map(drop)
}

fn read_locks_are_shared(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(READ, 0, 10))?;
    other.must(set(READ, 0, 10))?;
    other.must_not(set(WRITE, 0, 1), Errno::AGAIN)?;
    one.must(set(NONE, 0, 10))?;
    other.must(set(WRITE, 0, 1)).map(drop)
}

fn locks_of_different_ranges_do_not_meet(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 10, 10))?;
    other.must(set(WRITE, 0, 10))?;
    other.must(set(WRITE, 20, 10))?;
    other.must_not(set(WRITE, 19, 1), Errno::AGAIN)?;
    other.must_not(set(WRITE, 10, 1), Errno::AGAIN)
}

fn unlocking_the_middle_splits_a_lock(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 30))?;
    one.must(set(NONE, 10, 10))?;
    other.must(set(WRITE, 10, 10))?;
    other.must_not(set(WRITE, 9, 1), Errno::AGAIN)?;
    other.must_not(set(WRITE, 20, 1), Errno::AGAIN)?;
    let left = other.must(get(WRITE, 0, 0))?;
    same((left.kind, left.start, left.length), (WRITE, 0, 10), "the first part")?;
    let right = other.must(get(WRITE, 15, 0))?;
    same((right.kind, right.start, right.length), (WRITE, 20, 10), "the second part")
}

fn neighbouring_locks_are_one(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    for part in [(0, 10), (20, 10), (10, 10)] {
        one.must(set(WRITE, part.0, part.1))?;
    }
    let whole = other.must(get(WRITE, 0, 0))?;
    same((whole.start, whole.length), (0, 30), "three that touch")
}

fn a_lock_to_the_end_covers_everything_behind(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 100, 0))?;
    other.must_not(set(READ, i64::MAX - 1, 1), Errno::AGAIN)?;
    other.must_not(set(READ, 100, 1), Errno::AGAIN)?;
    other.must(set(READ, 0, 100))?;
    let seen = other.must(get(READ, 0, 0))?;
    same((seen.start, seen.length), (100, 0), "the lock to the end")
}

fn a_read_lock_is_upgraded_and_downgraded(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(READ, 0, 30))?;
    one.must(set(WRITE, 10, 10))?;
    other.must(set(READ, 0, 10))?;
    other.must_not(set(READ, 10, 1), Errno::AGAIN)?;
    other.must(set(READ, 20, 10))?;
    one.must(set(READ, 10, 10))?;
    other.must(set(READ, 0, 30))?;
    one.must_not(set(WRITE, 0, 30), Errno::AGAIN)
}

fn an_upgrade_waits_for_other_readers(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(READ, 0, 10))?;
    other.must(set(READ, 0, 10))?;
    one.order(wait(WRITE, 0, 10))?;
    waits(&mut one)?;
    other.must(set(NONE, 0, 10))?;
    answers(&mut one, Ok(()))?;
    other.must_not(set(READ, 0, 10), Errno::AGAIN)
}

fn the_holder_is_told(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    same(other.must(get(WRITE, 0, 0))?.kind, NONE, "no lock is in the way")?;
    one.must(set(READ, 5, 7))?;
    same(other.must(get(READ, 0, 0))?.kind, NONE, "a read lock is not in the way of another")?;
    let seen = other.must(get(WRITE, 0, 0))?;
    same((seen.kind, seen.start, seen.length, seen.pid), (READ, 5, 7, one.pid()), "the lock in the way")
}

fn own_locks_are_not_in_the_way(folder: &Path) -> anyhow::Result<()> {
    let (mut one, _) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    same(one.must(get(WRITE, 0, 10))?.kind, NONE, "one's own lock")?;
    one.must(set(WRITE, 5, 20)).map(drop)
}

fn closing_any_descriptor_releases_all(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.must_not(set(WRITE, 0, 10), Errno::AGAIN)?;
    one.must(Order::OpenAndClose)?;
    other.must(set(WRITE, 0, 10)).map(drop)
}

fn the_end_of_a_process_releases_its_locks(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.order(wait(WRITE, 0, 10))?;
    waits(&mut other)?;
    one.kill();
    answers(&mut other, Ok(()))
}

fn a_wait_ends_with_the_unlock(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.order(wait(READ, 5, 10))?;
    waits(&mut other)?;
    one.must(set(NONE, 0, 5))?;
    waits(&mut other)?;
    one.must(set(NONE, 5, 5))?;
    answers(&mut other, Ok(()))
}

fn a_wait_is_interrupted_by_a_signal(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    for _ in 0..3 {
        other.order(wait(WRITE, 0, 10))?;
        waits(&mut other)?;
        other.interrupt();
        answers(&mut other, Err(Errno::INTR))?;
    }
    Ok(())
}

fn an_interrupted_wait_leaves_no_lock(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.order(wait(WRITE, 0, 10))?;
    waits(&mut other)?;
    other.interrupt();
    answers(&mut other, Err(Errno::INTR))?;
    one.must(set(NONE, 0, 10))?;
    same(one.must(get(WRITE, 0, 0))?.kind, NONE, "a lock of the interrupted one")
}

fn a_killed_waiter_leaves_no_lock(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 10))?;
    other.order(wait(WRITE, 0, 10))?;
    waits(&mut other)?;
    other.kill();
    one.must(set(NONE, 0, 10))?;
    same(one.must(get(WRITE, 0, 0))?.kind, NONE, "a lock of the dead one")
}

fn a_deadlock_is_refused(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(set(WRITE, 0, 1))?;
    other.must(set(WRITE, 1, 1))?;
    one.order(wait(WRITE, 1, 1))?;
    waits(&mut one)?;
    other.must_not(wait(WRITE, 0, 1), Errno::DEADLK)?;
    other.must(set(NONE, 1, 1))?;
    answers(&mut one, Ok(()))
}

fn a_deadlock_of_three_is_refused(folder: &Path) -> anyhow::Result<()> {
    let (mut first, mut second) = two(folder)?;
    let mut third = LockHolder::start(&folder.join("file"))?;
    first.must(set(WRITE, 0, 1))?;
    second.must(set(WRITE, 1, 1))?;
    third.must(set(WRITE, 2, 1))?;
    first.order(wait(WRITE, 1, 1))?;
    waits(&mut first)?;
    second.order(wait(WRITE, 2, 1))?;
    waits(&mut second)?;
    third.must_not(wait(WRITE, 0, 1), Errno::DEADLK)?;
    third.must(set(NONE, 2, 1))?;
    answers(&mut second, Ok(()))?;
    second.must(set(NONE, 0, 0))?;
    answers(&mut first, Ok(()))
}

fn a_lock_is_free_when_close_has_returned(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("file");
    make_file(&path, b"")?;
    let other = std::fs::File::open(&path)?;
    for round in 0..200 {
        let file = std::fs::File::open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        drop(file);
        let taken = rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        ensure!(taken.is_ok(), "round {round}: {taken:?}");
        rustix::fs::flock(&other, rustix::fs::FlockOperation::Unlock)?;
    }
    Ok(())
}

fn flock_shared_and_exclusive(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(SHARED)?;
    other.must(SHARED)?;
    other.must_not(EXCLUSIVE, Errno::AGAIN)?;
    one.must(UNLOCK)?;
    other.must(EXCLUSIVE)?;
    one.must_not(SHARED, Errno::AGAIN)
}

fn flock_is_converted(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(EXCLUSIVE)?;
    one.must(SHARED)?;
    other.must(SHARED)?;
    other.must(UNLOCK)?;
    one.must(EXCLUSIVE)?;
    other.must_not(SHARED, Errno::AGAIN)
}

fn flock_waits_and_is_interrupted(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(EXCLUSIVE)?;
    other.order(EXCLUSIVE_WAIT)?;
    waits(&mut other)?;
    other.interrupt();
    answers(&mut other, Err(Errno::INTR))?;
    other.order(EXCLUSIVE_WAIT)?;
    waits(&mut other)?;
    one.must(UNLOCK)?;
    answers(&mut other, Ok(()))
}

fn flock_is_released_by_close(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(EXCLUSIVE)?;
    one.must(Order::OpenAndClose)?;
    other.must_not(EXCLUSIVE, Errno::AGAIN)?;
    one.must(Order::Reopen)?;
    other.must(EXCLUSIVE)?;
    other.kill();
    one.must(EXCLUSIVE).map(drop)
}

fn flock_and_fcntl_are_independent(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(EXCLUSIVE)?;
    other.must(set(WRITE, 0, 0))?;
    one.must_not(set(READ, 0, 1), Errno::AGAIN)?;
    other.must_not(SHARED, Errno::AGAIN)
}

fn open_file_locks_exclude_processes(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(open_file(WRITE, 0, 10))?;
    other.must_not(set(READ, 0, 1), Errno::AGAIN)?;
    other.must_not(open_file(READ, 9, 5), Errno::AGAIN)?;
    // The process's own locks are another owner's as well.
    one.must_not(set(WRITE, 0, 1), Errno::AGAIN)?;
    other.must(open_file(WRITE, 10, 5))?;
    one.must(open_file(NONE, 0, 10))?;
    other.must(set(READ, 0, 1)).map(drop)
}

fn open_file_locks_end_with_the_open_file(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    one.must(open_file(WRITE, 0, 10))?;
    one.must(Order::OpenAndClose)?;
    other.must_not(open_file(WRITE, 0, 10), Errno::AGAIN)?;
    one.must(Order::Reopen)?;
    other.must(open_file(WRITE, 0, 10)).map(drop)
}

fn many_ranges_are_kept(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    for number in 0..200 {
        one.must(set(if number % 2 == 0 { WRITE } else { READ }, number * 2, 1))?;
    }
    for number in (0..200).rev() {
        let kind = if number % 2 == 0 { WRITE } else { READ };
        let seen = other.must(get(WRITE, number * 2, 1))?;
        same((seen.kind, seen.start, seen.length), (kind, number * 2, 1), "one of many")?;
        other.must(set(WRITE, number * 2 + 1, 1))?;
    }
    Ok(())
}

fn locks_end_beyond_four_gibibytes(folder: &Path) -> anyhow::Result<()> {
    let (mut one, mut other) = two(folder)?;
    let far = 1 << 40;
    one.must(set(WRITE, far, 1 << 33))?;
    other.must(set(WRITE, 0, far))?;
    other.must_not(set(WRITE, far + (1 << 33) - 1, 1), Errno::AGAIN)?;
    other.must(set(WRITE, far + (1 << 33), 1)).map(drop)
}
