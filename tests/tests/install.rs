//! `make install DESTDIR=` puts every program, manual page and unit where it belongs.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn everything_is_installed_where_it_belongs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let bin_dir = rfs_tests::programs::bin_dir();
    let target = tempfile::tempdir().expect("a folder");
    let output = Command::new("make")
        .arg("install")
        .arg(format!("DESTDIR={}", target.path().display()))
        .arg(format!("OUT={}", bin_dir.display()))
        .current_dir(root)
        .output()
        .expect("make");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = [
        "usr/local/sbin/mfs-master",
        "usr/local/sbin/chunkserver",
        "usr/local/bin/rfs",
        "sbin/mount.rfs",
        "sbin/mount.fuse.rfs",
        "usr/local/share/man/man8/mfs-master.8",
        "usr/local/share/man/man8/chunkserver.8",
        "usr/local/share/man/man8/mount.rfs.8",
        "usr/local/share/man/man1/rfs.1",
        "lib/systemd/system/mfs-master.service",
        "lib/systemd/system/chunkserver.service",
        "etc/rfs/mfs-master.toml",
        "etc/rfs/chunkserver.toml",
    ];
    for path in expected {
        assert!(target.path().join(path).exists(), "{path} is not installed");
    }
    let unit = fs::read_to_string(target.path().join("lib/systemd/system/mfs-master.service")).expect("the unit");
    assert!(unit.contains("ExecStart=/usr/local/sbin/mfs-master"), "{unit}");
    let manual = fs::read_to_string(target.path().join("usr/local/share/man/man1/rfs.1")).expect("the page");
    assert!(manual.contains("RFS ADMIN EXPORT") && !manual.contains("status(1)"), "commands stand in the page itself");
    for program in ["usr/local/sbin/mfs-master", "usr/local/sbin/chunkserver", "usr/local/bin/rfs", "sbin/mount.rfs"] {
        let help = Command::new(target.path().join(program)).arg("--help").output().expect("run");
        assert!(help.status.success(), "{program} --help");
    }
}
