//! What bad input gets: full volumes, a full master disk, two daemons on one folder, strangers on the ports.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rfs_common::errno::Errno;
use rfs_tests::cluster::{Cluster, IN_TIME, SOON, Shape, Storage};
use rfs_tests::programs::program;
use rfs_tests::workload;

const MIB: u64 = 1 << 20;

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io(error)
}

#[test]
fn full_volumes_give_enospc_and_lose_nothing() {
    let storage = Storage::Xfs { master_bytes: 1 << 30, chunkserver_bytes: 320 * MIB, disks_may_fail: false };
    let cluster = Cluster::start_shaped(Shape { storage, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::create_dir(mount.path().join("kept")).expect("mkdir");
    for number in 0..20 {
        workload::write(&mount.path().join("kept"), 3, number, true).expect("written");
    }
    let block = vec![9; 4 << 20];
    let mut full = None;
    for number in 0..400 {
        let wrote = File::create(mount.path().join(format!("fill{number}")))
            .and_then(|mut file| file.write_all(&block).and_then(|()| file.sync_all()));
        if let Err(error) = wrote {
            full = Some(error);
            break;
        }
    }
    let full = full.expect("it is full at some point");
    assert_eq!(errno(&full), Errno::ENOSPC, "{full}");
    for number in 0..20 {
        workload::verify(&mount.path().join("kept"), 3, number).expect("still there");
    }
    for number in 0..400 {
        let _ = fs::remove_file(mount.path().join(format!("fill{number}")));
    }
    let again = cluster.wait(IN_TIME, || workload::write(mount.path(), 4, 1, true).is_ok());
    assert!(again, "writes are taken again once there is space");
    workload::verify(mount.path(), 4, 1).expect("read");
}

#[test]
fn a_full_master_disk_gives_enospc_loses_nothing_and_recovers() {
    let storage = Storage::Xfs { master_bytes: 320 * MIB, chunkserver_bytes: 512 * MIB, disks_may_fail: false };
    let mut cluster = Cluster::start_shaped(Shape { storage, ..Shape::default() }).expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..20 {
        workload::write(mount.path(), 5, number, true).expect("written");
    }
    // Something else on the master's disk takes all of its space, to the last byte.
    let ballast = cluster.master_folder().join("not-ours");
    let fill = || {
        let mut file = OpenOptions::new().create(true).append(true).open(&ballast).expect("open");
        let mut size = 4 << 20;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        let _ = file.sync_all();
    };
    fill();
    let value = vec![b'v'; 4000];
    let mut acknowledged = Vec::new();
    let mut refused = None;
    for number in 0..60_000 {
        let path = mount.path().join(format!("made{number}"));
        match fs::create_dir(&path).and_then(|()| {
            rustix::fs::setxattr(&path, "user.fill", &value, rustix::fs::XattrFlags::empty()).map_err(Into::into)
        }) {
            Ok(()) => acknowledged.push(number),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("the disk is full at some point");
    assert_eq!(errno(&refused), Errno::ENOSPC, "{refused}");
    println!("{} directories were made before the disk was full", acknowledged.len());
    for number in 0..20 {
        workload::verify(mount.path(), 5, number).expect("reads go on");
    }
    // A restart in that state serves as well.
    cluster.kill_master();
    cluster.start_master().expect("started on a full disk");
    fs::remove_file(&ballast).expect("removed");
    let start = cluster.now();
    let again = cluster.wait(IN_TIME, || fs::create_dir_all(mount.path().join("after")).is_ok());
    assert!(again, "changes are taken again once there is space");
    println!("changes were taken again {:?} after space was freed", cluster.now().since(start));
    for number in &acknowledged {
        let path = mount.path().join(format!("made{number}"));
        assert!(fs::metadata(&path).is_ok(), "{} was acknowledged and is gone", path.display());
    }
}

#[test]
fn a_second_daemon_on_a_folder_is_refused() {
    let cluster = Cluster::start().expect("a cluster");
    let refused = |command: &mut Command, expected: &str| {
        let output = command.output().expect("run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "a second daemon started");
        assert!(said.contains(expected), "{said}");
    };
    let free = "listen.clients=127.0.0.1:0";
    refused(
        Command::new(program("mfs-master")).arg("--data").arg(cluster.master_folder()).args([
            "-o",
            free,
            "-o",
            "listen.cluster=127.0.0.1:0",
            "-o",
            "listen.web=127.0.0.1:0",
            "-o",
            "listen.metrics=127.0.0.1:0",
        ]),
        cluster.master_folder().to_str().expect("a path"),
    );
    refused(
        Command::new(program("chunkserver")).arg("--data").arg(cluster.chunkserver_folder(0)).args([
            "--master",
            &cluster.master_address(),
            "-o",
            "listen=127.0.0.1:0",
        ]),
        cluster.chunkserver_folder(0).to_str().expect("a path"),
    );
}

#[test]
fn strangers_on_the_ports_do_no_harm() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    workload::write(mount.path(), 6, 1, true).expect("written");
    let client_port: u16 = cluster.master_address().rsplit(':').next().expect("a port").parse().expect("a number");
    // A frame header that announces the largest lengths there are, of a type that may not have them.
    let mut huge = vec![0x46, 0x52, 2, 0, 0, 0, 0, 0];
    huge.extend([0xff; 8]);
    huge.extend([0; 8]);
    let nonsense: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[0; 100], &[0xff; 4096], &huge];
    let web_port: u16 = cluster.web_address().rsplit(':').next().expect("a port").parse().expect("a number");
    for port in [client_port, cluster.data_port(0), cluster.cluster_port(), web_port] {
        // The page answers what a browser asks.
        for bytes in nonsense.into_iter().skip(usize::from(port == web_port)) {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "port {port} keeps a stranger: {error}");
                }
            }
        }
        // Many that say nothing at all.
        let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connect")).collect();
        drop(silent);
    }
    // Each port has told of the first of them, and who sent it.
    let log = |name: &str| fs::read_to_string(cluster.folder().join(format!("log/{name}.log"))).expect("a log");
    let (master, chunkserver) = (log("mfs-master"), log("chunkserver1"));
    let told = |log: &str, what: &str| log.lines().any(|line| line.contains(what) && line.contains("127.0.0.1:"));
    for port in ["clients", "cluster", "web"] {
        assert!(
            told(&master, &format!("cut off: what came is not of this port's protocol port=\"{port}\"")),
            "{master}"
        );
    }
    assert!(
        told(&chunkserver, "a data connection was closed: what came on it is not of this protocol"),
        "{chunkserver}"
    );
    workload::verify(mount.path(), 6, 1).expect("read");
    workload::write(mount.path(), 6, 2, true).expect("written");
    cluster.wait_for_status(SOON, "healthy", |status| status["health"] == "ok").expect("healthy");
}

#[test]
fn connections_without_end_do_not_take_the_masters_descriptors() {
    let cluster = Cluster::start().expect("a cluster");
    let addresses = fs::read(cluster.master_folder().join("addresses.json")).expect("where it listens");
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).expect("JSON");
    let master = addresses["process_id"].as_u64().expect("a process id");
    // Few enough for a test; they are as many as the limit in a life of months.
    let limit = Command::new("prlimit").args(["--pid", &master.to_string(), "--nofile=400:400"]).status();
    assert!(limit.expect("prlimit").success());
    let mut strangers = Vec::new();
    for service in ["web", "metrics"] {
        let address = addresses[service].as_str().expect("an address").to_owned();
        strangers.extend((0..250).map(|_| TcpStream::connect(&address).expect("connect")));
    }
    let mount = cluster.mount().expect("a mount, while strangers hold all that they can get");
    workload::write(mount.path(), 7, 1, true).expect("written");
    rfs_tests::programs::run(&mut cluster.rfs(&["admin", "checkpoint"])).expect("a checkpoint opens many files");
    workload::verify(mount.path(), 7, 1).expect("read");
    drop(strangers);
    cluster.wait_for_status(SOON, "healthy", |status| status["health"] == "ok").expect("healthy");
}

#[test]
fn a_chunkserver_of_another_cluster_is_refused() {
    let cluster = Cluster::start().expect("a cluster");
    let other = Cluster::start().expect("another");
    let output = Command::new(program("chunkserver"))
        .arg("--data")
        .arg(fresh_volume(&other))
        .args(["--master", &cluster.master_address(), "-o", "listen=127.0.0.1:0"])
        .output()
        .expect("run");
    assert!(!output.status.success(), "it joined");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("cluster"), "{said}");
}

/// A volume initialised for `cluster` that no daemon uses.
fn fresh_volume(cluster: &Cluster) -> std::path::PathBuf {
    let folder = cluster.folder().join("spare");
    fs::create_dir(&folder).expect("mkdir");
    let mut init = Command::new(program("chunkserver"));
    init.arg("init").arg(&folder).args(["--master", &cluster.master_address(), "--not-a-mount-point"]);
    rfs_tests::programs::run(&mut init).expect("initialised");
    folder
}

fn mount_fails(arguments: &[&str], expected: &str) {
    let output = Command::new(program("mount-rfs")).args(arguments).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "mounted: {arguments:?}");
    assert!(said.to_lowercase().contains(expected), "{arguments:?} says: {said}");
}

#[test]
fn a_mount_that_cannot_be_is_refused_in_words() {
    let cluster = Cluster::start().expect("a cluster");
    let folder = cluster.folder().join("place");
    fs::create_dir(&folder).expect("mkdir");
    let place = folder.to_str().expect("a path");
    let master = cluster.master_address();
    mount_fails(&["127.0.0.1:1", place], "127.0.0.1:1");
    mount_fails(&[&master, "/does/not/exist"], "/does/not/exist");
    mount_fails(&[&master, place, "-o", "no_such_option"], "no_such_option");
    mount_fails(&[&format!("{master}:/no/such/folder"), place], "/no/such/folder");
    mount_fails(&[&master, place, "-o", "cluster=00000000-0000-0000-0000-000000000001"], "cluster");
    mount_fails(&[&format!("127.0.0.1:{}", cluster.data_port(0)), place], "port");
    assert!(!rfs_tests::cluster::is_mounted(Path::new(place)), "no hung mount point");
}
