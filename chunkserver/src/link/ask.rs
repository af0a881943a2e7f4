//! Asking the master, on its client port, whose cluster it is and where chunkservers connect.

use std::net::IpAddr;
use std::time::Duration;

use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};
use rfs_common::ids::ClusterId;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::frame::FrameType;
use rfs_proto::session::{ClientInfo, ConnectionRole, Hello, HelloReply};
use rfs_proto::wire::{Connection, Envelope};
use thiserror::Error;

use crate::data::peers::connect_in_time;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the master says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Host and port for chunkservers.
    pub cluster_address: String,
    /// The address of this machine on the way to the master.
    pub own_address: IpAddr,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Not reached.
    #[error("the master at {master} cannot be reached; check that it runs, its address, and the network")]
    Unreached {
        /// Which.
        master: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refused.
    #[error("the master at {master} refused: {message}")]
    Refused {
        /// Which.
        master: String,
        /// Its words.
        message: String,
    },
}

/// Asks the master at its address for clients.
///
/// # Errors
/// [`AskError`].
pub fn ask(master: &Endpoint) -> Result<Answer, AskError> {
    let endpoint = master.clone().with_default_port(CLIENT_TO_MASTER_PORT);
    let name = endpoint.to_string();
    let unreached =
        |source: Box<dyn std::error::Error + Send + Sync>| AskError::Unreached { master: name.clone(), source };
    let stream = connect_in_time(&name, CONNECT_LIMIT, ANSWER_LIMIT).map_err(|error| unreached(error.into()))?;
    let own_address = stream.local_addr().map_err(|error| unreached(error.into()))?.ip();
    let mut connection = Connection::new(stream);
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        role: ConnectionRole::Ask.into(),
        client: Some(ClientInfo { version: env!("CARGO_PKG_VERSION").to_owned(), ..ClientInfo::default() }),
        ..Hello::default()
    };
    connection.send(Envelope::request(FrameType::Hello, 1), &hello, &[]).map_err(|error| unreached(error.into()))?;
    let reply = connection.receive_reply::<HelloReply>(FrameType::Hello, 1).map_err(|error| unreached(error.into()))?;
    let reply = reply.map_err(|failure| AskError::Refused { master: name.clone(), message: failure.message })?;
    let refused = |message: &str| AskError::Refused { master: name.clone(), message: message.to_owned() };
    let cluster: [u8; 16] =
        reply.cluster.as_ref().try_into().map_err(|_| refused("it does not say which cluster it is"))?;
    let port = u16::try_from(reply.cluster_port).map_err(|_| refused("it does not say where chunkservers connect"))?;
    let cluster_address = Endpoint::new(endpoint.host(), port).to_string();
    Ok(Answer { cluster: ClusterId::new(u128::from_be_bytes(cluster)), cluster_address, own_address })
}
