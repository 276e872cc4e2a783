//! How many IPv4 destinations a program can reach: counted in the automaton, every address and port once.

use std::collections::HashMap;

use agent_monitor_common::automaton::{PORTS, TERMINAL, step};
use agent_monitor_common::image::{Class, class};
use agent_monitor_common::request::Protocol;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::policy::compile::Image;

/// Destinations within a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Addresses of which a port can be reached.
    pub addresses: u64,
    /// Pairs of an address and a port.
    pub destinations: u64,
}

/// Counts the destinations in `net` that a program of `class` may reach by `protocol`.
#[must_use]
pub fn reachable(image: &Image, class: Class, protocol: Protocol, net: Ipv4Net) -> Space {
    let start = class.field(image, class::START_V4 + protocol as usize) as u32;
    let mut count = Count { table: &image.words, net, ports: HashMap::new(), whole: HashMap::new() };
    count.below(start, 0)
}

struct Count<'i> {
    table: &'i [u64],
    net: Ipv4Net,
    /// Ports that a state grants.
    ports: HashMap<u32, u64>,
    /// What lies below a state, where the network says nothing any more.
    whole: HashMap<(u32, u32), Space>,
}

impl Count<'_> {
    /// What can be reached behind the first `read` bytes of an address.
    fn below(&mut self, state: u32, read: u32) -> Space {
        let prefix = u32::from(self.net.prefix_len());
        if state & (TERMINAL | PORTS) != 0 || read == 4 {
            let ports = self.granted(state);
            // Addresses of the network that begin like this one.
            let left = 1_u64 << (32 - prefix.max(read * 8));
            let addresses = if ports == 0 { 0 } else { left };
            return Space { addresses, destinations: left * ports };
        }
        let free = prefix <= read * 8;
        if free && let Some(known) = self.whole.get(&(state, read)) {
            return *known;
        }
        let bits = prefix.saturating_sub(read * 8).min(8);
        let mask = if bits == 0 { 0 } else { 0xff_u8 << (8 - bits) };
        let wanted = self.net.addr().octets()[read as usize] & mask;
        let mut sum = Space::default();
        for byte in (0..=255_u8).filter(|byte| byte & mask == wanted) {
            let inside = self.below(step(self.table, state, byte), read + 1);
            sum.addresses += inside.addresses;
            sum.destinations += inside.destinations;
        }
        if free {
            self.whole.insert((state, read), sum);
        }
        sum
    }

    fn granted(&mut self, state: u32) -> u64 {
        if state & TERMINAL != 0 {
            return if grants(state) { 1 << 16 } else { 0 };
        }
        if let Some(known) = self.ports.get(&state) {
            return *known;
        }
        let row = |state: u32| (0..=255).map(move |byte| (state, byte));
        let mut sum = 0;
        for (state, high) in row(state & !PORTS) {
            let next = step(self.table, state, high);
            if next & TERMINAL != 0 {
                sum += if grants(next) { 256 } else { 0 };
            } else {
                sum += row(next & !PORTS).filter(|&(state, low)| grants(step(self.table, state, low))).count()
                    as u64;
            }
        }
        self.ports.insert(state, sum);
        sum
    }
}

/// Whether a walk that ends so grants, at least to a client that says the right name.
fn grants(state: u32) -> bool {
    use agent_monitor_common::decide::Decision;
    let granting = [Decision::Allow, Decision::AllowHello];
    granting.iter().any(|decision| state == TERMINAL | decision.code())
}
