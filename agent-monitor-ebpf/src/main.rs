//! The eBPF programs. A build for any other target is an empty program, so that `cargo test --workspace` works.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
