//! The eBPF programs of agent-monitor.
//!
//! Every hook asks one bit first: does the current process carry a label? (`subject.rs`). With a label it builds a
//! request, lets `agent_monitor_common::decide` judge it against the agent's image, and reports what it did
//! (`emit.rs`). A helper that fails is counted by site and, in an enforcing profile, denies (`fail.rs`).
//!
//! A build for any other target is an empty program, so that `cargo test --workspace` works.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

/// A debug line from a program, with the feature `kernel-log`; else nothing, not even its arguments.
#[cfg(target_arch = "bpf")]
macro_rules! log {
    ($ctx:expr, $($words:tt)+) => {
        #[cfg(feature = "kernel-log")]
        aya_log_ebpf::debug!($ctx, $($words)+);
    };
}

#[cfg(target_arch = "bpf")]
mod activity;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod automaton;
#[cfg(target_arch = "bpf")]
mod directory;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod ends;
#[cfg(target_arch = "bpf")]
mod fail;
#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod mark;
#[cfg(target_arch = "bpf")]
mod name;
#[cfg(target_arch = "bpf")]
mod path;
#[cfg(target_arch = "bpf")]
mod path_hash;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod storage;
#[cfg(target_arch = "bpf")]
mod subject;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier refuses an endless loop: a panic that can be reached fails the load, not the host.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
