//! agent-monitor: sees and decides what an AI agent's process tree does, from outside the agent.
//!
//! A library so that tests, benchmarks and fuzz targets reach every part; the binary in `main.rs` only calls
//! [`cli::main`]. `policy` is pure, `kernel` is where the eBPF programs are, everything else carries between them and
//! people.

pub mod agent;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod event;
pub mod exit;
pub mod http;
pub mod kernel;
pub mod metrics;
pub mod policy;
pub mod resolver;
pub mod settings;
pub mod sink;
