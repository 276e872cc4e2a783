//! The programs, one file per domain. A program is named `<domain>_<hook>`.

mod attribute;
#[cfg(feature = "bench")]
mod baseline;
mod digest;
mod dns;
mod exec;
mod file;
pub mod hello;
mod iterate;
mod lsm;
mod mount;
mod network;
mod outside;
mod privilege;
mod probe;
mod process;
mod protect;
mod symlink;
mod syscall;
mod unix;
