//! Agents: who is governed, how a process comes under a label, and how a flow that lost its grant is cut.

pub mod cgroup;
pub mod cut;
pub mod launch;
pub mod registry;
pub mod scan;
