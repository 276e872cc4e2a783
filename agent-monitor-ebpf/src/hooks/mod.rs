//! The programs, one file per domain. A program is named `<domain>_<hook>`.

#[cfg(feature = "bench")]
mod baseline;
mod file;
mod iterate;
mod lsm;
mod mount;
mod network;
mod privilege;
mod probe;
mod process;
mod syscall;
