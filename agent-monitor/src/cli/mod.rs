//! The commands of `agent-monitor`, one file each.
//!
//! A file holds the command's arguments and a `run` that turns them into an
//! exit code; what a command does is in the library beside it.

pub mod check;
pub mod schema;
