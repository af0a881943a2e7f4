//! The status page, its JSON, and the numbers for Prometheus, over HTTP. Read-only: only GET is answered.
//!
//! The page is one document put together from three files at compile time; it asks for nothing from elsewhere, and a
//! content security policy holds it to that. Reports are gathered on threads that may block; a few at a time, so that
//! browsers cannot occupy the engine.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rfs_common::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::transport::server::Connected;

use crate::connections::{Limited, LimitedConnection};
use crate::status::{AffectedFiles, EventRow, Gatherer, ServerRow, SessionReport, StatusReport};
use crate::strangers::{Strangers, with_sources};

mod host;
mod prometheus;

pub(crate) use self::prometheus::render_metrics;

/// Reports that are gathered at the same time; more wait.
const GATHERED_AT_ONCE: usize = 4;
/// Connections of browsers, or of those who fetch metrics, at the same time.
const CONNECTIONS_MAX: usize = 128;
/// For the head of a request, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// A connection ends after this long, whatever it does; answers take well under a second.
const CONNECTION_ENDS_AFTER: Duration = Duration::from_secs(600);
/// Events in the page's report.
const EVENTS_SHOWN: usize = 100;

static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("web/page.html")
        .replace("/* page.css */", include_str!("web/page.css"))
        .replace("/* page.js */", include_str!("web/page.js"))
});

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Clone)]
struct Web {
    gatherer: Arc<Gatherer>,
    permits: Arc<Semaphore>,
}

/// Answers browsers on this socket until the shutdown, if they ask for an address, this machine, or one of the `names`.
///
/// # Errors
/// If the socket fails.
pub async fn serve_page(
    listener: TcpListener,
    gatherer: Arc<Gatherer>,
    names: Vec<String>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let names: Arc<[String]> = names.into();
    let routes = Router::new()
        .route("/", get(page))
        .route("/api/all.json", get(all))
        .route("/api/status.json", get(status))
        .route("/api/servers.json", get(servers))
        .route("/api/sessions.json", get(sessions))
        .route("/api/events.json", get(events))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let names = Arc::clone(&names);
            async move {
                match host::check(request.headers().get(header::HOST), &names) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => (StatusCode::MISDIRECTED_REQUEST, refusal).into_response(),
                }
            }
        }));
    serve("web", listener, routes, gatherer, shutdown).await
}

/// Answers Prometheus on this socket until the shutdown.
///
/// # Errors
/// If the socket fails.
pub async fn serve_metrics(listener: TcpListener, gatherer: Arc<Gatherer>, shutdown: Shutdown) -> std::io::Result<()> {
    serve("metrics", listener, Router::new().route("/metrics", get(metrics)), gatherer, shutdown).await
}

/// Opens a socket for either.
///
/// # Errors
/// If the address cannot be had.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn serve(
    port: &'static str,
    listener: TcpListener,
    routes: Router<Web>,
    gatherer: Arc<Gatherer>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let gatherer_clock = gatherer.state().clock().clone();
    let web = Web { gatherer, permits: Arc::new(Semaphore::new(GATHERED_AT_ONCE)) };
    let routes = routes.with_state(web);
    let limited = Limited::new(listener, CONNECTIONS_MAX);
    let strangers = Arc::new(Strangers::new(port, gatherer_clock));
    loop {
        let connection = tokio::select! {
            connection = limited.accept() => connection,
            () = shutdown.requested() => return Ok(()),
        };
        tokio::spawn(answer(connection, routes.clone(), Arc::clone(&strangers)));
    }
}

/// Answers the requests of one connection.
async fn answer(connection: LimitedConnection, routes: Router, strangers: Arc<Strangers>) {
    let peer = connection.connect_info().remote_addr();
    let service = TowerToHyperService::new(routes);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let answered = http.serve_connection(TokioIo::new(connection), service);
    match tokio::time::timeout(CONNECTION_ENDS_AFTER, answered).await {
        Ok(Err(error)) if error.is_parse() => strangers.note(peer, &with_sources(&error)),
        Ok(Err(error)) => tracing::debug!(port = strangers.port(), %error, "a connection broke"),
        Ok(Ok(())) | Err(_) => {}
    }
}

async fn page() -> Response {
    let mut response = Response::new(Body::from(PAGE.as_str()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// All that the page shows, in one answer.
#[derive(Debug, Serialize)]
struct All {
    status: StatusReport,
    servers: Vec<ServerRow>,
    sessions: Vec<SessionReport>,
    events: Vec<EventRow>,
    affected: AffectedFiles,
}

async fn all(State(web): State<Web>) -> Response {
    web.json(|gatherer| All {
        status: gatherer.status(),
        servers: gatherer.servers(),
        sessions: gatherer.sessions(),
        events: gatherer.events(EVENTS_SHOWN),
        affected: gatherer.affected_lately(),
    })
    .await
}

async fn status(State(web): State<Web>) -> Response {
    web.json(Gatherer::status).await
}

async fn servers(State(web): State<Web>) -> Response {
    web.json(Gatherer::servers).await
}

async fn sessions(State(web): State<Web>) -> Response {
    web.json(Gatherer::sessions).await
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    limit: Option<usize>,
}

async fn events(State(web): State<Web>, Query(query): Query<EventsQuery>) -> Response {
    web.json(move |gatherer| gatherer.events(query.limit.unwrap_or(EVENTS_SHOWN))).await
}

async fn metrics(State(web): State<Web>) -> Response {
    match web.gather(Gatherer::metrics).await {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl Web {
    /// Gathers away from the async threads; nothing if the master is stopping.
    async fn gather<R: Send + 'static>(&self, look: impl FnOnce(&Gatherer) -> R + Send + 'static) -> Option<R> {
        let _permit = self.permits.acquire().await.ok()?;
        let gatherer = Arc::clone(&self.gatherer);
        tokio::task::spawn_blocking(move || look(&gatherer)).await.ok()
    }

    async fn json<R: Serialize + Send + 'static>(
        &self,
        look: impl FnOnce(&Gatherer) -> R + Send + 'static,
    ) -> Response {
        match self.gather(look).await {
            Some(report) => ([(header::CACHE_CONTROL, "no-store")], axum::Json(report)).into_response(),
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

#[cfg(test)]
#[path = "web_test.rs"]
mod tests;
