//! The one decision function. Kernel hooks, `explain`, tests: all call this.

use crate::automaton::{TERMINAL, Words, step};
use crate::image::{field, header};
use crate::request::{Address, Direction, NetRequest, SocketKind};
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
    }
}

impl Decision {
    #[inline(always)]
    pub const fn allowed(self) -> bool {
        matches!(self, Decision::Allow)
    }

    /// An unknown answer is a denial.
    #[inline(always)]
    const fn from_walk(state: u32) -> Self {
        if state & TERMINAL == 0 {
            return Decision::DenyDefault;
        }
        match state & !TERMINAL {
            1 => Decision::Allow,
            2 => Decision::DenyRule,
            _ => Decision::DenyDefault,
        }
    }
}

/// Walks address bytes `first` to 15, then the port.
#[inline(always)]
fn walk<W: Words + ?Sized>(image: &W, mut state: u32, address: Address, first: usize, port: u16) -> Decision {
    let mut i = first;
    while i < 16 {
        if state & TERMINAL != 0 {
            return Decision::from_walk(state);
        }
        state = step(image, state, address.byte(i));
        i += 1;
    }
    if state & TERMINAL == 0 {
        state = step(image, state, (port >> 8) as u8);
    }
    if state & TERMINAL == 0 {
        state = step(image, state, port as u8);
    }
    Decision::from_walk(state)
}

#[inline(always)]
fn decide_v4<W: Words + ?Sized>(image: &W, request: NetRequest, v4: u32) -> Decision {
    let start = field(image, header::START_V4 + request.start()) as u32;
    walk(image, start, Address::v4(v4), 12, request.port)
}

/// Judges a network request against an image.
///
/// IPv4 and its mapped form are one thing. An IPv6 destination that carries an IPv4 address (NAT64, 6to4, Teredo,
/// IPv4-compatible) must be granted as IPv6 *and* as that IPv4 address.
#[inline(always)]
pub fn decide<W: Words + ?Sized>(image: &W, request: NetRequest) -> Decision {
    if let Some(v4) = request.address.as_v4() {
        return decide_v4(image, request, v4);
    }
    let start = field(image, header::START_V6 + request.start()) as u32;
    let decision = walk(image, start, request.address, 0, request.port);
    if !decision.allowed() || matches!(request.direction, Direction::Listen) {
        return decision;
    }
    match request.address.embedded_v4() {
        Some(v4) => decide_v4(image, request, v4),
        None => decision,
    }
}

/// Whether an image grants a kind of socket.
#[inline(always)]
pub fn decide_socket<W: Words + ?Sized>(image: &W, kind: SocketKind) -> Decision {
    if field(image, header::SOCKETS) >> kind.code() & 1 == 1 {
        Decision::Allow
    } else {
        Decision::DenyDefault
    }
}
