//! Whole clusters of real binaries, for the tests in `tests/tests/`: start, kill, pause, cut, compare.
//!
//! A test builds a [`cluster::Cluster`], works on its [`mounts`](cluster::Mount) through the kernel as any program does, and
//! breaks things on the way. Everything a test starts (processes, mounts, loop devices, folders) is told to a
//! [`guardian`] process first, which removes it when the test ends, however it ends: also by SIGKILL of the
//! runner. Logs stay where a failed test says.
//!
//! Tests need root and /dev/fuse and say so loudly; none is skipped.

pub mod guardian;

pub mod programs;

pub mod volumes;

pub mod network;

mod daemon;

mod ports;

pub mod cluster;

pub mod browser;

pub mod workload;

pub mod model;

pub mod conformance;

pub mod semantics;

pub mod power;

pub mod linearizable;
