//! Times of access: what is noted, what it costs, and what the master hears of it.

use rfs_common::clock::{Clock as _, Time};

use super::*;
use crate::cache::attributes::time_from_wire;
use crate::client::{AccessRule, Accesses, Reads, SetTime};

const RELATIVE: Accesses = Accesses { rule: AccessRule::WhenDue, directories: true };

fn accessed(mounted: &Mounted) -> Time {
    mounted.client.get_attributes(FILE).unwrap().attributes.accessed
}

fn accessed_at_master(mounted: &Mounted) -> Time {
    time_from_wire(mounted.master.state().nodes[&FILE.get()].accessed.as_ref())
}

fn read(mounted: &Mounted, flags: i32) {
    let handle = mounted.open(flags);
    mounted.client.read(handle, 0, 100, (ReadTarget::Caller, &mut Vec::new()), &|| true).unwrap();
    mounted.client.release(handle, None);
}

#[test]
fn an_access_is_seen_here_at_once_and_at_the_master_later_and_costs_no_call() {
    let mounted = Mounted::noting(RELATIVE);
    mounted.lookup("five").unwrap();
    let (before, calls) = (SystemClock.now(), mounted.round_trips());
    assert_eq!(accessed(&mounted), Time::EPOCH);
    read(&mounted, libc::O_RDONLY | libc::O_NOATIME);
    assert_eq!(accessed(&mounted), Time::EPOCH, "O_NOATIME");
    read(&mounted, libc::O_RDONLY);
    let noted = accessed(&mounted);
    assert!(noted >= before, "{noted}");
    read(&mounted, libc::O_RDONLY);
    assert_eq!((accessed(&mounted), mounted.round_trips()), (noted, calls), "nothing has changed since the first");
    eventually("the access at the master", || accessed_at_master(&mounted) == noted);
    eventually("the answer to it", || mounted.round_trips() == calls + 1);
    assert_eq!(accessed(&mounted), noted);
    assert_eq!(mounted.round_trips(), calls + 1, "and nothing had to be asked for again");
}

#[test]
fn the_kernel_keeps_pages_unless_a_read_is_due() {
    let mounted = Mounted::noting(RELATIVE);
    mounted.lookup("five").unwrap();
    let reads = || mounted.client.open(&mounted.caller, FILE, libc::O_RDONLY).unwrap().reads;
    assert_eq!(reads(), Reads::AllAreSeen, "of an empty file the kernel would ask for nothing");
    read(&mounted, libc::O_RDONLY);
    assert_eq!(reads(), Reads::MayBeCached);
    mounted.master.state().change(FILE.get(), |attributes| attributes.length = 1);
    let recall = mounted.master.recall(wire::Recall { attributes: vec![FILE.get()], ..wire::Recall::default() });
    mounted.master.wait_done(recall);
    assert_eq!(reads(), Reads::FirstIsSeen);
    let strict = Mounted::noting(Accesses { rule: AccessRule::Always, directories: true });
    let opened = strict.client.open(&strict.caller, FILE, libc::O_RDONLY).unwrap();
    assert_eq!(opened.reads, Reads::AllAreSeen);
}

#[test]
fn an_access_goes_with_the_answer_to_a_recall() {
    let mounted = Mounted::noting(RELATIVE);
    mounted.lookup("five").unwrap();
    read(&mounted, libc::O_RDONLY);
    let noted = accessed(&mounted);
    let recall = mounted.master.recall(wire::Recall { attributes: vec![FILE.get()], ..wire::Recall::default() });
    mounted.master.wait_done(recall);
    let touched = mounted.master.state().touched.clone();
    assert_eq!(touched.len(), 1, "{touched:?}");
    assert_eq!((touched[0].inode, time_from_wire(touched[0].accessed.as_ref())), (FILE.get(), noted));
}

#[test]
fn what_is_set_explicitly_is_not_undone_by_an_earlier_read() {
    let mounted = Mounted::noting(RELATIVE);
    mounted.lookup("five").unwrap();
    read(&mounted, libc::O_RDONLY);
    let old = Time::from_seconds(-7);
    let changes = AttributeChanges { accessed: Some(SetTime::At(old)), ..AttributeChanges::default() };
    mounted.client.set_attributes(&mounted.caller, FILE, &changes).unwrap();
    assert_eq!(accessed(&mounted), old);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!((accessed(&mounted), accessed_at_master(&mounted)), (old, old));
}

#[test]
fn without_access_times_nothing_is_noted() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    read(&mounted, libc::O_RDONLY);
    assert_eq!(accessed(&mounted), Time::EPOCH);
}
