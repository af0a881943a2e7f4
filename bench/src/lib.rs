//! rfs bench.
