//! rfs common.
