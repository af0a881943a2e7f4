//! The client's session with the master.
