//! Agents: who is governed, how a process comes under a label, and how a flow that lost its grant is cut.

pub mod capabilities;
pub mod cgroup;
pub mod confine;
pub mod cut;
pub mod denied;
pub mod known;
pub mod landlock;
pub mod launch;
pub mod registry;
pub mod scan;
pub mod seccomp;
