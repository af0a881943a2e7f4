//! The client when bytes or locks are lost, or cannot be saved for a while.

use super::*;

#[test]
fn attributes_and_length_can_be_set_although_written_bytes_are_lost() {
    let mounted = Mounted::new();
    let handle = mounted.open(libc::O_WRONLY);
    mounted.client.write(handle, 0, b"no room", CALL).unwrap();
    mounted.bytes.memory(FILE).state.lock().unwrap().refusal = Some(Errno::ENOSPC);
    let set = |changes: AttributeChanges| mounted.client.set_attributes(&mounted.caller, FILE, &changes);
    let modified = Some(SetTime::At(Time::from_seconds(5)));
    assert!(set(AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() }).is_ok());
    assert!(set(AttributeChanges { modified, ..AttributeChanges::default() }).is_ok());
    let length = Some(0);
    let cut = set(AttributeChanges { length, handle: Some(handle), ..AttributeChanges::default() }).unwrap();
    assert_eq!(cut.attributes.length, 0);
    assert!(mounted.client.open(&mounted.caller, FILE, libc::O_WRONLY | libc::O_TRUNC).is_ok());
}

#[test]
fn the_kernel_forgets_the_pages_of_a_file_whose_writer_was_killed() {
    let mounted = Mounted::new();
    mounted.client.write_was_given_up(FILE);
    eventually("the kernel", || mounted.kernel.was_told("data 5"));
}

#[test]
fn a_file_whose_copies_are_away_holds_up_no_other_commit() {
    let mounted = Mounted::new();
    let other = InodeId::new(6);
    mounted.master.file("six", other.get());
    let gate = Arc::new(Gate::default());
    mounted.bytes.memory(FILE).state.lock().unwrap().gate = Some(Arc::clone(&gate));
    let stuck = mounted.open(libc::O_WRONLY);
    mounted.client.write(stuck, 0, b"stuck", CALL).unwrap();
    gate.wait_reached();
    let free = mounted.client.open(&mounted.caller, other, libc::O_WRONLY).unwrap().handle;
    mounted.client.write(free, 0, b"free", CALL).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let committed: Vec<u64> = mounted.master.state().commits.iter().map(|commit| commit.inode).collect();
    assert_eq!(committed, [other.get()]);
    mounted.bytes.memory(FILE).state.lock().unwrap().gate = None;
    gate.open();
    eventually("the commit", || mounted.master.state().commits.iter().any(|commit| commit.inode == FILE.get()));
}

#[test]
fn who_lost_a_lock_with_the_session_cannot_read_or_write_until_it_unlocks_or_closes() {
    let mounted = Mounted::new();
    let client = &mounted.client;
    let (locker, other, closer) = (mounted.open(libc::O_RDWR), mounted.open(libc::O_RDWR), mounted.open(libc::O_RDWR));
    let range = |lock_type, start, end| Lock { family: LockFamily::Posix, lock_type, owner: 4, start, end, process: 1 };
    let flock = Lock { family: LockFamily::Flock, owner: closer.0, ..range(LockType::Exclusive, 0, 9) };
    for (handle, wanted) in [(locker, range(LockType::Exclusive, 0, 99)), (closer, flock)] {
        client.note_locker(handle, FILE, &wanted);
        client.set_lock(FILE, &wanted).unwrap();
    }
    mounted.master.lose_session();
    eventually("the loss", || client.statistics().sessions_lost() == 1);
    let io = |handle| {
        let write = client.write(handle, 0, b"x", CALL);
        [client.read(handle, 0, 1, (ReadTarget::Caller, &mut Vec::new()), &|| true).map(drop), write]
    };
    eventually("the refusal", || io(locker) == [Err(Errno::EIO); 2]);
    assert_eq!([io(other), io(closer)], [[Ok(()); 2], [Err(Errno::EIO); 2]]);
    client.set_lock(FILE, &range(LockType::Unlock, 0, 49)).unwrap();
    assert_eq!(io(locker), [Err(Errno::EIO); 2], "half of the range is still believed in");
    client.set_lock(FILE, &range(LockType::Unlock, 50, 99)).unwrap();
    assert_eq!(io(locker), [Ok(()); 2]);
    client.release(closer, Some(closer.0));
    assert_eq!(io(mounted.open(libc::O_RDWR)), [Ok(()); 2]);
}
