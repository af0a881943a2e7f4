//! `rfs-bench`: the same workloads on an rfs cluster, on two MooseFS clusters and on a local XFS volume, in turns.
//!
//! The clusters are real ones with every daemon on an XFS loop volume of its own and two copies of all data; one MooseFS is as
//! it ships, the other syncs what it can sync. Each figure is the median of the rounds; ratios are taken round by round,
//! because machines are shared and noisy. What was written is read again and compared: a run whose data is wrong reports nothing.

mod chart;

mod cost;

mod meter;

mod places;

mod report;

mod workloads;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use rfs_common::shutdown::Shutdown;

/// Measures rfs beside MooseFS and a local XFS volume. Needs root: it makes loop devices, mounts and network namespaces.
#[derive(Debug, Parser)]
#[command(name = "rfs-bench", version)]
struct Cli {
    /// Folder of mfs-master, chunkserver, rfs and mount-rfs.
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
    /// Where to keep volumes and mounts: a folder that is not there yet. Up to 60 GiB, with all places.
    #[arg(long, default_value = "/var/tmp/rfs-bench")]
    dir: PathBuf,
    /// What to measure, ours first.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["rfs", "moosefs", "moosefs-fsync", "xfs"])]
    places: Vec<places::Kind>,
    /// Also measure these mounted folders, as NAME=PATH.
    #[arg(long, value_name = "NAME=PATH")]
    beside: Vec<String>,
    /// Only these workloads; all without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<workloads::Group>,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Files of each metadata workload with one thread; with eight, each has half as many.
    #[arg(long, default_value_t = 1000)]
    files: usize,
    /// Files of the source tree.
    #[arg(long, default_value_t = 20_000)]
    tree_files: usize,
    /// MiB of each stream, and of the file whose scattered places are read and written.
    #[arg(long, default_value_t = 2048)]
    stream_mib: usize,
    /// Write the figures of every round here, as comma-separated values.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with plots here, as HTML.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let shutdown = Shutdown::on_signals().context("cannot take signals")?;
    let places = places::Places::start(&cli.bin_dir, &cli.dir, &cli.places, &cli.beside);
    let places = places.context("cannot set the places up")?;
    let groups = if cli.only.is_empty() { workloads::Group::value_variants() } else { &cli.only[..] };
    let sizes = workloads::Sizes {
        files: cli.files.max(8),
        tree_files: cli.tree_files,
        stream_bytes: cli.stream_mib.max(8) << 20,
    };
    let mut report = report::Report::new(places.names());
    for round in 0..cli.rounds {
        for place in places.in_turn(round) {
            eprintln!("round {} of {}: {}", round + 1, cli.rounds, place.name);
            let folder = format!("round{round}");
            fs::create_dir(place.path.join(&folder))
                .with_context(|| format!("cannot work in {}", place.path.display()))?;
            let mut meter = meter::Meter::new(place, shutdown.clone());
            workloads::run(place, &folder, sizes, groups, &mut meter)
                .with_context(|| format!("{}, round {}: no figures are reported", place.name, round + 1))?;
            report.add(&place.name, round, meter.into_rows());
            fs::remove_dir_all(place.path.join(&folder))?;
            report.add_peak_memory(&place.name, place.peak_memory_mib());
        }
    }
    if let Some(path) = &cli.csv {
        fs::write(path, report.csv()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &cli.page {
        fs::write(path, chart::page(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    report.print()
}
