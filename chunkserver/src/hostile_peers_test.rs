//! Tests of whole chunkservers whose peers send what no program of rfs does: the peer may lose its connection, nobody else
//! anything.

use std::io::{Read as _, Write as _};

use rfs_proto::data::CopyResult;
use rfs_proto::frame::Header;

use super::*;

/// Answers one hello, and each request after it with these results.
fn answer_with(results: Vec<CopyResult>) -> String {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut connection = Connection::new(stream);
        let header = connection.receive_head(&Awaited::DATA_HELLO).unwrap();
        connection.send(Envelope::reply_to(&header), &HelloReply::default(), &[]).unwrap();
        while let Ok(header) = connection.receive_head(&Awaited::REQUEST) {
            let reply = ChangeReply { results: results.clone(), data_length: 0 };
            connection.send(Envelope::reply_to(&header), &reply, &[]).unwrap();
        }
    });
    address
}

#[test]
fn what_a_peer_says_is_repeated_in_part_and_brings_nobody_down() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    let place = server.place(0);

    // A name that fits into a request would not fit into the refusal.
    let mut stranger = Connection::new(TcpStream::connect(&place.address).unwrap());
    let hello = Hello { protocol_version: 99, from: "x".repeat(4050), ..Hello::default() };
    stranger.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]).unwrap();
    let refusal = stranger.receive_reply::<HelloReply>(FrameType::DataHello, 0).unwrap().unwrap_err();
    assert!(refusal.message.contains("xxx...") && refusal.message.len() < 500, "{refusal:?}");

    // So would an address, in the words about why it cannot be reached.
    let mut client = Client::connect(&place);
    assert_eq!(statuses(&client.write(1, (0, 1), 0, b"kept", &[])), [Status::Ok]);
    let sync = |address: String| {
        let next = vec![NextCopy { server: 1, volume: 1, address }];
        SyncChunk { volume: place.volume, chunk: 1, version: 1, next }
    };
    let reply = client.ask(&sync("a".repeat(16_000)), &[]);
    assert_eq!(statuses(&reply), [Status::BadRequest]);

    // And so would what the next copy answers.
    let long = CopyResult { server: 1, volume: 1, message: "y".repeat(15_000), ..CopyResult::default() };
    let reply = client.ask(&sync(answer_with(vec![long])), &[]);
    assert!(reply.results.len() == 2 && reply.results[1].message.len() <= 256, "{reply:?}");
    let many = vec![CopyResult { server: 1, volume: 1, ..CopyResult::default() }; 3000];
    assert_eq!(client.ask(&sync(answer_with(many)), &[]).results.len(), 2);

    assert_eq!(client.read(1, 1, 0, 4).1, b"kept");
    assert_eq!(server.stop(), End::Left);
}

#[test]
fn a_stranger_gets_no_memory_and_no_time() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    let place = server.place(0);
    let clock = SystemClock::shared();
    let begun = clock.monotonic();
    // 24 bytes that announce the largest reply there is.
    let mut announcing = TcpStream::connect(&place.address).unwrap();
    let header = Header {
        frame_type: FrameType::ReadDirectory,
        flags: rfs_proto::frame::FLAG_REPLY,
        message_bytes: 8 << 20,
        payload_bytes: 0,
        request_id: 0,
    };
    announcing.write_all(&header.encode()).unwrap();
    announcing.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(matches!(announcing.read(&mut [0; 10]), Ok(0) | Err(_)));
    assert!(clock.monotonic() - begun < Duration::from_secs(3), "it is cut off at once");
    // A hello that comes a byte at a time.
    let mut dripping = TcpStream::connect(&place.address).unwrap();
    dripping.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let begun = clock.monotonic();
    let hello = Header { frame_type: FrameType::DataHello, flags: 0, message_bytes: 4000, ..header }.encode();
    let mut bytes = hello.iter().copied().chain(std::iter::repeat(0));
    let ended = loop {
        let byte = bytes.next().unwrap_or_default();
        if dripping.write_all(&[byte]).is_err() || matches!(dripping.read(&mut [0; 10]), Ok(0)) {
            break clock.monotonic() - begun;
        }
        assert!(clock.monotonic() - begun < Duration::from_secs(12), "it still holds its thread");
    };
    assert!(ended < Duration::from_secs(12), "{ended:?}");
    assert_eq!(server.stop(), End::Left);
}
