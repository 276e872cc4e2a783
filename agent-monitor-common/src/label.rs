//! Labels: the few words that tie a process or a socket to its agent, and the bitmap in front of them.
//!
//! A process without a label costs every hook one bit test. The bit is set *before* the label is written and cleared
//! after it is removed: a set bit without a label (map full, a write that failed) means "an agent whose label was
//! lost", and every hook denies it.

use crate::{wire_codes, wire_struct};

/// Processes the bitmap can tell apart: Linux's `PID_MAX_LIMIT` on 64-bit.
pub const PID_LIMIT: u32 = 1 << 22;
/// 64-bit words of the bitmap (512 KiB).
pub const BITMAP_WORDS: usize = (PID_LIMIT / 64) as usize;
/// Labelled processes at one time. Beyond it a fork's child has its bit and no label: it is denied everything.
pub const MAX_LABELS: usize = 32_768;

wire_struct! {
    /// The label of a process, keyed by tgid.
    pub struct Label: 16 {
        /// Key in the agent table; never 0, never reused while the programs are loaded.
        pub agent: u32,
        /// Profile slot, below [`crate::image::MAX_PROFILES`].
        pub profile: u32,
        /// Parent's tgid at the time of labelling.
        pub parent: u32,
        /// [`LabelOrigin`] code.
        pub origin: u32,
    }
}

wire_codes! {
    /// How a process came by its label.
    pub enum LabelOrigin: u32 {
        /// `agent-monitor run`.
        Run = 1 "run",
        /// `agent-monitor attach`, or a cgroup claim.
        Attach = 2 "attach",
        /// Its exec matched a profile's claim.
        Exec = 3 "exec",
        /// Its parent had a label.
        Fork = 4 "fork",
        /// Found alive when the daemon started.
        Scan = 5 "scan",
    }
}

/// The word of the bitmap and the bit in it that stand for `tgid`.
#[inline(always)]
pub const fn bit_of(tgid: u32) -> (usize, u64) {
    (((tgid >> 6) as usize) & (BITMAP_WORDS - 1), 1 << (tgid & 63))
}

wire_struct! {
    /// The label of a socket, in socket storage (cloned to accepted sockets).
    pub struct SocketLabel: 24 {
        /// Agent of the process that made, used or received it last.
        pub agent: u32,
        /// Profile slot of that agent.
        pub profile: u16,
        /// [`SOCKET_SERVER`].
        pub flags: u16,
        /// [`flow_tag`] of the last flow that was judged and allowed; 0: none.
        pub allowed: u64,
        /// [`flow_tag`] of the last flow that was denied and reported; 0: none.
        pub denied: u64,
    }
}

/// The socket listens by a grant: its own and its accepted children's packets are judged as `listen`, by local port.
pub const SOCKET_SERVER: u16 = 1;

/// Bits of the generation in a [`flow_tag`].
const TAG_GENERATION: u32 = (1 << 12) - 1;

/// One word that names a judged IPv4 flow: what was asked about an address (direction, protocol, port) under which
/// generation of the policy; never 0.
///
/// A socket's storage remembers the last flow's tag, so that the egress hook does not decide again what the
/// connect or sendmsg hook decided. One word, so that two threads on one socket can't tear it. Without the direction
/// a socket that had called its own host's port could listen there.
/// The generation wraps at 2^12 reloads of one profile.
#[inline(always)]
pub const fn flow_tag(v4: u32, port: u16, direction: u8, protocol: u8, generation: u32) -> u64 {
    1 << 63
        | ((generation & TAG_GENERATION) as u64) << 51
        | ((direction & 1) as u64) << 50
        | ((protocol & 3) as u64) << 48
        | (port as u64) << 32
        | v4 as u64
}
