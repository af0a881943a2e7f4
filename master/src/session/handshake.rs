//! The first frame of each connection: who it is, what it is for, and whether it is welcome.

use rfs_common::errno::Errno;
use rfs_common::ids::SessionId;
use rfs_common::text::printable;
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::session;
use rfs_proto::session_calls::SLOTS_MAX;

use super::listener::Announced;
use crate::engine::{Begun, Engine, Failure};
use crate::sessions::ClientDescription;

/// Bytes of each text that a client says of itself.
const TEXT_BYTES_MAX: usize = 1_024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Requests of one slot of a session.
    Operations {
        /// The session.
        session: SessionId,
        /// The slot.
        slot: u32,
    },
    /// The push connection of a session.
    Push {
        /// The session.
        session: SessionId,
    },
    /// Nothing: it only asked where things are.
    Ask,
}

/// Lets a connection in.
///
/// # Errors
/// What the peer is told; it says what to do.
pub(super) fn welcome(
    engine: &Engine,
    hello: &session::Hello,
    announced: &Announced,
) -> Result<(Purpose, session::HelloReply), Failure> {
    check_peer(engine, hello)?;
    let mut reply = reply(engine, announced);
    let purpose = match (session::ConnectionRole::try_from(hello.role), hello.session) {
        (Ok(session::ConnectionRole::Ask), _) => Purpose::Ask,
        (Ok(session::ConnectionRole::Push), 0) => {
            let Begun { session, secret, root } = begin(engine, hello)?;
            reply.session = session.get();
            reply.secret = secret.to_vec().into();
            reply.root = root.get();
            Purpose::Push { session }
        }
        (Ok(session::ConnectionRole::Push), number) => {
            let session = SessionId::new(number);
            if engine.has_lost(hello.master_start, hello.log_position) {
                return Err(engine.end_deceived(session, &hello.secret));
            }
            reply.root = engine.join_session(session, &hello.secret)?.get();
            reply.session = number;
            Purpose::Push { session }
        }
        (Ok(session::ConnectionRole::Operations), number) => {
            let session = SessionId::new(number);
            if hello.slot >= SLOTS_MAX {
                let message = format!("slot {} is above the highest, {}", hello.slot, SLOTS_MAX - 1);
                return Err(Failure::new(Errno::EINVAL, message));
            }
            reply.root = engine.join_session(session, &hello.secret)?.get();
            reply.session = number;
            Purpose::Operations { session, slot: hello.slot }
        }
        (Ok(session::ConnectionRole::Unspecified) | Err(_), _) => {
            let message = format!("the connection does not say what it is for (role {})", hello.role);
            return Err(Failure::new(Errno::EINVAL, message));
        }
    };
    Ok((purpose, reply))
}

fn check_peer(engine: &Engine, hello: &session::Hello) -> Result<(), Failure> {
    if hello.protocol_version != PROTOCOL_VERSION {
        let message = format!(
            "this master (version {}) speaks session protocol {PROTOCOL_VERSION}, the client speaks {}: install the same \
             release on both",
            env!("CARGO_PKG_VERSION"),
            hello.protocol_version
        );
        return Err(Failure::new(Errno::EPROTO, message));
    }
    let cluster = engine.cluster();
    let expected = <[u8; 16]>::try_from(&hello.expected_cluster[..]).map(u128::from_be_bytes);
    match expected {
        _ if hello.expected_cluster.is_empty() => Ok(()),
        Ok(expected) if expected == cluster.get() => Ok(()),
        _ => Err(Failure::new(Errno::EXDEV, format!("this is the master of cluster {cluster}"))),
    }
}

fn begin(engine: &Engine, hello: &session::Hello) -> Result<Begun, Failure> {
    let client = hello.client.clone().unwrap_or_default();
    let shorten = |text: String| printable(&text, TEXT_BYTES_MAX / 4);
    let description = ClientDescription {
        host: shorten(client.host),
        mount_point: shorten(client.mount_point),
        process_id: client.process_id,
        version: shorten(client.version),
        read_only: client.read_only,
    };
    engine.begin_session(description, &hello.subdirectory)
}

fn reply(engine: &Engine, announced: &Announced) -> session::HelloReply {
    let milliseconds = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    session::HelloReply {
        cluster: engine.cluster().get().to_be_bytes().to_vec().into(),
        session_expiry_ms: milliseconds(engine.config().session_expiry),
        heartbeat_ms: milliseconds(engine.config().heartbeat),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        master_start: engine.master_start(),
        cluster_port: u32::from(announced.cluster_port),
        web_port: u32::from(announced.web_port),
        slots_max: SLOTS_MAX,
        takes_accesses: true,
        ..session::HelloReply::default()
    }
}
