//! The data port: chunk bytes in and out. One thread per connection, which reads a request, does it and writes the answer
//! itself, so that no request waits for another thread to wake up (docs/hot-paths.md).

pub mod stream;

pub mod peers;

pub mod requests;

pub mod connection;

pub mod port;

pub mod local_port;
