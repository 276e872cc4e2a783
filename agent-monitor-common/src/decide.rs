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
        Audit = 4 "audit",
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

    /// An unknown answer is a denial.
    #[inline(always)]
    const fn from_walk(state: u32) -> Self {
        if state == TERMINAL | 1 {
            return Decision::Allow;
        }
        if state == TERMINAL | 2 {
            return Decision::DenyRule;
        }
        if state == TERMINAL | 4 {
            return Decision::Audit;
        }
        Decision::DenyDefault
    }
}

/// `x`, of which the verifier shall know nothing: the many ways out of a walk then become one state, and what follows
/// is walked once instead of once for each.
#[inline(always)]
pub fn forget(x: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x as u64;
        // SAFETY: one AND with all ones, no memory.
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

/// Judges a network request of a program of `class` against an image.
///
/// IPv4 and its mapped form are one thing. An IPv6 destination that carries an IPv4 address (NAT64, 6to4, Teredo,
/// IPv4-compatible) must be granted as IPv6 *and* as that IPv4 address.
#[inline(always)]
pub fn decide<W: Words + ?Sized>(image: &W, class: Class, request: NetRequest) -> Decision {
    let mut outer = TERMINAL | 1;
    let v4 = match request.address.as_v4() {
        Some(v4) => v4,
        None => {
            let start = class.field(image, class::START_V6 + request.start());
            let state = walk(image, start, request.address, 0, request.port);
            let passes = state == TERMINAL | 1 || state == TERMINAL | 4;
            if !passes || matches!(request.direction, Direction::Listen) {
                return Decision::from_walk(state);
            }
            outer = state;
            match request.address.embedded_v4() {
                Some(v4) => v4,
                None => return Decision::from_walk(state),
            }
        }
    };
    let v4 = Address::v4(forget(v4));
    let start = class.field(image, class::START_V4 + request.start());
    let inner = walk(image, start, v4, 12, request.port);
    // One form that is told of is enough, and 4 is that answer.
    Decision::from_walk(if inner == TERMINAL | 1 { outer } else { inner })
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
