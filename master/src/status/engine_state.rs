//! The engine as the services see it.

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::ids::{ClusterId, Goal, InodeId};

use super::master_state::{GoalFailure, MasterState, SessionReport};
use crate::chunks::{Chunks, Severity};
use crate::engine::{Engine, SessionView};
use crate::events::Event;
use crate::namespace::source::{Change, Source};

impl MasterState for Engine {
    fn visit_chunks(&self, look: &mut dyn FnMut(&mut Chunks, Monotonic)) {
        self.with_chunks(look);
    }

    fn source(&self) -> &dyn Source {
        self.storage().source()
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), String> {
        self.storage().commit(&changes).map(|_| ()).map_err(|refused| refused.message)
    }

    fn cluster(&self) -> ClusterId {
        Engine::cluster(self)
    }

    fn clock(&self) -> &SharedClock {
        Engine::clock(self)
    }

    fn report(&self, severity: Severity, message: String) {
        Engine::report(self, severity, message);
    }

    fn events_after(&self, after: u64) -> Vec<Event> {
        self.events().after(after)
    }

    fn sessions(&self) -> Vec<SessionReport> {
        let now = Engine::clock(self).now();
        self.session_views().into_iter().map(|view| report(view, now)).collect()
    }

    fn metrics_text(&self) -> String {
        self.metrics().render()
    }

    fn operations(&self) -> u64 {
        self.metrics().operations()
    }

    fn set_goals(&self, nodes: &[InodeId], goal: Goal) -> Result<u64, GoalFailure> {
        let mut changed = 0;
        for inode in nodes {
            let failed = |failure: crate::engine::Failure| GoalFailure {
                inode: *inode,
                errno: failure.errno,
                message: failure.message,
            };
            changed += u64::from(self.set_goal(*inode, goal).map_err(failed)?);
        }
        Ok(changed)
    }
}

fn report(view: SessionView, now: rfs_common::clock::Time) -> SessionReport {
    SessionReport {
        session: view.session,
        host: view.client.host,
        mount_point: view.client.mount_point,
        version: view.client.version,
        age_ms: now.since(view.begun).as_millis() as u64,
        last_heard_ms: view.heard_ago.as_millis() as u64,
        connected: view.connected,
        returning: view.returning,
        nodes_known: view.nodes_known as u64,
        recalls_owed: view.recalls_owed as u64,
        read_only: view.client.read_only,
    }
}
