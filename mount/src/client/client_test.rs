//! The client against a master that does what the test says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rfs_common::clock::{Clock, Monotonic, SystemClock, Time};
use rfs_common::errno::Errno;
use rfs_proto::frame::FrameType;
use rfs_proto::session as wire;

use super::fake_bytes::MemoryBytes;
use super::fake_fault::{Fault, Gate};
use super::fake_master::{FakeMaster, ROOT};
use super::*;
use crate::session::SessionOptions;

const NEW: NewNode = NewNode { mode: 0o644, umask: 0 };
const APPEND: i32 = libc::O_WRONLY | libc::O_APPEND;
const ROOT_INODE: InodeId = InodeId::new(ROOT);
const FILE: InodeId = InodeId::new(5);

#[path = "client_losses_test.rs"]
mod losses;

#[path = "client_accesses_test.rs"]
mod accesses;

#[path = "client_moved_test.rs"]
mod moved;

#[path = "client_recalls_test.rs"]
mod recalls;

#[derive(Default)]
struct RecordedKernel {
    told: Mutex<Vec<String>>,
    /// When it was last told to forget an entry or attributes.
    forgotten_at: Mutex<Option<Monotonic>>,
    /// How often it will still say that it does not know a node.
    unknown: AtomicU32,
    /// What holds it up in forgetting data, once.
    gate: Mutex<Option<Arc<Gate>>>,
}

impl RecordedKernel {
    fn was_told(&self, what: &str) -> bool {
        self.told.lock().unwrap().iter().any(|told| told == what)
    }

    fn forget(&self, what: String) -> Forgotten {
        let unknown = self.unknown.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if unknown.is_ok() {
            return Forgotten::NotKnown;
        }
        self.told.lock().unwrap().push(what);
        Forgotten::Yes
    }
}

impl KernelCaches for RecordedKernel {
    fn invalidate_attributes(&self, inode: InodeId) -> Forgotten {
        *self.forgotten_at.lock().unwrap() = Some(SystemClock.monotonic());
        self.forget(format!("attributes {inode}"))
    }

    fn invalidate_data(&self, inode: InodeId) -> Forgotten {
        let gate = self.gate.lock().unwrap().take();
        gate.inspect(|gate| gate.pass());
        self.forget(format!("data {inode}"))
    }

    fn invalidate_pages(&self, inode: InodeId, pages: std::ops::Range<u64>) -> Forgotten {
        self.forget(format!("pages {inode} {pages:?}"))
    }

    fn invalidate_entry(&self, parent: InodeId, name: &[u8]) {
        *self.forgotten_at.lock().unwrap() = Some(SystemClock.monotonic());
        self.told.lock().unwrap().push(format!("entry {parent} {}", String::from_utf8_lossy(name)));
    }

    fn drop_directory(&self, parent: InodeId, name: &[u8]) {
        self.told.lock().unwrap().push(format!("directory {parent} {}", String::from_utf8_lossy(name)));
    }
}

struct Mounted {
    master: FakeMaster,
    client: Client,
    bytes: Arc<MemoryBytes>,
    kernel: Arc<RecordedKernel>,
    caller: Caller,
}

impl Mounted {
    fn new() -> Mounted {
        Mounted::noting(Accesses::NONE)
    }

    fn noting(accesses: Accesses) -> Mounted {
        let master = FakeMaster::start();
        master.file("five", FILE.get());
        let clock = SystemClock::shared();
        let options = SessionOptions::new(master.endpoint.clone(), Arc::clone(&clock));
        let session = Session::connect(options).unwrap();
        let (bytes, kernel) = (Arc::new(MemoryBytes::default()), Arc::new(RecordedKernel::default()));
        let client = Client::start_with(session, bytes.clone(), accesses, kernel.clone(), clock).unwrap();
        let caller = Caller { user: 0, group: 0, groups: Arc::from([]), process: 1 };
        Mounted { master, client, bytes, kernel, caller }
    }

    fn lookup(&self, name: &str) -> Result<NodeAnswer, Errno> {
        self.client.lookup(&self.caller, ROOT_INODE, name.as_bytes())
    }

    fn open(&self, flags: i32) -> Handle {
        self.client.open(&self.caller, FILE, flags).unwrap().handle
    }

    fn round_trips(&self) -> u64 {
        self.client.statistics().calls()
    }

    /// The grant that the master gave last for the file.
    fn last_grant(&self) -> u64 {
        self.master.state().grant
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.client.shut_down(Duration::from_secs(1));
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come about");
}

/// A write by a program that may keep set-id bits.
const CALL: WriteOrigin = WriteOrigin::Call { kill_set_id: false, appends: false };
const APPENDING: WriteOrigin = WriteOrigin::Call { kill_set_id: false, appends: true };

#[test]
fn cached_answers_cost_no_round_trip() {
    let mounted = Mounted::new();
    assert_eq!(mounted.lookup("five").unwrap().entry_valid, KERNEL_VALID);
    assert_eq!(mounted.lookup("none"), Err(Errno::ENOENT));
    let before = mounted.round_trips();
    assert_eq!(mounted.lookup("five").unwrap().attribute_valid, KERNEL_VALID);
    assert_eq!(mounted.lookup("none"), Err(Errno::ENOENT));
    mounted.client.get_attributes(FILE).unwrap();
    let handle = mounted.open(libc::O_RDONLY);
    mounted.client.read(handle, 0, 100, (ReadTarget::Caller, &mut Vec::new()), &|| true).unwrap();
    mounted.client.flush(handle, 1).unwrap();
    mounted.client.release(handle, None);
    assert_eq!(mounted.round_trips(), before);
}

#[test]
fn a_file_that_was_looked_up_is_opened_with_where_it_begins() {
    let mounted = Mounted::new();
    let first = wire::ChunkPlaces { chunk: 7, version: 3, length: 10, ..wire::ChunkPlaces::default() };
    mounted.master.state().first_chunk = Some(first.clone());
    let offered = || mounted.bytes.memory(FILE).state.lock().unwrap().offered.clone();
    mounted.lookup("five").unwrap();
    let told = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    mounted.master.wait_done(told);
    let handle = mounted.open(libc::O_RDONLY);
    assert_eq!(offered(), [], "another client may have written since");
    mounted.client.release(handle, None);
    mounted.master.file("six", 66);
    let six = mounted.lookup("six").unwrap().attributes.inode;
    let handle = mounted.client.open(&mounted.caller, six, libc::O_RDONLY).unwrap().handle;
    let of_six = mounted.bytes.memory(six).state.lock().unwrap().offered.clone();
    assert_eq!(of_six, [crate::data::ChunkPlaces::from(first)]);
    mounted.client.release(handle, None);
}

#[test]
fn a_small_file_costs_one_make_and_one_commit() {
    let mounted = Mounted::new();
    let client = &mounted.client;
    let (answer, opened) = client.create(&mounted.caller, ROOT_INODE, b"new", NEW, libc::O_WRONLY).unwrap();
    client.write(opened.handle, 0, b"hello", CALL).unwrap();
    client.flush(opened.handle, 1).unwrap();
    client.release(opened.handle, None);
    assert_eq!(mounted.round_trips(), 2);
    let commit = mounted.master.state().commits[0].clone();
    assert_eq!(commit.length, Some(5));
    assert_eq!(commit.return_lease.unwrap().mode(), wire::LeaseMode::Read);
    let now = client.get_attributes(answer.attributes.inode).unwrap();
    assert_eq!((now.attributes.length, now.attribute_valid), (5, KERNEL_VALID));
    assert_eq!(mounted.round_trips(), 2);
}

#[test]
fn names_in_a_directory_just_made_are_known_to_be_absent() {
    let mounted = Mounted::new();
    let (client, caller) = (&mounted.client, &mounted.caller);
    let made = client.make_directory(caller, ROOT_INODE, b"dir", NEW).unwrap().attributes.inode;
    let before = mounted.round_trips();
    assert_eq!(client.lookup(caller, made, b"file"), Err(Errno::ENOENT));
    client.create(caller, made, b"file", NEW, libc::O_WRONLY).unwrap();
    assert_eq!(client.lookup(caller, made, b"other"), Err(Errno::ENOENT));
    assert!(client.lookup(caller, made, b"file").is_ok());
    assert_eq!(mounted.round_trips(), before + 1, "only the file is asked for");
    let entries = vec![wire::EntryNotice { directory: made.get(), names: vec![(&b"other"[..]).into()] }];
    mounted.master.wait_done(mounted.master.recall(wire::Recall { entries, ..wire::Recall::default() }));
    assert_eq!(client.lookup(caller, made, b"other"), Err(Errno::ENOENT));
    assert_eq!(mounted.round_trips(), before + 2, "another client is making that name");
}

#[test]
fn a_change_whose_answer_was_lost_is_repeated_and_runs_once() {
    let mounted = Mounted::new();
    mounted.master.fault(FrameType::Make, Fault::DropAfter);
    mounted.master.fault(FrameType::Lookup, Fault::DropBefore);
    mounted.client.make_directory(&mounted.caller, ROOT_INODE, b"once", NEW).unwrap();
    assert_eq!(mounted.master.count("Make"), 1);
    mounted.lookup("five").unwrap();
    assert_eq!(mounted.client.statistics().repeats(), 2);
}

#[test]
fn a_recall_that_overtakes_its_grant_lets_it_be_used_once() {
    let mounted = Mounted::new();
    let gate = Arc::new(Gate::default());
    let handle = mounted.open(libc::O_WRONLY);
    mounted.master.fault(FrameType::AcquireLease, Fault::Hold(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| mounted.client.write(handle, 0, b"once", CALL));
        gate.wait_reached();
        let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!mounted.master.is_done(recall), "the recall waits for the grant that it names");
        gate.open();
        writer.join().unwrap().unwrap();
        mounted.master.wait_done(recall);
    });
    let state = mounted.master.state();
    let commit = state.commits.last().unwrap();
    // The rest goes with RecallDone, once the kernel has forgotten.
    assert_eq!((commit.length, commit.return_lease.as_ref().unwrap().mode()), (Some(4), wire::LeaseMode::Read));
    let order: Vec<_> = state.journal.iter().filter(|entry| ["Commit", "RecallDone"].contains(&&***entry)).collect();
    assert_eq!(order, ["Commit", "RecallDone"]);
    drop(state);
    assert!(mounted.kernel.was_told("data 5"));
    assert_eq!(mounted.bytes.memory(FILE).state.lock().unwrap().invalidated, 1);
}

#[test]
fn a_kernel_that_does_not_know_a_node_yet_is_asked_before_the_recall_is_done_and_never_later() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let file = FILE;
    mounted.kernel.unknown.store(5, Ordering::Release);
    let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    mounted.master.wait_done(recall);
    assert!(mounted.kernel.was_told(&format!("attributes {file}")), "the answer that brought the node was under way");
    let told = mounted.kernel.told.lock().unwrap().len();
    std::thread::sleep(Duration::from_secs(1));
    let later = mounted.kernel.told.lock().unwrap()[told..].to_vec();
    assert!(later.is_empty(), "{later:?} would have the kernel drop attributes that it asks for now");
}

#[test]
fn extended_attributes_cost_no_round_trip_while_the_node_stays_as_it_is() {
    let mounted = Mounted::new();
    let get = |name: &[u8]| mounted.client.get_xattr(&mounted.caller, FILE, name);
    mounted.master.state().change(FILE.get(), |attributes| attributes.xattrs = Some(0));
    mounted.lookup("five").unwrap();
    let before = mounted.round_trips();
    for name in [&b"security.capability"[..], b"system.posix_acl_access", b"user.a"] {
        assert_eq!(get(name), Err(Errno::ENODATA));
    }
    assert_eq!(mounted.client.list_xattr(&mounted.caller, FILE), Ok(Vec::new()));
    assert_eq!(mounted.round_trips(), before, "a node without any needs no question");

    mounted.master.state().change(FILE.get(), |attributes| attributes.xattrs = Some(1));
    let recall = wire::Recall { attributes: vec![FILE.get()], ..wire::Recall::default() };
    mounted.master.wait_done(mounted.master.recall(recall));
    assert_eq!(get(b"user.a"), Ok(b"value of user.a".to_vec()));
    assert_eq!(mounted.round_trips(), before + 1, "nothing is known of the node, so nothing may be kept");
    mounted.client.get_attributes(FILE).unwrap();
    let before = mounted.round_trips();
    assert_eq!((get(b"user.none"), get(b"user.none")), (Err(Errno::ENODATA), Err(Errno::ENODATA)));
    // What was announced a moment ago may still be to come, and the answer does not say.
    assert_eq!(mounted.round_trips(), before + 2);
}

#[test]
fn an_extended_attribute_is_asked_for_once() {
    let mounted = Mounted::new();
    let get = |name: &[u8]| mounted.client.get_xattr(&mounted.caller, FILE, name);
    mounted.master.state().change(FILE.get(), |attributes| attributes.xattrs = Some(1));
    mounted.lookup("five").unwrap();
    let before = mounted.round_trips();
    for _ in 0..3 {
        assert_eq!(get(b"user.a"), Ok(b"value of user.a".to_vec()));
        assert_eq!(get(b"user.none"), Err(Errno::ENODATA));
    }
    assert_eq!(mounted.round_trips(), before + 2);
    mounted.client.set_xattr(&mounted.caller, FILE, b"user.a", b"other", 0).unwrap();
    let before = mounted.round_trips();
    assert_eq!(get(b"user.a"), Ok(b"value of user.a".to_vec()));
    assert_eq!(mounted.round_trips(), before + 1, "a change of our own ends what was kept");
}

#[test]
fn data_is_committed_before_a_recall_is_done_while_writes_go_on() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_WRONLY);
    let written = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..2000_u64 {
                mounted.client.write(handle, number, b"x", CALL).unwrap();
                written.store(number + 1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        for _ in 0..10 {
            eventually("a lease", || mounted.master.state().modes.get(&FILE.get()) == Some(&2));
            let before = written.load(std::sync::atomic::Ordering::SeqCst);
            let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::Read, mounted.last_grant());
            mounted.master.wait_done(recall);
            let committed = mounted.master.state().nodes[&FILE.get()].length;
            assert!(committed >= before, "{committed} bytes committed of {before}");
            if writer.is_finished() {
                break;
            }
        }
        writer.join().unwrap();
    });
    mounted.client.flush(handle, 1).unwrap();
    assert_eq!(mounted.master.state().nodes[&FILE.get()].length, 2000);
}

#[test]
fn appends_go_to_the_end_that_others_left() {
    let mounted = Mounted::new();
    let handle = mounted.open(APPEND);
    mounted.client.write(handle, 0, b"aaaa", APPENDING).unwrap();
    let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    mounted.master.wait_done(recall);
    mounted.master.state().change(FILE.get(), |attributes| attributes.length = 10);
    mounted.client.write(handle, 0, b"bb", APPENDING).unwrap();
    let writes = mounted.bytes.memory(FILE).state.lock().unwrap().writes.clone();
    assert_eq!(writes, [(0, b"aaaa".to_vec()), (10, b"bb".to_vec())]);
    assert_eq!(mounted.client.get_attributes(FILE).unwrap().attributes.length, 12);
}

#[test]
fn a_lost_session_drops_caches_and_fails_dirty_files_once() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let handle = mounted.open(libc::O_RDWR);
    mounted.client.write(handle, 0, b"dirty", CALL).unwrap();
    mounted.master.lose_session();
    eventually("the loss", || mounted.client.statistics().sessions_lost() == 1);
    let before = mounted.round_trips();
    assert_eq!(mounted.client.get_attributes(FILE).unwrap().attributes.length, 0);
    assert_eq!(mounted.round_trips(), before + 1, "nothing is cached");
    assert_eq!(mounted.client.flush(handle, 1), Err(Errno::EIO));
    mounted.client.write(handle, 0, b"again", CALL).unwrap();
    assert_eq!(mounted.client.flush(handle, 1), Ok(()));
    eventually("the kernel", || mounted.kernel.was_told("entry 1 five") && mounted.kernel.was_told("data 5"));
}

#[test]
fn a_master_that_lost_what_this_client_was_told_gets_a_new_session_and_lost_changes_fail_fsync_once() {
    let mounted = Mounted::new();
    let client = &mounted.client;
    mounted.master.state().log_position = 10;
    let kept = mounted.open(libc::O_RDWR);
    client.write(kept, 0, b"kept", CALL).unwrap();
    client.flush(kept, 1).unwrap();
    mounted.master.state().log_position = 20;
    let (_, lost) = client.create(&mounted.caller, ROOT_INODE, b"new", NEW, libc::O_WRONLY).unwrap();
    mounted.lookup("five").unwrap();
    mounted.master.restart(15);
    eventually("the loss", || client.statistics().sessions_lost() == 1);
    let before = mounted.round_trips();
    mounted.master.state().revert(FILE.get(), 3);
    assert_eq!(mounted.lookup("five").unwrap().attributes.length, 3, "an older revision counts");
    assert_eq!(mounted.round_trips(), before + 1, "nothing is cached");
    assert_eq!(client.fsync(kept, false), Ok(()));
    assert_eq!([client.fsync(lost.handle, false), client.fsync(lost.handle, false)], [Err(Errno::EIO), Ok(())]);
    // Nobody was told of the directory before it was opened.
    let directory = client.open_directory(&mounted.caller, ROOT_INODE, 0).unwrap().handle;
    assert_eq!([client.fsync_directory(directory), client.fsync_directory(directory)], [Err(Errno::EIO), Ok(())]);
    eventually("the kernel", || mounted.kernel.was_told("entry 1 five") && mounted.kernel.was_told("data 5"));
}

#[test]
fn the_first_fsync_of_a_file_that_others_may_have_written_syncs_what_they_left() {
    let mounted = Mounted::new();
    // As the clock of another machine has it, which says nothing.
    let long_ago = wire::Time { seconds: 1, nanoseconds: 0 };
    mounted.master.state().change(FILE.get(), |attributes| attributes.changed = Some(long_ago));
    let handle = mounted.open(libc::O_RDWR);
    let doubted = || mounted.bytes.memory(FILE).state.lock().unwrap().doubted;
    assert_eq!((mounted.client.fsync(handle, false), doubted()), (Ok(()), 1));
    mounted.client.write(handle, 0, b"mine", CALL).unwrap();
    assert_eq!((mounted.client.fsync(handle, false), doubted()), (Ok(()), 1), "nobody else could write meanwhile");
    let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    mounted.master.wait_done(recall);
    assert_eq!((mounted.client.fsync(handle, false), doubted()), (Ok(()), 2));
    let (made, new) = mounted.client.create(&mounted.caller, ROOT_INODE, b"new", NEW, libc::O_WRONLY).unwrap();
    mounted.client.write(new.handle, 0, b"mine", CALL).unwrap();
    assert_eq!(mounted.client.fsync(new.handle, false), Ok(()));
    assert_eq!(mounted.bytes.memory(made.attributes.inode).state.lock().unwrap().doubted, 0, "it is new");
}

#[test]
fn a_master_that_kept_its_log_gets_the_same_session_back() {
    let mounted = Mounted::new();
    mounted.master.state().log_position = 20;
    let (_, opened) = mounted.client.create(&mounted.caller, ROOT_INODE, b"new", NEW, libc::O_WRONLY).unwrap();
    mounted.master.restart(20);
    eventually("the reclaim", || mounted.client.statistics().reclaims() == 1);
    assert_eq!(mounted.client.fsync(opened.handle, false), Ok(()));
    assert_eq!(mounted.client.statistics().sessions_lost(), 0);
}

#[test]
fn a_restarted_master_is_told_what_is_held_before_anything_is_asked() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let handle = mounted.open(libc::O_WRONLY);
    mounted.client.write(handle, 0, b"dirty", CALL).unwrap();
    let lock = Lock { family: LockFamily::Posix, lock_type: LockType::Shared, owner: 9, start: 0, end: 9, process: 1 };
    mounted.client.set_lock(FILE, &lock).unwrap();
    mounted.master.restart(0);
    mounted.lookup("other").unwrap_err();
    mounted.client.flush(handle, 1).unwrap();
    let state = mounted.master.state();
    assert_eq!((state.reclaims.len(), state.unclaimed_operations), (1, 0));
    let reclaim = &state.reclaims[0];
    assert!(reclaim.leases.iter().any(|lease| lease.inode == FILE.get() && lease.mode() == wire::LeaseMode::Write));
    assert_eq!((reclaim.open_inodes.as_slice(), reclaim.locks.len(), reclaim.last), (&[FILE.get()][..], 1, true));
    assert_eq!(state.nodes[&FILE.get()].length, 5, "what was dirty is committed in the reclaimed session");
}

#[test]
fn an_entry_notice_drops_the_name_and_what_it_overtook() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let notice = || {
        let entries = vec![wire::EntryNotice { directory: ROOT, names: vec![(&b"five"[..]).into()] }];
        mounted.master.recall(wire::Recall { entries, ..wire::Recall::default() })
    };
    mounted.master.wait_done(notice());
    assert!(mounted.kernel.was_told("entry 1 five"));
    let gate = Arc::new(Gate::default());
    mounted.master.fault(FrameType::Lookup, Fault::Hold(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| mounted.lookup("five"));
        gate.wait_reached();
        mounted.master.wait_done(notice());
        gate.open();
        assert_eq!(asked.join().unwrap().unwrap().entry_valid, Duration::ZERO);
    });
    let before = mounted.round_trips();
    assert_eq!(mounted.lookup("five").unwrap().entry_valid, KERNEL_VALID);
    assert_eq!(mounted.round_trips(), before + 1, "the overtaken answer was not kept");
}

#[test]
fn answers_about_a_frozen_node_are_used_once() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let recall = wire::Recall { attributes: vec![FILE.get()], ..wire::Recall::default() };
    mounted.master.wait_done(mounted.master.recall(recall));
    assert!(mounted.kernel.was_told("attributes 5"));
    mounted.master.fault(FrameType::GetAttributes, Fault::Frozen);
    assert_eq!(mounted.client.get_attributes(FILE).unwrap().attribute_valid, Duration::ZERO);
    assert_eq!(mounted.client.get_attributes(FILE).unwrap().attribute_valid, KERNEL_VALID);
}

#[test]
fn an_older_answer_does_not_undo_a_younger_one() {
    let mounted = Mounted::new();
    let gate = Arc::new(Gate::default());
    mounted.master.fault(FrameType::GetAttributes, Fault::Hold(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| mounted.client.get_attributes(FILE));
        gate.wait_reached();
        let changes = AttributeChanges { modified: Some(SetTime::At(Time::from_seconds(77))), ..Default::default() };
        mounted.client.set_attributes(&mounted.caller, FILE, &changes).unwrap();
        gate.open();
        slow.join().unwrap().unwrap();
    });
    let modified = mounted.client.get_attributes(FILE).unwrap().attributes.modified;
    assert_eq!(modified, Time::from_seconds(77));
}

#[test]
fn times_set_after_a_write_survive_the_close() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_WRONLY);
    mounted.client.write(handle, 0, b"x", CALL).unwrap();
    let changes = AttributeChanges { modified: Some(SetTime::At(Time::from_seconds(77))), ..Default::default() };
    mounted.client.set_attributes(&mounted.caller, FILE, &changes).unwrap();
    mounted.client.flush(handle, 1).unwrap();
    assert_eq!(mounted.client.get_attributes(FILE).unwrap().attributes.modified, Time::from_seconds(77));
    assert_eq!(mounted.master.state().nodes[&FILE.get()].modified.as_ref().unwrap().seconds, 77);
}

#[test]
fn a_directory_is_read_in_parts_resumed_anywhere_and_then_kept() {
    let mounted = Mounted::new();
    for number in 0..4 {
        mounted.master.file(&format!("n{number}"), 20 + number);
    }
    let handle = mounted.client.open_directory(&mounted.caller, ROOT_INODE, 0).unwrap().handle;
    let read = |offset, room| {
        let mut names = Vec::new();
        let mut take = |entry: &Entry<'_>| {
            if names.len() == room {
                return Taken::No;
            }
            names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next_offset));
            Taken::Yes
        };
        mounted.client.read_directory(&mounted.caller, handle, offset, true, &mut take).unwrap();
        names
    };
    let all = read(0, 100);
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".", "..", "five", "n0", "n1", "n2", "n3"]);
    for (at, (_, offset)) in all.iter().enumerate() {
        assert_eq!(read(*offset, 2), all[at + 1..all.len().min(at + 3)], "after {at}");
    }
    let before = mounted.round_trips();
    assert_eq!(read(0, 100), all);
    assert_eq!(mounted.lookup("n2").unwrap().attributes.inode, InodeId::new(22));
    assert_eq!(mounted.lookup("absent"), Err(Errno::ENOENT));
    assert_eq!(mounted.round_trips(), before);
}

#[test]
fn a_listing_goes_on_at_entries_that_were_removed_meanwhile() {
    let mounted = Mounted::new();
    (0..8).for_each(|number| mounted.master.file(&format!("n{number}"), 20 + number));
    let handle = mounted.client.open_directory(&mounted.caller, ROOT_INODE, 0).unwrap().handle;
    let read = |offset: u64| {
        let mut entries = Vec::new();
        let mut take = |entry: &Entry<'_>| {
            entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next_offset));
            Taken::Yes
        };
        mounted.client.read_directory(&mounted.caller, handle, offset, false, &mut take).unwrap();
        entries
    };
    let names = |entries: &[(String, u64)]| entries.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let all = read(0);
    let offset_after = |name: &str| all.iter().find(|(known, _)| known == name).unwrap().1;
    for name in ["n1", "n6", "n4"] {
        mounted.master.state().entries.remove(name.as_bytes());
    }
    assert_eq!(names(&read(offset_after("n6"))), ["n7"], "near the end");
    assert_eq!(names(&read(offset_after("n1"))), ["n2", "n3", "n5", "n7"], "far back");
    assert_eq!(names(&read(offset_after("n4"))), ["n5", "n7"], "between");
    // The kernel asks again from what found room, which may be of the batch before the last.
    let before = mounted.round_trips();
    read(offset_after("n5"));
    let again = mounted.round_trips();
    read(offset_after("n5"));
    assert!(again <= before + 1 && mounted.round_trips() == again, "both batches are still here");
}

#[test]
fn a_capability_that_is_set_after_a_write_is_not_removed_by_its_commit() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_WRONLY);
    mounted.client.write(handle, 0, b"program", CALL).unwrap();
    mounted.client.set_xattr(&mounted.caller, FILE, b"security.capability", b"value", 0).unwrap();
    mounted.client.flush(handle, 1).unwrap();
    let changes = |entry: &&String| ["Commit", "SetXattr"].contains(&entry.as_str());
    let order: Vec<String> = mounted.master.state().journal.iter().filter(changes).cloned().collect();
    assert_eq!(order, ["Commit", "SetXattr"]);
}

#[test]
fn the_kernel_gets_time_to_take_in_an_entry_before_it_has_to_forget_it() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    // Later than the attributes of the directory, of which nobody asks here.
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..5 {
        let answered = SystemClock.monotonic();
        assert_eq!(mounted.lookup("five").unwrap().entry_valid, KERNEL_VALID);
        let entries = vec![wire::EntryNotice { directory: ROOT, names: vec![(&b"five"[..]).into()] }];
        mounted.master.wait_done(mounted.master.recall(wire::Recall { entries, ..wire::Recall::default() }));
        let forgotten = mounted.kernel.forgotten_at.lock().unwrap().unwrap();
        assert!(forgotten.since(answered) >= Duration::from_millis(5), "after {:?}", forgotten.since(answered));
    }
}

#[test]
fn the_kernel_gets_time_to_take_in_the_attributes_of_what_was_just_made() {
    let mounted = Mounted::new();
    for number in 0..5 {
        let answered = SystemClock.monotonic();
        let name = format!("made{number}");
        let made = mounted.client.make_directory(&mounted.caller, ROOT_INODE, name.as_bytes(), NEW).unwrap();
        assert_eq!(made.attribute_valid, KERNEL_VALID);
        let attributes = vec![made.attributes.inode.get()];
        mounted.master.wait_done(mounted.master.recall(wire::Recall { attributes, ..wire::Recall::default() }));
        let forgotten = mounted.kernel.forgotten_at.lock().unwrap().unwrap();
        assert!(forgotten.since(answered) >= Duration::from_millis(5), "after {:?}", forgotten.since(answered));
    }
}

#[test]
fn the_kernel_is_not_asked_to_forget_a_name_that_it_was_never_told_of() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    assert_eq!(mounted.lookup("new"), Err(Errno::ENOENT));
    let names = ["five", "new"].map(|name| name.as_bytes().to_vec().into()).to_vec();
    let entries = vec![wire::EntryNotice { directory: ROOT, names }];
    mounted.master.wait_done(mounted.master.recall(wire::Recall { entries, ..wire::Recall::default() }));
    assert!(mounted.kernel.was_told("entry 1 five") && !mounted.kernel.was_told("entry 1 new"));
}

#[test]
fn a_handle_knows_what_its_writes_wait_for() {
    let mounted = Mounted::new();
    let after = |flags| mounted.client.sync_after(mounted.open(libc::O_WRONLY | flags));
    let wanted = [None, Some(SyncAfter::Data), Some(SyncAfter::File)];
    assert_eq!([0, libc::O_DSYNC, libc::O_SYNC].map(after), wanted);
}

#[test]
fn the_kernel_asks_each_time_while_the_master_does_not_know_what_was_written() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_WRONLY);
    let valid = || mounted.client.get_attributes(FILE).unwrap().attribute_valid;
    assert_eq!(valid(), KERNEL_VALID);
    mounted.client.write(handle, 1 << 30, b"sparse", CALL).unwrap();
    let before = mounted.round_trips();
    assert_eq!((valid(), mounted.lookup("five").unwrap().attribute_valid), (Duration::ZERO, Duration::ZERO));
    assert!(mounted.round_trips() <= before + 1, "they are known here: only the name is asked for");
    mounted.client.flush(handle, 1).unwrap();
    assert_eq!(valid(), KERNEL_VALID);
}

#[test]
fn an_idle_node_that_is_in_use_when_its_time_comes_is_released_later() {
    let mounted = Mounted::new();
    let (core, minute) = (&mounted.client.core, Duration::from_secs(70));
    mounted.lookup("five").unwrap();
    mounted.client.forget(FILE, 1);
    let node = core.table.get(FILE).unwrap();
    node.state().listed_dirty = true;
    core.release_idle(core.now() + minute);
    node.state().listed_dirty = false;
    drop(node);
    assert!(core.table.get(FILE).is_some());
    core.release_idle(core.now() + minute + minute);
    assert!(core.table.get(FILE).is_none());
}

#[test]
fn an_orphan_is_released_when_it_is_closed() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_RDONLY);
    mounted.client.unlink(&mounted.caller, ROOT_INODE, b"five").unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert!(mounted.master.state().releases.is_empty());
    mounted.client.release(handle, None);
    eventually("the release", || mounted.master.state().releases.iter().any(|r| r.orphans == [FILE.get()]));
}

#[test]
fn a_queued_lock_is_granted_by_a_notice_or_cancelled() {
    let mounted = Mounted::new();
    let lock =
        Lock { family: LockFamily::Flock, lock_type: LockType::Exclusive, owner: 4, start: 0, end: 9, process: 1 };
    let (sender, receiver) = std::sync::mpsc::channel();
    let wait = || {
        let sender = sender.clone();
        mounted.client.set_lock_wait(FILE, &lock, Box::new(move |result| sender.send(result).unwrap()))
    };
    let first = wait();
    let granted = vec![wire::LockGranted { inode: FILE.get(), ticket: first.0 }];
    mounted.master.notice(&wire::Notice { granted, ..wire::Notice::default() });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).unwrap(), Ok(()));
    let second = wait();
    mounted.client.cancel_lock(second);
    assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).unwrap(), Err(Errno::EINTR));
}

#[test]
fn the_masters_refusal_comes_back_and_a_gone_node_is_no_gone_session() {
    let mounted = Mounted::new();
    assert_eq!(mounted.client.get_attributes(InodeId::new(4711)).unwrap_err(), Errno::ESTALE);
    mounted.master.fault(FrameType::Make, Fault::Refuse(Errno::EACCES));
    let made = mounted.client.make_directory(&mounted.caller, ROOT_INODE, b"dir", NEW);
    assert_eq!(made.unwrap_err(), Errno::EACCES);
    assert_eq!(mounted.client.statistics().sessions_lost(), 0);
}

#[test]
fn a_call_that_waits_for_a_master_ends_with_the_session() {
    let mounted = Mounted::new();
    let gate = Arc::new(Gate::default());
    mounted.master.fault(FrameType::Lookup, Fault::Hold(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| mounted.lookup("five"));
        gate.wait_reached();
        mounted.client.shut_down(Duration::from_millis(100));
        assert_eq!(asked.join().unwrap().unwrap_err(), Errno::EIO);
        gate.open();
    });
    eventually("the goodbye", || mounted.master.count("Goodbye") == 1);
}

#[test]
fn who_cannot_connect_is_told_why() {
    use crate::session::ConnectError;
    let connect = |endpoint| Session::connect(SessionOptions::new(endpoint, SystemClock::shared()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = rfs_common::endpoint::Endpoint::from(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_10.0 and more\r\n").unwrap();
    });
    assert!(matches!(connect(endpoint.clone()), Err(ConnectError::NotMaster { .. })));
    eventually("the end of the listener", || matches!(connect(endpoint.clone()), Err(ConnectError::Refused(_))));
    let nowhere = rfs_common::endpoint::Endpoint::new("no-such-host.invalid", 1);
    assert!(matches!(connect(nowhere), Err(ConnectError::Unresolved(_))));
    let master = FakeMaster::start();
    let mut options = SessionOptions::new(master.endpoint, SystemClock::shared());
    options.cluster = Some(rfs_common::ids::ClusterId::new(5));
    assert!(matches!(Session::connect(options), Err(ConnectError::WrongCluster { .. })));
}

/// Sending it again and again would never end; the slot goes on with what comes next.
#[test]
fn a_request_that_no_frame_holds_fails_alone() {
    let mounted = Mounted::new();
    let session = &mounted.client.core.session;
    let crowded = wire::Release { orphans: vec![u64::MAX; 200_000], ..wire::Release::default() };
    for _ in 0..3 {
        assert_eq!(session.call(&crowded).err(), Some(Errno::E2BIG));
        mounted.client.set_xattr(&mounted.caller, FILE, b"user.a", b"value", 0).unwrap();
    }
}
