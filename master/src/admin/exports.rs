//! Exports that a person asks for: written into the master's folder for exports, and sent to the tool from there.

use std::fs::File;
use std::io::{self, Read};

use rfs_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use crate::exports::with_sources;
use crate::status::Gatherer;

/// Bytes of an export in one message.
const PART_BYTES: usize = 256 << 10;

/// Writes an export.
pub(super) fn export(gatherer: &Gatherer) -> Result<wire::ExportReply, Status> {
    let store = gatherer.store().ok_or_else(|| Status::unavailable("this master has no store to export"))?;
    let now = gatherer.state().clock().now();
    let exported = gatherer.exports().export(store, now);
    let (path, report) = exported.map_err(|error| crate::grpc::failed(with_sources(&error)))?;
    Ok(wire::ExportReply {
        path: path.display().to_string(),
        bytes: report.bytes,
        records: report.records,
        position: report.position.get(),
    })
}

/// Opens one that was written.
pub(super) fn open(gatherer: &Gatherer, name: &str) -> Result<File, Status> {
    gatherer.exports().open(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("there is no export {name} at the master")),
        _ => crate::grpc::failed(format!("the export {name} cannot be read: {error}")),
    })
}

/// Sends it until its end, or until nobody takes it any more.
pub(super) fn send(mut file: File, sender: &mpsc::Sender<Result<wire::ExportPart, Status>>) {
    let mut buffer = vec![0; PART_BYTES];
    loop {
        let part = match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(wire::ExportPart { content: buffer[..count].to_vec().into() }),
            Err(error) => Err(crate::grpc::failed(format!("the export cannot be read: {error}"))),
        };
        let failed = part.is_err();
        if sender.blocking_send(part).is_err() || failed {
            return;
        }
    }
}
