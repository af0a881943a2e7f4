//! Tests of the socket for clients of the same host, against a whole chunkserver.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use rfs_common::descriptor_stream::DescriptorStream;
use rfs_common::socket::files_address;
use rfs_proto::data::{OpenCopy, OpenCopyReply};

use super::*;

struct LocalClient {
    connection: Connection<DescriptorStream>,
    place: NextCopy,
}

impl LocalClient {
    fn connect(place: &NextCopy) -> LocalClient {
        let address = files_address(rfs_common::ids::ServerId::new(place.server)).unwrap();
        let stream = DescriptorStream::connect(&address).unwrap();
        stream.set_timeout(LIMIT).unwrap();
        let mut client = LocalClient { connection: Connection::new(stream), place: place.clone() };
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            server: place.server,
            volume: place.volume,
            ..Hello::default()
        };
        let reply: HelloReply = client.ask(&hello).0;
        assert_eq!(reply.server, place.server);
        client
    }

    fn ask<R: DataCall>(&mut self, request: &R) -> (R::Reply, Vec<u8>) {
        self.connection.send(Envelope::request(R::FRAME_TYPE, 4), request, &[]).unwrap();
        let header = self.connection.receive_head(&Awaited::REPLY).unwrap();
        assert!(!header.is_error());
        let reply = self.connection.message(&header).unwrap();
        let mut payload = Vec::new();
        self.connection.receive_payload_into(&header, &mut payload).unwrap();
        (reply, payload)
    }

    fn open(&mut self, chunk: u64, version: u32) -> (OpenCopyReply, Vec<u8>, Option<File>) {
        let (reply, hashes) = self.ask(&OpenCopy { volume: self.place.volume, chunk, version });
        (reply, hashes, self.connection.stream_mut().take_received().map(File::from))
    }
}

#[test]
fn a_client_of_this_host_is_given_the_file_of_a_copy_to_read_from() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 2);
    let place = server.place(0);
    let bytes: Vec<u8> = (0..50_000_u32).map(|at| (at / 3) as u8).collect();
    Client::connect(&place).write(5, (0, 1), 0, &bytes, &[]);

    let mut local = LocalClient::connect(&place);
    let (reply, hashes, file) = local.open(5, 1);
    assert_eq!((reply.result.unwrap().status(), reply.data_length), (Status::Ok, 50_000));
    assert_eq!(hashes, piece_hashes(0, &bytes));
    let mut file = file.unwrap();
    let mut got = vec![0; bytes.len()];
    file.read_exact_at(&mut got, u64::from(reply.data_offset)).unwrap();
    assert!(got == bytes);
    assert!(file.write_all(b"x").is_err(), "it can only be read from");

    let (reply, hashes, file) = local.open(5, 2);
    assert_eq!((reply.result.unwrap().status(), hashes.len(), file.is_some()), (Status::WrongVersion, 0, false));
    let (reply, _, file) = local.open(6, 1);
    assert_eq!((reply.result.unwrap().status(), file.is_some()), (Status::NoChunk, false));
    let of_another = OpenCopy { volume: server.place(1).volume, chunk: 5, version: 1 };
    assert_eq!(local.ask(&of_another).0.result.unwrap().status(), Status::BadRequest);

    assert_eq!(server.stop(), End::Left);
    assert!(local.connection.receive_head(&Awaited::REPLY).is_err(), "its end tells the client to close the file");
}

#[test]
fn what_is_read_into_memory_only_is_not_sent() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    let place = server.place(0);
    let mut client = Client::connect(&place);
    client.write(5, (0, 1), 0, &[7; 50_000], &[]);
    let read = Read {
        volume: place.volume,
        chunk: 5,
        version: 1,
        offset: 0,
        length: 50_000,
        into_memory: true,
        next_data: false,
    };
    let reply = client.ask(&read, &[]);
    assert_eq!((reply.result.unwrap().status(), reply.data_length, reply.hashes.len()), (Status::Ok, 50_000, 0));
    assert_eq!(client.payload.len(), 0);
    assert_eq!(server.stop(), End::Left);
}

#[test]
fn data_goes_over_a_unix_socket_as_over_tcp() {
    let master = Master::start(CLUSTER);
    let mut server = Server::new(&master, 1);
    let place = server.place(0);
    Client::connect(&place).write(5, (0, 1), 0, &[7; 50_000], &[]);
    let address = chunkserver_address(rfs_common::ids::ServerId::new(place.server)).unwrap();
    let mut connection = Connection::new(rfs_common::socket::Socket::connect_local(&address).unwrap());
    let hello =
        Hello { protocol_version: PROTOCOL_VERSION, server: place.server, volume: place.volume, ..Hello::default() };
    connection.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]).unwrap();
    connection.receive_reply::<HelloReply>(FrameType::DataHello, 0).unwrap().unwrap();
    let read = Read {
        volume: place.volume,
        chunk: 5,
        version: 1,
        offset: 0,
        length: 50_000,
        into_memory: false,
        next_data: false,
    };
    connection.send(Envelope::request(FrameType::Read, 1), &read, &[]).unwrap();
    let header = connection.receive_head(&Awaited::REPLY).unwrap();
    let mut payload = Vec::new();
    connection.receive_payload_into(&header, &mut payload).unwrap();
    assert_eq!(payload, [7; 50_000]);
    assert_eq!(server.stop(), End::Left);
    assert!(connection.receive_head(&Awaited::REPLY).is_err());
}
