//! A master for tests: real sockets, a namespace of one directory, replies remembered per slot, faults and recalls on
//! order. It grants every lease asked for and recalls nothing by itself: tests say what it does.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message;
use rfs_common::endpoint::Endpoint;
use rfs_common::errno::Errno;
use rfs_proto::frame::{FLAG_ERROR, FLAG_REPLY, FrameType, Header};
use rfs_proto::session as wire;
use rfs_proto::session_calls::slot_and_sequence;
use rfs_proto::wire::{Awaited, Connection, Envelope};

use super::fake_fault::Fault;

pub(crate) const ROOT: u64 = 1;
const EXPIRY_MS: u32 = 2000;
const HEARTBEAT_MS: u32 = 50;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) nodes: HashMap<u64, wire::Attributes>,
    pub(crate) entries: HashMap<Vec<u8>, u64>,
    pub(crate) faults: VecDeque<(FrameType, Fault)>,
    /// What was carried out, in its order: frames and what tests add.
    pub(crate) journal: Vec<String>,
    pub(crate) grant: u64,
    pub(crate) modes: HashMap<u64, i32>,
    pub(crate) first_chunk: Option<wire::ChunkPlaces>,
    pub(crate) commits: Vec<wire::Commit>,
    pub(crate) reclaims: Vec<wire::Reclaim>,
    pub(crate) releases: Vec<wire::Release>,
    /// Accesses that came with answers to recalls.
    pub(crate) touched: Vec<wire::TouchedNode>,
    pub(crate) unclaimed_operations: u32,
    /// Where the log is.
    pub(crate) log_position: u64,
    /// Where the log ended at the last start.
    recovered: u64,
    master_start: u64,
    session: u64,
    reclaimed: bool,
    replies: HashMap<u64, (u64, Vec<u8>)>,
    streams: Vec<TcpStream>,
    push: Option<Connection<TcpStream>>,
    last_recall: u64,
    done: HashSet<u64>,
    revision: u64,
    frozen: bool,
}

pub(crate) struct FakeMaster {
    pub(crate) endpoint: Endpoint,
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

impl FakeMaster {
    pub(crate) fn start() -> FakeMaster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        let state = State { master_start: 1, reclaimed: true, ..State::default() };
        let (state, changed) = (Arc::new(Mutex::new(state)), Arc::new(Condvar::new()));
        state.lock().unwrap().add(ROOT, wire::NodeKind::Directory);
        let server = Server { state: Arc::clone(&state), changed: Arc::clone(&changed) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream.unwrap()));
            }
        });
        FakeMaster { endpoint, state, changed }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A file in the root directory.
    pub(crate) fn file(&self, name: &str, inode: u64) {
        let mut state = self.state();
        state.add(inode, wire::NodeKind::File);
        state.entries.insert(name.as_bytes().to_vec(), inode);
    }

    pub(crate) fn fault(&self, frame_type: FrameType, fault: Fault) {
        self.state().faults.push_back((frame_type, fault));
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.state().journal.iter().filter(|entry| *entry == what).count()
    }

    /// Sends a recall and gives its number.
    pub(crate) fn recall(&self, recall: wire::Recall) -> u64 {
        let mut state = self.state();
        state.last_recall += 1;
        let number = state.last_recall;
        let message = wire::Recall { recall: number, ..recall };
        let push = state.push.as_mut().unwrap();
        push.send(Envelope::request(FrameType::Recall, 0), &message, &[]).unwrap();
        number
    }

    pub(crate) fn recall_lease(&self, inode: u64, mode: wire::LeaseMode, grant: u64) -> u64 {
        let lease = wire::Lease { inode, mode: mode.into(), grant };
        self.recall(wire::Recall { leases: vec![lease], ..wire::Recall::default() })
    }

    pub(crate) fn notice(&self, notice: &wire::Notice) {
        let mut state = self.state();
        state.push.as_mut().unwrap().send(Envelope::request(FrameType::Notice, 0), notice, &[]).unwrap();
    }

    pub(crate) fn is_done(&self, recall: u64) -> bool {
        self.state().done.contains(&recall)
    }

    pub(crate) fn wait_done(&self, recall: u64) {
        let state = self.state();
        let limit = Duration::from_secs(5);
        let waited = self.changed.wait_timeout_while(state, limit, |state| !state.done.contains(&recall)).unwrap();
        assert!(!waited.1.timed_out(), "recall {recall} was not answered");
    }

    /// Forgets the session and breaks every connection.
    pub(crate) fn lose_session(&self) {
        let mut state = self.state();
        state.session += 1;
        state.replies.clear();
        state.break_connections();
    }

    /// Restarts: connections break, and leases must be reclaimed. Of the log there is what was up to this position.
    pub(crate) fn restart(&self, recovered: u64) {
        let mut state = self.state();
        state.master_start += 1;
        (state.recovered, state.log_position) = (recovered, recovered);
        state.reclaimed = false;
        state.break_connections();
    }
}

impl State {
    fn add(&mut self, inode: u64, kind: wire::NodeKind) {
        self.revision += 1;
        let revision = self.revision;
        let attributes =
            wire::Attributes { inode, kind: kind.into(), mode: 0o644, links: 1, revision, ..Default::default() };
        self.nodes.insert(inode, attributes);
    }

    fn break_connections(&mut self) {
        self.push = None;
        for stream in self.streams.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn lease(&mut self, inode: u64, mode: wire::LeaseMode) -> Option<wire::Lease> {
        if self.frozen {
            return Some(wire::Lease { inode, mode: 0, grant: 0 });
        }
        self.grant += 1;
        let held = self.modes.entry(inode).or_default();
        *held = (*held).max(mode.into());
        Some(wire::Lease { inode, mode: *held, grant: self.grant })
    }

    fn node(&mut self, inode: u64) -> Option<wire::Node> {
        let attributes = *self.nodes.get(&inode)?;
        Some(wire::Node { attributes: Some(attributes), lease: self.lease(inode, wire::LeaseMode::Read) })
    }

    pub(crate) fn change(&mut self, inode: u64, change: impl FnOnce(&mut wire::Attributes)) {
        self.revision += 1;
        let revision = self.revision;
        let attributes = self.nodes.get_mut(&inode).unwrap();
        change(attributes);
        attributes.revision = revision;
    }

    fn touch(&mut self, touched: &wire::TouchedNode) -> wire::TouchResult {
        let applied = self.nodes.get(&touched.inode).is_some_and(|node| node.revision == touched.revision);
        if applied {
            self.change(touched.inode, |attributes| attributes.accessed = touched.accessed);
        }
        wire::TouchResult { revision: self.nodes.get(&touched.inode).map_or(0, |node| node.revision), applied }
    }

    /// The node is as it was before its last changes, which nobody knows of any more.
    pub(crate) fn revert(&mut self, inode: u64, length: u64) {
        let attributes = self.nodes.get_mut(&inode).unwrap();
        (attributes.length, attributes.revision) = (length, 1);
    }

    /// Carries out a request: the encoded reply or a refusal.
    fn run(&mut self, frame_type: FrameType, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.journal.push(format!("{frame_type:?}"));
        if !self.reclaimed {
            self.unclaimed_operations += 1;
        }
        Ok(match frame_type {
            FrameType::Lookup => {
                let request = wire::Lookup::decode(body).unwrap();
                let inode = self.entries.get(&*request.name).copied();
                let node = inode.and_then(|inode| self.node(inode));
                let parent_lease = self.lease(request.parent, wire::LeaseMode::Read);
                let first_chunk = self.first_chunk.clone();
                wire::LookupReply { node, parent_lease, first_chunk }.encode_to_vec()
            }
            FrameType::GetXattr => {
                let request = wire::GetXattr::decode(body).unwrap();
                if request.name.ends_with(b"none") {
                    return Err(Errno::ENODATA);
                }
                let value = [b"value of ", &request.name[..]].concat().into();
                wire::GetXattrReply { value }.encode_to_vec()
            }
            FrameType::SetXattr => {
                let request = wire::SetXattr::decode(body).unwrap();
                self.change(request.inode, |_| {});
                Vec::new()
            }
            FrameType::GetAttributes => {
                let request = wire::GetAttributes::decode(body).unwrap();
                let node = Some(self.node(request.inode).ok_or(Errno::ESTALE)?);
                wire::NodeReply { node }.encode_to_vec()
            }
            FrameType::AcquireLease => {
                let request = wire::AcquireLease::decode(body).unwrap();
                let lease = self.lease(request.inode, request.mode());
                let node = self.node(request.inode).map(|node| wire::Node { lease, ..node });
                wire::AcquireLeaseReply { node }.encode_to_vec()
            }
            FrameType::Make => self.make(&wire::Make::decode(body).unwrap()),
            FrameType::Unlink => {
                let request = wire::Unlink::decode(body).unwrap();
                let inode = self.entries.remove(&*request.name).ok_or(Errno::ENOENT)?;
                self.change(inode, |attributes| attributes.links = 0);
                let removed = self.nodes.get(&inode).cloned();
                wire::UnlinkReply { removed, orphan: true, parent: None }.encode_to_vec()
            }
            FrameType::SetAttributes => {
                let request = wire::SetAttributes::decode(body).unwrap();
                self.change(request.inode, |attributes| {
                    attributes.length = request.length.unwrap_or(attributes.length);
                    attributes.modified = request.modified.or(attributes.modified);
                    attributes.accessed = request.accessed.or(attributes.accessed);
                });
                wire::NodeReply { node: self.node(request.inode) }.encode_to_vec()
            }
            FrameType::Touch => {
                let request = wire::Touch::decode(body).unwrap();
                let results = request.nodes.iter().map(|touched| self.touch(touched)).collect();
                wire::TouchReply { results }.encode_to_vec()
            }
            FrameType::Commit => {
                let request = wire::Commit::decode(body).unwrap();
                self.change(request.inode, |attributes| {
                    attributes.length = request.length.unwrap_or(attributes.length);
                    attributes.modified = request.modified.or(attributes.modified);
                });
                if let Some(returned) = &request.return_lease {
                    self.modes.insert(request.inode, returned.mode);
                    self.frozen = returned.mode() == wire::LeaseMode::None;
                }
                self.commits.push(request.clone());
                wire::NodeReply { node: self.node(request.inode) }.encode_to_vec()
            }
            FrameType::ReadDirectory => self.read_directory(&wire::ReadDirectory::decode(body).unwrap()),
            FrameType::Release => {
                self.releases.push(wire::Release::decode(body).unwrap());
                Vec::new()
            }
            FrameType::SetLock => {
                let request = wire::SetLock::decode(body).unwrap();
                wire::SetLockReply { granted: !request.wait }.encode_to_vec()
            }
            FrameType::CancelLock => wire::CancelLockReply { granted: false }.encode_to_vec(),
            FrameType::Sync => Vec::new(),
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn make(&mut self, request: &wire::Make) -> Vec<u8> {
        let inode = 100 + self.nodes.len() as u64;
        self.add(inode, request.kind());
        self.entries.insert(request.name.to_vec(), inode);
        self.change(ROOT, |_| {});
        let mode = if request.open { wire::LeaseMode::Write } else { wire::LeaseMode::Read };
        let lease = self.lease(inode, mode);
        let node = Some(wire::Node { attributes: self.nodes.get(&inode).cloned(), lease });
        let parent_lease = self.lease(ROOT, wire::LeaseMode::Read);
        let parent = self.nodes.get(&ROOT).cloned();
        wire::MakeReply { node, parent_lease, created: true, first_chunk: None, parent }.encode_to_vec()
    }

    fn read_directory(&mut self, request: &wire::ReadDirectory) -> Vec<u8> {
        let mut names: Vec<_> = self.entries.iter().map(|(name, inode)| (name.clone(), *inode)).collect();
        names.sort();
        let after = names.into_iter().filter(|(name, _)| name.as_slice() > &*request.after);
        let mut entries: Vec<wire::DirectoryEntry> = after
            .map(|(name, inode)| wire::DirectoryEntry {
                name: name.into(),
                inode,
                kind: self.nodes[&inode].kind,
                node: request.with_attributes.then(|| self.node(inode)).flatten(),
                cookie: inode + 10,
            })
            .collect();
        // Small answers, so that tests see more than one.
        let end = entries.len() <= 2;
        entries.truncate(2);
        let lease = self.lease(request.inode, wire::LeaseMode::Read);
        wire::ReadDirectoryReply { entries, end, parent_inode: ROOT, lease }.encode_to_vec()
    }
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

impl Server {
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut connection = Connection::new(stream.try_clone().unwrap());
        let Ok(header) = connection.receive_head(&Awaited::ANY) else { return };
        let Ok(hello) = connection.message::<wire::Hello>(&header) else { return };
        {
            let mut state = self.state.lock().unwrap();
            let is_older = hello.master_start > 0 && hello.master_start != state.master_start;
            if hello.session == 0 {
                state.session += 1;
                state.reclaimed = true;
            } else if is_older && hello.log_position > state.recovered {
                let (_, failure) = refusal(Errno::ENOTRECOVERABLE);
                send_raw(&connection, &header, FLAG_REPLY | FLAG_ERROR, &failure, state.recovered);
                return;
            } else if hello.session != state.session {
                let failure = wire::Failure { errno: Errno::ESTALE.raw() as u32, message: String::new() };
                let _ = connection.send(Envelope::failure_of(&header), &failure, &[]);
                return;
            }
            let reply = wire::HelloReply {
                session: state.session,
                cluster: vec![7; 16].into(),
                root: ROOT,
                session_expiry_ms: EXPIRY_MS,
                heartbeat_ms: HEARTBEAT_MS,
                master_start: state.master_start,
                slots_max: 16,
                takes_accesses: true,
                ..Default::default()
            };
            if connection.send(Envelope::reply_to(&header), &reply, &[]).is_err() {
                return;
            }
            state.streams.push(stream.try_clone().unwrap());
            if hello.role() == wire::ConnectionRole::Push {
                state.push = Some(Connection::new(stream));
            }
        }
        match hello.role() {
            wire::ConnectionRole::Push => while self.serve_push(&mut connection).is_some() {},
            _ => while self.serve_operation(&mut connection).is_some() {},
        }
        // Another handle of the stream is kept for the sake of `break_connections`.
        let _ = connection.stream().shutdown(std::net::Shutdown::Both);
    }

    fn serve_push(&self, connection: &mut Connection<TcpStream>) -> Option<()> {
        let header = connection.receive_head(&Awaited::ANY).ok()?;
        let mut state = self.state.lock().unwrap();
        match header.frame_type {
            FrameType::Heartbeat => {
                let reply = wire::HeartbeatReply { master_start: state.master_start };
                state.push.as_mut()?.send(Envelope::reply_to(&header), &reply, &[]).ok()?;
            }
            FrameType::RecallDone => {
                let done: wire::RecallDone = connection.message(&header).ok()?;
                state.done.insert(done.recall);
                state.touched.extend(done.touched);
                state.journal.push("RecallDone".into());
                self.changed.notify_all();
            }
            FrameType::Reclaim => {
                let reclaim: wire::Reclaim = connection.message(&header).ok()?;
                state.reclaimed = reclaim.last;
                state.reclaims.push(reclaim);
                let reply = wire::ReclaimReply::default();
                state.push.as_mut()?.send(Envelope::reply_to(&header), &reply, &[]).ok()?;
            }
            _ => state.journal.push(format!("{:?}", header.frame_type)),
        }
        Some(())
    }

    fn serve_operation(&self, connection: &mut Connection<TcpStream>) -> Option<()> {
        let header = connection.receive_head(&Awaited::ANY).ok()?;
        let body = connection.message_bytes().to_vec();
        let (slot, sequence) = slot_and_sequence(header.request_id);
        let mut state = self.state.lock().unwrap();
        let at = state.faults.iter().position(|(frame_type, _)| *frame_type == header.frame_type);
        let fault = at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault);
        state.frozen = matches!(fault, Some(Fault::Frozen));
        let remembered = state.replies.get(&u64::from(slot)).filter(|(of, _)| *of == sequence).cloned();
        let (flags, reply) = match (remembered, &fault) {
            (_, Some(Fault::DropBefore)) => return None,
            (_, Some(Fault::Refuse(errno))) => refusal(*errno),
            (Some((_, reply)), _) => (FLAG_REPLY, reply),
            (None, _) => match state.run(header.frame_type, &body) {
                Ok(reply) => (FLAG_REPLY, reply),
                Err(errno) => refusal(errno),
            },
        };
        if flags == FLAG_REPLY {
            state.replies.insert(u64::from(slot), (sequence, reply.clone()));
        }
        let log_position = state.log_position;
        drop(state);
        match fault {
            Some(Fault::DropAfter) => return None,
            Some(Fault::Hold(gate)) => gate.pass(),
            _ => {}
        }
        send_raw(connection, &header, flags, &reply, log_position)
    }
}

fn refusal(errno: Errno) -> (u16, Vec<u8>) {
    let failure = wire::Failure { errno: errno.raw() as u32, message: String::new() };
    (FLAG_REPLY | FLAG_ERROR, failure.encode_to_vec())
}

fn send_raw(
    connection: &Connection<TcpStream>,
    header: &Header,
    flags: u16,
    reply: &[u8],
    log_position: u64,
) -> Option<()> {
    let reply = [reply, &wire::Answered { log_position }.encode_to_vec()].concat();
    let head = Header { flags, message_bytes: reply.len() as u32, payload_bytes: 0, ..*header };
    let mut stream = connection.stream().try_clone().ok()?;
    std::io::Write::write_all(&mut stream, &[&head.encode()[..], &reply].concat()).ok()
}
