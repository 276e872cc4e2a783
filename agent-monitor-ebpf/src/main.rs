//! The eBPF programs. `agent-monitor/build.rs` builds this crate for the BPF target; for any other target it is an
//! empty program, so that `cargo test --workspace` stays honest on a stable compiler.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Never reached: a panic that the compiler could not remove is an endless loop, which the verifier refuses.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel's GPL-only helpers ask for it.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
