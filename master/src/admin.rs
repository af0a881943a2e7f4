//! What `rfs` asks of the master (`admin.proto`). Adapters only: reports come from [`Gatherer`], changes go through
//! [`MasterState`].
//!
//! Everything here may wait for the engine's lock or for disks, so all of it runs on threads that may block. Setting a goal
//! recursively walks the tree in batches of bounded size, each its own transaction, so that clients are not held up; what
//! is created meanwhile inherits the goal of its directory.

mod files;
mod goals;

use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::ids::{Goal, ServerId};
use rfs_proto::admin as wire;
use rfs_proto::admin::admin_server::{Admin, AdminServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::chunks::Severity;
use crate::status::{Gatherer, MasterState, MasterStateExt};

/// Progress messages that wait for the network.
const PROGRESS_MAX: usize = 16;
const EVENTS_DEFAULT: usize = 100;
const AFFECTED_MAX: usize = 1000;

/// The service. See the module's page.
pub struct AdminService {
    gatherer: Arc<Gatherer>,
}

impl AdminService {
    /// A service that reports with this gatherer.
    pub fn new(gatherer: Arc<Gatherer>) -> AdminService {
        AdminService { gatherer }
    }

    /// The service as tonic takes it.
    pub fn into_server(self) -> AdminServer<AdminService> {
        AdminServer::new(self)
    }

    /// Runs away from the async threads.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Gatherer) -> Result<R, Status> + Send + 'static,
    ) -> Result<Response<R>, Status> {
        let gatherer = Arc::clone(&self.gatherer);
        let done = tokio::task::spawn_blocking(move || work(&gatherer)).await;
        done.map_err(|_| Status::unavailable("the master is stopping"))?.map(Response::new)
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type SetGoalStream = ReceiverStream<Result<wire::SetGoalProgress, Status>>;

    async fn get_status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::Status>, Status> {
        self.blocking(|gatherer| Ok(gatherer.status().into())).await
    }

    async fn list_servers(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::Servers>, Status> {
        let list = |gatherer: &Gatherer| gatherer.servers().into_iter().map(wire::Server::from).collect();
        self.blocking(move |gatherer| Ok(wire::Servers { servers: list(gatherer) })).await
    }

    async fn list_sessions(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::Sessions>, Status> {
        let list = |gatherer: &Gatherer| gatherer.sessions().into_iter().map(wire::Session::from).collect();
        self.blocking(move |gatherer| Ok(wire::Sessions { sessions: list(gatherer) })).await
    }

    async fn list_events(&self, request: Request<wire::EventsRequest>) -> Result<Response<wire::Events>, Status> {
        let limit = match request.into_inner().limit {
            0 => EVENTS_DEFAULT,
            limit => limit as usize,
        };
        let list = move |gatherer: &Gatherer| gatherer.events(limit).into_iter().map(wire::Event::from).collect();
        self.blocking(move |gatherer| Ok(wire::Events { events: list(gatherer) })).await
    }

    async fn list_affected(
        &self,
        request: Request<wire::AffectedRequest>,
    ) -> Result<Response<wire::AffectedFiles>, Status> {
        let limit = (request.into_inner().limit as usize).min(AFFECTED_MAX);
        self.blocking(move |gatherer| Ok(gatherer.affected(limit).into())).await
    }

    async fn get_file_info(&self, request: Request<wire::FileRequest>) -> Result<Response<wire::FileInfo>, Status> {
        let wire::FileRequest { inode, path } = request.into_inner();
        self.blocking(move |gatherer| files::info(&**gatherer.state(), inode, &path)).await
    }

    async fn get_goal(&self, request: Request<wire::GoalRequest>) -> Result<Response<wire::GoalReply>, Status> {
        let wire::GoalRequest { inode, path } = request.into_inner();
        self.blocking(move |gatherer| {
            let (_, node) = files::find(&**gatherer.state(), inode, &path)?;
            Ok(wire::GoalReply { goal: node.goal, kind: files::kind_name(node.kind()).to_owned() })
        })
        .await
    }

    async fn set_goal(&self, request: Request<wire::SetGoalRequest>) -> Result<Response<Self::SetGoalStream>, Status> {
        let wire::SetGoalRequest { inode, path, goal, recursive } = request.into_inner();
        let goal = Goal::try_from(goal).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let found = self.blocking(move |gatherer| files::find(&**gatherer.state(), inode, &path)).await?;
        let (inode, _) = found.into_inner();
        let (sender, receiver) = mpsc::channel(PROGRESS_MAX);
        let gatherer = Arc::clone(&self.gatherer);
        tokio::task::spawn_blocking(move || {
            let reach = if recursive { goals::Reach::Everything } else { goals::Reach::NodeOnly };
            goals::set(&**gatherer.state(), inode, goal, reach, &sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn export(&self, request: Request<wire::ExportRequest>) -> Result<Response<wire::ExportReply>, Status> {
        let path = request.into_inner().path;
        self.blocking(move |gatherer| export(gatherer, &path)).await
    }

    async fn checkpoint(&self, _: Request<wire::CheckpointRequest>) -> Result<Response<wire::CheckpointReply>, Status> {
        self.blocking(checkpoint).await
    }

    async fn forget_server(
        &self,
        request: Request<wire::ForgetServerRequest>,
    ) -> Result<Response<wire::ForgetServerReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| forget_server(&**gatherer.state(), &request)).await
    }
}

fn export(gatherer: &Gatherer, path: &str) -> Result<wire::ExportReply, Status> {
    let store = gatherer.store().ok_or_else(|| Status::unavailable("this master has no store to export"))?;
    let path = (!path.is_empty()).then(|| std::path::Path::new(path));
    if path.is_some_and(|path| !path.is_absolute()) {
        return Err(Status::invalid_argument("name the export by an absolute path on the master's machine"));
    }
    let now = gatherer.state().clock().now();
    let exported = gatherer.exports().export(store, path, now);
    let (path, report) = exported.map_err(|error| Status::internal(crate::exports::with_sources(&error)))?;
    Ok(wire::ExportReply {
        path: path.display().to_string(),
        bytes: report.bytes,
        records: report.records,
        position: report.position.get(),
    })
}

fn checkpoint(gatherer: &Gatherer) -> Result<wire::CheckpointReply, Status> {
    let store = gatherer.store().ok_or_else(|| Status::unavailable("this master has no store"))?;
    let clock = gatherer.state().clock();
    let (begun, position) = (clock.monotonic(), store.position().get());
    store.checkpoint().map_err(|error| Status::internal(error.to_string()))?;
    Ok(wire::CheckpointReply { position, took_ms: clock.monotonic().since(begun).as_millis() as u64 })
}

fn forget_server(
    state: &dyn MasterState,
    request: &wire::ForgetServerRequest,
) -> Result<wire::ForgetServerReply, Status> {
    let server = ServerId::new(request.server);
    let view = state.with_chunks(|chunks, _| chunks.server(server));
    let view = view.ok_or_else(|| Status::not_found(format!("no chunkserver {server} is known; see `rfs servers`")))?;
    if view.connected {
        return Err(Status::failed_precondition(format!(
            "chunkserver {server} on {} is connected; stop it before it is forgotten",
            view.host
        )));
    }
    let lost_chunks = state.with_chunks(|chunks, _| chunks.last_copies_of(server));
    let last_copies = lost_chunks.len();
    if last_copies > 0 && !request.last_copies {
        return Err(Status::failed_precondition(format!(
            "chunkserver {server} on {} has the last copies of {last_copies} chunks, which would be lost: bring it back, or \
             forget it with --last-copies",
            view.host
        )));
    }
    state.expect_copies(&lost_chunks).map_err(Status::internal)?;
    let change = crate::cluster::known::change_to_forget(server);
    state.commit(vec![change]).map_err(Status::internal)?;
    let forgotten = state.with_chunks(|chunks, _| chunks.forget_server(server));
    if !forgotten {
        return Err(Status::aborted(format!("chunkserver {server} has just come back; it was not forgotten")));
    }
    let lost = if last_copies > 0 { format!(", with the last copies of {last_copies} chunks") } else { String::new() };
    let what = format!("chunkserver {server} on {} was forgotten by an administrator{lost}", view.host);
    state.report(Severity::Warning, what);
    Ok(wire::ForgetServerReply {})
}

fn status_of(errno: Errno, what: &str) -> Status {
    match errno {
        Errno::ENOENT | Errno::ESTALE => Status::not_found(format!("there is no {what} in the cluster")),
        Errno::ENOTDIR => Status::not_found(format!("a part of {what} is not a directory")),
        Errno::ELOOP => Status::invalid_argument(format!("a part of {what} is a symbolic link; name the real path")),
        Errno::ENAMETOOLONG => Status::invalid_argument(format!("a name in {what} is too long")),
        other => Status::internal(format!("{what} cannot be read ({other:?}); see the master's log")),
    }
}

#[cfg(test)]
#[path = "admin_test.rs"]
mod tests;
