//! Real programs on the mount, while a chunkserver dies and comes back: results are byte-identical, no error reaches the
//! program, and afterwards everything is fully replicated by itself.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rfs_tests::cluster::Cluster;
use rfs_tests::programs::shell;
use rfs_tests::workload::crate_sources;

/// Runs `work` on a fresh mount while chunkserver after chunkserver is killed and started again, then waits for repair.
fn while_chunkservers_die(work: impl FnOnce(&Path) -> anyhow::Result<()> + Send) {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    let path = mount.path().to_owned();
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let root = path.clone();
        let done = &done;
        let worker = scope.spawn(move || {
            let result = work(&root);
            done.store(true, Ordering::SeqCst);
            result
        });
        let mut victim = 0;
        while !done.load(Ordering::SeqCst) {
            pause(done, Duration::from_millis(1500));
            cluster.kill_chunkserver(victim);
            pause(done, Duration::from_secs(3));
            cluster.start_chunkserver(victim).expect("started again");
            pause(done, Duration::from_secs(4));
            victim = (victim + 1) % cluster.chunkserver_count();
        }
        worker.join().expect("the work ended")
    });
    result.expect("no error reaches the program");
    cluster.wait_until_fully_replicated().expect("repaired by itself");
    mount.unmount().expect("unmounted");
}

/// Sleeps, but not past the end of the work.
fn pause(done: &AtomicBool, duration: Duration) {
    let steps = duration.as_millis() / 50;
    for _ in 0..steps {
        if done.load(Ordering::SeqCst) {
            return;
        }
        sleep(Duration::from_millis(50));
    }
}

/// The least that "a tree of many files" means.
const FILES_MIN: usize = 20_000;

/// Crates with at least so many files in all, if there are as many; those with small files first. However much else cargo
/// keeps on this machine, the tree is not much larger than that.
fn crates_of_small_files(sources: &Path, files_min: usize) -> anyhow::Result<(Vec<String>, usize)> {
    let mut crates = Vec::new();
    for entry in fs::read_dir(sources)? {
        let entry = entry?;
        let (mut files, mut bytes, mut folders) = (0, 0, vec![entry.path()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                match entry.file_type()? {
                    kind if kind.is_dir() => folders.push(entry.path()),
                    kind if kind.is_file() => (files, bytes) = (files + 1, bytes + entry.metadata()?.len()),
                    _ => {}
                }
            }
        }
        crates.push((bytes / files.max(1), entry.file_name().to_string_lossy().into_owned(), files as usize));
    }
    crates.sort();
    let (mut names, mut files) = (Vec::new(), 0);
    for (_, name, more) in crates {
        if files >= files_min {
            break;
        }
        names.push(name);
        files += more;
    }
    Ok((names, files))
}

#[test]
fn a_large_tree_is_copied_in_and_compared() {
    let sources = crate_sources().expect("crate sources");
    let (names, there) = crates_of_small_files(&sources, FILES_MIN).expect("crate sources");
    let list = tempfile::NamedTempFile::new().expect("a list of crates");
    fs::write(list.path(), names.join("\n")).expect("written");
    let each = format!("xargs -a {} -d '\\n'", list.path().display());
    while_chunkservers_die(|root| {
        let mut copies = 0;
        while there * copies < FILES_MIN {
            copies += 1;
            let tree = root.join(format!("tree{copies}"));
            fs::create_dir(&tree)?;
            shell(&sources, &format!("{each} -n 10 cp -a -t {}", tree.display()))?;
        }
        shell(root, "echo 3 > /proc/sys/vm/drop_caches")?;
        for copy in 1..=copies {
            let tree = root.join(format!("tree{copy}"));
            shell(&sources, &format!("{each} -I% diff -r % {}/%", tree.display()))?;
            let count: usize = shell(&tree, "find . -type f | wc -l")?.trim().parse()?;
            anyhow::ensure!(count == there, "{count} files of {there}");
        }
        Ok(())
    });
}

#[test]
fn git_clones_checks_and_packs() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    while_chunkservers_die(|root| {
        let clone = format!("git -c safe.directory='*' clone -q --no-hardlinks {} clone", repository.display());
        shell(root, &clone)?;
        shell(&root.join("clone"), "git fsck --full --strict 2>&1")?;
        shell(&root.join("clone"), "git gc -q --aggressive --prune=now && git fsck --full --strict 2>&1")?;
        let status = shell(&root.join("clone"), "git status --porcelain")?;
        anyhow::ensure!(status.is_empty(), "git sees changes after a clone:\n{status}");
        shell(
            &root.join("clone"),
            "git checkout -q -b other && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x --author 'a <a@b>' && git log -1",
        )?;
        Ok(())
    });
}

#[test]
fn cargo_builds_a_crate() {
    while_chunkservers_die(|root| {
        shell(root, "cargo init -q --name small --vcs none small")?;
        let source = "use std::collections::BTreeMap;\nfn main() { let m: BTreeMap<u32, u32> = (0..1000).map(|n| (n, n * n)).collect(); println!(\"{}\", m[&31]); }\n";
        fs::write(root.join("small/src/main.rs"), source)?;
        for _ in 0..3 {
            shell(
                &root.join("small"),
                "touch src/main.rs; CARGO_TARGET_DIR=$PWD/target CARGO_INCREMENTAL=1 cargo build -q --offline",
            )?;
            let printed = shell(&root.join("small"), "target/debug/small")?;
            anyhow::ensure!(printed.trim() == "961", "the program prints {printed}");
        }
        Ok(())
    });
}

#[test]
fn four_gibibytes_come_back_as_they_went() {
    while_chunkservers_die(|root| {
        // A stream that is cheap to make twice and never repeats: AES in counter mode of zeros.
        let stream = "openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv 00 -in /dev/zero 2>/dev/null | head -c 4294967296";
        let mut made = shell(root, &format!("set +o pipefail; {stream} | tee large | b2sum -l 256"))?;
        shell(root, "sync large; echo 3 > /proc/sys/vm/drop_caches")?;
        made.retain(|letter| letter.is_ascii_hexdigit());
        let mut back = shell(root, "b2sum -l 256 < large")?;
        back.retain(|letter| letter.is_ascii_hexdigit());
        anyhow::ensure!(made == back, "written {made}, read {back}");
        anyhow::ensure!(fs::metadata(root.join("large"))?.len() == 4 << 30);
        Ok(())
    });
}

#[test]
fn tar_and_rsync_keep_everything() {
    while_chunkservers_die(|root| {
        shell(
            root,
            r#"
            mkdir source && cd source
            for folder in $(seq 1 20); do mkdir -p d$folder/e; for file in $(seq 1 30); do head -c $((folder * file * 37)) /dev/urandom > d$folder/f$file; done; done
            ln d1/f1 d2/hard; ln -s ../d1/f2 d2/soft; ln -s nowhere dangling; mkfifo fifo; mknod null c 1 3
            truncate -s 10M sparse; printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
            chmod 4711 d3/f3; chown 12:34 d4/f4; touch -d '1999-12-31 23:59:59.123456789 UTC' d5/f5
            setfattr -n user.color -v blue d6/f6; setfacl -m u:12:rw d7/f7; setfacl -d -m g:34:rx d8
            head -c 200 /dev/zero > "$(printf 'odd
name 	%s' "$(head -c 100 /dev/zero | tr '\0' n)")"
        "#,
        )?;
        shell(
            root,
            "tar --xattrs --acls -cf - -C source . | (mkdir untarred && tar --xattrs --acls -xf - -C untarred)",
        )?;
        shell(root, "rsync -aHAX source/ copied/")?;
        for copy in ["untarred", "copied"] {
            let left = shell(root, &format!("rsync -aHAXnic --delete source/ {copy}/"))?;
            anyhow::ensure!(left.is_empty(), "{copy} differs:\n{left}");
            shell(root, &format!("diff -r --no-dereference -x fifo -x null source {copy}"))?;
            let hard = shell(root, &format!("stat -c %i {copy}/d1/f1 {copy}/d2/hard | uniq | wc -l"))?;
            anyhow::ensure!(hard.trim() == "1", "a hard link became two files in {copy}");
        }
        Ok(())
    });
}

#[test]
fn sqlite_runs_thousands_of_transactions() {
    const TRANSACTIONS: usize = 3000;
    while_chunkservers_die(|root| {
        shell(root, "sqlite3 data.db 'create table numbers (number integer primary key, text text)'")?;
        shell(
            root,
            &format!(
                r#"
            for number in $(seq 1 {TRANSACTIONS}); do echo "insert into numbers values ($number, hex(randomblob(200)));"; done > insert.sql
            sqlite3 data.db < insert.sql
        "#
            ),
        )?;
        let count = shell(root, "sqlite3 data.db 'select count(*), sum(number) from numbers'")?;
        anyhow::ensure!(count.trim() == format!("{TRANSACTIONS}|{}", TRANSACTIONS * (TRANSACTIONS + 1) / 2), "{count}");
        let check = shell(root, "sqlite3 data.db 'pragma integrity_check'")?;
        anyhow::ensure!(check.trim() == "ok", "{check}");
        shell(
            root,
            "sqlite3 data.db 'pragma journal_mode=wal; begin; delete from numbers where number % 2; commit; vacuum; pragma integrity_check' | tail -1 | grep -qx ok",
        )?;
        Ok(())
    });
}
