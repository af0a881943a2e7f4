//! What a damaged store does: bytes are flipped, zeroed, cut off and whole files removed at random places of a store that was
//! closed and of one that was killed; then a process of its own, with limits, checks and opens it. It may answer everything
//! or refuse by naming the file and the offset; it may never panic, hang, or answer something else than was stored.
//!
//! `RFS_DAMAGE_CASES` has more cases made, `RFS_TEST_SEED` other ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rfs_common::clock::SystemClock;

use super::tests::{CLUSTER, Dice, Model, content, copy_folder, options, put};
use super::*;

const FOLDER_VARIABLE: &str = "RFS_DAMAGE_FOLDER";
const TASK_VARIABLE: &str = "RFS_DAMAGE_TASK";
const COMMITS: u64 = 6000;
const CHILD_SECONDS_MAX: u32 = 30;
const CHILD_MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Commits of a store that is much larger than its cache, with values that sled keeps in files of their own.
fn commit(dice: &mut Dice) -> Vec<Change> {
    let table = [Table::Inodes, Table::Entries, Table::Chunks][dice.below(3) as usize];
    (0..4)
        .map(|_| {
            let key = dice.below(8000).to_be_bytes();
            match dice.below(200) {
                0..40 => Change::Delete { table, key: key.to_vec() },
                40 => put(table, &key, &vec![dice.below(256) as u8; 150_000]),
                _ => put(table, &key, &vec![dice.below(256) as u8; 100 + dice.below(400) as usize]),
            }
        })
        .collect()
}

fn model_after(commits: u64) -> Model {
    let (mut dice, mut model) = (Dice::new(1), Model::new());
    (0..commits).for_each(|_| super::tests::apply(&mut model, &commit(&mut dice)));
    model
}

fn damage_options() -> StoreOptions {
    StoreOptions { page_bytes: 4096, ..options() }
}

/// Makes the store; it is opened twice and checkpointed often. `closed` is a copy after its end, `killed` one from before.
fn make_stores(home: &Path, closed: &Path, killed: &Path) {
    Store::create(home, CLUSTER).unwrap();
    let mut dice = Dice::new(1);
    let mut done = 0;
    for (until, last) in [(COMMITS / 2, false), (COMMITS, true)] {
        let store = Store::open(home, damage_options(), SystemClock::shared()).unwrap();
        while done < until {
            store.commit(&commit(&mut dice)).unwrap();
            done += 1;
            if done % 500 == 499 {
                store.checkpoint().unwrap();
            }
        }
        store.wait_durable(store.position()).unwrap();
        if last {
            copy_folder(home, killed);
        }
        store.close().unwrap();
    }
    copy_folder(home, closed);
}

/// One damage to one file.
fn damage(folder: &Path, dice: &mut Dice) -> (String, String) {
    let files = damageable(folder);
    let kinds: Vec<&String> = files.keys().collect();
    let kind = kinds[dice.below(kinds.len() as u64) as usize].clone();
    let of_kind = &files[&kind];
    let path = &of_kind[dice.below(of_kind.len() as u64) as usize];
    let length = fs::metadata(path).unwrap().len();
    let at = dice.below(length.max(1));
    let file = fs::File::options().write(true).read(true).open(path).unwrap();
    let what = match dice.below(if kind == "db" || kind == "log" { 12 } else { 5 }) {
        0 => {
            fs::remove_file(path).unwrap();
            "removed"
        }
        1 | 2 => {
            file.set_len(at).unwrap();
            "cut off"
        }
        3..=6 => {
            let begin = at / 4096 * 4096;
            let zeros = vec![0; 4096.min((length - begin) as usize)];
            file.write_all_at(&zeros, begin).unwrap();
            "page zeroed"
        }
        _ => {
            // In sled's file half of the time where a segment begins: that is what it finds everything by.
            let at = if kind == "db" && dice.below(2) == 0 { at / (1 << 19) * (1 << 19) + dice.below(20) } else { at };
            let mut byte = [0];
            let at = at.min(length.saturating_sub(1));
            if length > 0 {
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << dice.below(8))], at).unwrap();
            }
            "bit flipped"
        }
    };
    (format!("{kind} {what}"), format!("{what} at {at} of {length} in {}", path.display()))
}

fn damageable(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut add = |kind: &str, path: PathBuf| files.entry(kind.to_owned()).or_default().push(path);
    for name in ["checkpoint", "identity"] {
        add(name, folder.join(name));
    }
    let entries = |path: PathBuf| {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    for path in entries(folder.join("log")) {
        if path.extension().is_some() {
            add("log", path);
        }
    }
    for path in entries(folder.join("pages")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match name.split('.').next().unwrap() {
            "blobs" => entries(path).into_iter().for_each(|blob| add("blob", blob)),
            kind => add(kind, path.clone()),
        }
    }
    files
}

/// What the child does: checks or opens the damaged store, and says what it found on its last line.
#[test]
fn child_that_opens_a_damaged_store() {
    let Ok(folder) = std::env::var(FOLDER_VARIABLE) else { return };
    let limit =
        rustix::process::Rlimit { current: Some(CHILD_MEMORY_BYTES_MAX), maximum: Some(CHILD_MEMORY_BYTES_MAX) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    std::panic::set_hook(Box::new(|info| {
        println!("\nCHILD panic {}", info.to_string().replace('\n', " "));
        std::process::abort();
    }));
    let folder = Path::new(&folder);
    let said = match std::env::var(TASK_VARIABLE).unwrap().as_str() {
        "check" => say_check(folder),
        _ => say_open(folder),
    };
    println!("\nCHILD {}", said.replace('\n', " "));
    // Whatever sled left undone is not waited for.
    std::process::exit(0);
}

fn say_check(folder: &Path) -> String {
    match Store::verify(folder) {
        Err(error) => format!("refused {error}"),
        Ok(verified) => match verified.damages.first() {
            None => "whole".to_owned(),
            Some(found) => format!("refused {} at byte {}: {}", found.file.display(), found.offset, found.what),
        },
    }
}

fn say_open(folder: &Path) -> String {
    let store = match Store::open(folder, damage_options(), SystemClock::shared()) {
        Err(error) => return format!("refused {error}"),
        Ok(store) => store,
    };
    for table in Table::ALL {
        if let Err(error) = store.scan(table, Bound::Unbounded, Bound::Unbounded, &mut |_, _| ControlFlow::Continue(()))
        {
            return format!("refused {error}");
        }
    }
    let position = store.position().get();
    if content(&store) != model_after(position) {
        return "WRONG".to_owned();
    }
    if position == COMMITS { "whole".to_owned() } else { format!("shorter: ends at {position}") }
}

/// Runs the child; the class of what it said, and all it said.
fn run_child(folder: &Path, task: &str) -> (String, String) {
    let output = folder.with_extension(format!("{task}.out"));
    let file = fs::File::create(&output).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::damage_tests::child_that_opens_a_damaged_store",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(FOLDER_VARIABLE, folder)
        .env(TASK_VARIABLE, task)
        .stdout(Stdio::from(file.try_clone().unwrap()))
        .stderr(Stdio::from(file))
        .spawn()
        .unwrap();
    let mut waited = 0;
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(10));
        waited += 1;
        if waited > CHILD_SECONDS_MAX * 100 {
            child.kill().unwrap();
            child.wait().unwrap();
            return ("HANG".to_owned(), "no answer".to_owned());
        }
    }
    let said = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
    let refused = |line: &str| line.contains("sled gave up").then(|| format!("refused {line}"));
    let told = said.lines().find_map(|line| line.strip_prefix("CHILD ").map(str::to_owned).or_else(|| refused(line)));
    let said = told.unwrap_or_else(|| "died".to_owned());
    let class = match said.split(' ').next().unwrap() {
        "refused" if names_a_place(&said) => "refused, with file and offset",
        "refused" => "refused without",
        "whole" => "whole answer",
        "shorter:" => "torn end cut off",
        "WRONG" => "SILENTLY WRONG",
        _ => "PANIC OR ABORT",
    };
    (class.to_owned(), said)
}

fn names_a_place(said: &str) -> bool {
    let file = ["/pages/", "/log/", "/checkpoint", "/identity"].iter().any(|name| said.contains(name));
    // What is not there has no offset.
    file && (said.contains("byte ") || said.contains("missing") || said.contains("No such file"))
}

#[test]
fn a_damaged_store_answers_wholly_or_names_the_place() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cases, seed) = (number("RFS_DAMAGE_CASES", 24), number("RFS_TEST_SEED", 7));
    println!("{cases} cases, seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let [home, closed, killed] = ["home", "closed", "killed"].map(|name| folder.path().join(name));
    make_stores(&home, &closed, &killed);
    let mut dice = Dice::new(seed);
    let mut table: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in 0..cases {
        let (original, ended) = if dice.below(2) == 0 { (&closed, "closed") } else { (&killed, "killed") };
        let damaged = folder.path().join("damaged");
        copy_folder(original, &damaged);
        let (kind, place) = damage(&damaged, &mut dice);
        for task in ["check", "open"] {
            let copy = folder.path().join("copy");
            copy_folder(&damaged, &copy);
            let (class, said) = run_child(&copy, task);
            println!("{case} {ended} {place} | {task}: {class}: {}", said.chars().take(600).collect::<String>());
            let bad = class.chars().nth(2).is_some_and(|letter| letter.is_uppercase()) || class == "refused without";
            if bad {
                wrong.push(format!("{ended} {place} | {task}: {class}: {said}"));
            }
            *table.entry((kind.clone(), task.to_owned(), class)).or_default() += 1;
            fs::remove_dir_all(&copy).unwrap();
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    for ((kind, task, class), count) in &table {
        println!("TABLE {kind:24} {task:6} {class:32} {count}");
    }
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
}
