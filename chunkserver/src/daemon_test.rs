//! Tests of whole chunkservers in this process: real files, real sockets, and a master that only records and orders.

use std::net::{TcpListener as StdListener, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;

use rfs_common::clock::SystemClock;
use rfs_common::endpoint::Endpoint;
use rfs_common::ids::{ChunkId, ClusterId};
use rfs_common::leaf::{hash_leaf, split_at_leaves};
use rfs_common::random::SystemRandom;
use rfs_common::size::Period;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::cluster::cluster_server::{Cluster, ClusterServer};
use rfs_proto::cluster::from_chunkserver::Message as From;
use rfs_proto::cluster::to_chunkserver::Message as To;
use rfs_proto::cluster::{
    Command, CommandResult, FromChunkserver, HeartbeatReply, Inventory, Raise, Refused, Register, Registered,
    Replicate, Source, ToChunkserver, VolumeState, command::Order,
};
use rfs_proto::data::{
    ChangeReply, Digest, DigestReply, Hello, HelloReply, NextCopy, Read, ReadReply, Status, SyncChunk, Write, Zero,
};
use rfs_proto::data_calls::DataCall;
use rfs_proto::frame::FrameType;
use rfs_proto::session;
use rfs_proto::wire::{Awaited, Connection, Envelope};
use tempfile::TempDir;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::init::{InitArguments, init};

const CLUSTER: ClusterId = ClusterId::new(0x1234);
const LIMIT: Duration = Duration::from_secs(10);

type Orders = mpsc::Sender<Result<ToChunkserver, tonic::Status>>;

/// Answers registrations, keeps what it is told, and passes on orders.
#[derive(Clone, Default)]
struct Recorder {
    told: Arc<Mutex<Vec<FromChunkserver>>>,
    orders: Arc<Mutex<Vec<Orders>>>,
    refusal: Arc<Mutex<Option<Refused>>>,
}

#[tonic::async_trait]
impl Cluster for Recorder {
    type ServeStream = ReceiverStream<Result<ToChunkserver, tonic::Status>>;

    async fn serve(
        &self,
        request: tonic::Request<tonic::Streaming<FromChunkserver>>,
    ) -> Result<tonic::Response<Self::ServeStream>, tonic::Status> {
        let (sender, receiver) = mpsc::channel(16);
        let mut incoming = request.into_inner();
        let recorder = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(told)) = incoming.next().await {
                let answer = match &told.message {
                    Some(From::Register(_)) => match recorder.refusal.lock().unwrap().clone() {
                        Some(refused) => Some(To::Refused(refused)),
                        None => {
                            recorder.orders.lock().unwrap().push(sender.clone());
                            Some(To::Registered(Registered {
                                heartbeat_ms: 100,
                                expiry_ms: 2000,
                                ..Registered::default()
                            }))
                        }
                    },
                    Some(From::Leaving(_)) => {
                        recorder.orders.lock().unwrap().clear();
                        None
                    }
                    Some(From::Heartbeat(_)) => Some(To::Heartbeat(HeartbeatReply::default())),
                    _ => None,
                };
                recorder.told.lock().unwrap().push(told);
                if let Some(answer) = answer {
                    let _ = sender.send(Ok(ToChunkserver { message: Some(answer) })).await;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

struct Master {
    recorder: Recorder,
    ask_port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Master {
    fn start(cluster: ClusterId) -> Master {
        let recorder = Recorder::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let cluster_port = listener.local_addr().unwrap().port();
        let service = ClusterServer::new(recorder.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let ask = StdListener::bind("127.0.0.1:0").unwrap();
        let ask_port = ask.local_addr().unwrap().port();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = ask.accept() {
                let mut connection = Connection::new(stream);
                let Ok(header) = connection.receive_head(&Awaited::ANY) else { continue };
                let hello: session::Hello = connection.message(&header).unwrap();
                assert_eq!(hello.role(), session::ConnectionRole::Ask);
                let reply = session::HelloReply {
                    cluster: cluster.get().to_be_bytes().to_vec().into(),
                    cluster_port: cluster_port.into(),
                    ..session::HelloReply::default()
                };
                connection.send(Envelope::reply_to(&header), &reply, &[]).unwrap();
            }
        });
        Master { recorder, ask_port, _runtime: runtime }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new("127.0.0.1", self.ask_port)
    }

    /// Waits for something that was told.
    fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&From) -> Option<T>) -> T {
        let clock = SystemClock::shared();
        let deadline = clock.monotonic() + LIMIT;
        loop {
            let found =
                self.recorder.told.lock().unwrap().iter().filter_map(|told| told.message.as_ref()).find_map(&mut find);
            if let Some(found) = found {
                return found;
            }
            assert!(clock.monotonic() < deadline, "was not told {what}");
            clock.sleep(Duration::from_millis(5));
        }
    }

    fn order(&self, stream: usize, number: u64, order: Order) -> CommandResult {
        let command = To::Command(Command { command: number, order: Some(order) });
        let sender = self.recorder.orders.lock().unwrap()[stream].clone();
        sender.blocking_send(Ok(ToChunkserver { message: Some(command) })).unwrap();
        self.wait_for("the result of an order", |told| match told {
            From::Result(result) if result.command == number => Some(result.clone()),
            _ => None,
        })
    }
}

struct Server {
    folders: Vec<PathBuf>,
    daemon: Option<Daemon>,
    shutdown: Shutdown,
    config: Config,
    _root: TempDir,
}

impl Server {
    fn new(master: &Master, volumes: usize) -> Server {
        let root = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = (0..volumes).map(|number| root.path().join(format!("v{number}"))).collect();
        let arguments = InitArguments {
            folders: folders.clone(),
            cluster: None,
            master: Some(master.endpoint()),
            server: None,
            host: Some("test-host".into()),
            not_a_mount_point: true,
            storage_machine: Some("sto1".into()),
        };
        init(&arguments, &SystemRandom).unwrap();
        let config = Config {
            data: folders.clone(),
            master: Some(master.endpoint()),
            listen: Endpoint::new("127.0.0.1", 0),
            run_dir: Some(root.path().join("run")),
            retry_interval: Period::milliseconds(50),
            ..Config::default()
        };
        let mut server = Server { folders, daemon: None, shutdown: Shutdown::new(), config, _root: root };
        server.start();
        server
    }

    fn start(&mut self) {
        let daemon = Daemon::start(&self.config, &SystemClock::shared(), &SystemRandom, &self.shutdown);
        self.daemon = Some(daemon.unwrap());
    }

    fn stop(&mut self) -> End {
        self.daemon.take().unwrap().stop()
    }

    fn place(&self, volume: usize) -> NextCopy {
        let daemon = self.daemon.as_ref().unwrap();
        let identity = daemon.volumes().slots()[volume].identity().unwrap();
        let (server, volume) = (identity.server.get(), identity.volume.get());
        NextCopy { server, volume, address: daemon.address().to_string() }
    }
}

struct Client {
    connection: Connection<TcpStream>,
    volume: u64,
    payload: Vec<u8>,
}

impl Client {
    fn connect(place: &NextCopy) -> Client {
        let connection = Connection::new(TcpStream::connect(&place.address).unwrap());
        connection.stream().set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Client { connection, volume: place.volume, payload: Vec::new() };
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: CLUSTER.get().to_be_bytes().to_vec().into(),
            server: place.server,
            volume: place.volume,
            from: "test".into(),
        };
        let reply: HelloReply = client.ask(&hello, &[]);
        assert_eq!(reply.server, place.server);
        client
    }

    fn ask<R: DataCall>(&mut self, request: &R, payload: &[u8]) -> R::Reply {
        self.connection.send(Envelope::request(R::FRAME_TYPE, 9), request, &[payload]).unwrap();
        let header = self.connection.receive_head(&Awaited::ANY).unwrap();
        assert!(header.is_reply() && !header.is_error() && header.request_id == 9, "{header:?}");
        let reply = self.connection.message(&header).unwrap();
        self.payload.resize(header.payload_bytes as usize, 0);
        self.connection.receive_payload(&mut self.payload).unwrap();
        reply
    }

    fn write(&mut self, chunk: u64, versions: (u32, u32), offset: u32, bytes: &[u8], next: &[NextCopy]) -> ChangeReply {
        let request = Write {
            volume: self.volume,
            chunk,
            version_from: versions.0,
            version: versions.1,
            cut_to: None,
            offset,
            length: bytes.len() as u32,
            hashes: piece_hashes(offset, bytes).into(),
            sync: false,
            next: next.to_vec(),
            more: Vec::new(),
        };
        self.ask(&request, bytes)
    }

    fn read(&mut self, chunk: u64, version: u32, offset: u32, length: u32) -> (ReadReply, Vec<u8>) {
        let reply = self.ask(
            &Read { volume: self.volume, chunk, version, offset, length, into_memory: false, next_data: false },
            &[],
        );
        (reply, self.payload.clone())
    }
}

fn piece_hashes(offset: u32, bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    let mut hashes = Vec::new();
    for part in split_at_leaves(offset, bytes.len() as u32) {
        let (piece, behind) = rest.split_at(part.length);
        hashes.extend_from_slice(hash_leaf(part.leaf_index, piece).as_bytes());
        rest = behind;
    }
    hashes
}

fn statuses(reply: &ChangeReply) -> Vec<Status> {
    reply.results.iter().map(rfs_proto::data::CopyResult::status).collect()
}

#[test]
fn a_chain_of_three_has_the_same_bytes_everywhere_and_names_the_one_that_fails() {
    let master = Master::start(CLUSTER);
    let mut servers = [Server::new(&master, 1), Server::new(&master, 1), Server::new(&master, 1)];
    let places: Vec<NextCopy> = servers.iter().map(|server| server.place(0)).collect();
    let mut client = Client::connect(&places[0]);
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at / 7) as u8).collect();
    let reply = client.write(5, (0, 1), 0, &bytes, &places[1..]);
    assert_eq!((statuses(&reply), reply.data_length), (vec![Status::Ok; 3], 300_000));
    let told: Vec<u64> = reply.results.iter().map(|result| result.volume).collect();
    assert_eq!(told, places.iter().map(|place| place.volume).collect::<Vec<_>>());
    let volume = places[0].volume;
    let next = places[1..].to_vec();
    let zero = Zero {
        volume,
        chunk: 5,
        version_from: 1,
        version: 2,
        cut_to: Some(200_000),
        offset: 10,
        length: 20_000,
        next: next.clone(),
    };
    assert_eq!(statuses(&client.ask(&zero, &[])), vec![Status::Ok; 3]);
    let sync = SyncChunk { volume, chunk: 5, version: 2, next: next.clone() };
    assert_eq!(statuses(&client.ask(&sync, &[])), vec![Status::Ok; 3]);
    let mut expected = bytes[..200_000].to_vec();
    expected[10..20_010].fill(0);
    let mut digests = Vec::new();
    for place in &places {
        let mut client = Client::connect(place);
        let (reply, payload) = client.read(5, 2, 100, 199_900);
        assert_eq!((reply.offset, reply.data_length, reply.result.unwrap().status()), (0, 200_000, Status::Ok));
        assert!(payload == expected, "the bytes of {place:?} are others");
        assert_eq!(reply.hashes, piece_hashes(0, &expected));
        let digest: DigestReply = client.ask(&Digest { volume: place.volume, chunk: 5, version: 2 }, &[]);
        digests.push(digest.digest);
    }
    assert_eq!(digests[0], blake3::hash(&expected).as_bytes()[..]);
    assert!(digests.iter().all(|digest| *digest == digests[0]));

    // The last copy has moved on: the first two take the write, and the answer says which did not.
    let mut last = Client::connect(&places[2]);
    assert_eq!(statuses(&last.write(5, (2, 3), 0, b"", &[])), [Status::Ok]);
    let reply = client.write(5, (2, 2), 0, b"bytes", &next);
    assert_eq!(statuses(&reply), [Status::NextFailed, Status::NextFailed, Status::WrongVersion]);
    assert_eq!(reply.results[2].have_version, 3);
    // A server that is gone is named as well.
    assert_eq!(servers[1].stop(), End::Left);
    let reply = client.write(5, (2, 2), 0, b"bytes", &next[..1]);
    assert_eq!(statuses(&reply)[0], Status::NextFailed);
    assert_eq!((reply.results.len(), reply.results[1].volume), (2, places[1].volume));
    for server in [0, 2] {
        assert_eq!(servers[server].stop(), End::Left);
    }
}

#[test]
fn bad_requests_are_refused_by_name_and_the_connection_lives_on() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 2);
    let place = server.place(0);
    let mut client = Client::connect(&place);
    assert_eq!(statuses(&client.write(1, (0, 1), 0, &[1; 100], &[])), [Status::Ok]);
    let good = Write { volume: place.volume, chunk: 1, version_from: 1, version: 1, length: 3, ..Write::default() };
    let hashes = piece_hashes(0, b"abc");
    let cases = [
        (Write { hashes: piece_hashes(0, b"abd").into(), ..good.clone() }, Status::BadHashSent),
        (Write { hashes: Vec::new().into(), ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), length: 4, ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), offset: u32::MAX, ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), version: 0, ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), chunk: 0, ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), cut_to: Some(u32::MAX), ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), volume: server.place(1).volume, ..good.clone() }, Status::BadRequest),
        (Write { hashes: hashes.clone().into(), chunk: 2, ..good.clone() }, Status::NoChunk),
        (Write { hashes: hashes.clone().into(), version: 7, version_from: 6, ..good.clone() }, Status::WrongVersion),
        (Write { hashes: hashes.clone().into(), version: 7, version_from: 0, ..good.clone() }, Status::Exists),
        (Write { hashes: hashes.into(), ..good }, Status::Ok),
    ];
    for (request, expected) in cases {
        let reply = client.ask(&request, b"abc");
        assert_eq!(statuses(&reply), [expected], "{request:?}: {reply:?}");
    }
    for (request, expected) in [
        ((9, 1, 0, 5), Status::NoChunk),
        ((1, 2, 0, 5), Status::WrongVersion),
        ((1, 1, u32::MAX, 5), Status::BadRequest),
    ] {
        let (reply, payload) = client.read(request.0, request.1, request.2, request.3);
        assert_eq!((reply.result.unwrap().status(), payload.len()), (expected, 0));
    }
    let mut elsewhere = Client::connect(&NextCopy { volume: 77, ..place.clone() });
    assert_eq!(statuses(&elsewhere.write(1, (0, 1), 0, &[1], &[])), [Status::VolumeOut]);
    // Nonsense ends its own connection only.
    let mut nonsense = TcpStream::connect(&place.address).unwrap();
    std::io::Write::write_all(&mut nonsense, &[b'x'; 64]).unwrap();
    nonsense.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(matches!(std::io::Read::read(&mut nonsense, &mut [0; 10]), Ok(0) | Err(_)));
    let mut stranger = Connection::new(TcpStream::connect(&place.address).unwrap());
    let hello = Hello { protocol_version: PROTOCOL_VERSION, cluster: vec![1; 16].into(), ..Hello::default() };
    stranger.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]).unwrap();
    let refusal = stranger.receive_reply::<HelloReply>(FrameType::DataHello, 0).unwrap().unwrap_err();
    assert!(refusal.message.contains("cluster"), "{refusal:?}");
    assert_eq!(client.read(1, 1, 0, 3).1[..3], *b"abc");
    assert_eq!(server.stop(), End::Left);
}

#[test]
fn registers_tells_what_it_has_obeys_and_leaves() {
    let master = Master::start(CLUSTER);
    let mut source = Server::new(&master, 1);
    let mut client = Client::connect(&source.place(0));
    let bytes: Vec<u8> = (0..9_000_000_u32).map(|at| (at / 13) as u8).collect();
    for (offset, part) in (0..).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
        assert_eq!(statuses(&client.write(6, (0, 1), offset, part, &[])), [Status::Ok]);
    }
    let register: Register = master.wait_for("a registration", |told| match told {
        From::Register(register) => Some(register.clone()),
        _ => None,
    });
    assert_eq!(register.data_address, source.place(0).address);
    assert_eq!((register.host.as_str(), register.volumes.len()), ("test-host", 1));
    assert_eq!(register.volumes[0].storage_machine, "sto1");
    let addresses = std::fs::read_to_string(source.config.run_dir.as_ref().unwrap().join("addresses")).unwrap();
    assert_eq!(addresses, format!("data = \"{}\"\n", source.place(0).address));

    let mut target = Server::new(&master, 1);
    master.wait_for("two inventories", |_| (master.recorder.orders.lock().unwrap().len() == 2).then_some(()));
    let from = source.place(0);
    let sources = vec![
        Source { server: 1, volume: 1, address: "127.0.0.1:1".into() },
        Source { server: from.server, volume: from.volume, address: from.address },
    ];
    let to = target.place(0);
    let replicate = Replicate { volume: to.volume, chunk: 6, version: 1, sources };
    let result = master.order(1, 100, Order::Replicate(replicate.clone()));
    assert!(result.done && (result.version, result.length) == (1, 9_000_000), "{result:?}");
    let mut client = Client::connect(&to);
    let (reply, payload) = client.read(6, 1, 8 << 20, 4 << 20);
    assert!(reply.data_length == 9_000_000 && payload == bytes[8 << 20..]);
    assert!(master.order(1, 101, Order::Replicate(replicate.clone())).done);
    let wrong = master.order(1, 102, Order::Replicate(Replicate { chunk: 7, ..replicate }));
    assert!(!wrong.done && wrong.message.contains("STATUS_NO_CHUNK"), "{wrong:?}");

    let raise = Raise { volume: to.volume, chunk: 6, from: 1, to: 5, settles: false };
    let raised = master.order(1, 103, Order::Raise(raise));
    assert!(raised.done && raised.version == 5, "{raised:?}");
    assert_eq!(statuses(&client.write(6, (1, 1), 0, b"late", &[])), [Status::WrongVersion]);
    let delete = rfs_proto::cluster::Delete { volume: to.volume, chunk: 6, version: 1 };
    assert!(!master.order(1, 104, Order::Delete(delete)).done);
    assert!(master.order(1, 105, Order::Delete(rfs_proto::cluster::Delete { version: 5, ..delete })).done);
    let gone = master.order(1, 106, Order::Delete(rfs_proto::cluster::Delete { volume: 3, ..delete }));
    assert_eq!((gone.done, gone.errno), (false, 19));

    assert_eq!(source.stop(), End::Left);
    master.wait_for("the leaving", |told| matches!(told, From::Leaving(_)).then_some(()));
    // It comes back with everything closed, and tells so without being asked.
    master.recorder.told.lock().unwrap().clear();
    source.start();
    let inventory: Inventory = master.wait_for("an inventory", |told| match told {
        From::Inventory(inventory) => Some(inventory.clone()),
        _ => None,
    });
    assert!(inventory.first && inventory.last && inventory.chunks.len() == 1, "{inventory:?}");
    let held = inventory.chunks[0];
    assert_eq!((held.chunk, held.version, held.length, held.open, held.suspect), (6, 1, 9_000_000, false, false));
    assert_eq!(source.stop(), End::Left);
    assert_eq!(target.stop(), End::Left);
}

#[test]
fn a_missing_volume_is_reported_out_while_the_other_serves_and_comes_back() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 2);
    let volume = server.place(1).volume;
    let mut client = Client::connect(&server.place(1));
    assert_eq!(statuses(&client.write(3, (0, 1), 0, b"kept", &[])), [Status::Ok]);
    server.stop();
    let (there, away) = (server.folders[1].clone(), server.folders[1].with_extension("away"));
    std::fs::rename(&there, &away).unwrap();
    server.start();
    assert_eq!(server.daemon.as_ref().unwrap().volumes().in_use().len(), 1);
    std::fs::rename(&away, &there).unwrap();
    master.recorder.told.lock().unwrap().clear();
    master.wait_for("the volume's inventory", |told| match told {
        From::Inventory(inventory) if inventory.volume == volume && inventory.chunks.len() == 1 => Some(()),
        _ => None,
    });
    // A running volume whose folder vanishes is out, with the reason.
    std::fs::rename(&there, &away).unwrap();
    let reason = master.wait_for("the volume out", |told| match told {
        From::Heartbeat(beat) => beat
            .volumes
            .iter()
            .find(|one| one.volume == volume && one.state() == VolumeState::Out)
            .map(|one| one.reason.clone()),
        _ => None,
    });
    assert!(!reason.is_empty());
    std::fs::rename(&away, &there).unwrap();
    server.stop();
}

#[test]
fn refusals_end_the_daemon_with_words() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    server.stop();
    let start = |config: &Config| {
        Daemon::start(config, &SystemClock::shared(), &SystemRandom, &Shutdown::new()).unwrap_err().to_string()
    };
    server.start();
    let words = start(&server.config);
    assert!(words.contains("in use by process"), "a second daemon on its volume: {words}");
    server.stop();
    let empty = tempfile::tempdir().unwrap();
    let words = start(&Config { data: vec![empty.path().to_owned()], ..server.config.clone() });
    assert!(words.contains("is not a volume") && words.contains("chunkserver init"), "{words}");
    assert!(start(&Config { data: Vec::new(), ..server.config.clone() }).contains("--data"));
    assert!(start(&Config { master: None, ..server.config.clone() }).contains("--master"));
    // The same volume twice: one serves, the other is told why it does not.
    let twice = Config { data: vec![server.folders[0].clone(), server.folders[0].join(".")], ..server.config.clone() };
    let daemon = Daemon::start(&twice, &SystemClock::shared(), &SystemRandom, &Shutdown::new()).unwrap();
    assert_eq!(daemon.volumes().in_use().len(), 1);
    let out = daemon.volumes().slots().iter().find_map(|slot| match slot.current() {
        crate::volumes::Current::Out { reason, .. } => Some(reason),
        crate::volumes::Current::InUse(_) => None,
    });
    assert!(out.as_ref().is_some_and(|reason| reason.contains("same volume")), "{out:?}");
    daemon.stop();

    let refusal = Refused { reason: "not wanted".into(), volumes: vec![], r#final: true };
    *master.recorder.refusal.lock().unwrap() = Some(refusal);
    server.start();
    assert!(server.shutdown.wait_timeout(LIMIT));
    assert!(matches!(server.stop(), End::Refused(reason) if reason.contains("not wanted")));
    let other = Master::start(ClusterId::new(9));
    server.config.master = Some(other.endpoint());
    server.shutdown = Shutdown::new();
    server.start();
    assert!(server.shutdown.wait_timeout(LIMIT));
    assert!(matches!(server.stop(), End::Refused(reason) if reason.contains("--master")));
}

#[test]
fn verify_names_what_is_wrong() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    let folder = server.folders[0].clone();
    let mut client = Client::connect(&server.place(0));
    for chunk in 1..=3 {
        assert_eq!(statuses(&client.write(chunk, (0, 1), 0, &[chunk as u8; 40_000], &[])), [Status::Ok]);
    }
    let error = crate::verify::verify(&folder).unwrap_err();
    assert!(format!("{error:#}").contains("in use by process"), "{error:#}");
    server.stop();
    let good = crate::verify::verify(&folder).unwrap();
    assert_eq!((good.chunks, good.bytes, good.bad.len(), good.unsettled.len()), (3, 120_000, 0, 0));
    let layout = crate::volume::layout::Layout::new(&folder);
    let change = |chunk: u64, at: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(layout.path(ChunkId::new(chunk))).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"?", at).unwrap();
    };
    change(1, 20);
    change(2, crate::chunk::format::DATA_AT + 20_000);
    let found = crate::verify::verify(&folder).unwrap();
    let problems: Vec<(u64, &str)> = found.bad.iter().map(|bad| (bad.chunk, bad.problem.as_str())).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].0 == 1 && problems[0].1.starts_with("bytes 0 to 252: "), "{problems:?}");
    assert!(
        problems[1].0 == 2 && problems[1].1.ends_with("hashes: 1 (data at byte 163840, hash at byte 288)"),
        "{problems:?}"
    );
    assert!(crate::verify::verify(&folder.join("chunks")).is_err());
}

#[path = "hostile_peers_test.rs"]
mod hostile_peers;

#[path = "local_port_test.rs"]
mod local_port;

/// It would have become the other server's, and lost all its own volumes.
#[test]
fn a_volume_of_another_server_is_refused_and_the_others_serve() {
    let master = Master::start(CLUSTER);
    let mut own = Server::new(&master, 2);
    let mut other = Server::new(&master, 1);
    let (places, foreign) = ([own.place(0), own.place(1)], other.place(0));
    let mut client = Client::connect(&places[1]);
    assert_eq!(statuses(&client.write(3, (0, 1), 0, b"kept", &[])), [Status::Ok]);
    own.stop();
    other.stop();
    own.config.data.insert(0, other.folders[0].clone());
    master.recorder.told.lock().unwrap().clear();
    own.start();
    let register: Register = master.wait_for("a registration", |told| match told {
        From::Register(register) => Some(register.clone()),
        _ => None,
    });
    assert_eq!(register.server, places[0].server);
    let mut named: Vec<u64> = register.volumes.iter().map(|volume| volume.volume).collect();
    named.sort_unstable();
    let mut expected: Vec<u64> = places.iter().map(|place| place.volume).collect();
    expected.sort_unstable();
    assert_eq!(named, expected, "{foreign:?} is another's to report");
    let volumes = own.daemon.as_ref().unwrap().volumes();
    assert_eq!(volumes.in_use().len(), 2);
    let crate::volumes::Current::Out { reason, .. } = volumes.slots()[0].current() else { panic!("it is used") };
    assert!(reason.contains("belongs to chunkserver"), "{reason}");
    let mut client = Client::connect(&NextCopy { address: own.place(1).address, ..places[1].clone() });
    assert_eq!(client.read(3, 1, 0, 4).1, b"kept");
    own.stop();
}
