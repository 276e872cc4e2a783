//! The programs, one file per domain. A program is named `<domain>_<hook>`.

#[cfg(feature = "bench")]
mod baseline;
mod iterate;
mod lsm;
mod network;
mod probe;
mod process;
mod syscall;
