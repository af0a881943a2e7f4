//! Asks every part for its share of the report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use rfs_common::clock::Monotonic;

use crate::chunks::Summary;
use crate::exports::Exports;
use crate::namespace::records::{SystemKind, SystemRecord, system_key};
use crate::namespace::source::Table;
use crate::store::{Store, StoreState};

use super::affected::{AffectedFile, AffectedFiles, affected, affected_without_names};
use super::health::{Findings, Verdict, judge};
use super::master_state::{MasterState, MasterStateExt};
use super::rates::Rates;
use super::report::{
    ChunksAt, Counts, EventRow, Health, MetadataReport, ServerRow, SessionReport, Space, StatusReport,
};

/// Affected files on the web page, and how long names are not looked for again.
const AFFECTED_SHOWN: usize = 20;
const NAMES_FRESH: Duration = Duration::from_secs(15);

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
    /// When names were looked for last, for the page, and what was found.
    names: Mutex<(Option<Monotonic>, BTreeMap<u64, String>)>,
}

impl Gatherer {
    /// A gatherer; without a store (in tests) the report of the metadata is empty.
    pub fn new(state: Arc<dyn MasterState>, store: Option<StoreHandle>, exports: Exports, version: &str) -> Gatherer {
        let started = state.clock().monotonic();
        let (rates, version, names) = (Rates::default(), version.to_owned(), Mutex::default());
        Gatherer { state, store, exports, rates, started, version, names }
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

    /// Health, and the line that says why.
    pub fn health(&self) -> (Health, String) {
        let (verdict, ..) = self.judged();
        (verdict.health, verdict.summary)
    }

    fn judged(&self) -> (Verdict, Summary, SystemRecord, MetadataReport) {
        let (summary, servers, of_chunks) = self.state.with_chunks(|chunks, _| {
            (
                chunks.summary(),
                chunks.servers(),
                (chunks.stuck(), chunks.unavailable_are_bad(), chunks.config().clone()),
            )
        });
        let (stuck, only_bad_left, config) = of_chunks;
        let system = self.system();
        let (metadata, checkpoint_problem) = self.metadata();
        let export_problem = self.exports.problem();
        let uptime = self.state.clock().monotonic().since(self.started);
        let findings = Findings {
            summary: &summary,
            servers: &servers,
            stuck: stuck.as_ref(),
            only_bad_left,
            metadata: &metadata,
            default_goal: system.goal,
            copies_min: config.copies_min,
            uptime_s: uptime.as_secs(),
            has_just_started: uptime < config.server_expiry,
            export_problem,
            checkpoint_problem,
        };
        let verdict = judge(&findings);
        (verdict, summary, system, metadata)
    }

    /// The status.
    pub fn status(&self) -> StatusReport {
        let (verdict, summary, system, metadata) = self.judged();
        let default_goal = system.goal;
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

    /// The same for the web page, which asks all the time: as they are now, with names that are looked for once in a while only.
    pub fn affected_lately(&self) -> AffectedFiles {
        let now = self.state.clock().monotonic();
        let mut files = affected_without_names(&*self.state, AFFECTED_SHOWN);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unknown = |file: &AffectedFile| !names.1.contains_key(&file.inode);
        if files.files.iter().any(is_unknown) && names.0.is_none_or(|looked| now.since(looked) >= NAMES_FRESH) {
            let found = self.affected(AFFECTED_SHOWN);
            *names = (Some(now), found.files.iter().map(|file| (file.inode, file.path.clone())).collect());
            return found;
        }
        for file in &mut files.files {
            file.path = names.1.get(&file.inode).cloned().unwrap_or_default();
        }
        files
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
