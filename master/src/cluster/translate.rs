//! Between the messages of `cluster.proto` and the words of the chunk table.

use std::net::IpAddr;

use rfs_common::ids::{ChunkId, ChunkVersion, ServerId, VolumeId};
use rfs_common::text::printable;
use rfs_proto::cluster as wire;

use crate::chunks::{
    Command, CommandId, CommandResult, Held, Judgement, Order, Place, RaiseOf, Registration, ScrubReport, Traffic,
    VolumeReport, VolumeState,
};

/// Characters of a host, an address, a version.
const NAME_MAX: usize = 256;
/// Characters of a path or a reason.
const REASON_MAX: usize = 1024;
/// No volume comes to more by itself, and TOML and a next one have room above it: who tells more is passed over.
const EPOCH_MAX: u64 = 1 << 62;

fn name(text: &str) -> String {
    printable(text, NAME_MAX)
}

/// A registration; an address that means "wherever I am" becomes the one that the connection comes from.
pub(super) fn registration(register: &wire::Register, peer: Option<IpAddr>) -> Registration {
    Registration {
        server: ServerId::new(register.server),
        host: name(&register.host),
        address: name(&reachable_address(&register.data_address, peer)),
        version: name(&register.version),
        volumes: register.volumes.iter().map(volume).collect(),
    }
}

fn reachable_address(address: &str, peer: Option<IpAddr>) -> String {
    let Some((host, port)) = address.rsplit_once(':') else { return address.to_owned() };
    let unspecified = matches!(host, "" | "0.0.0.0" | "[::]" | "*");
    match peer.filter(|_| unspecified) {
        Some(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        None => address.to_owned(),
    }
}

pub(super) fn volume(volume: &wire::Volume) -> VolumeReport {
    VolumeReport {
        volume: VolumeId::new(volume.volume),
        state: state(volume.state()),
        path: printable(&volume.path, REASON_MAX),
        reason: printable(&volume.reason, REASON_MAX),
        total: volume.total,
        free: volume.free,
        chunks: volume.chunks,
        storage_machine: name(&volume.storage_machine),
        filesystem: name(&volume.filesystem),
        lost_power: volume.lost_power,
        scrub: scrub(volume.scrub.unwrap_or_default()),
        epoch: volume.epoch.filter(|epoch| *epoch <= EPOCH_MAX),
        changed: volume.changed,
    }
}

fn scrub(scrub: wire::Scrub) -> ScrubReport {
    ScrubReport { done: scrub.done, chunks: scrub.chunks, completed: scrub.completed, found: scrub.found }
}

fn state(state: wire::VolumeState) -> VolumeState {
    match state {
        wire::VolumeState::InService => VolumeState::InService,
        wire::VolumeState::ReadOnly => VolumeState::ReadOnly,
        wire::VolumeState::Stalled => VolumeState::Stalled,
        wire::VolumeState::Full => VolumeState::Full,
        wire::VolumeState::Out | wire::VolumeState::Unspecified => VolumeState::Out,
    }
}

pub(super) fn held(held: &wire::Held) -> Held {
    Held {
        chunk: ChunkId::new(held.chunk),
        version: ChunkVersion::new(held.version),
        length: held.length,
        open: held.open,
        suspect: held.suspect,
        unreadable: held.unreadable,
        bad: held.bad,
    }
}

pub(super) fn judgement(judgement: &Judgement) -> wire::Judgement {
    wire::Judgement {
        volume: judgement.volume.get(),
        epoch: judgement.epoch,
        astray: judgement.astray,
        sound: judgement.sound.iter().map(|chunk| chunk.get()).collect(),
    }
}

pub(super) fn traffic(heartbeat: &wire::Heartbeat) -> Traffic {
    Traffic {
        reads: heartbeat.reads,
        writes: heartbeat.writes,
        read_bytes: heartbeat.read_bytes,
        written_bytes: heartbeat.written_bytes,
    }
}

pub(super) fn result(result: &wire::CommandResult) -> CommandResult {
    CommandResult {
        command: CommandId(result.command),
        done: result.done,
        errno: result.errno,
        message: printable(&result.message, REASON_MAX),
        version: ChunkVersion::new(result.version),
        length: result.length,
    }
}

pub(super) fn command(command: Command) -> wire::ToChunkserver {
    let order = match command.order {
        Order::Delete { volume, chunk, version } => wire::command::Order::Delete(wire::Delete {
            volume: volume.get(),
            chunk: chunk.get(),
            version: version.get(),
        }),
        Order::Replicate { volume, chunk, version, sources } => wire::command::Order::Replicate(wire::Replicate {
            volume: volume.get(),
            chunk: chunk.get(),
            version: version.get(),
            sources: sources.iter().map(source).collect(),
        }),
        Order::Raise { volume, chunk, from, to, of } => wire::command::Order::Raise(wire::Raise {
            volume: volume.get(),
            chunk: chunk.get(),
            from: from.get(),
            to: to.get(),
            settles: of == RaiseOf::Whatever,
        }),
        Order::Check { volume, chunk } => {
            wire::command::Order::Check(wire::Check { volume: volume.get(), chunk: chunk.get() })
        }
    };
    message(wire::to_chunkserver::Message::Command(wire::Command { command: command.id.0, order: Some(order) }))
}

fn source(place: &Place) -> wire::Source {
    wire::Source { server: place.server.get(), volume: place.volume.get(), address: place.address.to_string() }
}

pub(super) fn message(message: wire::to_chunkserver::Message) -> wire::ToChunkserver {
    wire::ToChunkserver { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chunkservers_say_of_themselves_reaches_no_terminal_as_a_command() {
        let evil = wire::Volume { path: "/v\x1b[2J".into(), reason: "r\n\r".into(), ..Default::default() };
        let register = wire::Register { host: "h\x07".into(), volumes: vec![evil], ..Default::default() };
        let registered = registration(&register, None);
        let volume = &registered.volumes[0];
        assert_eq!((&*registered.host, &*volume.path, &*volume.reason), ("h", "/v[2J", "r"));
    }

    #[test]
    fn an_epoch_that_no_volume_comes_to_is_none() {
        let told = |epoch| volume(&wire::Volume { epoch, ..Default::default() }).epoch;
        assert_eq!(
            (told(Some(7)), told(Some(EPOCH_MAX)), told(Some(u64::MAX)), told(None)),
            (Some(7), Some(EPOCH_MAX), None, None)
        );
    }

    #[test]
    fn an_address_that_means_anywhere_becomes_the_one_of_the_connection() {
        let peer = Some(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(reachable_address("0.0.0.0:9422", peer), "192.0.2.7:9422");
        assert_eq!(reachable_address("[::]:9422", peer), "192.0.2.7:9422");
        assert_eq!(reachable_address("cs1:9422", peer), "cs1:9422");
        assert_eq!(reachable_address(":1", Some("::1".parse().unwrap())), "[::1]:1");
    }
}
