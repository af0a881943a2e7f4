//! Two mounts at once: what one has done, the other sees; what excludes, excludes on both.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rfs_tests::cluster::{Cluster, Mount};
use rfs_tests::programs::program;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// A read-modify-write of the number in a file, under its flock, through a descriptor opened for it.
fn count_up(path: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    flock(&file, FlockOperation::LockExclusive).expect("flock");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    let number: u64 = text.trim().parse().unwrap_or_else(|error| panic!("{text:?} under the lock: {error}"));
    file.set_len(0).expect("truncate");
    file.seek(SeekFrom::Start(0)).expect("seek");
    write!(file, "{}", number + 1).expect("write");
}

#[test]
fn counting_under_a_lock_loses_nothing() {
    const EACH: u64 = 60;
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    fs::write(first.path().join("count"), "0").expect("written");
    std::thread::scope(|scope| {
        for root in [first.path(), first.path(), second.path(), second.path()] {
            scope.spawn(move || (0..EACH).for_each(|_| count_up(&root.join("count"))));
        }
    });
    for root in [first.path(), second.path()] {
        assert_eq!(fs::read_to_string(root.join("count")).expect("read"), (4 * EACH).to_string());
    }
}

/// The same with fcntl locks, which belong to processes: two processes, each on its own mount.
#[test]
fn counting_under_a_posix_lock_loses_nothing() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    fs::write(first.path().join("count"), "0").expect("written");
    let script = "
import fcntl, os, sys
for _ in range(100):
    fd = os.open(sys.argv[1], os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    number = int(os.pread(fd, 100, 0))
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(number + 1).encode(), 0)
    os.close(fd)
";
    let processes: Vec<_> = [first.path(), second.path(), first.path()]
        .iter()
        .map(|root| {
            std::process::Command::new("python3").args(["-c", script]).arg(root.join("count")).spawn().expect("python3")
        })
        .collect();
    for mut process in processes {
        assert!(process.wait().expect("ended").success());
    }
    assert_eq!(fs::read_to_string(second.path().join("count")).expect("read"), "300");
}

#[test]
fn appends_from_two_mounts_never_overlap() {
    const EACH: usize = 150;
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    File::create(first.path().join("log")).expect("created");
    std::thread::scope(|scope| {
        for (writer, root) in [("a", first.path()), ("b", second.path())] {
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(root.join("log")).expect("open");
                for number in 0..EACH {
                    file.write_all(format!("{writer}{number:05}\n").as_bytes()).expect("append");
                }
            });
        }
    });
    let text = fs::read_to_string(second.path().join("log")).expect("read");
    assert_eq!(text, fs::read_to_string(first.path().join("log")).expect("read"));
    for writer in ["a", "b"] {
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(writer)).collect();
        let expected: Vec<String> = (0..EACH).map(|number| format!("{writer}{number:05}")).collect();
        assert_eq!(lines, expected, "the lines of {writer}");
    }
    assert_eq!(text.lines().count(), 2 * EACH);
}

#[test]
fn one_of_two_exclusive_creations_wins() {
    const ROUNDS: usize = 100;
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let won = |root: &Path| -> Vec<bool> {
        (0..ROUNDS)
            .map(|number| OpenOptions::new().write(true).create_new(true).open(root.join(format!("f{number}"))).is_ok())
            .collect()
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| won(first.path()));
        let other = won(second.path());
        (one.join().expect("joined"), other)
    });
    for number in 0..ROUNDS {
        assert!(one[number] != other[number], "round {number}: {} and {}", one[number], other[number]);
    }
}

#[test]
fn what_one_mount_did_the_other_sees_at_once() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let (a, b) = (first.path(), second.path());
    for round in 0..40u64 {
        let name = format!("file{round}");
        fs::write(a.join(&name), vec![b'x'; 5000]).expect("written");
        assert_eq!(fs::metadata(b.join(&name)).expect("seen").len(), 5000);
        let content = vec![u8::try_from(round).expect("small"); 70_000];
        fs::write(b.join(&name), &content).expect("written");
        assert_eq!(fs::read(a.join(&name)).expect("read"), content, "round {round}");
        let file = OpenOptions::new().write(true).open(a.join(&name)).expect("open");
        file.write_all_at(b"middle", 30_000).expect("written");
        assert_eq!(&fs::read(b.join(&name)).expect("read")[30_000..30_006], b"middle", "while the writer has it open");
        drop(file);
        fs::rename(a.join(&name), a.join("moved")).expect("renamed");
        assert!(fs::metadata(b.join(&name)).is_err());
        assert_eq!(fs::metadata(b.join("moved")).expect("seen").len(), 70_000);
        fs::remove_file(b.join("moved")).expect("removed");
        assert!(fs::metadata(a.join("moved")).is_err());
        assert!(fs::read_dir(a).expect("list").next().is_none());
    }
}

#[test]
fn a_file_unlinked_by_the_other_mount_stays_readable_while_open() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    fs::write(first.path().join("file"), vec![7; 200_000]).expect("written");
    let open = File::open(first.path().join("file")).expect("open");
    fs::remove_file(second.path().join("file")).expect("removed");
    assert_eq!(open.metadata().expect("stat").nlink(), 0);
    let mut content = vec![0; 200_000];
    open.read_exact_at(&mut content, 0).expect("read");
    assert!(content.iter().all(|byte| *byte == 7));
    drop(open);
    let gone =
        cluster.wait(rfs_tests::cluster::SOON, || cluster.status().is_ok_and(|status| status["counts"]["chunks"] == 0));
    assert!(gone, "the chunks of an orphan go with its last user: {:#}", cluster.status().expect("status"));
}

/// A reader never sees a mix of two versions that were written as a whole under a lock, nor an old one after a new one.
/// The kernel moves its one name of a directory for a lookup, but not for the rename that meets it first.
#[test]
fn a_directory_that_another_mount_has_moved_can_be_renamed_at_once() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let mut at = "one/directory".to_owned();
    fs::create_dir_all(first.path().join(&at)).expect("made");
    fs::write(first.path().join(&at).join("file"), "within").expect("written");
    fs::create_dir(first.path().join("two")).expect("made");
    for round in 0..12 {
        let (mover, follower) = if round % 3 == 0 { (&second, &first) } else { (&first, &second) };
        assert_eq!(fs::read(follower.path().join(&at).join("file")).expect("read"), b"within");
        let (away, back) = (format!("two/{round}"), format!("one/{round}"));
        fs::rename(mover.path().join(&at), mover.path().join(&away)).expect("moved");
        fs::rename(follower.path().join(&away), follower.path().join(&back)).expect("renamed where it is found first");
        at = back;
    }
    // Over an empty one that has been moved as well.
    for name in ["one/empty", "two/other"] {
        fs::create_dir(first.path().join(name)).expect("made");
        fs::metadata(second.path().join(name)).expect("seen");
    }
    fs::rename(first.path().join("one/empty"), first.path().join("two/empty")).expect("moved");
    fs::rename(second.path().join("two/other"), second.path().join("one/other")).expect("moved");
    fs::rename(second.path().join("one/other"), second.path().join("two/empty")).expect("replaced");
    assert!(fs::metadata(first.path().join("one/other")).is_err());
}

#[test]
fn a_reader_on_another_mount_never_goes_back() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let path = first.path().join("versions");
    fs::write(&path, [0; 4096]).expect("written");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&path).expect("open");
            for version in 1..=200u8 {
                file.write_all_at(&[version; 4096], 0).expect("written");
            }
            done.store(true, Ordering::SeqCst);
        });
        let file = File::open(second.path().join("versions")).expect("open");
        let (mut last, mut bytes) = (0, [0; 4096]);
        while !done.load(Ordering::SeqCst) {
            file.read_exact_at(&mut bytes, 0).expect("read");
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "one write, one read");
            assert!(bytes[0] >= last, "version {} after version {last}", bytes[0]);
            last = bytes[0];
        }
    });
    assert_eq!(fs::read(second.path().join("versions")).expect("read"), [200; 4096]);
}

/// A reader that can get its bytes from nowhere now.
fn start_reader(path: &Path) -> Child {
    let mut reader = Command::new("cat").arg(path).stdout(Stdio::piped()).spawn().expect("cat");
    std::thread::sleep(Duration::from_millis(700));
    assert!(reader.try_wait().expect("waited").is_none(), "there is no copy, and yet the read is over");
    reader
}

fn prepare_without_copies(cluster: &mut Cluster) -> (Mount, Mount) {
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    fs::write(second.path().join("file"), vec![5; 300_000]).expect("written");
    (0..cluster.chunkserver_count()).for_each(|index| cluster.kill_chunkserver(index));
    (first, second)
}

#[test]
fn a_read_that_waits_for_a_copy_makes_way_for_another_mount() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (first, second) = prepare_without_copies(&mut cluster);
    let reader = start_reader(&first.path().join("file"));
    let began = cluster.now();
    OpenOptions::new().write(true).open(second.path().join("file")).expect("open").set_len(0).expect("cut");
    let took = cluster.now().since(began);
    assert!(took < Duration::from_secs(5), "cutting the file waited {took:?} for the reader");
    let output = reader.wait_with_output().expect("ended");
    assert!(output.status.success() && output.stdout.iter().all(|byte| *byte == 0), "{:?}", output.status);
}

#[test]
fn a_killed_reader_ends_at_once_though_no_copy_can_be_had() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (first, _second) = prepare_without_copies(&mut cluster);
    for signal in [Signal::INT, Signal::KILL] {
        let mut reader = start_reader(&first.path().join("file"));
        kill_process(Pid::from_child(&reader), signal).expect("killed");
        let ended = cluster.wait(Duration::from_secs(2), || reader.try_wait().expect("waited").is_some());
        assert!(ended, "{signal:?} does not end the reader");
    }
}

#[test]
fn a_killed_program_ends_at_once_though_the_master_is_away() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), "bytes").expect("written");
    cluster.kill_master();
    std::thread::sleep(Duration::from_millis(500));
    let mut program = Command::new("stat").args(["-f"]).arg(mount.path()).stdout(Stdio::null()).spawn().expect("stat");
    std::thread::sleep(Duration::from_millis(700));
    assert!(program.try_wait().expect("waited").is_none(), "the space is known to the master only");
    program.kill().expect("killed");
    let ended = cluster.wait(Duration::from_secs(2), || program.try_wait().expect("waited").is_some());
    assert!(ended, "SIGKILL does not end a program that waits for the master");
    cluster.start_master().expect("the master again");
    assert_eq!(fs::read_to_string(mount.path().join("file")).expect("read"), "bytes");
}

/// Remounts as mount(8) does, by its helper.
fn remount(cluster: &Cluster, mount: &Mount, how: &str) -> Output {
    let mut command = Command::new(program("mount-rfs"));
    command.arg(cluster.master_address()).arg(mount.path()).args(["-o", how]);
    command.output().expect("mount.rfs")
}

#[test]
fn a_mount_can_be_made_read_only_and_writable_again() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let path = mount.path().join("file");
    let open = File::create(&path).expect("created");
    assert!(!remount(&cluster, &mount, "remount,ro").status.success(), "a file is open for writing");
    drop(open);
    fs::write(&path, "before").expect("written");
    assert!(cluster.wait(Duration::from_secs(5), || remount(&cluster, &mount, "remount,ro").status.success()));
    let refused = fs::write(&path, "no").expect_err("it is read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    assert!(remount(&cluster, &mount, "remount,rw").status.success());
    fs::write(&path, "after").expect("written");
    let read_only = cluster.mount_with(&["-o", "ro"]).expect("a mount");
    let refused = remount(&cluster, &read_only, "remount,rw");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("was mounted read-only"), "{refused:?}");
}

#[test]
fn two_mounts_fill_one_directory_without_waiting_for_each_others_kernels() {
    const FILES: usize = 100;
    let cluster = Cluster::start().expect("a cluster");
    let mounts = [cluster.mount().expect("a mount"), cluster.mount().expect("another")];
    fs::create_dir(mounts[0].path().join("shared")).expect("made");
    let began = cluster.now();
    std::thread::scope(|scope| {
        for (number, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                for file in 0..FILES {
                    fs::write(mount.path().join(format!("shared/{number}-{file}")), "content").expect("written");
                }
            });
        }
    });
    let took = cluster.now().since(began);
    for mount in &mounts {
        assert_eq!(fs::read_dir(mount.path().join("shared")).expect("list").count(), 2 * FILES);
    }
    // It was 16 s while each new name waited for a kernel that waited for its own new name, and is 0.1 s.
    assert!(took < Duration::from_secs(8), "{took:?}");
    mounts.into_iter().for_each(|mount| mount.unmount().expect("unmounted"));
}
