//! The port of chunkservers and administration: gRPC over HTTP/2, connection by connection.
//!
//! Tonic's own server keeps to itself why it closed a connection or refused a message. This one tells (`strangers`): of
//! connections on which something else than HTTP/2 came, and of calls whose message is too large or does not decode. Such
//! a message's length is compared with the limit of its service before anything is allocated for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rfs_common::shutdown::Shutdown;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Code, Status};

use crate::connections::{Limited, LimitedConnection};
use crate::strangers::{Strangers, is_of_the_network, with_sources};

/// Connections of chunkservers and tools at the same time.
const CONNECTIONS_MAX: usize = 1024;
/// Calls of one connection at the same time.
const STREAMS_MAX: u32 = 64;
/// A peer whose machine is gone is noticed also where it only listens.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);
/// Of a call's path in the log.
const PATH_CHARACTERS_MAX: usize = 80;

/// Serves these services on this socket until the shutdown; calls under way are answered still.
pub(crate) async fn serve(listener: TcpListener, routes: Routes, strangers: Arc<Strangers>, shutdown: Shutdown) {
    let (limited, router) = (Limited::new(listener, CONNECTIONS_MAX), routes.prepare().into_axum_router());
    loop {
        let connection = tokio::select! {
            connection = limited.accept() => connection,
            () = shutdown.requested() => return,
        };
        tokio::spawn(answer(connection, router.clone(), Arc::clone(&strangers), shutdown.clone()));
    }
}

/// Answers the calls of one connection.
async fn answer(connection: LimitedConnection, router: axum::Router, strangers: Arc<Strangers>, shutdown: Shutdown) {
    let info = connection.connect_info();
    let peer = info.remote_addr();
    let noted = Arc::clone(&strangers);
    let router = router
        .layer(from_fn(move |request: Request, next: Next| call(request, next, Arc::clone(&noted), peer)))
        .layer(Extension::<TcpConnectInfo>(info));
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WITHIN)
        .max_concurrent_streams(STREAMS_MAX);
    let served = http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = shutdown.requested() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    match ended {
        Err(error) if !is_of_the_network(&error) => strangers.note(peer, &with_sources(&error)),
        Err(error) => tracing::debug!(?peer, %error, "a connection to the cluster port broke"),
        Ok(()) => {}
    }
}

/// One call; what tonic refuses before a service sees it is noted.
async fn call(request: Request, next: Next, strangers: Arc<Strangers>, peer: Option<SocketAddr>) -> Response {
    let path: String = request.uri().path().chars().take(PATH_CHARACTERS_MAX).collect();
    let response = next.run(request).await;
    if let Some(status) = Status::from_header_map(response.headers())
        && is_nonsense(&status)
    {
        strangers.note(peer, &format!("{path}: {}", status.message()));
    }
    response
}

/// Whether a status says that a message was too large, did not decode, or was for nobody.
pub(crate) fn is_nonsense(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::Internal | Code::Unimplemented | Code::ResourceExhausted)
}

/// The status of a call that failed for a reason of the master's own. Not `Internal`: that is what tonic says of messages that do
/// not decode.
pub(crate) fn failed(what: impl Into<String>) -> Status {
    Status::unknown(what)
}

#[cfg(test)]
#[path = "grpc_test.rs"]
mod tests;
