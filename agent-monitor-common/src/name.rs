//! Names: what the resolver tells the kernel, and what the kernel tells the resolver.
//!
//! A profile's rules about names are numbered by *name class*: the names that the same rules match. An address stands
//! for a name class while an answer about such a name holds. Who writes what: `NAMED`, `SPOKEN` and `RESOLVER` the
//! daemon, `ASKERS` egress, `SERVERS` the hooks that lead an agent's question to the resolver.

use crate::wire_struct;

/// Addresses that stand for names at one time, of all profiles and generations: at a reload each is there twice.
pub const MAX_NAMED: usize = 262_144;
/// Questions on their way at one time.
pub const MAX_ASKERS: usize = 16_384;
/// Name classes that one address stands for at one time.
pub const NAMES_OF_ADDRESS: usize = 4;
/// Servers that one socket asks at one time; as many ports the resolver has.
pub const SERVERS_OF_SOCKET: usize = 4;
/// Names that TLS clients may say, of all profiles with `sni` and their generations.
pub const MAX_SPOKEN: usize = 32_768;
/// Bytes for a name as text, of which 253 are used at most.
pub const NAME_BYTES: usize = 256;
/// The element of `RESOLVER` that says where it listens ([`Resolver`]) …
pub const RESOLVER_PLACE: u32 = 0;
/// … and in which network namespace, as the kernel's cookie.
pub const RESOLVER_NETWORK: u32 = 1;
/// The loopback's index, in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK_INDEX: u32 = 1;
/// Where `hello_egress` lies among the programs that others call.
pub const HELLO_EGRESS: u32 = 0;
/// Port on which questions are asked.
pub const DNS_PORT: u16 = 53;

wire_struct! {
    /// Whose address it is.
    pub struct NamedKey: 24 {
        /// Profile slot.
        pub profile: u32,
        /// Generation of the profile's image, by which the classes are numbered.
        pub generation: u32,
        /// Network order, IPv4 mapped.
        pub address: [u32; 4],
    }
}

wire_struct! {
    /// What an address stands for.
    pub struct Named: 40 {
        /// Until when, in `CLOCK_MONOTONIC` nanoseconds; 0: the cell is empty.
        pub until: [u64; NAMES_OF_ADDRESS],
        /// Name classes.
        pub class: [u16; NAMES_OF_ADDRESS],
    }
}

wire_struct! {
    /// A name as a TLS client says it. Whole, for an agent chooses it and would find two of one hash.
    pub struct SpokenKey: 272 {
        /// Profile slot.
        pub profile: u32,
        /// Generation of the profile's image, by which the classes are numbered.
        pub generation: u32,
        /// Bytes of the name: it may end in zeros.
        pub length: u32,
        /// Zero.
        pub pad: u32,
        /// Lower case; zeros behind.
        pub name: [u8; NAME_BYTES],
    }
}

wire_struct! {
    /// A name that a rule grants and that was looked up.
    pub struct Spoken: 16 {
        /// Until when its answer holds, in `CLOCK_MONOTONIC` nanoseconds: for the daemon, which removes it after. What
        /// the rules say of a name does not end with an answer.
        pub until: u64,
        /// Name class.
        pub class: u16,
        /// Zero.
        pub pad: [u16; 3],
    }
}

wire_struct! {
    /// The way a question comes to the resolver.
    pub struct AskerKey: 20 {
        /// Its source, network order, IPv4 mapped.
        pub address: [u32; 4],
        /// Its source port, host byte order.
        pub port: u16,
        /// [`crate::request::Protocol`] code.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

wire_struct! {
    /// Who asks.
    pub struct Asker: 24 {
        pub agent: u32,
        /// Profile slot.
        pub profile: u32,
        /// Class of the program, by the image of `generation`.
        pub class: u32,
        /// Generation of the profile's image.
        pub generation: u32,
        /// The process that asked on this socket last.
        pub tgid: u32,
        /// Zero.
        pub pad: u32,
    }
}

wire_struct! {
    /// The servers that a socket means to ask: the port of the resolver that a question goes to says which.
    pub struct Servers: 72 {
        /// Network order, IPv4 mapped.
        pub server: [[u32; 4]; SERVERS_OF_SOCKET],
        /// How many there were.
        pub count: u32,
        /// The process that asked last.
        pub tgid: u32,
    }
}

/// Where the resolver listens, as one word: its first port, of [`SERVERS_OF_SOCKET`], and the families that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Host byte order; 0: it listens nowhere.
    pub port: u16,
    /// On 127.0.0.1.
    pub v4: bool,
    /// On ::1.
    pub v6: bool,
}

impl Resolver {
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Resolver { port: word as u16, v4: word >> 16 & 1 == 1, v6: word >> 17 & 1 == 1 }
    }

    pub const fn to_word(self) -> u64 {
        self.port as u64 | (self.v4 as u64) << 16 | (self.v6 as u64) << 17
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_goes_round() {
        for (port, v4, v6) in
            [(0, false, false), (5399, true, false), (u16::MAX, true, true), (1, false, true)]
        {
            let resolver = Resolver { port, v4, v6 };
            assert_eq!(Resolver::from_word(resolver.to_word()), resolver);
        }
    }
}
