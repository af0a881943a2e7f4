//! The service over a real connection.

use std::net::SocketAddr;

use rfs_proto::cluster::cluster_client::ClusterClient;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::chunks::{ChunkInfo, Command, Order, RaiseOf};
use crate::status::test_master::TestMaster;
use rfs_common::ids::{Goal, InodeId};

struct Server {
    address: SocketAddr,
    master: Arc<TestMaster>,
}

async fn server() -> Server {
    let master = TestMaster::new();
    let service = ClusterService::new(master.clone()).unwrap().into_server();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    Server { address, master }
}

/// A chunkserver's end of a stream.
struct Client {
    sender: mpsc::Sender<wire::FromChunkserver>,
    inbound: Streaming<wire::ToChunkserver>,
}

impl Client {
    async fn connect(server: &Server, register: wire::Register) -> Client {
        let mut client = ClusterClient::connect(format!("http://{}", server.address)).await.unwrap();
        let (sender, receiver) = mpsc::channel(16);
        sender.send(wire::FromChunkserver { message: Some(From::Register(register)) }).await.unwrap();
        let inbound = client.serve(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Client { sender, inbound }
    }

    async fn send(&self, message: From) {
        self.sender.send(wire::FromChunkserver { message: Some(message) }).await.unwrap();
    }

    async fn receive(&mut self) -> Option<To> {
        let message = tokio::time::timeout(Duration::from_secs(10), self.inbound.message()).await;
        message.expect("an answer within the time").ok().flatten().and_then(|message| message.message)
    }

    async fn refusal(&mut self) -> wire::Refused {
        match self.receive().await {
            Some(To::Refused(refused)) => refused,
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    async fn registered(&mut self) {
        let answer = self.receive().await;
        assert!(matches!(answer, Some(To::Registered(_))), "{answer:?}");
    }

    async fn inventory(&self, volume: u64, chunks: &[(u64, u32)]) {
        let held =
            |(chunk, version): &(u64, u32)| wire::Held { chunk: *chunk, version: *version, ..wire::Held::default() };
        let chunks = chunks.iter().map(held).collect();
        self.send(From::Inventory(wire::Inventory { volume, chunks, first: true, last: true })).await;
    }
}

fn register(server: u64, volumes: &[u64]) -> wire::Register {
    let volume = |volume: &u64| wire::Volume {
        volume: *volume,
        path: format!("/v{volume}"),
        state: wire::VolumeState::InService.into(),
        total: 1 << 30,
        free: 1 << 30,
        ..wire::Volume::default()
    };
    wire::Register {
        protocol_version: PROTOCOL_VERSION,
        cluster: 0x1234_u128.to_be_bytes().to_vec().into(),
        server,
        host: format!("host{server}"),
        data_address: "0.0.0.0:9422".to_owned(),
        volumes: volumes.iter().map(volume).collect(),
        ..wire::Register::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_what_to_do() {
    let server = server().await;
    let unset = wire::Register { cluster: Vec::new().into(), ..register(1, &[]) };
    let refused = Client::connect(&server, unset).await.refusal().await;
    assert!(
        refused.r#final && refused.reason.contains("chunkserver init --cluster 00000000-0000-0000-0000-000000001234")
    );
    let other = wire::Register { cluster: vec![7; 16].into(), ..register(1, &[]) };
    assert!(Client::connect(&server, other).await.refusal().await.reason.contains("07070707-0707"));
    let newer = wire::Register { protocol_version: 99, ..register(1, &[]) };
    assert!(Client::connect(&server, newer).await.refusal().await.reason.contains("version 99"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_volume_is_served_by_one_server_and_one_server_by_its_last_stream() {
    let server = server().await;
    let mut first = Client::connect(&server, register(1, &[10])).await;
    first.registered().await;
    let refused = Client::connect(&server, register(2, &[10])).await.refusal().await;
    assert!(!refused.r#final && refused.volumes == [10]);
    for name in ["volume 000000000000000a", "0000000000000001 on host1"] {
        assert!(refused.reason.contains(name), "{}", refused.reason);
    }
    let mut second = Client::connect(&server, register(1, &[10])).await;
    second.registered().await;
    assert_eq!(first.receive().await, None, "the older stream ends");
    let views = server.master.with_chunks(|chunks, _| chunks.servers());
    assert_eq!((views.len(), views[0].connected, &*views[0].address), (1, true, "127.0.0.1:9422"));
    assert_eq!(known::known_servers(&server.master.records).unwrap().len(), 1);
    // With a volume of its own it serves that one, and only that one is remembered as its own.
    Client::connect(&server, register(2, &[10, 20])).await.registered().await;
    let known = known::known_servers(&server.master.records).unwrap();
    let volumes = |at: usize| known[at].volumes.iter().map(|volume| volume.volume.get()).collect::<Vec<_>>();
    assert_eq!((known.len(), volumes(0), volumes(1)), (2, vec![10], vec![20]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_out_and_results_come_back() {
    let server = server().await;
    let mut client = Client::connect(&server, register(1, &[10])).await;
    client.registered().await;
    client.inventory(10, &[(5, 3)]).await;
    client.send(From::Heartbeat(wire::Heartbeat { reads: 7, ..wire::Heartbeat::default() })).await;
    assert!(matches!(client.receive().await, Some(To::Heartbeat(_))));
    let (chunk, version) = (ChunkId::new(6), ChunkVersion::new(3));
    let info = ChunkInfo { inode: InodeId::new(1), version, granted: version, goal: Goal::ONE, unsynced: false };
    server.master.with_chunks(|chunks, _| chunks.load(chunk, info));
    client.inventory(10, &[(6, 3)]).await;
    client.send(From::Heartbeat(wire::Heartbeat::default())).await;
    assert!(matches!(client.receive().await, Some(To::Heartbeat(_))));
    let places = server.master.with_chunks(|chunks, _| chunks.places(chunk));
    assert_eq!(places.len(), 1);
    let order = server
        .master
        .with_chunks(|chunks, _| chunks.order_raise(chunk, version, version.next(), &places, RaiseOf::Sound));
    let Some(To::Command(command)) = client.receive().await else { panic!("no command") };
    assert!(matches!(
        command.order,
        Some(wire::command::Order::Raise(wire::Raise { chunk: 6, from: 3, to: 4, volume: 10, settles: false }))
    ));
    assert!(server.master.with_chunks(|chunks, _| chunks.order_outcome(order)).is_none());
    let result =
        wire::CommandResult { command: command.command, done: true, version: 4, length: 9, ..Default::default() };
    client.send(From::Result(result)).await;
    client.send(From::Heartbeat(wire::Heartbeat::default())).await;
    assert!(matches!(client.receive().await, Some(To::Heartbeat(_))));
    let outcome = server.master.with_chunks(|chunks, _| chunks.order_outcome(order)).unwrap();
    assert_eq!((outcome.done, outcome.failed), (vec![(places[0].clone(), 9)], Vec::new()));
    drop(client);
    while server.master.with_chunks(|chunks, _| chunks.servers()[0].connected) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(server.master.with_chunks(|chunks, _| chunks.places(chunk)).is_empty());
}

#[test]
fn a_sent_order_is_the_one_of_the_chunk_table() {
    let order = Order::Delete { volume: VolumeId::new(1), chunk: ChunkId::new(2), version: ChunkVersion::new(3) };
    let sent = translate::command(Command { id: crate::chunks::CommandId(9), order });
    let Some(To::Command(command)) = sent.message else { panic!("not a command") };
    assert_eq!(command.order, Some(wire::command::Order::Delete(wire::Delete { volume: 1, chunk: 2, version: 3 })));
}
