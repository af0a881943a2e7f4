//! rfs proto.
