//! The files under `golden/` are as each version of each format has them, and must be read, and written, the same for ever.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rfs_common::ids::{ClusterId, ServerId, VolumeId};

use super::epoch_file;
use super::health::Ground;
use super::identity::Identity;
use super::running::{self, LastEnd};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/volume/golden").join(name);
    fs::read_to_string(path).unwrap()
}

fn keys(text: &str) -> BTreeSet<String> {
    text.parse::<toml::Table>().unwrap().keys().cloned().collect()
}

#[test]
fn an_identity_of_format_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume.toml");
    fs::write(&path, golden("volume-v1.toml")).unwrap();
    let identity = Identity::read(folder.path()).unwrap();
    let expected = Identity {
        format: 1,
        cluster: ClusterId::new(7),
        volume: VolumeId::new(u64::MAX),
        server: ServerId::new(3),
        host: "storage1".to_owned(),
        filesystem_uuid: "8d1f0f6c-5d0a-4b8e-9d5f-0123456789ab".to_owned(),
        mount_point: true,
        storage_machine: "sto1".to_owned(),
    };
    assert_eq!(identity, expected);
    identity.write(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), golden("volume-v1.toml"));
}

#[test]
fn an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch.toml");
    fs::write(&path, golden("epoch-v1.toml")).unwrap();
    assert_eq!(epoch_file::last_epoch(folder.path()), 300);
    fs::remove_file(&path).unwrap();
    epoch_file::store_epoch(folder.path(), 300).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), golden("epoch-v1.toml"));
}

#[test]
fn a_mark_of_the_first_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("running.toml");
    let ground = Ground::of(folder.path()).unwrap();
    let clean = golden("running-v1.toml");
    fs::write(&path, &clean).unwrap();
    assert_eq!(running::last_end(folder.path(), &ground), LastEnd::Clean);
    fs::write(&path, clean.replace("clean = true", "clean = false")).unwrap();
    assert_eq!(running::last_end(folder.path(), &ground), LastEnd::PowerCut, "of another boot");
    running::mark_clean(folder.path(), &ground).unwrap();
    assert_eq!(keys(&fs::read_to_string(&path).unwrap()), keys(&clean));
}
