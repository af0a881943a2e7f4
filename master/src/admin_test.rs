//! The administration against a small namespace in memory.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rfs_common::ids::{InodeId, ServerId};
use tokio_stream::StreamExt;

use super::*;
use crate::exports::{Exports, ExportsConfig};
use crate::namespace::records::{EntryRecord, InodeRecord, NodeKind, Stamp, entry_key, inode_key};
use crate::namespace::source::{Change, Table};
use crate::status::MasterStateExt;
use crate::status::test_master::TestMaster;

fn put(master: &TestMaster, table: Table, key: Vec<u8>, value: Vec<u8>) {
    master.records.apply(&[Change::Put { table, key, value }]);
}

fn add(master: &TestMaster, parent: u64, name: &str, inode: u64, kind: NodeKind) {
    let stamp = Stamp { seconds: 0, nanoseconds: 0 };
    let mut node = InodeRecord {
        goal: 2,
        parent,
        accessed: stamp,
        modified: stamp,
        changed: stamp,
        created: stamp,
        ..Default::default()
    };
    node.set_kind(kind);
    put(master, Table::Inodes, inode_key(InodeId::new(inode)), node.encode_to_vec());
    if !name.is_empty() {
        let mut entry = EntryRecord { inode, cookie: inode + 3, ..Default::default() };
        entry.set_kind(kind);
        put(master, Table::Entries, entry_key(InodeId::new(parent), name.as_bytes()), entry.encode_to_vec());
    }
}

fn service() -> (Arc<TestMaster>, AdminService) {
    let master = TestMaster::new();
    add(&master, 1, "", 1, NodeKind::Directory);
    add(&master, 1, "a", 2, NodeKind::Directory);
    add(&master, 2, "link", 3, NodeKind::Symlink);
    for file in 0..150 {
        add(&master, 2, &format!("f{file}"), 10 + file, NodeKind::File);
    }
    let config = ExportsConfig { folder: "/nonexistent".into(), interval: Duration::from_secs(1), keep: 1 };
    let gatherer = Gatherer::new(master.clone(), None, Exports::new(config), "0");
    (master, AdminService::new(Arc::new(gatherer)))
}

#[tokio::test]
async fn a_recursive_goal_reaches_files_and_directories_in_batches() {
    let (master, service) = service();
    let request = wire::SetGoalRequest { inode: 0, path: "/".to_owned(), goal: 3, recursive: true };
    let mut stream = service.set_goal(Request::new(request)).await.unwrap().into_inner();
    let mut last = wire::SetGoalProgress::default();
    while let Some(progress) = stream.next().await {
        last = progress.unwrap();
    }
    assert_eq!((last.seen, last.done), (152, true));
    let batches = master.goals.lock().unwrap();
    assert!(batches.iter().all(|(nodes, goal)| nodes.len() <= 64 && goal.get() == 3));
    let reached: std::collections::BTreeSet<u64> =
        batches.iter().flat_map(|(nodes, _)| nodes).map(|node| node.get()).collect();
    assert!(reached.contains(&1) && reached.contains(&2) && reached.contains(&159) && !reached.contains(&3));
}

#[tokio::test]
async fn a_path_that_is_not_there_is_refused_in_words() {
    let (_, service) = service();
    let request = wire::FileRequest { inode: 0, path: "/a/nothing".to_owned() };
    let refused = service.get_file_info(Request::new(request)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::NotFound, "there is no /a/nothing in the cluster"));
    let request = wire::FileRequest { inode: 0, path: "/a/f7".to_owned() };
    let info = service.get_file_info(Request::new(request)).await.unwrap().into_inner();
    assert_eq!((info.inode, info.kind.as_str(), info.health.as_str()), (17, "file", "ok (no data)"));
    let request = wire::SetGoalRequest { inode: 1, path: String::new(), goal: 10, recursive: false };
    assert_eq!(service.set_goal(Request::new(request)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}

fn volume_report(volume: rfs_common::ids::VolumeId) -> crate::chunks::VolumeReport {
    use crate::chunks::VolumeReport;
    VolumeReport {
        volume,
        path: String::new(),
        state: crate::chunks::VolumeState::InService,
        reason: String::new(),
        total: 1 << 40,
        free: 1 << 39,
        chunks: 0,
        storage_machine: String::new(),
        filesystem: String::new(),
        lost_power: false,
        scrub: Default::default(),
        epoch: None,
        changed: false,
    }
}

#[tokio::test]
async fn a_server_that_is_not_known_is_not_forgotten() {
    let (_, service) = service();
    let refused = service
        .forget_server(Request::new(wire::ForgetServerRequest { server: 5, last_copies: false }))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn what_loses_its_other_copies_while_a_server_is_forgotten_is_noted_before_it_is_given_up() {
    use crate::chunks::{ChunkInfo, Chunks, Held, InventoryPart, Registration, Signal, StreamId};
    use rfs_common::clock::Monotonic;
    use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};

    let (master, service) = service();
    let version = ChunkVersion::new(1);
    let held = |chunk| Held {
        chunk: ChunkId::new(chunk),
        version,
        length: 0,
        open: false,
        suspect: false,
        unreadable: false,
        bad: false,
    };
    let connect = |chunks: &mut Chunks, now: Monotonic, server: u64, copies: &[Held]| {
        let (id, stream, volume) = (ServerId::new(server), StreamId(server), VolumeId::new(server));
        let report = volume_report(volume);
        let (host, address) = (format!("h{server}"), format!("h{server}:1"));
        let registration = Registration { server: id, host, address, version: String::new(), volumes: vec![report] };
        chunks.register(now, registration, stream, Signal::default()).unwrap();
        chunks.inventory(now, id, stream, volume, copies, InventoryPart { first: true, last: true });
    };
    master.with_chunks(|chunks, now| {
        for chunk in 1..=2 {
            let inode = InodeId::new(17);
            let info = ChunkInfo { inode, version, granted: version, goal: Goal::TWO, unsynced: true };
            chunks.load(ChunkId::new(chunk), info);
        }
        connect(chunks, now, 1, &[held(1), held(2)]);
        connect(chunks, now, 2, &[held(2)]);
        assert!(chunks.disconnected(now, ServerId::new(1), StreamId(1)));
    });
    let forget =
        |last_copies| service.forget_server(Request::new(wire::ForgetServerRequest { server: 1, last_copies }));
    let refused = forget(false).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("the last copies of 1 chunk,"), "{}", refused.message());
    // The other copy of the second chunk goes after the administrator's tool was told of one chunk.
    *master.meanwhile.lock().unwrap() = Some(|chunks| {
        assert!(chunks.disconnected(Monotonic::START, ServerId::new(2), StreamId(2)));
        assert!(chunks.forget_server(ServerId::new(2)));
    });
    forget(true).await.unwrap();
    let expected = master.expected.lock().unwrap();
    assert_eq!(expected.last(), Some(&ChunkId::new(2)), "noted: {expected:?}");
}

#[tokio::test]
async fn affected_files_are_named_with_what_to_do() {
    use crate::chunks::{ChunkInfo, Registration, Signal, StreamId, VolumeReport};
    use rfs_common::ids::{ChunkId, ChunkVersion, VolumeId};

    let (master, service) = service();
    let report = VolumeReport { path: "/v7".to_owned(), ..volume_report(VolumeId::new(7)) };
    let registration = Registration {
        server: ServerId::new(1),
        host: "h".to_owned(),
        address: "h:1".to_owned(),
        version: String::new(),
        volumes: vec![report],
    };
    let version = ChunkVersion::new(1);
    master.with_chunks(|chunks, now| {
        for (chunk, inode) in [(1, 17), (2, 17), (3, 20), (4, 999)] {
            let info =
                ChunkInfo { inode: InodeId::new(inode), version, granted: version, goal: Goal::TWO, unsynced: false };
            chunks.load(ChunkId::new(chunk), info);
        }
        chunks.register(now, registration, StreamId(1), Signal::default()).unwrap();
    });
    let ask = |limit| service.list_affected(Request::new(wire::AffectedRequest { limit }));
    let found = ask(9).await.unwrap().into_inner();
    let files: Vec<_> = found.files.iter().map(|file| (file.path.as_str(), file.inode, file.chunks)).collect();
    assert_eq!((files, found.more), (vec![("/a/f7", 17, 2), ("/a/f10", 20, 1), ("", 999, 1)], false));
    assert!(found.files[0].why.contains("bring missing chunkservers"), "{}", found.files[0].why);
    let found = ask(1).await.unwrap().into_inner();
    assert_eq!((found.files.len(), found.more), (1, true));
}
