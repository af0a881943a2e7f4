//! What a daemon sets for its own process before it begins.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Makes what this process creates from now on its own user's alone: what a daemon stores is told to others by its protocol,
/// which asks who may see it. To be called before there are other threads.
pub fn keep_new_files_private() {
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Connections and open files are what a daemon's work costs; the system's default for a process is too low.
pub fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised; allow fewer connections and open files, or raise it \
                               for the service (LimitNOFILE)");
    }
}
