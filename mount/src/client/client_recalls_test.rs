//! Recalls that meet each other, and what the kernel has locked.

use super::*;

#[test]
fn no_recall_is_done_before_the_kernel_has_forgotten_for_the_one_that_brought_the_lease_down() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let gate = Arc::new(Gate::default());
    *mounted.kernel.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let recall = || mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    let first = recall();
    gate.wait_reached();
    let second = recall();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!mounted.master.is_done(second), "the other client would change what the kernel still shows");
    gate.open();
    mounted.master.wait_done(first);
    mounted.master.wait_done(second);
}

#[test]
fn what_the_kernel_has_locked_holds_up_no_recall_and_all_else_is_forgotten() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let node = mounted.client.core.node(FILE);
    let _locked = node.locked_pages.add(4096..8192);
    let recall = mounted.master.recall_lease(FILE.get(), wire::LeaseMode::None, mounted.last_grant());
    mounted.master.wait_done(recall);
    assert!(mounted.kernel.was_told("pages 5 0..4096"));
    assert!(mounted.kernel.was_told(&format!("pages 5 8192..{}", u64::MAX)) && !mounted.kernel.was_told("data 5"));
}

#[test]
fn the_kernel_keeps_no_attributes_while_they_are_changed() {
    let mounted = Mounted::new();
    mounted.lookup("five").unwrap();
    let gate = Arc::new(Gate::default());
    mounted.master.fault(FrameType::SetAttributes, Fault::Hold(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let changes = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
        let (client, caller) = (&mounted.client, &mounted.caller);
        let changed = scope.spawn(move || client.set_attributes(caller, FILE, &changes).map(drop));
        gate.wait_reached();
        assert!(
            mounted.kernel.was_told("attributes 5"),
            "another thread may be shown the change before the kernel knows"
        );
        assert_eq!(mounted.client.get_attributes(FILE).unwrap().attribute_valid, Duration::ZERO);
        gate.open();
        changed.join().unwrap().unwrap();
    });
}

#[test]
fn no_lease_of_a_master_that_has_gone_is_learned_after_what_is_held_was_named() {
    let mounted = Mounted::new();
    let core = &mounted.client.core;
    let node = core.node(FILE);
    let in_hand = core.order.begin();
    crate::client::recalls::Events(Arc::clone(core)).holdings();
    let lease = wire::Lease { inode: FILE.get(), mode: wire::LeaseMode::Write.into(), grant: 99 };
    core.learn(&node, &in_hand, &crate::cache::node::Answered::from_wire(None, Some(&lease)));
    assert_eq!(node.state().mode, Mode::None);
}
