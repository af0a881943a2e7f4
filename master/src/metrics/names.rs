//! Every metric of the master: its name, whose end is its unit, and what it means. docs/metrics.md lists the same for people.

use std::fmt::Write;

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from zero at the start of the program that counts.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// As Prometheus writes it.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// One metric, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// What Prometheus calls it.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it means.
    pub meaning: &'static str,
}

impl Metric {
    /// Appends the two lines that stand before a metric's values.
    pub fn write_head(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {0} {1}\n# TYPE {0} {2}", self.name, self.meaning, self.kind.text());
    }

    /// Appends the whole of a metric with one value.
    pub fn write_value(&self, text: &mut String, value: u64) {
        self.write_head(text);
        let _ = writeln!(text, "{} {value}", self.name);
    }

    /// Appends one value of a metric with labels (`name="value",...`).
    pub fn write_labelled(&self, text: &mut String, labels: &str, value: u64) {
        let _ = writeln!(text, "{}{{{labels}}} {value}", self.name);
    }
}

macro_rules! metrics {
    ($($constant:ident, $kind:ident, $name:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, meaning: $meaning };)*

        /// All of them.
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    HEALTH, Gauge, "rfs_health", "0: ok, 1: degraded, 2: unavailable.";
    FULLY_REPLICATED, Gauge, "rfs_fully_replicated", "1 if every chunk has its goal of live copies.";
    SPACE_TOTAL, Gauge, "rfs_space_total_bytes", "Size of all volumes that count.";
    SPACE_FREE, Gauge, "rfs_space_free_bytes", "Free space on them, above their reserve.";
    INODES, Gauge, "rfs_inodes", "Nodes of the namespace.";
    FILES, Gauge, "rfs_files", "Regular files.";
    DIRECTORIES, Gauge, "rfs_directories", "Directories.";
    FILE_BYTES, Gauge, "rfs_file_bytes", "Sum of the lengths of files.";
    CHUNKS, Gauge, "rfs_chunks", "Chunks, by goal and live copies.";
    COPIES_LIVE, Gauge, "rfs_copies_live", "Live current copies of chunks.";
    CHUNKS_UNDER_GOAL, Gauge, "rfs_chunks_under_goal", "Chunks with fewer live copies than their goal.";
    CHUNKS_UNAVAILABLE, Gauge, "rfs_chunks_unavailable", "Chunks without a live copy.";
    CHUNKS_UNSETTLED, Gauge, "rfs_chunks_unsettled", "Chunks being written.";
    REPAIRS_RUNNING, Gauge, "rfs_repairs_running", "Copies being made by repair.";
    REPAIR_LEFT_COPIES, Gauge, "rfs_repair_left_copies", "Copies to be made until no chunk with a live copy lacks any.";
    REPAIR_LEFT_BYTES, Gauge, "rfs_repair_left_bytes", "About how many bytes these have.";
    REBALANCE_ACTIVE, Gauge, "rfs_rebalance_active", "1 while copies are moved from full volumes to empty ones.";
    REBALANCE_MOVES, Counter, "rfs_rebalance_moves_total", "Copies moved from full volumes to empty ones.";
    DELETIONS_WAITING, Gauge, "rfs_deletions_waiting", "Chunks with copies to delete.";
    SERVERS_CONNECTED, Gauge, "rfs_servers_connected", "Chunkservers connected.";
    SERVERS_KNOWN, Gauge, "rfs_servers_known", "Chunkservers known.";
    VOLUMES_IN_SERVICE, Gauge, "rfs_volumes_in_service", "Volumes whose copies count.";
    VOLUMES_KNOWN, Gauge, "rfs_volumes_known", "Volumes known.";
    SESSIONS, Gauge, "rfs_sessions", "Sessions of clients.";
    METADATA_POSITION, Gauge, "rfs_metadata_position", "Number of the last commit to the metadata log.";
    METADATA_LOG_UNFOLDED, Gauge, "rfs_metadata_log_unfolded_bytes", "Log that a restart would replay.";
    METADATA_DISK_FREE, Gauge, "rfs_metadata_disk_free_bytes", "Free space on the metadata disk.";
    VOLUME_TOTAL, Gauge, "rfs_volume_total_bytes", "Size of a volume.";
    VOLUME_FREE, Gauge, "rfs_volume_free_bytes", "Free space of a volume, above its reserve.";
    VOLUME_CHUNKS, Gauge, "rfs_volume_chunks", "Chunks on a volume.";
    VOLUME_IN_SERVICE, Gauge, "rfs_volume_in_service", "1 if the volume is in service and not being drained.";
    VOLUME_DRAINING, Gauge, "rfs_volume_draining", "1 if the volume is being drained, 2 if it is drained, else 0.";
    VOLUME_DRAIN_LEFT_CHUNKS, Gauge, "rfs_volume_drain_left_chunks", "Chunks on a volume that is being drained, else 0.";
    VOLUME_DRAIN_LEFT_BYTES, Gauge, "rfs_volume_drain_left_bytes", "About how many bytes these have.";
    SERVER_CONNECTED, Gauge, "rfs_server_connected", "1 if the chunkserver is connected.";
    SERVER_MAINTENANCE, Gauge, "rfs_server_maintenance", "1 if the chunkserver is in maintenance.";
    SERVER_READS, Counter, "rfs_server_chunk_reads_total", "Reads of chunks that a chunkserver answered.";
    SERVER_WRITES, Counter, "rfs_server_chunk_writes_total", "Writes to chunks that a chunkserver answered.";
    SERVER_READ_BYTES, Counter, "rfs_server_chunk_read_bytes_total", "Bytes of chunks that a chunkserver sent.";
    SERVER_WRITTEN_BYTES, Counter, "rfs_server_chunk_written_bytes_total", "Bytes of chunks that a chunkserver received.";
    OPERATIONS, Counter, "rfs_master_operations_total", "Operations of clients answered, by type.";
    OPERATION_FAILURES, Counter, "rfs_master_operation_failures_total", "Operations answered with an error number.";
    OPERATION_REPETITIONS, Counter, "rfs_master_operation_repetitions_total",
        "Changes answered from memory because they had run before.";
    OPERATION_WAITS, Counter, "rfs_master_operation_waits_total", "Times an operation's thread slept until it was woken.";
    LOCK_WAITS, Counter, "rfs_master_lock_waits_total", "Times a thread found the engine's lock taken.";
    LOCK_WAIT_MICROSECONDS, Counter, "rfs_master_lock_wait_microseconds_total", "Time that threads waited for that lock.";
    RECALLS, Counter, "rfs_master_recalls_total", "Recalls sent to sessions.";
    COMMITS, Counter, "rfs_master_commits_total", "Commits to the metadata log.";
    COMMIT_FAILURES, Counter, "rfs_master_commit_failures_total", "Commits that the metadata log refused.";
    SLOW_DISK_WAITS, Counter, "rfs_master_slow_disk_waits_total",
        "Changes answered late because the metadata log waited for its disk for longer than log_unsynced_max.";
    SESSIONS_BEGUN, Counter, "rfs_master_sessions_begun_total", "Sessions that clients began.";
    SESSIONS_EXPIRED, Counter, "rfs_master_sessions_expired_total", "Sessions that ended because their client was silent.";
    CHUNKS_SETTLED, Counter, "rfs_master_chunks_settled_total",
        "Chunks brought to one version after their writer was gone.";
    CONNECTIONS, Counter, "rfs_master_session_connections_total", "Connections accepted on the session port.";
    CONNECTIONS_REFUSED, Counter, "rfs_master_session_connections_refused_total",
        "Connections closed before their handshake was complete.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_stand_in_the_documents() {
        let page = include_str!("../../../docs/metrics.md");
        let mut lines: Vec<String> = ALL
            .iter()
            .map(|metric| format!("| `{}` | {} | {} |", metric.name, metric.kind.text(), metric.meaning))
            .collect();
        for line in &lines {
            assert!(page.lines().any(|have| have == line), "docs/metrics.md lacks the line\n{line}");
        }
        assert_eq!(
            page.lines().filter(|line| line.starts_with("| `")).count(),
            ALL.len(),
            "docs/metrics.md has others"
        );
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
