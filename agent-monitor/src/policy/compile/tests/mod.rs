//! The compiler against independent readings of the same rules.

mod files;
mod leases;
mod names;
mod network;
pub(super) mod path;
mod privileges;
mod programs;
