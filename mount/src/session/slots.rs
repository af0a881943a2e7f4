//! Slots: places for one request at a time, each with a TCP connection of its own, and the call that uses one.
//!
//! A thread takes the slot that it had last if it is free, so that its connection's buffers and the master's thread stay
//! warm; else any other of its lane; else it waits for one. Some slots are kept for recalls and flushing
//! ([`Lane::Reserved`]): what the master waits for never queues behind threads that wait for the master.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use prost::Message;
use rfs_common::clock::Monotonic;
use rfs_common::errno::Errno;
use rfs_proto::session::{self as wire, Failure};
use rfs_proto::session_calls::{Call, Effect, SLOTS_MAX, request_id};
use rfs_proto::wire::{Connection, Envelope, WireError};
use tracing::{debug, warn};

use super::dial::{self, Stream};
use super::error::ConnectError;
use super::{Backoff, Phase, Shared};

/// Which slots a call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Those of filesystem calls.
    Operations,
    /// Those kept for carrying out recalls and for flushing.
    Reserved,
}

struct Slot {
    number: u32,
    sequence: u64,
    /// The session that the sequence and the connection belong to.
    generation: u64,
    /// How often the session had been joined when the connection was made.
    joins: u64,
    connection: Option<Connection<Stream>>,
}

pub(super) struct SlotPool {
    slots: Vec<Mutex<Slot>>,
    /// To break a connection while its slot is in use.
    streams: Vec<Mutex<Option<Stream>>>,
    /// Slots from this one on are of [`Lane::Reserved`].
    reserved_from: usize,
    /// Threads that wait for a slot.
    waiting: Mutex<usize>,
    freed: Condvar,
}

thread_local! {
    static LAST_SLOT: [Cell<usize>; 2] = const { [Cell::new(0), Cell::new(0)] };
}

impl SlotPool {
    pub(super) fn new(slots_max: u32) -> SlotPool {
        let count = slots_max.clamp(2, SLOTS_MAX);
        let slot = |number| Slot { number, sequence: 0, generation: 0, joins: 0, connection: None };
        SlotPool {
            slots: (0..count).map(|number| Mutex::new(slot(number))).collect(),
            streams: (0..count).map(|_| Mutex::new(None)).collect(),
            reserved_from: (count - count.div_ceil(4)) as usize,
            waiting: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// Breaks every connection: whoever uses one notices and connects again.
    pub(super) fn break_all(&self) {
        for stream in &self.streams {
            if let Some(stream) = &*stream.lock().unwrap_or_else(PoisonError::into_inner) {
                stream.break_off();
            }
        }
    }

    fn take(&self, lane: Lane) -> Taken<'_> {
        let range = match lane {
            Lane::Operations => 0..self.reserved_from,
            Lane::Reserved => self.reserved_from..self.slots.len(),
        };
        let last = LAST_SLOT.with(|last| last[lane as usize].get());
        let from = if range.contains(&last) { last } else { range.start };
        loop {
            for index in (from..range.end).chain(range.start..from) {
                if let Some(slot) = self.try_take(index) {
                    LAST_SLOT.with(|last| last[lane as usize].set(index));
                    return slot;
                }
            }
            self.wait_for_one();
        }
    }

    fn try_take(&self, index: usize) -> Option<Taken<'_>> {
        match self.slots[index].try_lock() {
            Ok(slot) => Some(Taken { pool: self, slot: Some(slot), index }),
            Err(TryLockError::Poisoned(poisoned)) => {
                Some(Taken { pool: self, slot: Some(poisoned.into_inner()), index })
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A slot may be freed between the look and the wait; the limit makes that a delay and no more.
    fn wait_for_one(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting += 1;
        let waited = self.freed.wait_timeout(waiting, Duration::from_millis(5));
        *waited.unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }

    fn set_stream(&self, index: usize, stream: Option<Stream>) {
        *self.streams[index].lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

/// A slot in use; freed when dropped.
struct Taken<'a> {
    pool: &'a SlotPool,
    slot: Option<MutexGuard<'a, Slot>>,
    index: usize,
}

impl Taken<'_> {
    fn slot(&mut self) -> &mut Slot {
        self.slot.as_mut().expect("the slot is held until it is dropped")
    }

    fn disconnect(&mut self) {
        self.slot().connection = None;
        self.pool.set_stream(self.index, None);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.slot = None;
        if *self.pool.waiting.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            self.pool.freed.notify_one();
        }
    }
}

/// How one attempt ended.
enum Attempt<R> {
    Answered(R),
    Refused(Failure),
    Broken(WireError),
    /// No frame holds the request, so that nothing was sent.
    TooLarge(WireError),
}

pub(super) fn call<C: Call>(
    shared: &Shared,
    lane: Lane,
    request: &C,
    on_repeat: &mut dyn FnMut(),
) -> Result<C::Reply, Errno> {
    let deadline = shared.options.master_timeout.map(|timeout| shared.now() + timeout);
    let mut taken = shared.slots.take(lane);
    if taken.slot().joins != shared.joins.load(Ordering::SeqCst) {
        // It broke when the session was lost or joined anew. A change that is sent on it would seem to have been cut off in a
        // session that is over, and be answered with EIO.
        taken.disconnect();
    }
    taken.slot().sequence += 1;
    // The session in which an attempt broke, so that nobody knows whether it was carried out.
    let mut unsure_in = None;
    loop {
        connect(shared, &mut taken, deadline)?;
        let slot = taken.slot();
        if unsure_in.is_some_and(|generation| generation != slot.generation) && C::EFFECT == Effect::Changes {
            return Err(Errno::EIO);
        }
        match attempt(shared, slot, request) {
            Attempt::Answered(reply) => {
                shared.statistics.called(C::FRAME_TYPE);
                return Ok(reply);
            }
            Attempt::Refused(failure) => {
                let errno = Errno::from_raw(i32::try_from(failure.errno).unwrap_or(0));
                if errno == Errno::ESTALE && !still_known(shared, &mut taken, deadline)? {
                    on_repeat();
                    continue;
                }
                shared.statistics.called(C::FRAME_TYPE);
                return Err(errno);
            }
            Attempt::TooLarge(error) => {
                warn!(frame = ?C::FRAME_TYPE, error = &error as &dyn std::error::Error, "a request was not sent");
                // The master waits for the number that comes next.
                taken.slot().sequence -= 1;
                return Err(Errno::E2BIG);
            }
            Attempt::Broken(error) => {
                debug!(frame = ?C::FRAME_TYPE, %error, "a connection to the master broke");
                unsure_in = Some(taken.slot().generation);
                taken.disconnect();
                shared.statistics.repeated();
                on_repeat();
            }
        }
    }
}

/// ESTALE stands for a node that is gone as well as for a session that is: joining it again tells. True if the session
/// is known, so that it was the node.
fn still_known(shared: &Shared, taken: &mut Taken<'_>, deadline: Option<Monotonic>) -> Result<bool, Errno> {
    let before = taken.slot().generation;
    taken.disconnect();
    connect(shared, taken, deadline)?;
    Ok(taken.slot().generation == before)
}

fn attempt<C: Call>(shared: &Shared, slot: &mut Slot, request: &C) -> Attempt<C::Reply> {
    let id = request_id(slot.number, slot.sequence);
    let connection = slot.connection.as_mut().expect("connect() left a connection");
    if let Err(error) = connection.send(Envelope::request(C::FRAME_TYPE, id), request, &[]) {
        return if matches!(error, WireError::TooLarge(_)) { Attempt::TooLarge(error) } else { Attempt::Broken(error) };
    }
    let received = connection.receive_reply::<C::Reply>(C::FRAME_TYPE, id);
    if received.is_ok() {
        let answered = wire::Answered::decode(connection.message_bytes());
        shared.note_position(answered.map_or(0, |answered| answered.log_position));
    }
    // The session is being joined anew, and the master was not told of this answer's position: it may have lost it.
    if shared.joins.load(Ordering::SeqCst) != slot.joins {
        return Attempt::Broken(WireError::Closed);
    }
    match received {
        Ok(Ok(reply)) => Attempt::Answered(reply),
        Ok(Err(failure)) => Attempt::Refused(failure),
        Err(error) => Attempt::Broken(error),
    }
}

/// Sees to it that the slot has a connection of the present session.
fn connect(shared: &Shared, taken: &mut Taken<'_>, deadline: Option<Monotonic>) -> Result<(), Errno> {
    if taken.slot().connection.is_some() {
        return Ok(());
    }
    let mut backoff = Backoff::new();
    loop {
        let joins = shared.joins.load(Ordering::SeqCst);
        let identity = shared.wait_live(deadline)?;
        if shared.joins.load(Ordering::SeqCst) != joins {
            continue;
        }
        let number = taken.slot().number;
        match dial::join_slot(&shared.options, shared.cluster.cluster, &identity, number) {
            // Another start of the master: nothing is to be asked before the push connection has reclaimed.
            Ok(greeted) if greeted.reply.master_start != identity.master_start => shared.push.break_off(),
            Ok(greeted) => {
                let stream = greeted.connection.stream().clone();
                // Without the limit, an answer is awaited for as long as nobody breaks the connection.
                let _ = stream.set_read_timeout(shared.options.master_timeout);
                taken.pool.set_stream(taken.index, Some(stream));
                let slot = taken.slot();
                (slot.connection, slot.joins) = (Some(greeted.connection), joins);
                if slot.generation != identity.generation {
                    (slot.generation, slot.sequence) = (identity.generation, 1);
                }
                // Whoever ended the session broke the connections that he saw.
                return if shared.ended() { Err(Errno::EIO) } else { Ok(()) };
            }
            Err(ConnectError::Expired { .. }) => shared.push.break_off(),
            Err(error) => debug!(%error, "the master cannot be reached"),
        }
        if deadline.is_some_and(|deadline| shared.now() >= deadline) {
            return Err(Errno::EIO);
        }
        shared.pause(backoff.next());
    }
}

impl Shared {
    /// Sleeps, but not beyond the end of the session.
    pub(super) fn pause(&self, duration: Duration) {
        let until = self.now() + duration;
        let mut identity = self.identity();
        while identity.phase != Phase::Ended {
            let left = self.now().until(until);
            if left.is_zero() {
                return;
            }
            let waited = self.identity_changed.wait_timeout(identity, left);
            identity = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
