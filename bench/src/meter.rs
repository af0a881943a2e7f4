//! Measures one workload on one place: time, CPU of its daemons, requests to its master.

use rfs_common::clock::{SharedClock, SystemClock};
use rfs_common::shutdown::Shutdown;

use crate::places::Place;

/// How much a workload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// Calls, files or transactions.
    Operations(usize),
    /// Bytes of a stream.
    Bytes(usize),
}

impl Amount {
    /// What its figures count.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Amount::Operations(_) => "per s",
            Amount::Bytes(_) => "MB/s",
        }
    }

    fn count(self) -> f64 {
        match self {
            Amount::Operations(count) => count as f64,
            Amount::Bytes(bytes) => bytes as f64 / 1e6,
        }
    }
}

/// One workload's result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Which workload.
    pub(crate) workload: String,
    /// How much was done.
    pub(crate) amount: Amount,
    /// How long it took.
    pub(crate) seconds: f64,
    /// CPU time of all daemons and the mount meanwhile; none where there are none.
    pub(crate) cpu_seconds: Option<f64>,
    /// Requests that the place's master answered meanwhile, where it counts them.
    pub(crate) master_requests: Option<f64>,
}

impl Row {
    /// Per second, or MB/s. More is better.
    pub(crate) fn speed(&self) -> f64 {
        self.amount.count() / self.seconds
    }

    /// Milliseconds of CPU for each operation, or seconds of CPU for each GB.
    pub(crate) fn cpu_each(&self) -> Option<f64> {
        Some(self.cpu_seconds? * 1000.0 / self.amount.count())
    }

    /// Requests to the master for each operation, or for each MB.
    pub(crate) fn requests_each(&self) -> Option<f64> {
        Some(self.master_requests? / self.amount.count())
    }
}

/// Measures the workloads of one round on one place.
pub(crate) struct Meter<'a> {
    place: &'a Place,
    rows: Vec<Row>,
    shutdown: Shutdown,
    clock: SharedClock,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(place: &'a Place, shutdown: Shutdown) -> Meter<'a> {
        Meter { place, rows: Vec::new(), shutdown, clock: SystemClock::shared() }
    }

    /// Does the work and notes what it took.
    pub(crate) fn measure(
        &mut self,
        workload: impl Into<String>,
        amount: Amount,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let workload = workload.into();
        anyhow::ensure!(!self.shutdown.is_requested(), "told to end before \"{workload}\"");
        let (cpu, requests) = (self.place.cpu_seconds(), self.place.master_requests());
        let start = self.clock.monotonic();
        work().map_err(|error| error.context(workload.clone()))?;
        let seconds = self.clock.monotonic().since(start).as_secs_f64();
        let since = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
        let cpu_seconds = since(cpu, self.place.cpu_seconds());
        let master_requests = since(requests, self.place.master_requests());
        self.rows.push(Row { workload, amount, seconds, cpu_seconds, master_requests });
        Ok(())
    }

    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_and_costs_are_for_each_operation_or_gigabyte() {
        let row = |amount| Row {
            workload: String::new(),
            amount,
            seconds: 2.0,
            cpu_seconds: Some(1.0),
            master_requests: Some(500.0),
        };
        let (operations, bytes) = (row(Amount::Operations(1000)), row(Amount::Bytes(1_000_000_000)));
        assert!((operations.speed() - 500.0).abs() < 1e-9 && (bytes.speed() - 500.0).abs() < 1e-9);
        assert_eq!((operations.cpu_each(), bytes.cpu_each()), (Some(1.0), Some(1.0)));
        assert_eq!((operations.requests_each(), bytes.requests_each()), (Some(0.5), Some(0.5)));
    }
}
