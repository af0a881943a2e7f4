//! Why a session could not be begun, in words for the person who mounts.

use std::io;

use rfs_common::endpoint::{Endpoint, EndpointError};
use rfs_common::errno::Errno;
use rfs_common::ids::ClusterId;
use rfs_proto::wire::WireError;
use thiserror::Error;

/// Why a session could not be begun.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No master was named.
    #[error("no master is named; say which host runs mfs-master")]
    NoEndpoint,
    /// The name has no address.
    #[error("the master cannot be found")]
    Unresolved(#[source] EndpointError),
    /// Nothing listens there.
    #[error("nothing listens at {0}; is mfs-master running there, and is this its client port?")]
    Refused(String),
    /// Nobody answers there.
    #[error("the master at {endpoint} cannot be reached; check the network and the firewall")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system said.
        source: io::Error,
    },
    /// What answers is something else.
    #[error("what listens at {endpoint} is not an rfs master; check the port")]
    NotMaster {
        /// Where.
        endpoint: String,
        /// What was wrong with what it said.
        source: WireError,
    },
    /// The master speaks another version of the protocol.
    #[error(
        "the master at {endpoint} refuses this client's protocol version {ours}: {message}; use programs of one release"
    )]
    WrongVersion {
        /// Where.
        endpoint: String,
        /// The version spoken here.
        ours: u32,
        /// What the master said.
        message: String,
    },
    /// It is another cluster's master.
    #[error(
        "the master at {endpoint} does not belong to cluster {expected} ({found}); check the address or the cluster id"
    )]
    WrongCluster {
        /// Where.
        endpoint: String,
        /// Its cluster.
        found: String,
        /// The one asked for.
        expected: ClusterId,
    },
    /// The path to be mounted is not there, or is not a directory.
    #[error("the filesystem has no directory {path:?}; make it first, or mount without a subdirectory")]
    NoSubdirectory {
        /// The path.
        path: String,
    },
    /// The session is no longer known there (only when one is joined).
    #[error("the master at {endpoint} no longer knows this session")]
    Expired {
        /// Where.
        endpoint: String,
    },
    /// A power cut has taken from the master's log what this session was told (only when one is joined).
    #[error("a power cut of the master at {endpoint} has taken what it had told this session")]
    LogLost {
        /// Where.
        endpoint: String,
        /// Up to which position the log has everything.
        recovered: u64,
    },
    /// Any other refusal.
    #[error("the master at {endpoint} refuses: {message} ({errno})")]
    Rejected {
        /// Where.
        endpoint: String,
        /// Why, as a number.
        errno: Errno,
        /// Why, in the master's words.
        message: String,
    },
}

impl ConnectError {
    /// Whether another attempt may go better without anybody doing anything.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            ConnectError::Refused(_)
                | ConnectError::Unreachable { .. }
                | ConnectError::Unresolved(_)
                | ConnectError::NotMaster { source: WireError::Closed | WireError::Io(_), .. }
                | ConnectError::Rejected { .. }
        )
    }
}

/// How an endpoint is shown: as it would be typed.
pub(super) fn shown(endpoint: &Endpoint) -> String {
    let host = endpoint.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    endpoint.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}
