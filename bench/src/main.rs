//! `rfs-bench`: the same workloads on an rfs cluster and on a local XFS volume, in turns, as a table.
//!
//! The cluster is a real one (`rfs quickstart`) with every daemon on an XFS loop volume of its own, so that its parts stand
//! on what the peer stands on. Each figure is the median of the rounds; the ratio is taken round by round, because the
//! machine is shared and noisy. Every byte read is checked: a run whose data is wrong reports nothing.

mod daemons;

mod places;

mod report;

mod workloads;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

/// Measures rfs beside a local XFS volume. Needs root: it makes loop devices and mounts.
#[derive(Debug, Parser)]
#[command(name = "rfs-bench", version)]
struct Cli {
    /// Folder of mfs-master, chunkserver, rfs and mount-rfs.
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
    /// Where to keep volumes and mounts; about 12 GiB are needed.
    #[arg(long, default_value = "/var/tmp/rfs-bench")]
    dir: PathBuf,
    /// Also measure these mounted folders (a MooseFS, for example), as NAME=PATH.
    #[arg(long, value_name = "NAME=PATH")]
    beside: Vec<String>,
    /// Words in the command lines of such a place's daemons, to count what they use, as NAME=WORD.
    #[arg(long, value_name = "NAME=WORD")]
    daemons: Vec<String>,
    /// Only these workloads; all without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<workloads::Group>,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Files of each metadata workload and thread.
    #[arg(long, default_value_t = 1000)]
    files: usize,
    /// MiB of each stream.
    #[arg(long, default_value_t = 512)]
    stream_mib: usize,
    /// Print comma-separated values, a line for each workload, place and round.
    #[arg(long)]
    csv: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let places = places::Places::start(&cli.bin_dir, &cli.dir, &cli.beside, &cli.daemons);
    let places = places.context("cannot set the places up")?;
    let groups = if cli.only.is_empty() { workloads::Group::value_variants() } else { &cli.only[..] };
    let sizes = workloads::Sizes { files: cli.files, stream_bytes: cli.stream_mib << 20 };
    let mut report = report::Report::default();
    for round in 0..cli.rounds {
        for place in places.in_turn(round) {
            let folder = place.path.join(format!("round{round}"));
            std::fs::create_dir(&folder).with_context(|| format!("cannot work in {}", place.path.display()))?;
            let before = daemons::usage(&place.daemons);
            for figure in workloads::run(&folder, sizes, groups).with_context(|| format!("on {}", place.name))? {
                report.add(&place.name, &figure);
            }
            std::fs::remove_dir_all(&folder)?;
            report.add_usage(&place.name, before, daemons::usage(&place.daemons));
        }
    }
    report.print(cli.csv)
}
