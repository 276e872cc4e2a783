//! Where two profiles differ about addresses and ports.
//!
//! An IPv6 address that carries an IPv4 address is judged in both forms, so for these the walk carries the IPv4 automata
//! along: which forms an address can still become is a part of the state.

use std::net::IpAddr;

use agent_monitor_common::automaton::{PORTS, TERMINAL, Words, step};
use agent_monitor_common::decide::Decision;
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::request::Protocol;

use super::product;
use super::{Found, Kept, Sides};
use crate::policy::judge::{Destination, Request};

/// The forms of IPv6 addresses with an IPv4 address inside: the bytes before it (`None`: any), and whether it is
/// inverted. As `Address::embedded_v4`; a test holds them equal.
const FORMS: [(&[Option<u8>], bool); 5] = {
    const fn b(byte: u8) -> Option<u8> {
        Some(byte)
    }
    const ANY: Option<u8> = None;
    const Z: Option<u8> = Some(0);
    const NAT64: &[Option<u8>] = &[Z, b(0x64), b(0xff), b(0x9b), Z, Z, Z, Z, Z, Z, Z, Z];
    const NAT64_LOCAL: &[Option<u8>] = &[Z, b(0x64), b(0xff), b(0x9b), Z, b(1), ANY, ANY, ANY, ANY, ANY, ANY];
    const SIX_TO_FOUR: &[Option<u8>] = &[b(0x20), b(2)];
    const TEREDO: &[Option<u8>] = &[b(0x20), b(1), Z, Z, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY];
    const COMPATIBLE: &[Option<u8>] = &[Z; 12];
    [(NAT64, false), (NAT64_LOCAL, false), (SIX_TO_FOUR, false), (TEREDO, true), (COMPATIBLE, false)]
};
/// Beside them in the set of what an address can still be: one inside `::ffff:0:0/96`, which is judged as IPv4;
const MAPPED: u8 = 1 << 5;
/// the unspecified one, which is no destination (`Address::as_destination`);
const UNSPECIFIED: u8 = 1 << 6;
/// `::` or `::1`, which carry nothing.
const LOCAL: u8 = 1 << 7;
const CARRYING: u8 = 0b11111;

/// Two automata's states.
type Pair = (u32, u32);

/// Where a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct At {
    /// Bytes read: 0 to 15 the address (IPv4: from 12), 16 and 17 the port, 18 the end.
    read: u8,
    outer: Pair,
    /// What the address can still be, as bits.
    forms: u8,
    inner: Pair,
}

const END: u8 = 18;

impl At {
    /// The input is none that can be asked about.
    const NO: Self = At { read: END + 1, outer: (0, 0), forms: 0, inner: (0, 0) };

    fn carries(self) -> bool {
        self.forms & CARRYING != 0 && self.forms & LOCAL == 0
    }
}

fn over(state: u32) -> bool {
    state & TERMINAL != 0
}

/// One state behind byte `read` of address and port.
fn go<W: Words + ?Sized>(table: &W, state: u32, read: u8, byte: u8) -> u32 {
    match state {
        _ if over(state) => state,
        // The rest of the address does not matter.
        _ if state & PORTS != 0 && read < 16 => state,
        _ => step(table, state & !PORTS, byte),
    }
}

/// Finds every difference about destinations and listeners for programs of these classes.
pub fn compare(sides: &Sides<'_>, found: &mut Found) {
    for (direction, out) in [(0, true), (4, false)] {
        for protocol in Protocol::ALL {
            for v6 in [false, true] {
                let start = direction | protocol.code() as usize;
                Family { sides, start, protocol: *protocol, out, v6 }.compare(found);
            }
        }
    }
}

/// Examples of one start that are kept in each direction.
const MOST: usize = 24;
/// What examples prefer: the addresses of documentation (RFC 5737, RFC 3849), and the ports 443, 80 and 22.
static V4: [[u8; 256]; 4] = preferring_each([203, 0, 113, 10]);
static V6: [[u8; 256]; 16] = preferring_each([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const PORT_HIGH: [u8; 256] = product::preferring(&[1, 0]);
const PORT_LOW: [u8; 256] = product::preferring(&[187, 80, 22]);

const fn preferring_each<const N: usize>(bytes: [u8; N]) -> [[u8; 256]; N] {
    let mut orders = [[0; 256]; N];
    let mut at = 0;
    while at < N {
        orders[at] = product::preferring(&[bytes[at]]);
        at += 1;
    }
    orders
}

struct Family<'s, 'j> {
    sides: &'s Sides<'j>,
    /// Which of the image's starts: direction and protocol.
    start: usize,
    protocol: Protocol,
    out: bool,
    v6: bool,
}

impl Family<'_, '_> {
    fn compare(&self, found: &mut Found) {
        let sides = self.sides;
        let (old, new) = (&sides.old.image().words[..], &sides.new.image().words[..]);
        let field = |first: usize, words: &[u64], class: Class| class.field(words, first + self.start) as u32;
        let pair = |first| (field(first, old, sides.old_class), field(first, new, sides.new_class));
        let v4 = pair(class::START_V4);
        let forms = match (self.v6, self.out) {
            (true, true) => CARRYING | MAPPED | UNSPECIFIED | LOCAL,
            (true, false) => MAPPED,
            (false, true) => UNSPECIFIED,
            (false, false) => 0,
        };
        let begin = match self.v6 {
            true => At { read: 0, outer: pair(class::START_V6), forms, inner: v4 },
            false => At { read: 12, outer: v4, forms, inner: (0, 0) },
        };
        let At { outer, inner, .. } = begin;
        let kind = (self.start as u32) << 1 | u32::from(self.v6);
        if !found.begin(sides, vec![outer.0, outer.1, inner.0, inner.1, kind]) {
            return;
        }
        let mut kept = Kept::new(1, MOST);
        product::walk(
            begin,
            |at| self.bytes(at),
            |at, byte| after(old, new, at, byte),
            |at, input| {
                if at.read != END {
                    return;
                }
                let allowed = |outer: u32, inner: u32| passes(outer) && (!at.carries() || passes(inner));
                let allowed = (allowed(at.outer.0, at.inner.0), allowed(at.outer.1, at.inner.1));
                if kept.keep(found, 0, allowed) {
                    found.request(sides, self.request(&input()), allowed.1);
                }
            },
        );
    }

    fn bytes(&self, at: At) -> &'static [u8] {
        match at.read {
            read @ ..16 if self.v6 => &V6[usize::from(read)],
            read @ ..16 => &V4[usize::from(read - 12)],
            // There are no ports.
            16 | 17 if self.protocol == Protocol::Icmp => &[0],
            16 => &PORT_HIGH,
            17 => &PORT_LOW,
            _ => &[],
        }
    }

    fn request(&self, input: &[u8]) -> Request {
        let (address, port) = input.split_at(input.len() - 2);
        let port = u16::from_be_bytes([port[0], port[1]]);
        let protocol = self.protocol;
        let address = match (<[u8; 16]>::try_from(address), <[u8; 4]>::try_from(address)) {
            (Ok(v6), _) => IpAddr::from(v6),
            (_, Ok(v4)) => IpAddr::from(v4),
            // The walk reads four bytes or sixteen.
            _ => IpAddr::from([0; 4]),
        };
        match self.out {
            true => Request::Connect { to: Destination::Address(address), port, protocol },
            false => Request::Listen { address, port, protocol },
        }
    }
}

fn after(old: &[u64], new: &[u64], at: At, byte: u8) -> At {
    let both = |pair: Pair, read, byte| (go(old, pair.0, read, byte), go(new, pair.1, read, byte));
    let mut next = At { read: at.read + 1, outer: both(at.outer, at.read, byte), ..at };
    if at.read >= 16 {
        if at.carries() {
            next.inner = both(at.inner, at.read, byte);
        }
        return next;
    }
    next.forms = narrowed(at.forms, at.read, byte);
    if next.read == 16 && next.forms & UNSPECIFIED != 0 || next.read == 12 && next.forms & MAPPED != 0 {
        return At::NO;
    }
    if next.forms & CARRYING == 0 {
        // Of no interest any more.
        next.inner = (0, 0);
        return next;
    }
    // Forms that are left together agree in what they have read so far, and none of them reads the address yet.
    let form = (0..FORMS.len()).find(|form| next.forms >> form & 1 == 1);
    if let Some((before, inverted)) = form.map(|form| FORMS[form])
        && let Some(place @ 0..4) = usize::from(at.read).checked_sub(before.len())
    {
        next.inner = both(at.inner, 12 + place as u8, if inverted { !byte } else { byte });
    }
    next
}

/// What an address can still be behind its byte `read`.
fn narrowed(forms: u8, read: u8, byte: u8) -> u8 {
    let fits = |form: &usize| {
        let (before, _) = FORMS[*form];
        before.get(usize::from(read)).is_none_or(|wanted| wanted.is_none_or(|wanted| wanted == byte))
    };
    let carrying = (0..FORMS.len()).filter(fits).fold(0, |all, form| all | 1 << form);
    let mapped = match (read, byte) {
        (..10, 0) | (10 | 11, 0xff) | (12.., _) => MAPPED,
        _ => 0,
    };
    let unspecified = if byte == 0 { UNSPECIFIED } else { 0 };
    let local = match (read, byte) {
        (..15, 0) | (15, 0 | 1) => LOCAL,
        _ => 0,
    };
    forms & (carrying | mapped | unspecified | local)
}

/// Whether a walk ended in an answer by which the request goes on.
fn passes(end: u32) -> bool {
    Decision::from_code(end ^ TERMINAL).is_some_and(Decision::passes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_monitor_common::request::Address;
    use proptest::prelude::*;

    /// Addresses of all forms, and others.
    fn address() -> impl Strategy<Value = [u8; 16]> {
        let prefixes: Vec<Vec<u8>> = FORMS
            .iter()
            .map(|(before, _)| before.iter().map(|byte| byte.unwrap_or(7)).collect())
            .chain([
                vec![0; 16],
                vec![0; 15],
                vec![0; 14],
                vec![],
                vec![0x20, 1, 0, 1],
                vec![0, 0x64, 0xff, 0x9b, 0, 2],
            ])
            .chain([[vec![0; 10], vec![0xff; 2]].concat()])
            .collect();
        (prop::sample::select(prefixes), any::<[u8; 16]>()).prop_map(|(prefix, mut bytes)| {
            bytes[..prefix.len()].copy_from_slice(&prefix);
            bytes
        })
    }

    proptest! {
        #[test]
        fn forms_are_those_that_the_kernel_looks_into(bytes in address()) {
            let left = (0..16).fold(0xff, |forms, at| narrowed(forms, at, bytes[usize::from(at)]));
            let carries = At { forms: left, ..At::NO }.carries();
            let address = Address::from_bytes(bytes);
            prop_assert_eq!(left & MAPPED != 0, address.as_v4().is_some());
            prop_assert_eq!(left & UNSPECIFIED != 0, bytes == [0; 16]);
            let embedded = address.embedded_v4();
            prop_assert_eq!(carries, embedded.is_some());
            if let Some(be) = embedded {
                let form = (0..FORMS.len()).find(|form| left >> form & 1 == 1).unwrap();
                let (before, inverted) = FORMS[form];
                let mut inside = <[u8; 4]>::try_from(&bytes[before.len()..before.len() + 4]).unwrap();
                if inverted {
                    inside = inside.map(|byte| !byte);
                }
                prop_assert_eq!(u32::from_ne_bytes(inside), be);
            }
        }
    }
}
