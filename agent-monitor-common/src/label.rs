//! Labels: the few words that tie a process or a socket to its agent, and the bitmap in front of them.
//!
//! A process without a label costs every hook one bit test. The bit is set *before* the label is written and cleared
//! after it is removed: a set bit without a label (map full, a write that failed) means "an agent whose label was
//! lost", and every hook denies it.

use crate::image::{MAX_CLASSES, UNKNOWN_CLASS};
use crate::{wire_codes, wire_struct};

/// Processes the bitmap can tell apart: Linux's `PID_MAX_LIMIT` on 64-bit.
pub const PID_LIMIT: u32 = 1 << 22;
/// 64-bit words of the bitmap (512 KiB).
pub const BITMAP_WORDS: usize = (PID_LIMIT / 64) as usize;
/// Labelled processes at one time. Beyond it a fork's child has its bit and no label: it is denied everything.
pub const MAX_LABELS: usize = 32_768;

wire_struct! {
    /// The label of a process, keyed by tgid.
    pub struct Label: 64 {
        /// Key in the agent table; never 0, never reused while the programs are loaded.
        pub agent: u32,
        /// Profile slot, below [`crate::image::MAX_PROFILES`].
        pub profile: u32,
        /// Parent's tgid at the time of labelling.
        pub parent: u32,
        /// [`LabelOrigin`] code.
        pub origin: u32,
        /// The class of its program by the image of each of two generations: [`class_cell`] at `generation & 1`.
        pub classes: [u64; 2],
        /// The program that it runs, as [`program_identity`]; 0: not known.
        pub program: u64,
        /// The mount namespace in which it was labelled, as the kernel's address; 0: not known. Only programs that lie
        /// in it have a class: in another one, whoever made it says what lies at a path.
        pub mounts: u64,
        /// Programs that it has executed since it was labelled. A cell for another count is no longer true.
        pub execs: u32,
        /// Zero.
        pub pad: u32,
        /// Uses of files that were judged and allowed; not yet among those of its agent
        /// ([`crate::agent::AgentState::allowed`]), to which they are added when the process is gone.
        pub allowed: u64,
    }
}

impl Label {
    /// The class of the process by the image of `generation`; [`UNKNOWN_CLASS`] where no cell is for it.
    #[inline(always)]
    pub const fn class(&self, generation: u32) -> u32 {
        let cell = if generation & 1 == 0 { self.classes[0] } else { self.classes[1] };
        class_of_cell(cell, generation, self.execs)
    }
}

/// Bits of the exec count in a cell.
const CELL_EXECS: u32 = (1 << 24) - 1;

/// One word that says: by the image of `generation`, what runs since exec number `execs` is of `class`.
///
/// A reload numbers classes anew, and whoever writes a cell has looked at the program some time before. So a cell holds
/// what it was found for, in one word, and one that is for something else says nothing.
#[inline(always)]
pub const fn class_cell(class: u32, generation: u32, execs: u32) -> u64 {
    (generation as u64) << 32 | ((execs & CELL_EXECS) as u64) << 8 | (class & (MAX_CLASSES as u32 - 1)) as u64
}

/// The class that a cell names, if it is for this generation (never 0) and exec count.
#[inline(always)]
pub const fn class_of_cell(cell: u64, generation: u32, execs: u32) -> u32 {
    if generation != 0 && cell & !0xff == class_cell(0, generation, execs) {
        cell as u32 & (MAX_CLASSES as u32 - 1)
    } else {
        UNKNOWN_CLASS
    }
}

/// One word for the file of a program: its inode's address and number, mixed. `prctl(PR_SET_MM_EXE_FILE)` changes what
/// a process says it runs, and then the two differ.
#[inline(always)]
pub const fn program_identity(inode: u64, number: u64) -> u64 {
    inode ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
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
    pub struct SocketLabel: 80 {
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
        /// [`Label::program`] of the process that made, used with an address, or received it last.
        pub program: u64,
        /// The class of that program, as in [`Label::classes`], with an exec count of 0.
        pub classes: [u64; 2],
        /// [`flow_tag`] of the last flow that a name granted, with the name's class in the place of an IPv4 address, and
        /// [`AWAITS_HELLO`].
        pub named: u64,
        /// Where it goes: network order, IPv4 mapped.
        pub named_address: [u32; 4],
        /// Not 0: the socket was seen to be one of the governed cgroup, whose programs have it. A word of its own: one
        /// that is only ever set can't undo what another thread does to a flag.
        pub governed: u32,
        /// Zero.
        pub pad: u32,
    }
}

/// Questions about names that this socket asked went to the resolver.
pub const SOCKET_ASKS: u16 = 2;

/// Beside the class of a name that grants a flow: the TLS client must say a granted name first, and has not yet.
pub const AWAITS_HELLO: u32 = 1 << 16;

/// The socket listens by a grant: its own and its accepted children's packets are judged as `listen`, by local port.
pub const SOCKET_SERVER: u16 = 1;

/// Bits of the epoch in a [`flow_tag`].
const TAG_EPOCH: u32 = (1 << 12) - 1;

/// What holds for flows changes with it: the generation of the policy, and whether its leases have run out (`lapsed` 1).
#[inline(always)]
pub const fn epoch(generation: u32, lapsed: u32) -> u32 {
    generation << 1 | lapsed & 1
}

/// One word that names a judged IPv4 flow: what was asked about an address (direction, protocol, port) under which
/// [`epoch`] of the policy; never 0.
///
/// A socket's storage remembers the last flow's tag, so that the egress hook does not decide again what the
/// connect or sendmsg hook decided. One word, so that two threads on one socket can't tear it. Without the direction
/// a socket that had called its own host's port could listen there.
/// It wraps at 2^11 reloads of one profile.
#[inline(always)]
pub const fn flow_tag(v4: u32, port: u16, direction: u8, protocol: u8, epoch: u32) -> u64 {
    1 << 63
        | ((epoch & TAG_EPOCH) as u64) << 51
        | ((direction & 1) as u64) << 50
        | ((protocol & 3) as u64) << 48
        | (port as u64) << 32
        | v4 as u64
}
