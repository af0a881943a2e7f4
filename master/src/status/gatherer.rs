//! Asks every part for its share of the report.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rfs_common::clock::Monotonic;

use crate::exports::Exports;
use crate::namespace::records::{SystemKind, SystemRecord, system_key};
use crate::namespace::source::Table;
use crate::store::{Store, StoreState};

use super::affected::{AffectedFiles, affected};
use super::health::{Findings, judge};
use super::master_state::{MasterState, MasterStateExt};
use super::rates::Rates;
use super::report::{ChunksAt, Counts, EventRow, MetadataReport, ServerRow, SessionReport, Space, StatusReport};

/// Affected files on the web page, and how long they stand there before they are looked for again.
const AFFECTED_SHOWN: usize = 20;
const AFFECTED_FRESH: Duration = Duration::from_secs(15);

/// The store and where it is.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    /// The store.
    pub store: Arc<Store>,
    /// Its folder.
    pub folder: PathBuf,
}

/// Gathers reports. Its methods may wait for the engine's lock: not for async threads.
pub struct Gatherer {
    state: Arc<dyn MasterState>,
    store: Option<StoreHandle>,
    exports: Exports,
    rates: Rates,
    started: Monotonic,
    version: String,
    affected: Mutex<Option<(Monotonic, AffectedFiles)>>,
}

impl Gatherer {
    /// A gatherer; without a store (in tests) the report of the metadata is empty.
    pub fn new(state: Arc<dyn MasterState>, store: Option<StoreHandle>, exports: Exports, version: &str) -> Gatherer {
        let started = state.clock().monotonic();
        let (rates, version, affected) = (Rates::default(), version.to_owned(), Mutex::default());
        Gatherer { state, store, exports, rates, started, version, affected }
    }

    /// The master.
    pub fn state(&self) -> &Arc<dyn MasterState> {
        &self.state
    }

    /// The store.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref().map(|handle| &handle.store)
    }

    /// The exports.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// The worker that looks at the counters once a second.
    pub fn sampler(&self) -> super::rates::RateSampler {
        super::rates::RateSampler::new(Arc::clone(&self.state), self.rates.clone())
    }

    /// The status.
    pub fn status(&self) -> StatusReport {
        let ((summary, servers, stuck), copies_min) = self.state.with_chunks(|chunks, _| {
            ((chunks.summary(), chunks.servers(), chunks.stuck()), chunks.config().copies_min)
        });
        let system = self.system();
        let (metadata, checkpoint_problem) = self.metadata();
        let export_problem = self.exports.problem();
        let default_goal = system.goal;
        let findings = Findings {
            summary: &summary,
            servers: &servers,
            stuck: stuck.as_ref(),
            metadata: &metadata,
            default_goal,
            copies_min,
            uptime_s: self.state.clock().monotonic().since(self.started).as_secs(),
            export_problem,
            checkpoint_problem,
        };
        let verdict = judge(&findings);
        let cluster = self.state.cluster();
        let at = |(goal, copies, chunks): &(u8, u8, u64)| ChunksAt {
            goal: (*goal).into(),
            copies: (*copies).into(),
            chunks: *chunks,
        };
        StatusReport {
            health: verdict.health,
            summary: verdict.summary,
            problems: verdict.problems,
            notes: verdict.notes,
            cluster: cluster.to_string(),
            cluster_bytes: cluster.get().to_be_bytes(),
            version: self.version.clone(),
            uptime_ms: self.state.clock().monotonic().since(self.started).as_millis() as u64,
            space: Space {
                total: summary.space.0,
                used: summary.space.0.saturating_sub(summary.space.1),
                free: summary.space.1,
            },
            counts: Counts {
                inodes: system.inodes,
                directories: system.directories,
                files: system.files,
                chunks: summary.total,
                copies: summary.copies,
                orphans: system.orphans,
                bytes: system.bytes,
            },
            chunks: summary.chunks.iter().map(at).collect(),
            under_goal: summary.under_goal,
            unavailable: summary.unavailable,
            repairs_running: summary.repairs_running,
            missing_copies: summary.missing_copies,
            missing_bytes: summary.missing_bytes,
            rebalance: summary.balance.into(),
            repair_time_left_ms: summary.time_left.map(|left| left.as_millis() as u64),
            metadata,
            rates: self.rates.rates(),
            operations: self.rates.operations(),
            servers_up: summary.servers.1,
            servers_known: summary.servers.0,
            volumes_in_service: summary.volumes.1,
            volumes_known: summary.volumes.0,
            fully_replicated: summary.fully_replicated,
            default_goal,
            deletions_waiting: summary.deletions_waiting,
            unsettled: summary.unsettled,
        }
    }

    /// The servers with their volumes, as people look for them: by host.
    pub fn servers(&self) -> Vec<ServerRow> {
        let servers = self.state.with_chunks(|chunks, _| chunks.servers());
        let mut rows: Vec<ServerRow> = servers.into_iter().map(ServerRow::from).collect();
        rows.sort_by(|one, other| (&one.host, one.id).cmp(&(&other.host, other.id)));
        rows
    }

    /// The sessions.
    pub fn sessions(&self) -> Vec<SessionReport> {
        self.state.sessions()
    }

    /// The files that lack copies, the worst first. Reads many records.
    pub fn affected(&self, limit: usize) -> AffectedFiles {
        affected(&*self.state, limit)
    }

    /// The same for the web page, which asks all the time: found again only once in a while.
    pub fn affected_lately(&self) -> AffectedFiles {
        let now = self.state.clock().monotonic();
        let mut known = self.affected.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((found, files)) if now.since(*found) < AFFECTED_FRESH && !files.files.is_empty() => files.clone(),
            _ => {
                let files = self.affected(AFFECTED_SHOWN);
                *known = Some((now, files.clone()));
                files
            }
        }
    }

    /// The latest events, the newest first.
    pub fn events(&self, limit: usize) -> Vec<EventRow> {
        self.state.events_after(0).into_iter().rev().take(limit).map(EventRow::from).collect()
    }

    /// Everything as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let mut text = self.state.metrics_text();
        crate::web::render_metrics(&mut text, &self.status(), &self.servers(), self.sessions().len());
        text
    }

    fn system(&self) -> SystemRecord {
        let stored = self.state.source().get(Table::System, &system_key(SystemKind::Counters, 0));
        // What cannot be read is reported by whoever needs it; here it only shows as zeros.
        stored.ok().flatten().and_then(|value| SystemRecord::decode(&value[..]).ok()).unwrap_or_default()
    }

    fn metadata(&self) -> (MetadataReport, Option<String>) {
        let Some(StoreHandle { store, folder }) = &self.store else {
            return (MetadataReport { state: "working".to_owned(), ..MetadataReport::default() }, None);
        };
        let status = store.status();
        let state = match &status.state {
            StoreState::Working => "working".to_owned(),
            StoreState::NoSpace => "no space".to_owned(),
            StoreState::Failed(reason) => format!("failed: {reason}"),
        };
        let report = MetadataReport {
            position: status.position.get(),
            durable_position: status.durable.get(),
            log_bytes: status.log_bytes_unfolded,
            dirty_pages: status.dirty_pages,
            cached_bytes: status.cached_bytes,
            checkpoint_age_ms: status.last_checkpoint.map_or(0, |age| age.as_millis() as u64),
            export_age_ms: self.exports.age(self.state.clock().now()).map_or(0, |age| age.as_millis() as u64),
            state,
            disk_free: rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_bavail * disk.f_frsize),
        };
        (report, status.last_checkpoint_error)
    }
}
