//! The state of the cluster as Prometheus reads it, beside the counters of `metrics.rs`. Every name, unit and meaning of a
//! gauge stands here.

use std::fmt::Write;

use crate::status::{Health, ServerRow, StatusReport};

/// Appends the gauges.
pub(crate) fn render_metrics(text: &mut String, status: &StatusReport, servers: &[ServerRow], sessions: usize) {
    let health = match status.health {
        Health::Ok => 0,
        Health::Degraded => 1,
        Health::Unavailable => 2,
    };
    let metadata = &status.metadata;
    let gauges: [(&str, &str, u64); 22] = [
        ("rfs_health", "0: ok, 1: degraded, 2: unavailable.", health),
        ("rfs_fully_replicated", "1 if every chunk has its goal of live copies.", status.fully_replicated.into()),
        ("rfs_space_total_bytes", "Size of all volumes that count.", status.space.total),
        ("rfs_space_free_bytes", "Free space on them, above their reserve.", status.space.free),
        ("rfs_inodes", "Nodes of the namespace.", status.counts.inodes),
        ("rfs_files", "Regular files.", status.counts.files),
        ("rfs_directories", "Directories.", status.counts.directories),
        ("rfs_file_bytes", "Sum of the lengths of files.", status.counts.bytes),
        ("rfs_copies_live", "Live current copies of chunks.", status.counts.copies),
        ("rfs_chunks_under_goal", "Chunks with fewer live copies than their goal.", status.under_goal),
        ("rfs_chunks_unavailable", "Chunks without a live copy.", status.unavailable),
        ("rfs_chunks_unsettled", "Chunks being written.", status.unsettled),
        ("rfs_repairs_running", "Copies being made by repair.", status.repairs_running),
        ("rfs_deletions_waiting", "Chunks with copies to delete.", status.deletions_waiting),
        ("rfs_servers_connected", "Chunkservers connected.", status.servers_up.into()),
        ("rfs_servers_known", "Chunkservers known.", status.servers_known.into()),
        ("rfs_volumes_in_service", "Volumes whose copies count.", status.volumes_in_service.into()),
        ("rfs_volumes_known", "Volumes known.", status.volumes_known.into()),
        ("rfs_sessions", "Sessions of clients.", sessions as u64),
        ("rfs_metadata_position", "Last commit to the metadata log.", metadata.position),
        ("rfs_metadata_log_unfolded_bytes", "Log that a restart would replay.", metadata.log_bytes),
        ("rfs_metadata_disk_free_bytes", "Free space on the metadata disk.", metadata.disk_free),
    ];
    // Writing to a String cannot fail.
    for (name, meaning, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {value}");
    }
    let _ = writeln!(text, "# HELP rfs_chunks Chunks by goal and live copies.\n# TYPE rfs_chunks gauge");
    for at in &status.chunks {
        let _ = writeln!(text, "rfs_chunks{{goal=\"{}\",copies=\"{}\"}} {}", at.goal, at.copies, at.chunks);
    }
    render_volumes(text, servers);
}

fn render_volumes(text: &mut String, servers: &[ServerRow]) {
    let each = |text: &mut String, name: &str, meaning: &str, value: fn(&crate::status::VolumeRow) -> u64| {
        let _ = writeln!(text, "# HELP {name} {meaning}\n# TYPE {name} gauge");
        for server in servers {
            for volume in &server.volumes {
                let (host, path) = (label(&server.host), label(&volume.path));
                let labels = format!(
                    "server=\"{}\",host=\"{host}\",volume=\"{}\",path=\"{path}\"",
                    server.server, volume.volume
                );
                let _ = writeln!(text, "{name}{{{labels}}} {}", value(volume));
            }
        }
    };
    each(text, "rfs_volume_total_bytes", "Size of a volume.", |volume| volume.total);
    each(text, "rfs_volume_free_bytes", "Free space of a volume above its reserve.", |volume| volume.free);
    each(text, "rfs_volume_chunks", "Chunks on a volume.", |volume| volume.chunks);
    each(text, "rfs_volume_in_service", "1 if the volume is in service.", |volume| {
        (volume.state == "in service").into()
    });
}

/// A label's value: backslash, quote and newline are escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
