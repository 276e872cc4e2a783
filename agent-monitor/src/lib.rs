//! lib
pub mod policy;
