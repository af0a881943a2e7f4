//! What is told of connections and calls that are not of the cluster port's protocol.

use std::io::{Read, Write};
use std::net::TcpStream;

use rfs_proto::admin as wire;
use rfs_proto::admin::admin_client::AdminClient;
use rfs_proto::cluster;
use rfs_proto::cluster::cluster_client::ClusterClient;
use rfs_proto::cluster::from_chunkserver::Message as From;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::admin::AdminService;
use crate::cluster::ClusterService;
use crate::exports::{Exports, ExportsConfig};
use crate::status::Gatherer;
use crate::status::test_master::TestMaster;

/// What a client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Server {
    address: SocketAddr,
    strangers: Arc<Strangers>,
    shutdown: Shutdown,
}

async fn server() -> Server {
    let master = TestMaster::new();
    let service = ClusterService::new(master.clone()).unwrap();
    let strangers = service.strangers();
    let config = ExportsConfig { folder: "/nonexistent".into(), interval: Duration::from_secs(1), keep: 1 };
    let gatherer = Gatherer::new(master, None, Exports::new(config), "0");
    let admin = AdminService::new(Arc::new(gatherer)).into_server();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let routes = Routes::new(service.into_server()).add_service(admin);
    tokio::spawn(serve(listener, routes, Arc::clone(&strangers), shutdown.clone()));
    Server { address, strangers, shutdown }
}

impl Server {
    /// The one thing noted since it was last asked; waits for it.
    async fn noted(&self) -> (Option<SocketAddr>, String) {
        for _ in 0..500 {
            let mut noted = self.strangers.take_noted();
            if let Some(first) = noted.pop() {
                assert!(noted.is_empty(), "{first:?}, {noted:?}");
                return first;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was noted");
    }

    /// Sends these bytes and reads until the end; the stranger's address.
    async fn send(&self, bytes: Vec<u8>) -> SocketAddr {
        let address = self.address;
        let sent = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let own = stream.local_addr().unwrap();
            stream.write_all(&bytes).unwrap();
            match stream.read_to_end(&mut Vec::new()) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not cut off"),
            }
            own
        });
        sent.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http2_are_noted_with_their_sender() {
    let server = server().await;
    let own = server.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()).await;
    assert_eq!(server.noted().await.0, Some(own));
    // A frame of HTTP/2 that announces sixteen million bytes.
    let mut huge = PREFACE.to_vec();
    huge.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    let own = server.send(huge).await;
    let (peer, reason) = server.noted().await;
    assert!(peer == Some(own) && reason.contains("size"), "{peer:?}: {reason}");
    // Settings of a length that cannot be.
    let mut odd = PREFACE.to_vec();
    odd.extend([0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]);
    let own = server.send(odd).await;
    assert_eq!(server.noted().await.0, Some(own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_too_large_or_do_not_decode_are_noted() {
    let server = server().await;
    let endpoint = format!("http://{}", server.address);
    let mut admin = AdminClient::connect(endpoint.clone()).await.unwrap();
    let request = wire::FileRequest { inode: 0, path: "x".repeat(5 << 20) };
    let refused = admin.get_file_info(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let (peer, reason) = server.noted().await;
    assert!(peer.is_some() && reason.contains("/GetFileInfo") && reason.contains("too large"), "{peer:?}: {reason}");
    // A field of another type.
    let goal = wire::SetGoalRequest { inode: 1, path: "/".to_owned(), goal: 2, recursive: false };
    let mut raw = tonic::client::Grpc::new(
        tonic::transport::Channel::from_shared(endpoint.clone()).unwrap().connect().await.unwrap(),
    );
    raw.ready().await.unwrap();
    let path = "/rfs.admin.Admin/ForgetServer".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<wire::SetGoalRequest, wire::ForgetServerReply>::default();
    assert!(raw.unary(tonic::Request::new(goal), path, codec).await.is_err());
    let (_, reason) = server.noted().await;
    assert!(reason.contains("/ForgetServer") && reason.contains("decode"), "{reason}");
    // A call that ends badly for another reason is nobody's mistake.
    let forget = wire::ForgetServerRequest { server: 9, last_copies: false };
    assert_eq!(admin.forget_server(forget).await.unwrap_err().code(), Code::NotFound);
    assert!(server.strangers.take_noted().is_empty());

    let mut chunkserver = ClusterClient::connect(endpoint).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let register = cluster::Register { host: "x".repeat(17 << 20), ..cluster::Register::default() };
    sender.send(cluster::FromChunkserver { message: Some(From::Register(register)) }).await.unwrap();
    let mut inbound = chunkserver.serve(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let (peer, reason) = server.noted().await;
    assert!(peer.is_some() && reason.contains("too large"), "{peer:?}: {reason}");
    while let Ok(Some(_)) = inbound.message().await {}
    server.shutdown.request();
}
