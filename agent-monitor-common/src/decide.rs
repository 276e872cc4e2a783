//! The one decision function. Kernel hooks, `explain`, tests: all call this.

use crate::automaton::{PORTS, TERMINAL, Words, step};
use crate::image::{Class, class};
use crate::request::{Address, Direction, NetRequest, Protocol, SocketKind};
use crate::wire_codes;

wire_codes! {
    /// What the automaton's walk ends in.
    pub enum Decision: u32 {
        /// No rule grants it.
        DenyDefault = 0 "deny-default",
        /// Granted by a rule, and no rule denies it.
        Allow = 1 "allow",
        /// A rule denies it.
        DenyRule = 2 "deny-rule",
        /// Granted by rules that look at what a TLS client says first. Only of names.
        AllowHello = 3 "allow-hello",
        /// Granted, and a rule that is tried out (`audit: true`) would deny it: it goes on and is told.
        Audit = 5 "audit",
    }
}

impl Decision {
    /// Granted, whatever is said, and nothing is told.
    #[inline(always)]
    pub const fn allowed(self) -> bool {
        matches!(self, Decision::Allow)
    }

    /// It goes on, whatever is said.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        matches!(self, Decision::Allow | Decision::Audit)
    }

    /// Of an answer about an address. An unknown one is a denial.
    #[inline(always)]
    const fn from_answer(answer: u32) -> Self {
        match answer {
            1 => Decision::Allow,
            2 => Decision::DenyRule,
            5 => Decision::Audit,
            _ => Decision::DenyDefault,
        }
    }
}

/// `x`, of which the verifier shall know nothing: the many ways out of a walk then become one state, and what follows
/// is walked once instead of once for each.
#[inline(always)]
pub fn forget(x: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x as u64;
        // SAFETY: one AND with all ones, no memory. To tell the compiler that what fitted in 32 bits still does would
        // spare two shifts, which the verifier of 6.12 needs (`file_rename`: "BPF program is too large").
        unsafe { core::arch::asm!("{0} &= -1", inout(reg) x, options(pure, nomem, nostack)) };
        return x as u32;
    }
    #[cfg(not(target_arch = "bpf"))]
    x
}

/// Walks address bytes `first` to 15, or as many as matter, then the port. The state it ends in.
#[inline(always)]
fn walk<W: Words + ?Sized>(image: &W, start: u64, address: Address, first: usize, port: u16) -> u32 {
    let mut state = start as u32;
    let mut i = first;
    while i < 16 {
        if state & (TERMINAL | PORTS) != 0 {
            break;
        }
        state = step(image, state, address.byte(i));
        i += 1;
    }
    let mut state = forget(state);
    if state & TERMINAL == 0 {
        state = step(image, state & !PORTS, (port >> 8) as u8);
    }
    if state & TERMINAL == 0 {
        state = step(image, state & !PORTS, port as u8);
    }
    forget(state)
}

/// In the code of a decision: it goes on, whatever is said.
const PASSES: u32 = 1;
/// In the code of a decision that passes: it is told.
const TOLD: u32 = 4;
const _: () = assert!(
    Decision::Allow.code() == PASSES
        && Decision::Audit.code() == PASSES | TOLD
        && Decision::DenyRule.code() & PASSES == 0
);

/// Judges a network request of a program of `class` against an image.
///
/// IPv4 and its mapped form are one thing. An IPv6 destination that carries an IPv4 address (NAT64, 6to4, Teredo,
/// IPv4-compatible) must be granted as IPv6 *and* as that IPv4 address.
#[inline(always)]
pub fn decide<W: Words + ?Sized>(image: &W, class: Class, request: NetRequest) -> Decision {
    Decision::from_answer(answer(image, class, request))
}

/// The same, as the [`Decision`]'s code; another number is a denial by default.
// VERIFIER: "BPF program is too large": no branch for what the answer is, so that what follows is walked once.
#[inline(always)]
pub fn answer<W: Words + ?Sized>(image: &W, class: Class, request: NetRequest) -> u32 {
    let mut outer = PASSES;
    let v4 = match request.address.as_v4() {
        Some(v4) => v4,
        None => {
            let start = class.field(image, class::START_V6 + request.start());
            outer = walk(image, start, request.address, 0, request.port) ^ TERMINAL;
            if outer & !TOLD != PASSES || matches!(request.direction, Direction::Listen) {
                return outer;
            }
            match request.address.embedded_v4() {
                Some(v4) => v4,
                None => return outer,
            }
        }
    };
    let v4 = Address::v4(forget(v4));
    let start = class.field(image, class::START_V4 + request.start());
    let inner = walk(image, start, v4, 12, request.port) ^ TERMINAL;
    // Where both pass, one that is told of is enough.
    inner | outer & inner << 2 & TOLD
}

/// Judges a request to an address that stands for a name of class `name`. The address itself was judged before: what a
/// rule denies stays denied.
#[inline(always)]
pub fn decide_name<W: Words + ?Sized>(
    image: &W,
    class: Class,
    name: u16,
    protocol: Protocol,
    port: u16,
) -> Decision {
    match name_answer(image, class, name, protocol, port) {
        1 => Decision::Allow,
        2 => Decision::DenyRule,
        3 => Decision::AllowHello,
        _ => Decision::DenyDefault,
    }
}

/// The same, as the [`Decision`]'s code; another number is a denial.
#[inline(always)]
pub fn name_answer<W: Words + ?Sized>(
    image: &W,
    class: Class,
    name: u16,
    protocol: Protocol,
    port: u16,
) -> u32 {
    let start = class.field(image, class::START_NAME + (protocol as usize & 3));
    let name = Address([0, 0, 0, (name as u32).to_be()]);
    walk(image, start, name, 14, port) ^ TERMINAL
}

/// Whether an image grants a program of `class` a kind of socket.
#[inline(always)]
pub fn decide_socket<W: Words + ?Sized>(image: &W, class: Class, kind: SocketKind) -> Decision {
    if class.field(image, class::SOCKETS) >> kind.code() & 1 == 1 {
        Decision::Allow
    } else {
        Decision::DenyDefault
    }
}
