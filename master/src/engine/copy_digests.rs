//! Asks chunkservers what copies hold, over their data ports. Used when copies are settled, never on a client's way.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rfs_common::ids::{ChunkId, ChunkVersion, ClusterId};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::data;
use rfs_proto::frame::FrameType;
use rfs_proto::wire::{Connection, Envelope};

use super::settle::CompareCopies;
use crate::chunks::Place;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A digest reads the leaves' hashes, not the data.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const DIGEST_BYTES: usize = 32;

/// The chunkservers of a cluster.
#[derive(Debug)]
pub struct CopyDigests {
    cluster: ClusterId,
}

impl CopyDigests {
    /// Of this cluster.
    pub fn new(cluster: ClusterId) -> CopyDigests {
        CopyDigests { cluster }
    }

    fn ask(&self, place: &Place, chunk: ChunkId, version: ChunkVersion) -> anyhow::Result<Option<[u8; DIGEST_BYTES]>> {
        let address = place.address.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| anyhow::anyhow!("{} is no address", place.address))?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Connection::new(stream);
        let hello = data::Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.cluster.get().to_be_bytes().to_vec().into(),
            server: place.server.get(),
            volume: place.volume.get(),
            from: "master".to_owned(),
        };
        connection.send(Envelope::request(FrameType::DataHello, 1), &hello, &[])?;
        let welcome = connection.receive_reply::<data::HelloReply>(FrameType::DataHello, 1)?;
        welcome.map_err(|failure| anyhow::anyhow!(failure.message))?;
        let digest = data::Digest { volume: place.volume.get(), chunk: chunk.get(), version: version.get() };
        connection.send(Envelope::request(FrameType::Digest, 2), &digest, &[])?;
        let reply = connection.receive_reply::<data::DigestReply>(FrameType::Digest, 2)?;
        let reply = reply.map_err(|failure| anyhow::anyhow!(failure.message))?;
        let taken = reply.result.as_ref().is_some_and(|result| result.status == data::Status::Ok as i32);
        Ok(if taken { <[u8; DIGEST_BYTES]>::try_from(&reply.digest[..]).ok() } else { None })
    }
}

impl CompareCopies for CopyDigests {
    fn digest(&self, place: &Place, chunk: ChunkId, version: ChunkVersion) -> Option<[u8; 32]> {
        let asked = self.ask(place, chunk, version);
        asked.unwrap_or_else(|error| {
            tracing::warn!(%chunk, volume = %place.volume, "the digest of a copy cannot be had: {error:#}");
            None
        })
    }
}
