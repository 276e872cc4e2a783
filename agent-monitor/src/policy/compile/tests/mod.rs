//! The compiler against independent readings of the same rules.

mod network;
mod path;
