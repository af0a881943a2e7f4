//! Times of access: as on a local XFS with the same option, on every mount, and at no cost.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rfs_tests::cluster::{Cluster, SOON};
use rfs_tests::guardian::{Guardian, folder_of_all_tests};
use rfs_tests::semantics::access_times::trace;
use rfs_tests::volumes::XfsVolume;

/// What one step of the series did to a time, on both.
#[allow(clippy::print_stdout, reason = "the report of a test")]
fn compare(option: &str, local: &Path, mounted: &Path) {
    let expected = trace(local).expect("on XFS");
    let seen = trace(mounted).expect("on rfs");
    let table: Vec<String> = expected.iter().zip(&seen).map(|(on_xfs, here)| format!("{on_xfs} | {here}")).collect();
    assert_eq!(seen, expected, "with {option}; on XFS | on rfs:\n{}", table.join("\n"));
    let rises = seen.iter().filter(|line| line.ends_with("Greater")).count();
    println!("{option}: {rises} of {} steps set a time of access", seen.len());
    assert_eq!(rises == 0, option == "noatime");
}

#[test]
fn each_option_does_what_it_does_on_a_local_filesystem() {
    let guardian = Guardian::start();
    let folder = tempfile::Builder::new().prefix("access.").tempdir_in(folder_of_all_tests()).expect("a folder").keep();
    guardian.folder(&folder);
    let volume = XfsVolume::create(&guardian, folder.join("image"), folder.join("volume"), 400 << 20).expect("XFS");
    let cluster = Cluster::start().expect("a cluster");
    for option in ["relatime", "noatime", "strictatime", "nodiratime", "strictatime,nodiratime"] {
        let remounted =
            Command::new("mount").args(["-o", &format!("remount,diratime,{option}")]).arg(volume.path()).status();
        assert!(remounted.expect("mount").success(), "XFS with {option}");
        let mount = cluster.mount_with(&["-o", option]).expect("a mount");
        let (local, mounted) = (volume.path().join(option), mount.path().join(option));
        fs::create_dir(&local).expect("a folder");
        fs::create_dir(&mounted).expect("a folder");
        compare(option, &local, &mounted);
        mount.unmount().expect("nothing is left open");
    }
    volume.unmount().expect("nothing is left open");
}

fn access(path: &Path) -> (i64, i64) {
    let stat = fs::metadata(path).expect("stat");
    (stat.atime(), stat.atime_nsec())
}

/// Longer than clocks of files stand still.
fn let_time_pass() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn another_mount_sees_an_access_soon_and_before_any_change_of_its_own() {
    let cluster = Cluster::start().expect("a cluster");
    let (first, second) = (cluster.mount().expect("a mount"), cluster.mount().expect("another"));
    let (here, there) = (first.path().join("file"), second.path().join("file"));
    fs::write(&here, "bytes").expect("written");
    let made = access(&there);
    let_time_pass();
    fs::read(&here).expect("read");
    let read = access(&here);
    assert!(read > made);
    assert!(cluster.wait(SOON, || access(&there) == read), "{:?} and not {read:?}", access(&there));
    // A change by another mount does not take it back, though the master was not told of it before.
    for round in 0..20 {
        fs::set_permissions(&here, fs::Permissions::from_mode(0o600 + round % 2 * 0o44)).expect("chmod");
        let_time_pass();
        fs::read(&here).expect("read");
        let read = access(&here);
        fs::set_permissions(&there, fs::Permissions::from_mode(0o640 + round % 2 * 4)).expect("chmod");
        assert_eq!((access(&there), access(&here)), (read, read), "round {round}");
    }
    // What is set explicitly stays.
    let_time_pass();
    fs::read(&here).expect("read");
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000);
    let times = fs::FileTimes::new().set_accessed(old);
    File::options().write(true).open(&there).expect("open").set_times(times).expect("set");
    assert_eq!((access(&there), access(&here)), ((1_000, 0), (1_000, 0)));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!((access(&there), access(&here)), ((1_000, 0), (1_000, 0)), "a late touch");
    // And what was read just before the mount went away is not lost.
    fs::read(&here).expect("read");
    let read = access(&here);
    first.unmount().expect("unmounted");
    assert_eq!(access(&there), read);
}

#[test]
fn a_read_only_mount_notes_nothing() {
    let cluster = Cluster::start().expect("a cluster");
    let (writer, reader) = (cluster.mount().expect("a mount"), cluster.mount_with(&["-o", "ro"]).expect("another"));
    fs::write(writer.path().join("file"), "bytes").expect("written");
    let made = access(&writer.path().join("file"));
    let_time_pass();
    fs::read(reader.path().join("file")).expect("read");
    assert_eq!(access(&reader.path().join("file")), made);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(access(&writer.path().join("file")), made);
}

#[test]
fn accesses_cost_one_message_for_many_files_and_none_when_none_is_due() {
    const FILES: usize = 500;
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let path = |number: usize| mount.path().join(format!("file{number}"));
    (0..FILES).for_each(|number| fs::write(path(number), [7; 4096]).expect("written"));
    // Files written and closed are given back a moment later.
    std::thread::sleep(Duration::from_millis(2_500));
    let read_all = || (0..FILES).for_each(|number| assert_eq!(fs::read(path(number)).expect("read").len(), 4096));
    let before = cluster.operations().expect("counts");
    read_all();
    std::thread::sleep(Duration::from_millis(1_400));
    let after = cluster.operations().expect("counts");
    let asked = |kind: &str| after.get(kind).unwrap_or(&0) - before.get(kind).unwrap_or(&0);
    println!("reading {FILES} files that were due: {} touches, {before:?}, {after:?}", asked("Touch"));
    let least = FILES.div_ceil(256) as u64;
    assert!((least..=least + 4).contains(&asked("Touch")), "{}", asked("Touch"));
    read_all();
    std::thread::sleep(Duration::from_millis(1_400));
    assert_eq!(
        cluster.operations().expect("counts"),
        after,
        "reading again what is cached and not due asks for nothing"
    );
}
