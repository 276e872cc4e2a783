//! Counters in the kernel: what was decided, what went wrong, what was lost.
//!
//! One per-CPU array each; the daemon sums and exports them.

use crate::{wire_codes, wire_struct};

wire_codes! {
    /// What a decision was about.
    pub enum Domain: u8 {
        /// A destination: connect, sendmsg, egress.
        NetworkOut = 0 "network_out",
        /// A local port: bind, listen, SYN-ACK.
        NetworkListen = 1 "network_listen",
        /// A socket family, type or protocol.
        Socket = 2 "socket",
        /// A listed system call.
        Syscall = 3 "syscall",
        /// Reading or writing a file, or changing a directory.
        File = 4 "file",
        /// A program, or a file mapped as code.
        Exec = 5 "exec",
        /// A privilege of the host: a capability, tracing, signals, mounts and the like.
        Privilege = 6 "privilege",
        /// A peer that is a Unix socket.
        Unix = 7 "unix",
        /// The name that a TLS client says first, where a rule asks for it.
        Sni = 8 "sni",
    }
}

wire_codes! {
    /// What a profile does with a denial.
    pub enum Mode: u8 {
        /// Everything is allowed; what `enforce` would deny is among the activity.
        Learn = 0 "learn",
        /// Everything is allowed; what `enforce` would deny is an event.
        Audit = 1 "audit",
        /// Denials deny.
        Enforce = 2 "enforce",
    }
}

impl Mode {
    /// The mode of a denial that is tried out: it is told, and denies nothing.
    #[inline(always)]
    pub const fn tried_out(self) -> Self {
        match self {
            Mode::Enforce => Mode::Audit,
            other => other,
        }
    }
}

wire_codes! {
    /// The outcome of a decision.
    pub enum Effect: u8 {
        /// Granted.
        Allow = 0 "allow",
        /// Not granted. In `learn` and `audit` mode the operation went on all the same.
        Deny = 1 "deny",
        /// The caller is to be killed for a listed system call: in mode `enforce` it is. No denial: the call has begun,
        /// and may have happened.
        Kill = 2 "kill",
    }
}

/// Number of [`Effect`]s.
const EFFECTS: usize = 3;

/// Cells of the decision counter.
pub const DECISIONS: usize = 9 * EFFECTS * 3;

/// The cell of a decision.
#[inline(always)]
pub const fn decision_cell(domain: Domain, effect: Effect, mode: Mode) -> u32 {
    decision_cell_of(domain, effect, mode as u32)
}

/// [`decision_cell`] by the code of a mode.
#[inline(always)]
pub const fn decision_cell_of(domain: Domain, effect: Effect, mode: u32) -> u32 {
    (domain as u32 * EFFECTS as u32 + effect as u32) * 3 + mode
}

wire_codes! {
    /// A place where a helper of the kernel side can fail. Every failure is counted here; in an enforcing profile it
    /// also denies, except where the operation is over (events, exits).
    pub enum Site: u32 {
        /// The bit is set and the label is not there.
        LabelMissing = 0 "label_missing",
        /// The label of a forked child could not be stored (map full).
        LabelInsert = 1 "label_insert",
        /// The entry of a new agent could not be stored.
        AgentInsert = 2 "agent_insert",
        /// A label's profile has no image.
        ImageMissing = 3 "image_missing",
        /// Socket storage could not be made.
        SocketStorage = 4 "socket_storage",
        /// Task storage could not be made.
        TaskStorage = 5 "task_storage",
        /// Packet bytes could not be read.
        PacketRead = 6 "packet_read",
        /// Kernel memory could not be read.
        KernelRead = 7 "kernel_read",
        /// User memory (argv) could not be read.
        UserRead = 8 "user_read",
        /// A path did not fit or its walk did not end.
        PathWalk = 9 "path_walk",
        /// `bpf_set_retval` refused the errno.
        SetRetval = 10 "set_retval",
        /// `bpf_send_signal` failed: a listed call was not killed.
        SendSignal = 11 "send_signal",
        /// The syscall counter's map was full.
        SyscallCount = 12 "syscall_count",
        /// The flow iterator could not write its line.
        SeqWrite = 13 "seq_write",
        /// A map that must have the element did not.
        MapLookup = 14 "map_lookup",
        /// The claims image gave an answer outside the profile table.
        ClaimRange = 15 "claim_range",
        /// The count of a repeated operation could not be stored: it is told of each time.
        UsedInsert = 16 "used_insert",
        /// Attributes of an object change, and the mount it was reached by is not known.
        NoMount = 17 "no_mount",
        /// Who asks for a name could not be stored.
        AskerInsert = 18 "asker_insert",
    }
}

wire_codes! {
    /// The two ring buffers.
    pub enum Ring: u32 {
        /// Denials, would-denials (not in `learn` mode), and listed system calls in every mode.
        Verdicts = 0 "verdicts",
        /// Everything else.
        Activity = 1 "activity",
    }
}

wire_struct! {
    /// Per-CPU totals of one ring.
    pub struct RingCounters: 16 {
        /// Records written.
        pub written: u64,
        /// Records that found the ring full.
        pub lost: u64,
    }
}
