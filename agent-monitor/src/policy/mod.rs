//! The profile language: what a person writes about an agent, read, checked
//! and resolved into plain values.
//!
//! The compiler, the daemon and the commands start from [`ResolvedProfile`];
//! nothing behind this module looks at YAML. What must stay true: a profile
//! that leaves this module is complete and free of errors, and a profile with
//! errors reports all of them at once, each with its place in the file.

mod at_once;
pub mod attribute;
pub mod blast_radius;
pub mod capabilities;
pub mod cases;
mod check;
pub mod compile;
pub mod diagnostic;
pub mod diff;
pub mod directory;
mod expected;
mod globs;
pub mod homes;
pub mod hosts_from;
pub mod judge;
pub mod learn;
pub mod lease;
pub mod load;
mod merge;
mod model;
pub mod naive;
pub mod names;
mod overlap;
mod path_overlap;
mod pins;
mod pointless;
pub mod programs;
pub mod protected;
mod reader;
pub mod resolved;
pub mod schema;
pub mod sockets;
pub mod source;
mod structure;
pub mod syscalls;
pub mod tree;
pub mod unused;
mod words;
pub mod written;

pub use diagnostic::{Diagnostic, ProfileErrors, Severity};
pub use directory::{Directory, FailedProfile, load_directory, load_directory_on};
pub use load::{Base, Checked, Loaded, check_profile, check_profile_on, check_profile_while, load_profile};
pub use names::{HostPattern, NameClasses};
pub use programs::{Condition, Membership, ProgramRef, Programs};
pub use resolved::{
    Claim, ClaimKind, Denied, ExecPolicy, FilesPolicy, Granted, Mode, NetRule, NetworkPolicy, Notices,
    PathRule, Pin, PrivilegesPolicy, Protocol, ProtocolSet, ResolvedProfile, Source, SyscallRule, Targets,
    UnixPolicy,
};
pub use sockets::{SocketKind, SocketKinds};
