//! Where events go: a file of JSON lines, and whoever follows live.
//!
//! Fed by `daemon::pipeline` in chunks of whole lines. What must stay true: no sink can hold up the reading of the
//! rings for longer than they have room. A sink that can't keep up or can't write loses events and counts them.

pub mod denials;
pub mod follow;
pub mod jsonl;

use bytes::Bytes;

/// Whole JSON lines, each ended by a newline.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub lines: Bytes,
    /// How many lines there are.
    pub events: u64,
}
