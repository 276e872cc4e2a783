//! agent-monitor: sees and decides what an AI agent's process tree does, from outside the agent.
//!
//! A library so that tests, benchmarks and fuzz targets reach every part; the binary in `main.rs` only calls
//! [`cli::main`]. `policy` is pure, `kernel` is where the eBPF programs are, everything else carries between them and
//! people.

pub mod agent;
pub mod cli;
pub mod event;
pub mod kernel;
pub mod policy;
pub mod sink;
