//! The state of the cluster as Prometheus reads it, beside the counters of `metrics.rs`. Names and meanings: `metrics/names.rs`.

use crate::metrics::names::{self, Metric};
use crate::status::{Health, ServerRow, StatusReport, VolumeRow};

/// A metric's value of one row.
type Value<Row> = fn(&Row) -> u64;

/// Appends what the reports say.
pub(crate) fn render_metrics(text: &mut String, status: &StatusReport, servers: &[ServerRow], sessions: usize) {
    for (metric, value) in gauges(status, sessions) {
        metric.write_value(text, value);
    }
    names::CHUNKS.write_head(text);
    for at in &status.chunks {
        names::CHUNKS.write_labelled(text, &format!("goal=\"{}\",copies=\"{}\"", at.goal, at.copies), at.chunks);
    }
    render_servers(text, servers);
    render_volumes(text, servers);
}

fn gauges(status: &StatusReport, sessions: usize) -> Vec<(Metric, u64)> {
    let health = match status.health {
        Health::Ok => 0,
        Health::Degraded => 1,
        Health::Unavailable => 2,
    };
    let metadata = &status.metadata;
    vec![
        (names::HEALTH, health),
        (names::FULLY_REPLICATED, status.fully_replicated.into()),
        (names::SPACE_TOTAL, status.space.total),
        (names::SPACE_FREE, status.space.free),
        (names::INODES, status.counts.inodes),
        (names::FILES, status.counts.files),
        (names::DIRECTORIES, status.counts.directories),
        (names::FILE_BYTES, status.counts.bytes),
        (names::COPIES_LIVE, status.counts.copies),
        (names::CHUNKS_UNDER_GOAL, status.under_goal),
        (names::CHUNKS_UNAVAILABLE, status.unavailable),
        (names::CHUNKS_UNSETTLED, status.unsettled),
        (names::REPAIRS_RUNNING, status.repairs_running),
        (names::REPAIR_LEFT_COPIES, status.missing_copies),
        (names::REPAIR_LEFT_BYTES, status.missing_bytes),
        (names::REBALANCE_ACTIVE, status.rebalance.active.into()),
        (names::REBALANCE_MOVES, status.rebalance.done),
        (names::DELETIONS_WAITING, status.deletions_waiting),
        (names::SERVERS_CONNECTED, status.servers_up.into()),
        (names::SERVERS_KNOWN, status.servers_known.into()),
        (names::VOLUMES_IN_SERVICE, status.volumes_in_service.into()),
        (names::VOLUMES_KNOWN, status.volumes_known.into()),
        (names::SESSIONS, sessions as u64),
        (names::METADATA_POSITION, metadata.position),
        (names::METADATA_LOG_UNFOLDED, metadata.log_bytes),
        (names::METADATA_DISK_FREE, metadata.disk_free),
    ]
}

fn render_servers(text: &mut String, servers: &[ServerRow]) {
    let each: [(Metric, Value<ServerRow>); 6] = [
        (names::SERVER_CONNECTED, |server| server.connected.into()),
        (names::SERVER_MAINTENANCE, |server| server.maintenance_left_ms.is_some_and(|left| left > 0).into()),
        (names::SERVER_READS, |server| server.reads),
        (names::SERVER_WRITES, |server| server.writes),
        (names::SERVER_READ_BYTES, |server| server.read_bytes),
        (names::SERVER_WRITTEN_BYTES, |server| server.written_bytes),
    ];
    for (metric, value) in each {
        metric.write_head(text);
        for server in servers {
            let labels = format!("server=\"{}\",host=\"{}\"", server.server, label(&server.host));
            metric.write_labelled(text, &labels, value(server));
        }
    }
}

fn render_volumes(text: &mut String, servers: &[ServerRow]) {
    let each: [(Metric, Value<VolumeRow>); 7] = [
        (names::VOLUME_TOTAL, |volume| volume.total),
        (names::VOLUME_FREE, |volume| volume.free),
        (names::VOLUME_CHUNKS, |volume| volume.chunks),
        (names::VOLUME_IN_SERVICE, |volume| (volume.state == "in service").into()),
        (names::VOLUME_DRAINING, |volume| volume.drain.as_ref().map_or(0, |drain| 1 + u64::from(drain.drained))),
        (names::VOLUME_DRAIN_LEFT_CHUNKS, |volume| volume.drain.as_ref().map_or(0, |drain| drain.chunks_left)),
        (names::VOLUME_DRAIN_LEFT_BYTES, |volume| volume.drain.as_ref().map_or(0, |drain| drain.bytes_left)),
    ];
    for (metric, value) in each {
        metric.write_head(text);
        for server in servers {
            for volume in &server.volumes {
                let (host, path) = (label(&server.host), label(&volume.path));
                let (server, volume_id) = (&server.server, &volume.volume);
                let labels = format!("server=\"{server}\",host=\"{host}\",volume=\"{volume_id}\",path=\"{path}\"");
                metric.write_labelled(text, &labels, value(volume));
            }
        }
    }
}

/// A label's value: backslash, quote and newline are escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
