//! The report as it is shown: one definition for JSON; the gRPC messages are made from it.

use rfs_common::ids::SessionId;
use rfs_proto::admin as wire;
use serde::{Serialize, Serializer};

use crate::chunks::{BalanceView, ScrubReport, ServerView, Severity};
use crate::events::Event;

use super::drain::DrainRow;

/// How things are, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything has all its copies and nothing is wrong.
    Ok,
    /// Something lacks copies or attention; nothing is unreadable.
    Degraded,
    /// Something cannot be read or changed.
    Unavailable,
}

/// Everything on the status page but the lists.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct StatusReport {
    pub health: Health,
    pub summary: String,
    pub problems: Vec<String>,
    pub notes: Vec<String>,
    pub cluster: String,
    #[serde(skip)]
    pub cluster_bytes: [u8; 16],
    pub version: String,
    pub uptime_ms: u64,
    pub space: Space,
    pub counts: Counts,
    pub chunks: Vec<ChunksAt>,
    pub under_goal: u64,
    pub unavailable: u64,
    pub repairs_running: u64,
    pub missing_copies: u64,
    pub missing_bytes: u64,
    pub repair_time_left_ms: Option<u64>,
    pub rebalance: Rebalance,
    pub metadata: MetadataReport,
    #[serde(serialize_with = "by_name")]
    pub rates: Vec<Rate>,
    #[serde(rename = "operations_by_type", serialize_with = "by_name")]
    pub operations: Vec<Rate>,
    pub servers_up: u32,
    pub servers_known: u32,
    pub volumes_in_service: u32,
    pub volumes_known: u32,
    pub fully_replicated: bool,
    pub default_goal: u32,
    pub deletions_waiting: u64,
    pub unsettled: u64,
}

/// As `rfs --json status` has them.
fn by_name<S: Serializer>(rates: &[Rate], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(rates.iter().map(|rate| (&rate.name, rate.per_second)))
}

/// How even volumes are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct Rebalance {
    pub active: bool,
    pub running: u64,
    pub done: u64,
    pub used_percent_min: u32,
    pub used_percent_max: u32,
}

impl From<BalanceView> for Rebalance {
    fn from(view: BalanceView) -> Rebalance {
        let BalanceView { active, running, done, used_percent: (least, most) } = view;
        Rebalance { active, running, done, used_percent_min: least.into(), used_percent_max: most.into() }
    }
}

/// Bytes on all volumes that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct Space {
    pub total: u64,
    pub used: u64,
    pub free: u64,
}

/// How much there is of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct Counts {
    pub inodes: u64,
    pub directories: u64,
    pub files: u64,
    pub chunks: u64,
    pub copies: u64,
    pub orphans: u64,
    pub bytes: u64,
}

/// Chunks with this goal and this many live copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct ChunksAt {
    pub goal: u32,
    #[serde(rename = "live_copies")]
    pub copies: u32,
    pub chunks: u64,
}

/// How the metadata's store is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct MetadataReport {
    pub position: u64,
    pub durable_position: u64,
    pub log_bytes: u64,
    pub dirty_pages: u64,
    pub cached_bytes: u64,
    pub checkpoint_age_ms: u64,
    pub export_age_ms: u64,
    pub state: String,
    pub disk_free: u64,
}

/// How often something happens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct Rate {
    pub name: String,
    pub per_second: f64,
}

/// A chunkserver as a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct ServerRow {
    pub server: String,
    #[serde(skip)]
    pub id: u64,
    pub host: String,
    pub address: String,
    pub version: String,
    pub connected: bool,
    pub last_seen_ms: Option<u64>,
    pub maintenance_left_ms: Option<u64>,
    pub draining: bool,
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub volumes: Vec<VolumeRow>,
}

/// A volume as a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct VolumeRow {
    pub volume: String,
    #[serde(skip)]
    pub id: u64,
    pub path: String,
    pub state: String,
    pub reason: String,
    pub total: u64,
    pub free: u64,
    pub chunks: u64,
    pub storage_machine: String,
    pub scrub: ScrubRow,
    pub drain: Option<DrainRow>,
}

/// How far a volume's scrub is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct ScrubRow {
    pub done: u64,
    pub chunks: u64,
    pub completed: i64,
    pub found: u64,
}

impl From<ScrubReport> for ScrubRow {
    fn from(report: ScrubReport) -> ScrubRow {
        ScrubRow { done: report.done, chunks: report.chunks, completed: report.completed, found: report.found }
    }
}

/// A session as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionReport {
    /// Its id.
    pub session: SessionId,
    /// The client's host.
    pub host: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Where its push connection comes from.
    pub address: String,
    /// Its program version.
    pub version: String,
    /// How long ago it began.
    pub age_ms: u64,
    /// How long ago it was heard.
    pub last_heard_ms: u64,
    /// Leases it holds, those for writing among them.
    pub leases: u64,
    /// Leases for writing.
    pub write_leases: u64,
    /// Locks it holds.
    pub locks: u64,
    /// Operations it asked for.
    pub operations: u64,
    /// It may change nothing.
    pub read_only: bool,
}

/// An event as a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct EventRow {
    pub number: u64,
    pub unix_ms: i64,
    pub severity: &'static str,
    pub message: String,
}

impl From<ServerView> for ServerRow {
    fn from(view: ServerView) -> ServerRow {
        let connected = view.connected;
        let volumes = view.volumes.into_iter().map(|volume| VolumeRow {
            state: volume.state(connected).to_owned(),
            volume: volume.report.volume.to_string(),
            id: volume.report.volume.get(),
            path: volume.report.path,
            reason: volume.report.reason,
            total: volume.report.total,
            free: volume.report.free,
            chunks: if volume.counts { volume.report.chunks } else { volume.copies },
            storage_machine: volume.report.storage_machine,
            scrub: volume.report.scrub.into(),
            drain: volume.drain.map(DrainRow::from),
        });
        ServerRow {
            server: view.server.to_string(),
            id: view.server.get(),
            host: view.host,
            address: view.address.to_string(),
            version: view.version,
            connected,
            last_seen_ms: view.last_heard.map(|heard| heard.as_millis() as u64),
            maintenance_left_ms: view.maintenance.map(|left| left.as_millis() as u64),
            draining: view.draining,
            reads: view.traffic.reads,
            writes: view.traffic.writes,
            read_bytes: view.traffic.read_bytes,
            written_bytes: view.traffic.written_bytes,
            volumes: volumes.collect(),
        }
    }
}

impl From<Event> for EventRow {
    fn from(event: Event) -> EventRow {
        let severity = match event.severity {
            Severity::Information => "information",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let unix_ms = event.at.seconds().saturating_mul(1000) + i64::from(event.at.nanoseconds() / 1_000_000);
        EventRow { number: event.number, unix_ms, severity, message: event.message }
    }
}

impl From<Health> for wire::Health {
    fn from(health: Health) -> wire::Health {
        match health {
            Health::Ok => wire::Health::Ok,
            Health::Degraded => wire::Health::Degraded,
            Health::Unavailable => wire::Health::Unavailable,
        }
    }
}

impl From<StatusReport> for wire::Status {
    fn from(report: StatusReport) -> wire::Status {
        let (space, counts, metadata) = (report.space, report.counts, report.metadata);
        let chunks = report.chunks.iter();
        let named = |rate: Rate| wire::NamedRate { name: rate.name, per_second: rate.per_second };
        wire::Status {
            health: wire::Health::from(report.health).into(),
            summary: report.summary,
            problems: report.problems,
            notes: report.notes,
            cluster: report.cluster_bytes.to_vec().into(),
            version: report.version,
            uptime_ms: report.uptime_ms,
            space: Some(wire::Space { total: space.total, used: space.used, free: space.free }),
            counts: Some(wire::Counts {
                inodes: counts.inodes,
                directories: counts.directories,
                files: counts.files,
                chunks: counts.chunks,
                copies: counts.copies,
                orphans: counts.orphans,
                bytes: counts.bytes,
            }),
            chunks: chunks.map(|at| wire::ChunksAt { goal: at.goal, copies: at.copies, chunks: at.chunks }).collect(),
            under_goal: report.under_goal,
            unavailable: report.unavailable,
            repairs_running: report.repairs_running,
            missing_copies: report.missing_copies,
            missing_bytes: report.missing_bytes,
            repair_time_left_ms: report.repair_time_left_ms,
            rebalance: Some(wire::Rebalance {
                active: report.rebalance.active,
                running: report.rebalance.running,
                done: report.rebalance.done,
                used_percent_min: report.rebalance.used_percent_min,
                used_percent_max: report.rebalance.used_percent_max,
            }),
            metadata: Some(metadata.into()),
            rates: Some(wire::Rates {
                rates: report.rates.into_iter().map(named).collect(),
                operations: report.operations.into_iter().map(named).collect(),
            }),
            servers_up: report.servers_up,
            servers_known: report.servers_known,
            volumes_in_service: report.volumes_in_service,
            volumes_known: report.volumes_known,
            fully_replicated: report.fully_replicated,
            default_goal: report.default_goal,
            deletions_waiting: report.deletions_waiting,
            unsettled: report.unsettled,
        }
    }
}

impl From<MetadataReport> for wire::MetadataStatus {
    fn from(report: MetadataReport) -> wire::MetadataStatus {
        wire::MetadataStatus {
            position: report.position,
            durable_position: report.durable_position,
            log_bytes: report.log_bytes,
            dirty_pages: report.dirty_pages,
            cached_bytes: report.cached_bytes,
            checkpoint_age_ms: report.checkpoint_age_ms,
            export_age_ms: report.export_age_ms,
            state: report.state,
            disk_free: report.disk_free,
        }
    }
}

impl From<ServerRow> for wire::Server {
    fn from(row: ServerRow) -> wire::Server {
        let volumes = row.volumes.into_iter().map(|volume| wire::VolumeStatus {
            volume: volume.id,
            path: volume.path,
            state: volume.state,
            reason: volume.reason,
            total: volume.total,
            free: volume.free,
            chunks: volume.chunks,
            storage_machine: volume.storage_machine,
            scrub: Some(wire::Scrub {
                done: volume.scrub.done,
                chunks: volume.scrub.chunks,
                completed: volume.scrub.completed,
                found: volume.scrub.found,
            }),
            drain: volume.drain.map(wire::Drain::from),
        });
        wire::Server {
            server: row.id,
            host: row.host,
            address: row.address,
            version: row.version,
            connected: row.connected,
            last_seen_ms: row.last_seen_ms.unwrap_or(0),
            volumes: volumes.collect(),
            maintenance_left_ms: row.maintenance_left_ms,
            draining: row.draining,
        }
    }
}

impl From<SessionReport> for wire::Session {
    fn from(row: SessionReport) -> wire::Session {
        wire::Session {
            session: row.session.get(),
            host: row.host,
            mount_point: row.mount_point,
            address: row.address,
            version: row.version,
            age_ms: row.age_ms,
            last_heard_ms: row.last_heard_ms,
            leases: row.leases,
            write_leases: row.write_leases,
            locks: row.locks,
            operations: row.operations,
            read_only: row.read_only,
        }
    }
}

impl From<EventRow> for wire::Event {
    fn from(row: EventRow) -> wire::Event {
        wire::Event { unix_ms: row.unix_ms, severity: row.severity.to_owned(), message: row.message }
    }
}
