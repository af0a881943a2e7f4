//! Selects the mount implementation. This copy keeps only the pure Rust one, so there is nothing to probe for.

fn main() {
    println!("cargo::rustc-cfg=fuser_mount_impl=\"pure-rust\"");
}
