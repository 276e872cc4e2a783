//! lib
pub mod kernel;
pub mod policy;
