//! The first bytes of a TLS client, and the name in them (RFC 8446 §4.1.2, RFC 6066 §3).
//!
//! Called by `hello_egress`, which has the bytes of one packet. What must stay true: a name that is found is the one that
//! a server reads there. So every length is held against the one around it, and what a server may read in more than one
//! way is no hello.

use crate::decide::forget;
use crate::wire_codes;

/// Longest name, as text.
pub const MAX_NAME: u32 = 253;
/// Extensions that are looked at. Browsers send twenty.
const MAX_EXTENSIONS: u32 = 64;

wire_codes! {
    /// What the first bytes of a connection were.
    pub enum Hello: u32 {
        /// A TLS hello with a name.
        Named = 0 "named",
        /// No TLS hello, or one of another form.
        NotTls = 1 "not-tls",
        /// A TLS hello without a name.
        NoName = 2 "no-name",
        /// A TLS hello whose name is not whole in the first packet, or not in the first record.
        Cut = 3 "cut",
    }
}

/// Eight bytes, each `A` to `Z` of them in lower case.
#[inline(always)]
pub const fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let above_z = low + (0x7f - b'Z' as u64) * EACH;
    let upper = from_a & !above_z & !word & (0x80 * EACH);
    word | upper >> 2
}

/// Where the name of a hello lies (high half) and its bytes (low half, 1 to [`MAX_NAME`]). High half 0: a [`Hello`] code
/// of why there is none.
///
/// `load` fills a buffer from a place in the packet; false: it does not reach so far.
#[inline(always)]
pub fn server_name(at: u32, load: impl Fn(u32, &mut [u8]) -> bool) -> u64 {
    // Record header (RFC 8446 §5.1), handshake header, version, random, length of the session id.
    let mut head = [0_u8; 44];
    let short = |b: &[u8], at: usize| u16::from_be_bytes([b[at], b[at + 1]]) as u32;
    let none = |why: Hello| why.code() as u64;
    if !load(at, &mut head) {
        let mut first = [0_u8; 1];
        let begun = load(at, &mut first) && first[0] == 22;
        return none(if begun { Hello::Cut } else { Hello::NotTls });
    }
    // `handshake` of TLS, `client_hello`.
    if head[0] != 22 || head[1] != 3 || head[5] != 1 {
        return none(Hello::NotTls);
    }
    let hello = (head[6] as u32) << 16 | short(&head, 7);
    if hello + 4 > short(&head, 3) {
        return none(Hello::Cut);
    }
    let end = at + 9 + hello;
    let mut off = at + 44 + head[43] as u32;
    let mut b = [0_u8; 4];
    // Cipher suites, then compression methods, then the bytes of all extensions.
    if !load(off, &mut b[..2]) {
        return none(Hello::Cut);
    }
    off = forget(off + 2 + short(&b, 0));
    if !load(off, &mut b[..1]) {
        return none(Hello::Cut);
    }
    off = forget(off + 1 + b[0] as u32);
    if off == end {
        return none(Hello::NoName);
    }
    if !load(off, &mut b[..2]) {
        return none(Hello::Cut);
    }
    off += 2;
    if off + short(&b, 0) != end {
        return none(Hello::NotTls);
    }
    let mut why = Hello::NoName.code();
    let mut place = 0;
    let mut length = 0;
    let mut i = 0;
    while i < MAX_EXTENSIONS {
        off = forget(off);
        if off + 4 > end {
            break;
        }
        if !load(off, &mut b) {
            why = Hello::Cut.code();
            break;
        }
        length = forget(short(&b, 2));
        off += 4;
        if short(&b, 0) == 0 {
            place = off;
            break;
        }
        off += length;
        i += 1;
    }
    let (place, length) = (forget(place), forget(length));
    if place == 0 {
        return forget(why) as u64;
    }
    // One name in the list, of type `host_name`, and nothing else in the extension.
    let mut list = [0_u8; 5];
    if !load(place, &mut list) {
        return none(Hello::Cut);
    }
    let name = short(&list, 3);
    if place + length > end || short(&list, 0) + 2 != length || list[2] != 0 || name + 5 != length {
        return none(Hello::NotTls);
    }
    if name == 0 || name > MAX_NAME {
        return none(Hello::NoName);
    }
    (place as u64 + 5) << 32 | name as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    /// A hello with these extensions, in one record, behind `front` bytes of headers.
    fn hello(front: usize, extensions: &[u8]) -> Vec<u8> {
        let mut body = std::vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut bytes = std::vec![0; front];
        bytes.extend([22, 3, 1]);
        bytes.extend((body.len() as u16 + 4).to_be_bytes());
        bytes.extend([1, 0]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let length = name.len() as u16;
        let mut bytes = std::vec![0, 0];
        bytes.extend((length + 5).to_be_bytes());
        bytes.extend((length + 3).to_be_bytes());
        bytes.push(0);
        bytes.extend(length.to_be_bytes());
        bytes.extend(name);
        bytes
    }

    fn read(bytes: &[u8], at: usize) -> Result<&[u8], Hello> {
        let found = server_name(at as u32, |at, to| match bytes.get(at as usize..at as usize + to.len()) {
            Some(from) => {
                to.copy_from_slice(from);
                true
            }
            None => false,
        });
        let (place, rest) = ((found >> 32) as usize, found as u32);
        match place {
            0 => Err(Hello::from_code(rest).unwrap()),
            _ => bytes.get(place..place + rest as usize).ok_or(Hello::Cut),
        }
    }

    #[test]
    fn a_name_is_found_wherever_it_lies_and_only_whole() {
        let padding = [&[0, 21, 5, 0][..], &[0; 1_280]].concat();
        for extensions in [named(b"a.example"), [padding.clone(), named(b"a.example")].concat()] {
            for front in [0, 40, 100] {
                let whole = hello(front, &extensions);
                assert_eq!(read(&whole, front), Ok(&b"a.example"[..]));
                for cut in front..whole.len() {
                    let found = read(&whole[..cut], front);
                    let name_ends = whole.len();
                    assert!(found.is_err() || cut >= name_ends, "{cut} of {}: {found:?}", whole.len());
                }
            }
        }
        assert_eq!(read(&hello(0, &padding), 0), Err(Hello::NoName));
        assert_eq!(read(&hello(0, &[]), 0), Err(Hello::NoName));
        let long = [b'a'; 254];
        assert_eq!(read(&hello(0, &named(&long)), 0), Err(Hello::NoName));
        assert_eq!(read(&hello(0, &named(&long[..253])), 0), Ok(&long[..253]));
        let many: Vec<u8> = (1..=64_u16).flat_map(|kind| [(kind >> 8) as u8, kind as u8, 0, 0]).collect();
        assert_eq!(read(&hello(0, &[many, named(b"late")].concat()), 0), Err(Hello::NoName));
    }

    #[test]
    fn a_length_that_is_not_the_one_around_it_is_no_hello() {
        let good = hello(0, &named(b"a.example"));
        // Of the record and of the handshake (a shorter one is cut), of all extensions, of this one, its list, its name.
        let extension = good.len() - named(b"a.example").len();
        for at in [4, 8, extension - 1, extension + 3, extension + 5, extension + 8] {
            for change in [1_u8, 255] {
                let mut bytes = good.clone();
                bytes[at] = bytes[at].wrapping_add(change);
                // A longer record holds more than this hello, as it may.
                let longer_record = at == 4 && change == 1;
                assert_eq!(read(&bytes, 0).is_ok(), longer_record, "{at} {change}");
            }
        }
        for (at, byte) in [(0, 21), (0, 23), (1, 2), (5, 2), (extension + 6, 1)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(read(&bytes, 0), Err(Hello::NotTls), "{at}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n", 0), Err(Hello::NotTls));
        assert_eq!(read(&good[..10], 0), Err(Hello::Cut));
    }

    #[test]
    fn letters_and_nothing_else_become_lower_case() {
        for byte in 0..=255_u8 {
            for place in 0..8 {
                let word = (byte as u64) << (8 * place) | 0x4100_0000_0000_0041_u64 & !(0xff << (8 * place));
                let wanted: Vec<u8> = word.to_ne_bytes().iter().map(u8::to_ascii_lowercase).collect();
                assert_eq!(lower(word).to_ne_bytes()[..], wanted[..], "{byte} at {place}");
            }
        }
    }
}
