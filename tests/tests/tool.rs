//! `rfs` as people use it: quickstart from nothing to purge, and the commands on a running cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rfs_tests::cluster::{Cluster, is_mounted};
use rfs_tests::guardian::{Guardian, folder_of_all_tests};
use rfs_tests::programs::{program, require_root_and_fuse};
use serde_json::Value;

/// A place for a quickstart cluster, which is ended whatever happens.
struct Place {
    dir: PathBuf,
    guardian: Guardian,
}

impl Place {
    fn new() -> Self {
        require_root_and_fuse();
        let dir =
            tempfile::Builder::new().prefix("quickstart.").tempdir_in(folder_of_all_tests()).expect("a folder").keep();
        let guardian = Guardian::start();
        guardian.folder(&dir);
        guardian.mount(&dir.join("mnt"));
        Self { dir, guardian }
    }

    fn quickstart(&self, arguments: &[&str]) -> Output {
        let output = Command::new(program("rfs"))
            .arg("quickstart")
            .arg("--dir")
            .arg(&self.dir)
            .args(arguments)
            .output()
            .expect("run");
        for name in self.process_names() {
            self.guardian.process(self.pid(&name).unwrap_or(0));
        }
        output
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.quickstart(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "quickstart {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn process_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("run")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned)).collect();
        names.sort();
        names
    }

    fn pid(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.dir.join(format!("run/{name}.pid"))).ok()?.trim().parse().ok()
    }
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn quickstart_starts_goes_on_stops_and_purges() {
    let place = Place::new();
    let said = place.must(&[]);
    assert!(said.contains("http://127.0.0.1:"), "{said}");
    assert_eq!(place.process_names(), ["chunkserver1", "chunkserver2", "chunkserver3", "mfs-master", "mount"]);
    let mnt = place.dir.join("mnt");
    fs::write(mnt.join("hello"), "world").expect("written");

    // Again: nothing changes.
    let pids: Vec<_> = place.process_names().iter().map(|name| place.pid(name)).collect();
    place.must(&[]);
    assert_eq!(pids, place.process_names().iter().map(|name| place.pid(name)).collect::<Vec<_>>());
    assert!(!place.quickstart(&["--goal", "3"]).status.success(), "it would change the cluster");

    // What is down is started.
    let victim = place.pid("chunkserver2").expect("a pid");
    Command::new("kill").args(["-9", &victim.to_string()]).status().expect("killed");
    place.must(&[]);
    assert_ne!(place.pid("chunkserver2"), Some(victim));
    assert_eq!(fs::read_to_string(mnt.join("hello")).expect("read"), "world");

    let pids: Vec<u32> = place.process_names().iter().filter_map(|name| place.pid(name)).collect();
    place.must(&["--stop"]);
    assert!(!is_mounted(&mnt));
    assert!(pids.iter().all(|pid| !runs(*pid)), "all have ended");

    place.must(&[]);
    assert_eq!(fs::read_to_string(mnt.join("hello")).expect("read"), "world");
    place.must(&["--stop", "--purge"]);
    assert!(
        !place.dir.exists(),
        "left: {:?}",
        fs::read_dir(&place.dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>())
    );
}

#[test]
fn quickstart_puts_data_where_it_is_told_and_two_run_at_once() {
    let (place, other) = (Place::new(), Place::new());
    let dirs: Vec<String> =
        ["m", "a", "b"].iter().map(|name| place.dir.join("elsewhere").join(name).display().to_string()).collect();
    place.must(&["--meta", &dirs[0], "--data", &dirs[1], "--data", &dirs[2], "--goal", "2"]);
    other.must(&["--chunkservers", "1"]);
    assert!(Path::new(&dirs[1]).join("volume.toml").exists());
    fs::write(place.dir.join("mnt/file"), "1").expect("written");
    fs::write(other.dir.join("mnt/file"), "2").expect("written");
    assert_eq!(fs::read_to_string(place.dir.join("mnt/file")).expect("read"), "1");
    assert_eq!(fs::read_to_string(other.dir.join("mnt/file")).expect("read"), "2");
    place.must(&["--stop", "--purge"]);
    other.must(&["--stop", "--purge"]);
    assert!(dirs.iter().all(|dir| !Path::new(dir).exists()), "purge removes what it made");
}

#[test]
fn quickstart_refuses_what_cannot_work_and_leaves_nothing() {
    let place = Place::new();
    fs::create_dir(place.dir.join("mnt")).expect("mkdir");
    fs::write(place.dir.join("mnt/mine"), "not yours").expect("written");
    let output = place.quickstart(&[]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    assert_eq!(fs::read_dir(&place.dir).expect("list").count(), 1, "nothing was made");
    let output = place.quickstart(&["--stop"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no quickstart cluster"));
}

#[test]
fn quickstart_refuses_folders_whose_mount_is_missing() {
    let place = Place::new();
    place.must(&["--chunkservers", "1"]);
    place.must(&["--stop"]);
    let log = fs::read_to_string(place.dir.join("log/mount.log")).expect("its log");
    assert!(!log.contains("ending at once"), "the next start waits for a session that did not take leave: {log}");
    for (folder, what) in [("chunkserver1", "the volume of chunkserver1"), ("master", "the master's metadata")] {
        let (folder, aside) = (place.dir.join(folder), place.dir.join("aside"));
        fs::rename(&folder, &aside).expect("moved");
        fs::create_dir(&folder).expect("an empty folder, as beneath a mount that is missing");
        let output = place.quickstart(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("is empty") && said.contains(what), "{said}");
        assert_eq!(fs::read_dir(&folder).expect("list").count(), 0, "nothing was made in {}", folder.display());
        fs::remove_dir(&folder).expect("removed");
        fs::rename(&aside, &folder).expect("moved back");
    }
    place.must(&[]);
    place.must(&["--stop", "--purge"]);
}

#[test]
fn quickstart_never_joins_a_stranger_on_its_ports() {
    let (place, other) = (Place::new(), Place::new());
    other.must(&["--chunkservers", "1"]);
    let said =
        Command::new(program("rfs")).args(["--json", "quickstart", "--dir"]).arg(&other.dir).output().expect("run");
    let cluster: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let port = cluster["cluster"].as_str().and_then(|address| address.rsplit(':').next()).expect("a port").to_owned();
    let output = place.quickstart(&["--port-base", &port]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("in use by another program"), "{said}");
    assert!(!place.dir.join("quickstart.toml").exists(), "the next try may name other ports");
    other.must(&["--stop", "--purge"]);
}

#[test]
fn quickstart_takes_no_folder_with_logs_of_others() {
    let place = Place::new();
    fs::create_dir(place.dir.join("log")).expect("mkdir");
    fs::write(place.dir.join("log/mine"), "not yours").expect("written");
    let output = place.quickstart(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("not empty"), "{said}");
    assert_eq!(fs::read_dir(&place.dir).expect("list").count(), 1, "nothing was made");
}

#[test]
fn quickstart_believes_no_folder_that_another_user_made() {
    let place = Place::new();
    let (dir, victim) = (place.dir.join("planted"), place.dir.join("victim"));
    fs::create_dir_all(victim.join("log")).expect("mkdir");
    fs::create_dir(&dir).expect("mkdir");
    let plan = format!(
        "mount = {:?}\nmeta = {victim:?}\ndata = [{:?}]\ngoal = 1\nport_base = 9420\n",
        dir.join("mnt"),
        dir.join("chunkserver1")
    );
    fs::write(dir.join("quickstart.toml"), plan).expect("planted");
    let refused = |what: &str| {
        for arguments in [&["--stop", "--purge"][..], &[]] {
            let output = Command::new(program("rfs"))
                .args(["quickstart", "--dir"])
                .arg(&dir)
                .args(arguments)
                .output()
                .expect("run");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(what), "{said}");
        }
        assert!(victim.join("log").exists(), "what the planted plan names is not touched");
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 1, "nothing was made");
    };
    let (nobody, root) = (Some(65_534), Some(0));
    std::os::unix::fs::chown(&dir, nobody, None).expect("chown");
    refused("belongs to user 65534");
    std::os::unix::fs::chown(&dir, root, None).expect("chown");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("chmod");
    refused("chmod go-w");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::chown(dir.join("quickstart.toml"), nobody, None).expect("chown");
    refused("belongs to user 65534");
    std::os::unix::fs::chown(dir.join("quickstart.toml"), root, None).expect("chown");
    std::os::unix::fs::chown(&victim, nobody, None).expect("chown");
    refused("belongs to user 65534");
}

#[test]
fn quickstart_keeps_data_from_other_users_and_lets_them_reach_the_mount() {
    let place = Place::new();
    let dir = place.dir.join("cluster");
    place.guardian.mount(&dir.join("mnt"));
    let quickstart = |arguments: &[&str]| {
        let mut command = Command::new(program("rfs"));
        rfs_tests::programs::run(command.args(["quickstart", "--dir"]).arg(&dir).args(arguments)).expect("quickstart")
    };
    quickstart(&["--chunkservers", "1"]);
    for name in ["mfs-master", "chunkserver1", "mount"] {
        let pid = fs::read_to_string(dir.join(format!("run/{name}.pid"))).expect("a pid file");
        place.guardian.process(pid.trim().parse().expect("nothing but a number"));
    }
    fs::write(dir.join("mnt/secret"), "x").expect("written");
    let mode = |path: &str| fs::metadata(dir.join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("run"), mode("log")), (0o755, 0o755, 0o755));
    assert_eq!((mode("master"), mode("chunkserver1")), (0o700, 0o700));
    for file in ["master/identity", "master/checkpoint", "chunkserver1/volume.toml", "chunkserver1/chunks"] {
        assert_eq!(mode(file) & 0o077, 0, "{file} is {:o}", mode(file));
    }
    quickstart(&["--stop", "--purge"]);
    assert!(!dir.exists());
}

#[test]
fn quickstart_goes_on_after_an_interruption_at_any_moment() {
    let place = Place::new();
    for milliseconds in (0..=9).map(|step| step * 8).chain([90, 120, 160, 250, 400, 700]) {
        let mut command = Command::new(program("rfs"));
        command.args(["quickstart", "--chunkservers", "1", "--dir"]).arg(&place.dir);
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().expect("started");
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // To the whole group, as a terminal does it.
        let group = format!("-{}", child.id());
        Command::new("kill").args(["-INT", "--", &group]).stderr(Stdio::null()).status().expect("kill");
        child.wait().expect("ended");
        place.must(&["--chunkservers", "1"]);
        fs::write(place.dir.join("mnt/hello"), "world").expect("written");
        place.must(&["--stop", "--purge"]);
        assert!(!place.dir.exists(), "after {milliseconds} ms");
    }
}

#[test]
fn quickstart_takes_no_folder_of_something_else() {
    let place = Place::new();
    fs::write(place.dir.join("passwd"), "root").expect("written");
    let output = place.quickstart(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("not empty") && said.contains("passwd"), "{said}");
    assert_eq!(fs::read_dir(&place.dir).expect("list").count(), 1, "nothing was made");
}

#[test]
fn status_names_the_files_that_lack_copies() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::create_dir_all(mount.path().join("folder/below")).expect("mkdir");
    fs::write(mount.path().join("folder/below/precious"), vec![1; 100_000]).expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    let file = mount.path().join("folder/below/precious");
    let file = file.to_str().expect("a path");
    rfs_tests::programs::run(&mut cluster.rfs(&["setgoal", "5", file])).expect("setgoal");
    // More copies than there are chunkservers: nothing but a person can help.
    cluster
        .wait_for_status(rfs_tests::cluster::SOON, "stuck", |status| {
            status["summary"].as_str().is_some_and(|summary| summary.contains("goal 5 needs as many chunkservers"))
        })
        .expect("said");
    let affected = |cluster: &Cluster| {
        let output = cluster.rfs(&["--json", "status"]).output().expect("run");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["affected"]["files"].clone()
    };
    let found = affected(&cluster);
    assert_eq!(found[0]["path"], "/folder/below/precious");
    assert!(found[0]["why"].as_str().is_some_and(|why| why.contains("rfs setgoal")), "{found:#}");
    (0..3).for_each(|index| cluster.kill_chunkserver(index));
    cluster
        .wait_for_status(rfs_tests::cluster::SOON, "unavailable", |status| status["unavailable"] == 1)
        .expect("noticed");
    let found = affected(&cluster);
    assert_eq!(found[0]["live_copies"], 0);
    assert!(found[0]["why"].as_str().is_some_and(|why| why.contains("(away)")), "{found:#}");
    let said = cluster.rfs(&["status"]).output().expect("run");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("/folder/below/precious: cannot be read"), "{said}");
    cluster.start_everything().expect("started again");
}

#[test]
fn the_tool_tells_the_state_and_changes_goals() {
    let cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::create_dir_all(mount.path().join("folder/below")).expect("mkdir");
    let file = mount.path().join("folder/below/file");
    fs::write(&file, vec![1; 100_000]).expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    assert_eq!(cluster.rfs_json(&["servers"]).expect("servers").as_array().map(Vec::len), Some(3));
    assert_eq!(cluster.rfs_json(&["volumes"]).expect("volumes").as_array().map(Vec::len), Some(3));
    let sessions = cluster.rfs_json(&["sessions"]).expect("sessions");
    assert_eq!(sessions[0]["mount_point"], mount.path().to_str().expect("a path"));

    let file_name = file.to_str().expect("a path");
    let info = cluster.rfs_json(&["fileinfo", file_name]).expect("fileinfo");
    assert_eq!(info[0]["length"], 100_000);
    assert_eq!(info[0]["chunks"][0]["copies"].as_array().map(Vec::len), Some(2));
    let by_path = cluster.rfs_json(&["fileinfo", "--from-root", "/folder/below/file"]).expect("fileinfo");
    assert_eq!(by_path[0]["inode"], info[0]["inode"]);

    let folder = mount.path().join("folder");
    rfs_tests::programs::run(&mut cluster.rfs(&["setgoal", "-r", "3", folder.to_str().expect("a path")]))
        .expect("setgoal");
    assert_eq!(cluster.rfs_json(&["getgoal", file_name]).expect("getgoal")[0]["goal"], 3);
    // A path that fails does not keep the others from being told or set.
    for words in
        [vec!["--json", "getgoal", "/none/here", file_name], vec!["--json", "setgoal", "3", "/none/here", file_name]]
    {
        let output = cluster.rfs(&words).output().expect("rfs");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(told[0]["error"].is_string() && told[1]["path"] == file_name && told[1]["error"].is_null(), "{told:#}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("/none/here"), "{words:?}");
    }
    cluster.wait_until_fully_replicated().expect("a third copy is made");
    let info = cluster.rfs_json(&["fileinfo", file_name]).expect("fileinfo");
    assert_eq!(info[0]["chunks"][0]["copies"].as_array().map(Vec::len), Some(3));

    let people = rfs_tests::programs::run(&mut cluster.rfs(&["status"])).expect("healthy, so the status is 0");
    assert!(people.starts_with("OK"), "{people}");
}

#[test]
fn an_export_restores_the_whole_namespace() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    for number in 0..50 {
        fs::write(mount.path().join(format!("file{number}")), format!("content {number}")).expect("written");
    }
    mount.unmount().expect("unmounted");
    let export = cluster.folder().join("export");
    rfs_tests::programs::run(&mut cluster.rfs(&["admin", "checkpoint"])).expect("checkpoint");
    rfs_tests::programs::run(&mut cluster.rfs(&["admin", "export", export.to_str().expect("a path")])).expect("export");
    let restored = cluster.folder().join("restored");
    rfs_tests::programs::run(&mut cluster.rfs(&[
        "admin",
        "restore",
        export.to_str().expect("a path"),
        restored.to_str().expect("a path"),
    ]))
    .expect("restore");
    cluster.stop_master().expect("stopped");
    rfs_tests::programs::run(Command::new(program("mfs-master")).arg("check").arg(&restored)).expect("a sound restore");
    let folder = cluster.master_folder().to_owned();
    fs::rename(&folder, cluster.folder().join("old")).expect("renamed");
    fs::rename(&restored, &folder).expect("renamed");
    cluster.start_everything().expect("started on the restored metadata");
    let mount = cluster.mount().expect("a mount");
    for number in 0..50 {
        assert_eq!(
            fs::read_to_string(mount.path().join(format!("file{number}"))).expect("read"),
            format!("content {number}")
        );
    }
    cluster.wait_until_fully_replicated().expect("all copies are known again");
}

#[test]
fn wrong_arguments_get_an_answer_in_words() {
    let said = |arguments: &[&str]| {
        let output = Command::new(program("rfs")).args(arguments).env_remove("RFS_MASTER").output().expect("run");
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["--master", "127.0.0.1:1", "status"]).contains("no master answers at 127.0.0.1:1"));
    assert!(said(&["fileinfo", "/etc/passwd"]).contains("not on a mount of rfs"));
    assert!(said(&["setgoal", "0", "/"]).contains("1..=9"));
    assert!(said(&["no-such-command"]).contains("no-such-command"));
}

#[test]
fn status_says_what_is_wrong() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), "x").expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    (0..3).for_each(|index| cluster.kill_chunkserver(index));
    cluster
        .wait_for_status(rfs_tests::cluster::SOON, "unavailable", |status| status["health"] == "unavailable")
        .expect("noticed");
    let status: Value = cluster.status().expect("status");
    assert!(status["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{status:#}");
    assert_eq!(cluster.rfs(&["status"]).output().expect("run").status.code(), Some(4));
    cluster.start_everything().expect("started again");
    cluster.wait_until_fully_replicated().expect("all is well again");
}
