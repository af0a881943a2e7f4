//! The page and its JSON over a real socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::*;
use crate::chunks::{Registration, Severity, Signal, StreamId, VolumeReport, VolumeState};
use crate::exports::{Exports, ExportsConfig};
use crate::status::test_master::TestMaster;
use crate::status::{MasterState, MasterStateExt};
use rfs_common::ids::{ServerId, VolumeId};

fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn gatherer() -> Arc<Gatherer> {
    let master = TestMaster::new();
    let volume = VolumeReport {
        volume: VolumeId::new(2),
        path: "/v\"1".to_owned(),
        state: VolumeState::InService,
        reason: String::new(),
        total: 100,
        free: 40,
        chunks: 0,
        storage_machine: String::new(),
        filesystem: String::new(),
        lost_power: false,
        scrub: Default::default(),
        epoch: None,
        changed: false,
    };
    let (server, host, address) = (ServerId::new(1), "<b>host</b>".to_owned(), "h:1".to_owned());
    let registration = Registration { server, host, address, version: "1".to_owned(), volumes: vec![volume] };
    master.with_chunks(|chunks, now| chunks.register(now, registration, StreamId(1), Signal::default())).unwrap();
    master.report(Severity::Warning, "<script>alert(1)</script>".to_owned());
    let config = ExportsConfig { folder: "/nonexistent".into(), interval: Duration::from_secs(1), keep: 1 };
    Arc::new(Gatherer::new(master, None, Exports::new(config), "0.1.0"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_get_and_nothing_else() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(serve_page(listener, gatherer(), Vec::new(), shutdown.clone()));
    tokio::task::spawn_blocking(move || {
        let page = ask(address, "GET", "/");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"));
        assert!(
            !page.contains("/* page.js */")
                && !page.contains("/* page.css */")
                && page.contains("prefers-color-scheme")
        );
        let outside = page.split(['"', '\'', '(']).find(|part| part.starts_with("http:") || part.starts_with("https:"));
        assert_eq!(outside, None, "the page asks for something from elsewhere");
        assert!(ask(address, "POST", "/api/status.json").starts_with("HTTP/1.1 405"));
        let all = ask(address, "GET", "/api/all.json");
        let body = &all[all.find("\r\n\r\n").unwrap()..];
        let all: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
        assert_eq!(all["servers"][0]["server"], "0000000000000001");
        assert_eq!(all["status"]["health"], "ok");
        assert_eq!(all["events"][0]["severity"], "warning");
        let mut stranger = TcpStream::connect(address).unwrap();
        write!(stranger, "GET /api/all.json HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stranger.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("web_names"), "{answer}");
        let metrics = ask(address, "GET", "/metrics");
        assert!(metrics.contains("\nrfs_servers_connected 1\n"), "{metrics}");
        assert!(metrics.contains("path=\"/v\\\"1\""), "{metrics}");
    })
    .await
    .unwrap();
    shutdown.request();
    serving.await.unwrap().unwrap();
}
