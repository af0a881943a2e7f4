//! Tests of the command line and of the options after `-o`.

use super::*;

fn parse(arguments: &[&str]) -> Result<MountRequest, UsageError> {
    MountRequest::parse(std::iter::once(&"mount.rfs").chain(arguments))
}

fn options(list: &str) -> MountOptions {
    parse(&["master", "/mnt", "-o", list]).unwrap().options
}

fn message(arguments: &[&str]) -> String {
    parse(arguments).unwrap_err().to_string()
}

#[test]
fn the_command_is_consistent() {
    command().debug_assert();
    let mut names: Vec<&str> = OPTIONS.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "an option stands twice in the table");
    let help = command().render_long_help().to_string();
    for entry in OPTIONS {
        assert!(help.contains(&format!("  {}", entry.name)), "{} is not in the help", entry.name);
    }
}

#[test]
fn reads_what_mount_passes() {
    let request = parse(&["sto:9521:/home", "/mnt", "-n", "-v", "-o", "rw,noatime,_netdev", "-t", "fuse.rfs"]).unwrap();
    assert_eq!(request.source.to_string(), "sto:9521:/home");
    assert_eq!(request.mount_point, Path::new("/mnt"));
    assert!(!request.foreground && request.options.access_times == AccessRule::Never && !request.options.read_only);
    assert_eq!(request.options.log_level, "debug");
    // mount.fuse.rfs is called with the options last or first.
    assert!(parse(&["-o", "ro", "rfs#master", "/mnt"]).unwrap().options.read_only);
}

#[test]
fn sources_are_read_and_shown() {
    for (text, shown) in [
        ("master", "master:9421"),
        ("master:1", "master:1"),
        ("master:/", "master:9421"),
        ("master:/a//b/./c/", "master:9421:/a/b/c"),
        ("rfs#192.0.2.1:9:/x", "192.0.2.1:9:/x"),
        ("[2001:db8::1]:/x", "[2001:db8::1]:9421:/x"),
    ] {
        assert_eq!(text.parse::<MountSource>().unwrap().to_string(), shown, "{text}");
        assert_eq!(shown.parse::<MountSource>().unwrap().to_string(), shown);
    }
    for text in ["", ":/x", "/dev/sda1", "master:port", "master:1:x", "master:/a/../b"] {
        let error = text.parse::<MountSource>();
        assert!(error.is_err() || text.starts_with("/dev"), "{text}: {error:?}");
    }
}

#[test]
fn later_options_win() {
    assert!(!options("ro,rw").read_only);
    assert!(options("rw,ro").read_only);
    let user = options("user");
    assert!(!user.suid && !user.dev && !user.exec);
    assert!(options("user,exec").exec);
    assert!(!options("exec,user").exec);
    assert!(options("suid,dev").suid);
    let two_lists = parse(&["master", "/mnt", "-o", "ro", "-o", "rw,threads=4"]).unwrap().options;
    assert!(!two_lists.read_only && two_lists.threads == 4);
    assert_eq!(parse(&["master:1", "/mnt", "-o", "port=7"]).unwrap().source.to_string(), "master:7");
}

#[test]
fn the_mount_table_has_what_fstab_has() {
    let name = |arguments: &[&str]| parse(arguments).unwrap().source_name();
    assert_eq!(name(&["master:/", "/mnt"]), "master:/");
    assert_eq!(name(&["master", "/mnt"]), "master");
    assert_eq!(name(&["master:/", "/mnt", "-o", "port=7"]), "master:7");
    assert_eq!(name(&["master:/", "/mnt", "-o", "fsname=x"]), "x");
}

#[test]
fn values_are_read_with_their_units() {
    let read = options("write_cache=64M,read_cache=1GiB,master_timeout=5,chunk_timeout=2m,threads=4,threads_max=9");
    assert_eq!(read.write_cache, ByteSize::mib(64));
    assert_eq!(read.read_cache, ByteSize::gib(1));
    assert_eq!((read.master_timeout, read.chunk_timeout), (Some(Duration::from_secs(5)), Duration::from_secs(120)));
    assert_eq!((read.threads, read.threads_max), (4, 9));
    assert_eq!(options("master_timeout=5,master_timeout=never,connect_timeout=1").master_timeout, None);
    let quoted = options("log_file=\"/var/log/a,b\",fsname=x\\,y,log_level=\"info,rfs_mount=debug\"");
    assert_eq!(quoted.log_file.as_deref(), Some(Path::new("/var/log/a,b")));
    assert_eq!(quoted.source_name.as_deref(), Some("x,y"));
    assert_eq!(quoted.log_level, "info,rfs_mount=debug");
}

#[test]
fn what_is_meant_for_others_is_ignored() {
    let plain = options("");
    for list in ["defaults", "auto,noauto,nofail", "x-systemd.automount,x-gvfs-show,X-mount.mkdir=700", "comment=a,,"] {
        assert_eq!(options(list), plain, "{list}");
    }
}

#[test]
fn mistakes_are_named() {
    for (list, expected) in [
        ("rw,colour=red", "unknown option \"colour\""),
        ("ro=1", "option ro: it takes no value"),
        ("threads", "option threads: it needs a value: threads=N"),
        ("threads=0", "option threads: \"0\" is not possible; write a number from 1 to 48"),
        ("write_cache=1K", "option write_cache: 1KiB is not possible"),
        ("cluster=x", "option cluster: \"x\" is not a cluster id"),
        ("port=70000", "option port: "),
        ("log_format=xml", "option log_format: \"xml\" is not a format"),
        ("chunk_timeout=soon", "option chunk_timeout: \"soon\" is not a duration"),
    ] {
        let message = message(&["master", "/mnt", "-o", list]);
        assert!(message.starts_with(expected), "{list}: {message}");
    }
    assert!(parse(&["master", "/mnt", "-s", "-o", "colour=red"]).is_ok());
    assert!(matches!(parse(&["master"]), Err(UsageError::CommandLine(_))));
    assert!(message(&[":/x", "/mnt"]).contains("does not name a master"));
}
