//! Maintenance of a chunkserver: for a while it may go away without what it holds being made anew.

use std::time::Duration;

use rfs_common::ids::ServerId;
use rfs_common::size::Period;
use rfs_proto::admin as wire;
use tonic::Status;

use crate::chunks::{Chunks, Maintenance, Severity};
use crate::cluster::asked::{self, AskedOfServerRecord, MAINTENANCE_MAX};
use crate::status::{MasterState, MasterStateExt, counted, files_only_on};

/// Files that are named.
const NAMED_MAX: usize = 20;

/// Begins or ends it.
pub(super) fn set(
    state: &dyn MasterState,
    request: &wire::MaintenanceRequest,
) -> Result<wire::MaintenanceReply, Status> {
    let server = ServerId::new(request.server);
    let view = state.with_chunks(|chunks, _| chunks.server(server));
    let view = view.ok_or_else(|| Status::not_found(format!("no chunkserver {server} is known; see `rfs servers`")))?;
    let what = format!("chunkserver {server} on {}", view.host);
    let time = Duration::from_millis(request.for_ms);
    if time > MAINTENANCE_MAX {
        return Err(Status::invalid_argument(format!(
            "the longest maintenance is {}; for longer, drain the chunkserver",
            Period::new(MAINTENANCE_MAX)
        )));
    }
    if time.is_zero() {
        return end(state, server, &what);
    }
    let (lone_chunks, lone_files) = files_only_on(state, server, NAMED_MAX);
    let clock = state.clock();
    let until_s = clock.now().seconds() + time.as_secs() as i64;
    let maintenance = Maintenance { until: clock.monotonic() + time, until_s };
    record(state, server, Some(maintenance))?;
    let risk = match lone_chunks {
        0 => String::new(),
        count => format!("; {} cannot be read while it is away", counted(count, "chunk")),
    };
    let message = format!("{what} is in maintenance for {}, as an administrator asked{risk}", Period::new(time));
    state.report(Severity::Information, message);
    Ok(wire::MaintenanceReply { until: until_s, lone_chunks, lone_files: Some(lone_files.into()) })
}

fn end(state: &dyn MasterState, server: ServerId, what: &str) -> Result<wire::MaintenanceReply, Status> {
    if state.with_chunks(|chunks, _| chunks.maintenance(server)).is_none() {
        return Err(Status::failed_precondition(format!("{what} is not in maintenance")));
    }
    record(state, server, None)?;
    state.report(Severity::Information, format!("the maintenance of {what} was ended by an administrator"));
    Ok(wire::MaintenanceReply::default())
}

fn record(state: &dyn MasterState, server: ServerId, maintenance: Option<Maintenance>) -> Result<(), Status> {
    let decide = |chunks: &Chunks| {
        let maintenance_until_s = maintenance.map_or(0, |maintenance| maintenance.until_s);
        let record = AskedOfServerRecord { maintenance_until_s, ..AskedOfServerRecord::of(chunks, server) };
        Some(vec![asked::change_of_server(server, &record)])
    };
    let mut follow = |chunks: &mut Chunks| chunks.set_maintenance(server, maintenance);
    state.commit_with_chunks(&decide, &mut follow).map_err(crate::grpc::failed)?;
    state.wait_until_durable().map_err(crate::grpc::failed)
}
