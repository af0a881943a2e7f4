//! Notes, as records and events, which volumes have been emptied, which that were hold something again, which maintenance is
//! over, and, as records, at which epoch volumes are.

use std::sync::Arc;
use std::time::Duration;

use rfs_common::background::{Step, Worker};
use rfs_common::ids::{ServerId, VolumeId};

use super::asked::{self, AskedOfServerRecord};
use super::epochs;
use crate::chunks::{Chunks, DrainMark, Severity};
use crate::status::{MasterState, MasterStateExt};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks once a second; to be started as a worker.
pub struct AskedKeeper {
    state: Arc<dyn MasterState>,
}

impl AskedKeeper {
    /// Of this master.
    pub fn new(state: Arc<dyn MasterState>) -> AskedKeeper {
        AskedKeeper { state }
    }

    /// A store that takes no changes now is asked again a second later.
    fn keep(&self) {
        let marks = self.state.with_chunks(|chunks, _| chunks.drain_marks_to_record());
        for (volume, mark) in marks {
            let still = |chunks: &Chunks| chunks.drain_marks_to_record().contains(&(volume, mark));
            let decide = |chunks: &Chunks| still(chunks).then(|| vec![asked::change_of_volume(volume, mark)]);
            let mut follow = |chunks: &mut Chunks| chunks.set_drain_mark(volume, mark);
            if let Ok(true) = self.state.commit_with_chunks(&decide, &mut follow) {
                self.tell(volume, mark);
            }
        }
        for server in self.state.with_chunks(|chunks, _| chunks.maintenance_over()) {
            self.end_maintenance(server);
        }
        self.keep_epochs();
    }

    fn keep_epochs(&self) {
        let epochs = self.state.with_chunks(|chunks, _| chunks.epochs_to_record());
        if epochs.is_empty() {
            return;
        }
        let changes = epochs.iter().map(|(volume, epoch)| epochs::change(*volume, *epoch)).collect();
        if self.state.commit(changes).is_ok() {
            self.state.with_chunks(|chunks, _| chunks.epochs_recorded(&epochs));
        }
    }

    fn end_maintenance(&self, server: ServerId) {
        let decide = |chunks: &Chunks| {
            let record = AskedOfServerRecord { maintenance_until_s: 0, ..AskedOfServerRecord::of(chunks, server) };
            chunks.maintenance_over().contains(&server).then(|| vec![asked::change_of_server(server, &record)])
        };
        let mut follow = |chunks: &mut Chunks| chunks.set_maintenance(server, None);
        if let Ok(true) = self.state.commit_with_chunks(&decide, &mut follow) {
            let view = self.state.with_chunks(|chunks, _| chunks.server(server));
            let (severity, then) = match view.is_some_and(|view| view.connected) {
                true => (Severity::Information, "it is here"),
                false => (Severity::Warning, "it is still away, and what it holds is made anew"),
            };
            self.state.report(severity, format!("the maintenance of chunkserver {server} is over: {then}"));
        }
    }

    fn tell(&self, volume: VolumeId, mark: DrainMark) {
        let place = self.state.with_chunks(|chunks, _| place_of(chunks, volume));
        let (severity, what) = match mark.drained {
            true => (Severity::Information, "is drained: nothing that is needed is on it, and it may be taken away"),
            false => (Severity::Warning, "was drained and holds copies again; they are moved away once more"),
        };
        self.state.report(severity, format!("volume {volume} ({place}) {what}"));
    }
}

/// "/v1 on host".
pub(crate) fn place_of(chunks: &Chunks, volume: VolumeId) -> String {
    let servers = chunks.servers();
    let found = servers.iter().find_map(|server| {
        let view = server.volumes.iter().find(|view| view.report.volume == volume)?;
        Some(format!("{} on {}", view.report.path, server.host))
    });
    found.unwrap_or_else(|| "not here".to_owned())
}

impl Worker for AskedKeeper {
    fn name(&self) -> String {
        "asked".to_owned()
    }

    fn step(&mut self) -> Step {
        self.keep();
        Step::Idle(LOOK_EVERY)
    }

    fn state(&self) -> String {
        "looks once a second which volumes have been emptied and which maintenance is over".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::{
        InventoryPart, Maintenance, Registration, ScrubReport, Signal, StreamId, VolumeReport, VolumeState,
    };
    use crate::status::test_master::TestMaster;

    fn registration(volume: VolumeId) -> Registration {
        let report = VolumeReport {
            volume,
            path: "/v".to_owned(),
            state: VolumeState::InService,
            reason: String::new(),
            total: 10,
            free: 10,
            chunks: 0,
            storage_machine: String::new(),
            filesystem: String::new(),
            lost_power: false,
            scrub: ScrubReport::default(),
            epoch: None,
            changed: false,
        };
        let (host, address) = ("h".to_owned(), "h:1".to_owned());
        Registration { server: ServerId::new(1), host, address, version: String::new(), volumes: vec![report] }
    }

    #[test]
    fn what_was_asked_and_what_became_of_it_outlive_the_master() {
        let (server, volume, stream) = (ServerId::new(1), VolumeId::new(7), StreamId(1));
        let wanted = DrainMark { wanted: true, drained: false };
        let master = TestMaster::new();
        let keeper = AskedKeeper::new(master.clone());
        master.with_chunks(|chunks, now| {
            chunks.register(now, registration(volume), stream, Signal::default()).unwrap();
            chunks.set_drain_mark(volume, wanted);
        });
        master.records.apply(&[asked::change_of_volume(volume, wanted)]);
        keeper.keep();
        let mark = |master: &TestMaster| master.with_chunks(|chunks, _| chunks.drain_mark(volume));
        assert_eq!(mark(&master), wanted, "before its inventory nobody knows");
        let whole = InventoryPart { first: true, last: true };
        master.with_chunks(|chunks, now| chunks.inventory(now, server, stream, volume, &[], whole));
        keeper.keep();
        keeper.keep();
        let drained = DrainMark { wanted: true, drained: true };
        assert_eq!(mark(&master), drained);
        let told = master.events_after(0).into_iter().filter(|event| event.message.contains("is drained")).count();
        assert_eq!(told, 1);

        let again = TestMaster::new();
        again.with_chunks(|chunks, _| asked::load(&master.records, chunks, master.clock())).unwrap();
        assert_eq!(mark(&again), drained);
        master
            .records
            .apply(&[asked::change_of_server(server, &AskedOfServerRecord { drain: true, maintenance_until_s: 0 })]);
        again.with_chunks(|chunks, _| asked::load(&master.records, chunks, master.clock())).unwrap();
        assert!(again.with_chunks(|chunks, _| chunks.is_server_draining(server)));
        // Forgotten, it takes its records along.
        again.with_chunks(|chunks, _| chunks.know_server(registration(volume)));
        master.records.apply(&again.with_chunks(|chunks, _| asked::changes_to_forget_server(chunks, server)));
        let empty = TestMaster::new();
        empty.with_chunks(|chunks, _| asked::load(&master.records, chunks, master.clock())).unwrap();
        assert_eq!(mark(&empty), DrainMark::default());
        assert!(!empty.with_chunks(|chunks, _| chunks.is_server_draining(server)));
    }

    #[test]
    fn a_maintenance_outlives_the_master_and_ends_by_itself() {
        let server = ServerId::new(1);
        let master = TestMaster::new();
        let record = |until_s| AskedOfServerRecord { drain: false, maintenance_until_s: until_s };
        let now_s = master.clock().now().seconds();
        let until_s = now_s + 600;
        master.records.apply(&[asked::change_of_server(server, &record(until_s))]);
        let load = || master.with_chunks(|chunks, _| asked::load(&master.records, chunks, master.clock())).unwrap();
        load();
        let until = master.clock().monotonic() + Duration::from_secs(600);
        let maintenance = || master.with_chunks(|chunks, _| chunks.maintenance(server));
        assert_eq!(maintenance(), Some(Maintenance { until, until_s }));
        let keeper = AskedKeeper::new(master.clone());
        keeper.keep();
        assert!(maintenance().is_some());
        master.with_chunks(|chunks, _| chunks.tick(until));
        keeper.keep();
        assert_eq!(maintenance(), None);
        load();
        assert_eq!(maintenance(), None, "the record is gone");
        // One that ended while the master was away.
        master.records.apply(&[asked::change_of_server(server, &record(now_s - 5))]);
        load();
        keeper.keep();
        assert_eq!(maintenance(), None);
        assert_eq!(master.events_after(0).len(), 2);
    }
}
