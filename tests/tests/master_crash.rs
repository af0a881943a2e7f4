//! The master dies by SIGKILL in the middle of a busy workload, again and again: programs see a pause, nothing that was
//! acknowledged is missing, and no operation ran twice.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rfs_tests::cluster::Cluster;

const KILLS: usize = 6;

/// What one thread does until it is told that the last master has died.
type Work<'a, T> = Box<dyn FnOnce(&AtomicBool) -> T + Send + 'a>;

/// Runs each of `works` in a thread of its own until the master has died [`KILLS`] times; each gives what it did.
fn while_the_master_dies<T: Send>(cluster: &mut Cluster, works: Vec<Work<'_, T>>) -> Vec<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(|| work(&done))).collect();
        for _ in 0..KILLS {
            sleep(Duration::from_millis(700));
            cluster.kill_master();
            sleep(Duration::from_millis(200));
            cluster.start_master().expect("started again");
        }
        sleep(Duration::from_millis(700));
        done.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().expect("no operation failed")).collect()
    })
}

/// A second run of any of these would fail where the first succeeded: that is what shows it.
fn busy(root: &Path, done: &AtomicBool) -> usize {
    fs::create_dir(root).expect("mkdir");
    let mut number = 0;
    while !done.load(Ordering::SeqCst) {
        let folder = root.join(format!("d{number}"));
        fs::create_dir(&folder).expect("mkdir");
        let first = folder.join("first");
        OpenOptions::new().write(true).create_new(true).open(&first).expect("exclusive create");
        fs::rename(&first, folder.join("second")).expect("rename");
        fs::hard_link(folder.join("second"), folder.join("third")).expect("link");
        fs::remove_file(folder.join("second")).expect("unlink");
        let again = fs::create_dir(&folder).expect_err("it is there");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        number += 1;
    }
    number
}

fn append(path: &Path, done: &AtomicBool) -> usize {
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("open");
    let mut number = 0;
    while !done.load(Ordering::SeqCst) {
        file.write_all(format!("{number:08}\n").as_bytes()).expect("append");
        if number % 20 == 0 {
            file.sync_all().expect("fsync");
        }
        number += 1;
    }
    number
}

#[test]
fn nothing_is_lost_and_nothing_runs_twice() {
    let mut cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let (a, b) = (first.path().to_owned(), second.path().to_owned());
    let works: Vec<Work<usize>> = vec![
        Box::new(|done| busy(&a.join("one"), done)),
        Box::new(|done| busy(&b.join("two"), done)),
        Box::new(|done| append(&a.join("log-one"), done)),
        Box::new(|done| append(&b.join("log-two"), done)),
    ];
    let counts = while_the_master_dies(&mut cluster, works);
    println!("operations done while the master died {KILLS} times: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "each workload got on: {counts:?}");
    for (root, name, count) in [(&b, "one", counts[0]), (&a, "two", counts[1])] {
        let folders = fs::read_dir(root.join(name)).expect("list").count();
        assert_eq!(folders, count);
        for number in 0..count {
            let names: Vec<_> = fs::read_dir(root.join(name).join(format!("d{number}")))
                .expect("list")
                .map(|entry| entry.expect("entry").file_name())
                .collect();
            assert_eq!(names, ["third"]);
        }
    }
    for (root, name, count) in [(&b, "log-one", counts[2]), (&a, "log-two", counts[3])] {
        let text = fs::read_to_string(root.join(name)).expect("read");
        let expected: String = (0..count).map(|number| format!("{number:08}\n")).collect();
        assert!(text == expected, "{name}: {} lines of {count}", text.lines().count());
    }
    first.unmount().expect("unmounted");
    second.unmount().expect("unmounted");
    let check = cluster.stop_master().expect("stopped");
    assert!(check.success());
    let mut command = std::process::Command::new(rfs_tests::programs::program("mfs-master"));
    rfs_tests::programs::run(command.arg("check").arg(cluster.master_folder()))
        .expect("every invariant of the metadata holds");
}

#[test]
fn unflushed_creations_survive_the_masters_death() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..300 {
        File::create(mount.path().join(format!("f{number}"))).expect("created");
    }
    cluster.kill_master();
    cluster.start_master().expect("started again");
    let other = cluster.mount().expect("another mount, with nothing cached");
    assert_eq!(fs::read_dir(other.path()).expect("list").count(), 300);
}
