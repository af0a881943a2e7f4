//! The tool's way to the master: asks the client port where administration is, then speaks gRPC with it.

use std::future::Future;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rfs_common::endpoint::{CLIENT_TO_MASTER_PORT, Endpoint};
use rfs_proto::PROTOCOL_VERSION;
use rfs_proto::admin::admin_client::AdminClient;
use rfs_proto::frame::FrameType;
use rfs_proto::session::{ConnectionRole, Hello, HelloReply};
use rfs_proto::wire::{Connection, Envelope, WireError};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

const CONNECT_SECONDS_MAX: Duration = Duration::from_secs(3);
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);
/// For questions; changes and exports may take longer.
const CALL_SECONDS_MAX: Duration = Duration::from_secs(20);

/// A connection to the master's administration.
pub(super) struct MasterLink {
    runtime: Runtime,
    client: AdminClient<Channel>,
    /// What the user named, for messages.
    master: String,
}

impl MasterLink {
    /// Connects. The error says what to do.
    pub(super) fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let (answer, ip) = ask(endpoint)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let address = format!("http://{host}:{}", answer.cluster_port);
        let channel = runtime
            .block_on(TonicEndpoint::from_shared(address.clone())?.connect_timeout(CONNECT_SECONDS_MAX).connect())
            .with_context(|| format!("the master at {endpoint} names {address} for administration, which does not answer; check that the port is open"))?;
        Ok(Self { runtime, client: AdminClient::new(channel), master: endpoint.to_string() })
    }

    /// Runs one call and gives its answer, with the master's own words if it refuses.
    pub(super) fn call<T, F>(&mut self, call: impl FnOnce(AdminClient<Channel>) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let answer = self.runtime.block_on(call(self.client.clone()));
        answer.map(tonic::Response::into_inner).map_err(|status| self.refusal(&status))
    }

    /// The same for a call that should take no time: gives up after a while, and says so.
    pub(super) fn call_soon<T, F>(&mut self, call: impl FnOnce(AdminClient<Channel>) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let call = call(self.client.clone());
        let answer = self.runtime.block_on(async { tokio::time::timeout(CALL_SECONDS_MAX, call).await });
        match answer {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| self.refusal(&status)),
            Err(_) => bail!(
                "the master at {} did not answer within {} s: it hangs, is stopped, or waits for its disk; look at its log and \
                 its machine",
                self.master,
                CALL_SECONDS_MAX.as_secs()
            ),
        }
    }

    /// The next message of a streamed answer.
    pub(super) fn next<T>(&self, stream: &mut tonic::Streaming<T>) -> anyhow::Result<Option<T>> {
        self.runtime.block_on(stream.message()).map_err(|status| self.refusal(&status))
    }

    fn refusal(&self, status: &tonic::Status) -> anyhow::Error {
        match status.code() {
            tonic::Code::Unavailable => anyhow!("the master at {} went away: {}", self.master, status.message()),
            _ => anyhow!("{}", status.message()),
        }
    }
}

fn is_timeout(error: &WireError) -> bool {
    use std::io::ErrorKind;
    matches!(error, WireError::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Asks the client port for the other services; also tells whether a master is there at all.
pub(super) fn ask(endpoint: &Endpoint) -> anyhow::Result<(HelloReply, std::net::IpAddr)> {
    let addresses = endpoint.resolve(CLIENT_TO_MASTER_PORT)?;
    let mut refused = None;
    for address in addresses {
        let stream = match TcpStream::connect_timeout(&address, CONNECT_SECONDS_MAX) {
            Ok(stream) => stream,
            Err(error) => {
                refused = Some(error);
                continue;
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_SECONDS_MAX))?;
        stream.set_write_timeout(Some(ANSWER_SECONDS_MAX))?;
        let mut connection = Connection::new(stream);
        let hello =
            Hello { protocol_version: PROTOCOL_VERSION, role: ConnectionRole::Ask.into(), ..Default::default() };
        let asked = connection
            .send(Envelope::request(FrameType::Hello, 1), &hello, &[])
            .and_then(|()| connection.receive_reply::<HelloReply>(FrameType::Hello, 1))
            .map_err(|error| match is_timeout(&error) {
                true => anyhow!(
                    "the master at {endpoint} took the connection but did not answer within {} s: it hangs, is stopped, or waits \
                     for its disk; look at its log and its machine",
                    ANSWER_SECONDS_MAX.as_secs()
                ),
                false => anyhow::Error::new(error)
                    .context(format!("{endpoint} does not answer as an rfs master; is this its client port (9421)?")),
            })?;
        return match asked {
            Ok(answer) => Ok((answer, address.ip())),
            Err(failure) => bail!("the master at {endpoint} refuses: {}", failure.message),
        };
    }
    let error = refused.map_or_else(|| anyhow!("it has no address"), anyhow::Error::from);
    Err(error
        .context(format!("no master answers at {endpoint}; check that mfs-master runs there and the port is open")))
}
