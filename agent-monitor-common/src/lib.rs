//! What the kernel side and the user side of agent-monitor share.
//!
//! Compiled twice: for `bpfel-unknown-none` into every eBPF program and for the host into the daemon. So whatever
//! decides here decides the same in both; a differential test runs the kernel's copy against the user's.
//!
//! Rules of this crate: `core` only; shared structs are `repr(C)` of integers and byte arrays with explicit padding
//! and asserted sizes (two compilers build the two sides); codes are decoded by `match` with an unknown arm.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod activity;
pub mod agent;
pub mod automaton;
pub mod counters;
pub mod decide;
pub mod event;
pub mod hello;
pub mod image;
pub mod label;
pub mod layout;
pub mod mark;
pub mod name;
pub mod path;
pub mod pin;
pub mod privilege;
pub mod request;
pub mod wire;

/// Version of everything in this crate that crosses the boundary: records, map values, image layout.
///
/// The daemon refuses an object that carries another one, and pins of another one. A record, a label or an agent's entry
/// that grows at its end, where zero means what its absence meant, is no other version.
pub const ABI_VERSION: u32 = 2;
