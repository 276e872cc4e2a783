//! The programs, one file per domain. A program is named `<domain>_<hook>`.

mod iterate;
mod lsm;
mod network;
mod probe;
mod process;
mod syscall;
