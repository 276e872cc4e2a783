//! The profile language: what a person writes about an agent, read, checked
//! and resolved into plain values.
//!
//! The compiler, the daemon and the commands start from [`ResolvedProfile`];
//! nothing behind this module looks at YAML. What must stay true: a profile
//! that leaves this module is complete and free of errors, and a profile with
//! errors reports all of them at once, each with its place in the file.

pub mod resolved;
pub mod sockets;
pub mod syscalls;

pub use resolved::{
    Claim, ClaimKind, Denied, Mode, NetRule, NetworkPolicy, Protocol, ProtocolSet, ResolvedProfile, Source,
    SyscallRule,
};
pub use sockets::{SocketKind, SocketKinds};
