//! Tests of reading from files that a chunkserver of this host hands over.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU32;

use rfs_common::clock::SystemClock;
use rfs_common::leaf::hash_leaf;
use rfs_common::socket;
use rfs_proto::data::CopyResult;
use rfs_proto::frame::FrameType;

use super::*;

const DATA_OFFSET: u32 = 8192;
const BYTES: usize = (2 << 20) + 5000;

/// Hands out one file as version 3 of chunk 9, however often it is asked.
struct Server {
    place: Place,
    file: File,
    asked: Arc<AtomicU32>,
    /// Of the connections.
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at / 11 % 251) as u8).collect()
}

fn hashes_of(bytes: &[u8]) -> Vec<u8> {
    let hashes = bytes.chunks(LEAF_BYTES).zip(0..).map(|(leaf, index)| hash_leaf(index, leaf));
    hashes.flat_map(|hash| *hash.as_bytes()).collect()
}

impl Server {
    fn start(number: u64) -> Server {
        let server = ServerId::new(u64::from(std::process::id()) << 16 | number);
        let listener = socket::listen(&files_address(server).unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content(), u64::from(DATA_OFFSET)).unwrap();
        let (asked, streams) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (given, counted, kept) = (file.try_clone().unwrap(), Arc::clone(&asked), Arc::clone(&streams));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                serve(Connection::new(DescriptorStream::new(stream)), server, &given, &counted);
            }
        });
        let place = Place { server, volume: VolumeId::new(4), address: Arc::from("127.0.0.1:1") };
        Server { place, file, asked, streams }
    }

    fn chunk(&self) -> ChunkPlaces {
        ChunkPlaces {
            index: 0,
            chunk: ChunkId::new(9),
            version: ChunkVersion::new(3),
            length: BYTES as u32,
            places: vec![self.place.clone()],
            lost_version: ChunkVersion::new(0),
        }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut connection: Connection<DescriptorStream>, server: ServerId, file: &File, asked: &AtomicU32) {
    while let Ok(header) = connection.receive_head(&Awaited::REQUEST) {
        if header.frame_type == FrameType::DataHello {
            let reply = HelloReply { server: server.get(), ..HelloReply::default() };
            connection.send(Envelope::reply_to(&header), &reply, &[]).unwrap();
            continue;
        }
        asked.fetch_add(1, Ordering::SeqCst);
        let request: OpenCopy = connection.message(&header).unwrap();
        let mut result = CopyResult::default();
        if (request.chunk, request.version) == (9, 3) {
            connection.stream_mut().attach(file.try_clone().unwrap().into());
            let reply = OpenCopyReply { result: Some(result), data_length: BYTES as u32, data_offset: DATA_OFFSET };
            connection.send(Envelope::reply_to(&header), &reply, &[&hashes_of(&content())]).unwrap();
        } else {
            result.set_status(Status::WrongVersion);
            let reply = OpenCopyReply { result: Some(result), ..OpenCopyReply::default() };
            connection.send(Envelope::reply_to(&header), &reply, &[]).unwrap();
        }
    }
}

fn local() -> LocalCopies {
    LocalCopies::new(Arc::default(), SystemClock::shared())
}

fn read(copy: &LocalCopy, leaf: u32, length: usize) -> (LocalRead, Vec<u8>) {
    let mut buffers = [vec![0xEE; length.next_multiple_of(LEAF_BYTES)]];
    let read = copy.read(leaf * LEAF_BYTES as u32, length, &mut buffers);
    let [bytes] = buffers;
    (read, bytes)
}

#[test]
fn leaves_are_read_from_the_file_and_compared_with_their_hashes() {
    let (server, local) = (Server::start(1), local());
    let copy = local.find(&server.place, &server.chunk()).unwrap();
    let (got, bytes) = read(&copy, 3, 2 * LEAF_BYTES);
    assert_eq!(got, LocalRead::Done);
    assert!(bytes == content()[3 * LEAF_BYTES..5 * LEAF_BYTES]);
    let (got, bytes) = read(&copy, 128, 5000);
    assert_eq!(got, LocalRead::Done, "the last leaf is short");
    assert!(bytes[..5000] == content()[128 * LEAF_BYTES..] && bytes[5000..].iter().all(|byte| *byte == 0));
    assert_eq!(read(&copy, 128, 5001).0, LocalRead::Unusable, "beyond what the copy has");
    assert!(local.find(&server.place, &server.chunk()).is_some());
    assert_eq!(server.asked(), 1, "it is asked for once");

    let at = u64::from(DATA_OFFSET) + 4 * LEAF_BYTES as u64;
    server.file.write_all_at(&[!content()[4 * LEAF_BYTES]], at).unwrap();
    assert_eq!(read(&copy, 3, LEAF_BYTES).0, LocalRead::Done);
    assert_eq!(read(&copy, 3, 2 * LEAF_BYTES).0, LocalRead::Unusable, "the second leaf is rotten");
    local.refuse(&server.place, &server.chunk());
    assert!(local.find(&server.place, &server.chunk()).is_none(), "others are asked for a while");
}

#[test]
fn a_chunk_that_is_going_to_be_written_is_forgotten() {
    let (server, local) = (Server::start(2), local());
    assert!(local.find(&server.place, &server.chunk()).is_some());
    local.forget_chunk(ChunkId::new(8));
    assert!(local.find(&server.place, &server.chunk()).is_some());
    assert_eq!(server.asked(), 1);
    local.forget_chunk(ChunkId::new(9));
    assert!(local.find(&server.place, &server.chunk()).is_some());
    assert_eq!(server.asked(), 2, "with its hashes of now");
}

#[test]
fn what_is_small_or_refused_or_of_another_host_is_not_read_so() {
    let (server, local) = (Server::start(3), local());
    let chunk = server.chunk();
    assert!(local.find(&server.place, &ChunkPlaces { length: 1 << 20, ..chunk.clone() }).is_none());
    assert_eq!(server.asked(), 0);
    let older = ChunkPlaces { version: ChunkVersion::new(2), ..chunk.clone() };
    assert!(local.find(&server.place, &older).is_none());
    assert!(local.find(&server.place, &older).is_none());
    assert_eq!(server.asked(), 1, "a refusal is remembered");
    let elsewhere = Place { server: ServerId::new(77), ..server.place.clone() };
    assert!(local.find(&elsewhere, &chunk).is_none());
    assert!(local.find(&server.place, &chunk).is_some());
}

#[test]
fn files_are_closed_when_the_chunkserver_ends_the_connection() {
    let (server, local) = (Server::start(4), local());
    let copy = local.find(&server.place, &server.chunk()).unwrap();
    let open = Arc::downgrade(&copy);
    drop(copy);
    assert!(open.upgrade().is_some(), "it is kept for the next read");
    for stream in server.streams.lock().unwrap().drain(..) {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
    for _ in 0..500 {
        if open.upgrade().is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the file is still open");
}
