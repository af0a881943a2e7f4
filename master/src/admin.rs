//! What `rfs` asks of the master (`admin.proto`). Adapters only: reports come from [`Gatherer`], changes go through
//! [`MasterState`].
//!
//! Everything here may wait for the engine's lock or for disks, so all of it runs on threads that may block. Setting a goal
//! recursively walks the tree in batches of bounded size, each its own transaction, so that clients are not held up; what
//! is created meanwhile inherits the goal of its directory.

mod drain;
mod exports;
mod files;
mod forget;
mod goals;
mod maintenance;

use std::sync::Arc;

use rfs_common::errno::Errno;
use rfs_common::ids::{Goal, VolumeId};
use rfs_proto::admin as wire;
use rfs_proto::admin::admin_server::{Admin, AdminServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::chunks::{ServerView, VolumeView};
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
    type FetchExportStream = ReceiverStream<Result<wire::ExportPart, Status>>;

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

    async fn export(&self, _: Request<wire::ExportRequest>) -> Result<Response<wire::ExportReply>, Status> {
        self.blocking(exports::export).await
    }

    async fn fetch_export(
        &self,
        request: Request<wire::FetchExportRequest>,
    ) -> Result<Response<Self::FetchExportStream>, Status> {
        let name = request.into_inner().name;
        let file = self.blocking(move |gatherer| exports::open(gatherer, &name)).await?.into_inner();
        let (sender, receiver) = mpsc::channel(PROGRESS_MAX);
        tokio::task::spawn_blocking(move || exports::send(file, &sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn checkpoint(&self, _: Request<wire::CheckpointRequest>) -> Result<Response<wire::CheckpointReply>, Status> {
        self.blocking(checkpoint).await
    }

    async fn forget_server(
        &self,
        request: Request<wire::ForgetServerRequest>,
    ) -> Result<Response<wire::ForgetServerReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| forget::server(&**gatherer.state(), &request)).await
    }

    async fn drain_volume(
        &self,
        request: Request<wire::DrainVolumeRequest>,
    ) -> Result<Response<wire::DrainReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| drain::volume(&**gatherer.state(), &request)).await
    }

    async fn drain_server(
        &self,
        request: Request<wire::DrainServerRequest>,
    ) -> Result<Response<wire::DrainReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| drain::server(&**gatherer.state(), &request)).await
    }

    async fn set_maintenance(
        &self,
        request: Request<wire::MaintenanceRequest>,
    ) -> Result<Response<wire::MaintenanceReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| maintenance::set(&**gatherer.state(), &request)).await
    }

    async fn forget_volume(
        &self,
        request: Request<wire::ForgetVolumeRequest>,
    ) -> Result<Response<wire::ForgetVolumeReply>, Status> {
        let request = request.into_inner();
        self.blocking(move |gatherer| forget::volume(&**gatherer.state(), &request)).await
    }
}

/// The volume with its chunkserver.
fn find_volume(state: &dyn MasterState, id: VolumeId) -> Result<(ServerView, VolumeView), Status> {
    let servers = state.with_chunks(|chunks, _| chunks.servers());
    let found = servers.into_iter().find_map(|server| {
        let volume = server.volumes.iter().find(|volume| volume.report.volume == id).cloned()?;
        Some((server, volume))
    });
    found.ok_or_else(|| Status::not_found(format!("no volume {id} is known; see `rfs volumes`")))
}

fn checkpoint(gatherer: &Gatherer) -> Result<wire::CheckpointReply, Status> {
    let store = gatherer.store().ok_or_else(|| Status::unavailable("this master has no store"))?;
    let clock = gatherer.state().clock();
    let (begun, position) = (clock.monotonic(), store.position().get());
    store.checkpoint().map_err(|error| crate::grpc::failed(error.to_string()))?;
    Ok(wire::CheckpointReply { position, took_ms: clock.monotonic().since(begun).as_millis() as u64 })
}

fn status_of(errno: Errno, what: &str) -> Status {
    match errno {
        Errno::ENOENT | Errno::ESTALE => Status::not_found(format!("there is no {what} in the cluster")),
        Errno::ENOTDIR => Status::not_found(format!("a part of {what} is not a directory")),
        Errno::ELOOP => Status::invalid_argument(format!("a part of {what} is a symbolic link; name the real path")),
        Errno::ENAMETOOLONG => Status::invalid_argument(format!("a name in {what} is too long")),
        other => crate::grpc::failed(format!("{what} cannot be read ({other:?}); see the master's log")),
    }
}

#[cfg(test)]
#[path = "admin_test.rs"]
mod tests;
