//! Real sockets on the loopback: who is let in, who is not, and that an operation and a recall make their way.

use std::io::Read;
use std::net::TcpStream;

use rfs_common::clock::{SystemClock, Time};
use rfs_common::ids::{ClusterId, Goal};
use rfs_common::random::SystemRandom;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::frame::FrameType;
use rfs_proto::session_calls::request_id;

use super::*;
use crate::engine::{EngineConfig, MemoryStorage, Storage};
use crate::namespace::bootstrap::new_cluster;

fn server() -> SessionServer {
    server_with(&Arc::new(MemoryStorage::default()), None)
}

fn server_on(storage: &Arc<MemoryStorage>) -> SessionServer {
    server_with(storage, None)
}

fn server_with(storage: &Arc<MemoryStorage>, local: Option<UnixListener>) -> SessionServer {
    storage.commit(&new_cluster(Goal::TWO, Time::EPOCH)).unwrap();
    let (clock, random) = (SystemClock::shared(), SystemRandom::shared());
    let engine = Engine::open(storage.clone(), ClusterId::new(1), EngineConfig::default(), clock, random).unwrap();
    let config = ListenerConfig {
        connections_max: 3,
        handshake_timeout: Duration::from_millis(300),
        ..ListenerConfig::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SessionServer::start(listener, local, engine, config, Announced { cluster_port: 5, web_port: 6 }).unwrap()
}

fn connect(server: &SessionServer) -> Connection<TcpStream> {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Connection::new(stream)
}

fn hello(role: session::ConnectionRole) -> session::Hello {
    session::Hello { protocol_version: PROTOCOL_VERSION, role: role as i32, ..session::Hello::default() }
}

fn shake(
    connection: &mut Connection<TcpStream>,
    hello: &session::Hello,
) -> Result<session::HelloReply, session::Failure> {
    connection.send(Envelope::request(FrameType::Hello, 1), hello, &[]).unwrap();
    connection.receive_reply(FrameType::Hello, 1).unwrap()
}

fn is_closed(connection: &Connection<TcpStream>) -> bool {
    matches!(connection.stream().read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn who_comes_from_this_host_is_served_over_a_unix_socket() {
    let address = rfs_common::socket::master_address(ClusterId::new(1), u64::from(std::process::id())).unwrap();
    let local = rfs_common::socket::listen(&address).unwrap();
    let server = server_with(&Arc::new(MemoryStorage::default()), Some(local));
    let connect = || {
        let socket = Socket::connect_local(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Connection::new(socket)
    };
    let mut asking = connect();
    let hello = hello(session::ConnectionRole::Ask);
    asking.send(Envelope::request(FrameType::Hello, 1), &hello, &[]).unwrap();
    let reply = asking.receive_reply::<session::HelloReply>(FrameType::Hello, 1).unwrap().unwrap();
    assert_eq!((reply.cluster_port, reply.web_port), (5, 6));
    let silent = connect();
    server.stop(Duration::from_secs(5));
    assert!(matches!(silent.stream().read(&mut [0; 64]), Ok(0) | Err(_)), "its stop ends the connection");
    assert!(Socket::connect_local(&address).is_err(), "and takes no others");
}

#[test]
fn a_session_is_begun_joined_asked_and_ended() {
    let server = server();
    let mut push = connect(&server);
    let begun = shake(&mut push, &hello(session::ConnectionRole::Push)).unwrap();
    assert_eq!((begun.cluster_port, begun.web_port, begun.root), (5, 6, 1));
    let mut operations = connect(&server);
    let joins = session::Hello {
        session: begun.session,
        secret: begun.secret.clone(),
        slot: 4,
        ..hello(session::ConnectionRole::Operations)
    };
    shake(&mut operations, &joins).unwrap();
    let request = request_id(4, 1);
    operations
        .send(Envelope::request(FrameType::GetAttributes, request), &session::GetAttributes { inode: 1 }, &[])
        .unwrap();
    let node = operations.receive_reply::<session::NodeReply>(FrameType::GetAttributes, request).unwrap().unwrap();
    assert_eq!(node.node.unwrap().attributes.unwrap().links, 2);
    push.send(Envelope::request(FrameType::Heartbeat, 7), &session::Heartbeat::default(), &[]).unwrap();
    let beat = push.receive_reply::<session::HeartbeatReply>(FrameType::Heartbeat, 7).unwrap().unwrap();
    assert_eq!(beat.master_start, begun.master_start);
    push.send(Envelope::request(FrameType::Goodbye, 8), &session::Goodbye {}, &[]).unwrap();
    push.receive_reply::<session::Goodbye>(FrameType::Goodbye, 8).unwrap().unwrap();
    assert!(is_closed(&push));
    let request = request_id(4, 2);
    operations.send(Envelope::request(FrameType::Sync, request), &session::Sync::default(), &[]).unwrap();
    let failure = operations.receive_reply::<session::Empty>(FrameType::Sync, request).unwrap().unwrap_err();
    assert_eq!(failure.errno, Errno::ESTALE.raw() as u32);
    server.stop(Duration::from_secs(5));
}

#[test]
fn changes_wait_for_a_disk_that_is_behind_and_reads_do_not() {
    let storage = Arc::new(MemoryStorage::default());
    let server = server_on(&storage);
    let mut push = connect(&server);
    let begun = shake(&mut push, &hello(session::ConnectionRole::Push)).unwrap();
    let mut operations = connect(&server);
    let joins = session::Hello {
        session: begun.session,
        secret: begun.secret,
        slot: 1,
        ..hello(session::ConnectionRole::Operations)
    };
    shake(&mut operations, &joins).unwrap();
    let mut waits = |sequence: u64| {
        let before = storage.waits();
        let make = session::Make {
            caller: Some(session::Caller::default()),
            parent: 1,
            name: format!("folder{sequence}").into_bytes().into(),
            kind: session::NodeKind::Directory as i32,
            mode: 0o755,
            ..session::Make::default()
        };
        operations.send(Envelope::request(FrameType::Make, request_id(1, sequence)), &make, &[]).unwrap();
        let made = operations.receive_reply::<session::MakeReply>(FrameType::Make, request_id(1, sequence)).unwrap();
        made.unwrap();
        let after_change = storage.waits();
        let read = session::GetAttributes { inode: 1 };
        let number = request_id(1, sequence + 1);
        operations.send(Envelope::request(FrameType::GetAttributes, number), &read, &[]).unwrap();
        operations.receive_reply::<session::NodeReply>(FrameType::GetAttributes, number).unwrap().unwrap();
        (after_change - before, storage.waits() - after_change)
    };
    assert_eq!(waits(1), (0, 0));
    storage.set_behind(true);
    assert_eq!(waits(3), (1, 0));
    storage.set_behind(false);
    assert_eq!(waits(5), (0, 0));
    server.stop(Duration::from_secs(5));
}

#[test]
fn strangers_are_told_why_they_are_not_let_in() {
    let server = server();
    let refused = |hello: &session::Hello| shake(&mut connect(&server), hello).unwrap_err();
    let old = session::Hello { protocol_version: 99, ..hello(session::ConnectionRole::Push) };
    assert!(refused(&old).message.contains("same release"));
    let lost = session::Hello { expected_cluster: vec![9; 16].into(), ..hello(session::ConnectionRole::Ask) };
    assert!(refused(&lost).message.contains("this is the master of cluster"));
    let unknown =
        session::Hello { session: 77, secret: vec![0; 16].into(), ..hello(session::ConnectionRole::Operations) };
    assert_eq!(refused(&unknown).errno, Errno::ESTALE.raw() as u32);
    let nowhere = session::Hello { subdirectory: b"not/there".to_vec().into(), ..hello(session::ConnectionRole::Push) };
    assert!(refused(&nowhere).message.contains("not/there"));
    let begun = shake(&mut connect(&server), &hello(session::ConnectionRole::Push)).unwrap();
    let thief = session::Hello {
        session: begun.session,
        secret: vec![0; 16].into(),
        ..hello(session::ConnectionRole::Operations)
    };
    assert_eq!(refused(&thief).errno, Errno::EACCES.raw() as u32);
    assert_eq!(shake(&mut connect(&server), &hello(session::ConnectionRole::Ask)).unwrap().session, 0);
    server.stop(Duration::from_secs(5));
}

#[test]
fn nonsense_silence_and_a_crowd_are_cut_off() {
    let server = server();
    let browser = connect(&server);
    browser.stream().write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(is_closed(&browser));
    // A byte now and then does not stretch the time for the handshake.
    let slow = connect(&server);
    let clock = SystemClock::shared();
    let start = clock.monotonic();
    let mut sent = 0;
    while clock.monotonic().since(start) < Duration::from_secs(3) && slow.stream().write_all(&[0x46]).is_ok() {
        sent += 1;
        clock.sleep(Duration::from_millis(100));
    }
    assert!(sent < 20, "{sent} bytes were taken one by one");
    let crowd: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = connect(&server);
            shake(&mut connection, &hello(session::ConnectionRole::Push)).unwrap();
            connection
        })
        .collect();
    assert!(is_closed(&connect(&server)));
    drop(crowd);
    server.stop(Duration::from_secs(5));
}
