//! The agent table: one entry per governed process tree.

use crate::wire_struct;

/// Agents alive at one time. A claim beyond it is counted, and its process gets its bit and no label: denied.
pub const MAX_AGENTS: usize = 4_096;

wire_struct! {
    /// What the kernel keeps of one agent.
    pub struct AgentState: 72 {
        /// Profile slot.
        pub profile: u32,
        /// The tgid that was labelled first.
        pub root: u32,
        /// Labelled processes alive.
        pub live: u64,
        /// Boot-clock nanoseconds at which it was made.
        pub created_ns: u64,
        /// Verdict records that the full ring refused.
        pub lost_verdicts: u64,
        /// Activity records that the full ring refused.
        pub lost_activity: u64,
        /// Denials (would-denials too).
        pub denied: u64,
        /// Kills for a listed system call (would-be kills too); never among the denials.
        pub killed: u64,
        /// Flows and operations that were judged and allowed; without those of its living processes that their labels
        /// count ([`crate::label::Label::allowed`]).
        pub allowed: u64,
        /// [`crate::label::LabelOrigin`] code of the first process.
        pub origin: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// Asks the iterators to label a process, its living descendants and the sockets they hold; or to find the classes
    /// of a profile's processes by an image that is about to be in force.
    pub struct AttachRequest: 40 {
        /// Agent to tie them to.
        pub agent: u32,
        /// Profile slot.
        pub profile: u32,
        /// The tree's root; 0: only descendants of what already carries `agent`.
        pub root: u32,
        /// [`crate::label::LabelOrigin`] code.
        pub origin: u32,
        /// Written by the iterator: processes labelled by this pass.
        pub labelled: u32,
        /// Written by the iterator: sockets labelled by this pass.
        pub sockets: u32,
        /// Written by the iterator: labels or sockets that could not be written.
        pub failed: u32,
        /// Image slot by which classes are found.
        pub image: u32,
        /// Generation that this image has or will have.
        pub generation: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// One line of the flow iterator: a socket that its agent's profile no longer grants.
    pub struct StaleFlow: 16 {
        /// Process that holds it.
        pub tgid: u32,
        /// Its descriptor there.
        pub fd: u32,
        /// Its agent.
        pub agent: u32,
        /// Remote port.
        pub port: u32,
    }
}
