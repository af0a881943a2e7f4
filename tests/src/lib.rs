//! rfs tests.
