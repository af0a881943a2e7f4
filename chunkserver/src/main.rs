//! The `chunkserver` program.

fn main() {}
