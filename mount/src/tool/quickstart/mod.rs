//! `rfs quickstart`: a whole cluster on this machine, as real processes in the background.
//!
//! `DIR/quickstart.toml` remembers what the cluster consists of (the plan), so that a second run starts what is down and
//! changes nothing else. Process ids stand in `DIR/run/NAME.pid`, logs in `DIR/log/NAME.log`.

pub(super) mod programs;

mod plan;

mod processes;

mod start;

mod stop;

use super::cli::QuickstartArguments;
use super::output::Form;

/// Starts or ends a cluster.
pub(super) fn quickstart(arguments: &QuickstartArguments, form: Form) -> anyhow::Result<()> {
    if arguments.stop { stop::stop(arguments, form) } else { start::start(arguments, form) }
}
