//! The sessions of the clients: who they are, when they were last heard, and what each of their slots was answered last.
//!
//! A pure state machine: the time is an argument, records are values for the caller to store. A session known from an
//! earlier start of the master is *returning* until it has reclaimed what it held; as long as one is returning, the master
//! is in its **grace** time and runs no operations (docs/protocol.md, section 1).
//!
//! What always holds: of one slot at most one request runs at a time; a request whose sequence is that of the remembered
//! change is answered from memory and never runs again; a session that was not heard for the expiry time is named by
//! [`Sessions::expired`] until it is removed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rfs_common::clock::{Monotonic, Time};
use rfs_common::ids::{InodeId, SessionId};

use crate::namespace::records::{SessionRecord, SlotRecord};

/// Sessions at the same time; beyond that a new one is refused.
pub const SESSIONS_MAX: usize = 10_000;

/// Bytes of a session's secret.
pub const SECRET_BYTES: usize = 16;

/// What a client says of itself when it begins a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientDescription {
    /// Its host.
    pub host: String,
    /// Where it is mounted there.
    pub mount_point: String,
    /// Its process.
    pub process_id: u32,
    /// Its program version.
    pub version: String,
    /// It wants to change nothing, and the master holds it to that.
    pub read_only: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    secret: [u8; SECRET_BYTES],
    client: ClientDescription,
    root: InodeId,
    begun: Time,
    heard: Monotonic,
    returning: bool,
    operations: u64,
    slots: BTreeMap<u32, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    running: bool,
    last: Option<Remembered>,
}

/// The answer to a slot's last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Number of the request.
    pub sequence: u64,
    /// The answer's message.
    pub reply: Vec<u8>,
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Run it, then call [`Sessions::finish`].
    Run,
    /// It ran before; this was the answer.
    Repeated(Vec<u8>),
    /// The slot's request before it, or this one itself over another connection, still runs: wait and ask again.
    Occupied,
    /// The slot is further on already: a mistake of the client, whose connection is closed.
    Outdated {
        /// The sequence the slot has come to.
        last: u64,
    },
}

impl Session {
    /// What the client said of itself.
    pub fn client(&self) -> &ClientDescription {
        &self.client
    }

    /// The directory that it takes for its root.
    pub fn root(&self) -> InodeId {
        self.root
    }

    /// When it began.
    pub fn begun(&self) -> Time {
        self.begun
    }

    /// When the client was last heard.
    pub fn heard(&self) -> Monotonic {
        self.heard
    }

    /// Whether it has not yet reclaimed what it held before the master restarted.
    pub fn is_returning(&self) -> bool {
        self.returning
    }

    /// Requests it has made, repetitions among them.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Whether the caller is who began it.
    pub fn is_proved_by(&self, secret: &[u8]) -> bool {
        // All bytes are compared whatever they are, so that the time taken tells nothing.
        let differing = self.secret.iter().zip(secret).fold(0, |differing, (own, given)| differing | (own ^ given));
        secret.len() == SECRET_BYTES && differing == 0
    }

    /// Its record.
    pub fn record(&self) -> SessionRecord {
        SessionRecord {
            secret: self.secret.to_vec(),
            host: self.client.host.clone(),
            mount_point: self.client.mount_point.clone(),
            process_id: self.client.process_id,
            version: self.client.version.clone(),
            read_only: self.client.read_only,
            root: self.root.get(),
            begun: self.begun.into(),
        }
    }

    /// The slots with a remembered answer.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().filter(|(_, slot)| slot.last.is_some()).map(|(slot, _)| *slot)
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    sessions: HashMap<SessionId, Session>,
    expiry: Duration,
}

impl Sessions {
    /// None. A session that is not heard for `expiry` has expired.
    pub fn new(expiry: Duration) -> Sessions {
        Sessions { sessions: HashMap::new(), expiry }
    }

    /// A session known from before this start of the master. It has the whole expiry time to come back.
    pub fn load(&mut self, id: SessionId, record: &SessionRecord, now: Monotonic) {
        let mut secret = [0; SECRET_BYTES];
        let bytes = record.secret.len().min(SECRET_BYTES);
        secret[..bytes].copy_from_slice(&record.secret[..bytes]);
        let client = ClientDescription {
            host: record.host.clone(),
            mount_point: record.mount_point.clone(),
            process_id: record.process_id,
            version: record.version.clone(),
            read_only: record.read_only,
        };
        let (root, begun) = (InodeId::new(record.root), Time::from(record.begun));
        let session =
            Session { secret, client, root, begun, heard: now, returning: true, operations: 0, slots: BTreeMap::new() };
        self.sessions.insert(id, session);
    }

    /// The answer that a slot of a loaded session remembers.
    pub fn load_slot(&mut self, id: SessionId, slot: u32, record: SlotRecord) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let last = Some(Remembered { sequence: record.sequence, reply: record.reply });
            session.slots.insert(slot, Slot { running: false, last });
        }
    }

    /// Begins a session under an id and secret that the caller chose; its record is to be stored. None if there are too
    /// many.
    pub fn begin(
        &mut self,
        id: SessionId,
        secret: [u8; SECRET_BYTES],
        client: ClientDescription,
        root: InodeId,
        (now, begun): (Monotonic, Time),
    ) -> Option<SessionRecord> {
        if self.sessions.len() >= SESSIONS_MAX {
            return None;
        }
        let session = Session {
            secret,
            client,
            root,
            begun,
            heard: now,
            returning: false,
            operations: 0,
            slots: BTreeMap::new(),
        };
        let record = session.record();
        let before = self.sessions.insert(id, session);
        assert!(before.is_none(), "session ids are never given twice");
        Some(record)
    }

    /// The session, if it lives.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// The client was heard.
    pub fn heard(&mut self, id: SessionId, now: Monotonic) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.heard = session.heard.max(now);
        }
    }

    /// The session has reclaimed all it held. True if it was the last that the master waited for.
    pub fn returned(&mut self, id: SessionId) -> bool {
        let was_grace = self.is_grace();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.returning = false;
        }
        was_grace && !self.is_grace()
    }

    /// Whether a session is still to reclaim what it held.
    pub fn is_grace(&self) -> bool {
        self.sessions.values().any(|session| session.returning)
    }

    /// Sessions that were not heard for the expiry time, in the order of their ids.
    pub fn expired(&self, now: Monotonic) -> Vec<SessionId> {
        let late = self.sessions.iter().filter(|(_, session)| now.since(session.heard) >= self.expiry);
        let mut ids: Vec<SessionId> = late.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// This process did nothing for so long, as when it was stopped: what was not heard in that time says nothing of clients.
    pub fn stood_still(&mut self, now: Monotonic, pause: Duration) {
        for session in self.sessions.values_mut() {
            session.heard = (session.heard + pause).min(now);
        }
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.sessions.remove(&id)
    }

    /// Whether a request may run. The session must live.
    pub fn admit(&mut self, id: SessionId, slot: u32, sequence: u64) -> Admission {
        let Some(session) = self.sessions.get_mut(&id) else { return Admission::Occupied };
        session.operations += 1;
        let slot = session.slots.entry(slot).or_default();
        if slot.running {
            return Admission::Occupied;
        }
        match &slot.last {
            Some(last) if last.sequence == sequence => Admission::Repeated(last.reply.clone()),
            Some(last) if last.sequence > sequence => Admission::Outdated { last: last.sequence },
            _ => {
                slot.running = true;
                Admission::Run
            }
        }
    }

    /// A change that is being committed: from now on its repetition is answered with this.
    pub fn remember(&mut self, id: SessionId, slot: u32, remembered: Remembered) {
        if let Some(slot) = self.sessions.get_mut(&id).and_then(|session| session.slots.get_mut(&slot)) {
            slot.last = Some(remembered);
        }
    }

    /// An admitted request has ended, however it did.
    pub fn finish(&mut self, id: SessionId, slot: u32) {
        if let Some(slot) = self.sessions.get_mut(&id).and_then(|session| session.slots.get_mut(&slot)) {
            slot.running = false;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId::new(1);
    const EXPIRY: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn one() -> Sessions {
        let mut sessions = Sessions::new(EXPIRY);
        let begun = sessions.begin(ONE, [7; 16], ClientDescription::default(), InodeId::ROOT, (at(0), Time::EPOCH));
        assert!(begun.is_some());
        sessions
    }

    #[test]
    fn a_repetition_is_answered_from_memory_and_waits_for_the_first() {
        let mut sessions = one();
        assert_eq!(sessions.admit(ONE, 3, 5), Admission::Run);
        assert_eq!(sessions.admit(ONE, 3, 5), Admission::Occupied);
        assert_eq!(sessions.admit(ONE, 4, 5), Admission::Run);
        sessions.remember(ONE, 3, Remembered { sequence: 5, reply: b"done".to_vec() });
        sessions.finish(ONE, 3);
        assert_eq!(sessions.admit(ONE, 3, 5), Admission::Repeated(b"done".to_vec()));
        assert_eq!(sessions.admit(ONE, 3, 4), Admission::Outdated { last: 5 });
        assert_eq!(sessions.admit(ONE, 3, 6), Admission::Run);
        sessions.finish(ONE, 3);
        assert_eq!(sessions.admit(ONE, 3, 6), Admission::Run, "it changed nothing, so it runs again");
    }

    #[test]
    fn silence_ends_a_session_and_a_heartbeat_keeps_it() {
        let mut sessions = one();
        assert!(sessions.expired(at(9)).is_empty());
        sessions.heard(ONE, at(9));
        assert!(sessions.expired(at(18)).is_empty());
        assert_eq!(sessions.expired(at(19)), [ONE]);
        assert!(sessions.remove(ONE).is_some() && sessions.expired(at(19)).is_empty());
    }

    #[test]
    fn a_restart_brings_sessions_back_with_their_answers_and_waits_for_them() {
        let mut before = one();
        before.admit(ONE, 2, 9);
        let record = before.get(ONE).expect("it lives").record();
        let mut sessions = Sessions::new(EXPIRY);
        sessions.load(ONE, &record, at(100));
        sessions.load_slot(ONE, 2, SlotRecord { sequence: 9, reply: b"made".to_vec(), error: false });
        assert!(sessions.is_grace());
        assert!(sessions.get(ONE).expect("it lives").is_proved_by(&[7; 16]));
        assert!(!sessions.get(ONE).expect("it lives").is_proved_by(&[8; 16]));
        assert!(!sessions.get(ONE).expect("it lives").is_proved_by(&[]));
        assert_eq!(sessions.admit(ONE, 2, 9), Admission::Repeated(b"made".to_vec()));
        assert!(sessions.returned(ONE));
        assert!(!sessions.is_grace() && !sessions.returned(ONE));
    }

    #[test]
    fn grace_ends_with_the_last_that_comes_back_or_expires() {
        let mut sessions = Sessions::new(EXPIRY);
        let record = one().get(ONE).expect("it lives").record();
        sessions.load(ONE, &record, at(0));
        sessions.load(SessionId::new(2), &record, at(0));
        assert!(!sessions.returned(ONE));
        sessions.heard(ONE, at(5));
        assert_eq!(sessions.expired(at(10)), [SessionId::new(2)]);
        sessions.remove(SessionId::new(2));
        assert!(!sessions.is_grace());
    }
}
