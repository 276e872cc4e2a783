//! The kernel side as userspace sees it: loads the programs, installs images, labels processes, reads rings and
//! counters. Called by the daemon, `doctor` and the kernel tests.
//!
//! What must stay true: a failed step leaves what was in force; an image becomes visible by one word, written last;
//! nothing here prints; what is pinned
//! outlives the process (`pins.rs`), and the next one takes it over as it is or copies it (`transfer.rs`).

#[cfg(feature = "bench")]
mod baseline;
mod btf;
mod control;
mod counters;
#[cfg(feature = "kernel-log")]
mod debug_log;
mod detach;
mod digests;
mod features;
mod governed;
#[cfg(feature = "fault-injection")]
mod inject;
mod install;
mod kallsyms;
mod labels;
mod lease;
mod loader;
mod marks;
mod names;
mod path_probe;
mod pins;
mod posture;
mod probe;
pub mod programs;
mod records;
mod rings;
mod survival;
mod syscalls;
mod transfer;
mod used;

#[cfg(feature = "bench")]
pub use baseline::BaselinePorts;
pub use btf::{LayoutError, resolve_layout};
pub use counters::{Counters, ProgramStats};
pub use detach::{Detached, detach};
pub use features::{Features, MissingCapability, check_privileges};
pub use install::InstallError;
pub use labels::{LabelError, Labelled};
pub use lease::Deadline;
pub use loader::{Kernel, LoadError, LoadOptions};
pub use marks::{DeniedObject, MarkError};
pub use names::{NameMaps, spoken_key};
pub use pins::{AgentNote, Origin, PinError, PinnedProfile, Pinning, is_noted_as};
pub use posture::{Gap, IMA, Mechanism, Posture, State};
pub use probe::{ProbeError, ProbeRun};
pub use rings::RingReader;
pub use used::UsedReader;
