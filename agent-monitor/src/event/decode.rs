//! Ring-buffer bytes to typed records.
//!
//! Called by `daemon::pipeline` for every record; the fuzz target `decode` calls nothing else. The bytes come from our
//! own programs, yet they are read as if anybody had written them: a record that is short, of another ABI or of an
//! unknown kind is an error to count, never a panic and never a guess.

use std::mem::offset_of;

use agent_monitor_common::ABI_VERSION;
use agent_monitor_common::counters::{Effect, Mode};
use agent_monitor_common::event::{
    ExecBody, ExitBody, FileBody, ForkBody, Header, HelloBody, Hook, Kind, NetBody, PrivilegeBody, Reason,
    SocketBody, SyscallBody,
};
use agent_monitor_common::hello::Hello;
use agent_monitor_common::name::{NAME_BYTES, SpokenKey};
use agent_monitor_common::privilege::Privilege;
use agent_monitor_common::request::{Direction, Protocol};
use agent_monitor_common::wire::Wire;

/// A record of the kernel side, borrowed from its ring's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    pub header: Header,
    pub hook: Hook,
    pub effect: Effect,
    pub mode: Mode,
    pub body: Body<'a>,
}

/// What a record is about; the codes inside are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body<'a> {
    Network {
        body: NetBody,
        direction: Direction,
        protocol: Protocol,
        reason: Reason,
        said: Option<Said<'a>>,
    },
    Socket {
        body: SocketBody,
        reason: Reason,
    },
    Syscall(SyscallBody),
    File {
        body: FileBody,
        reason: Reason,
        path: &'a [u8],
    },
    Privilege {
        body: PrivilegeBody,
        privilege: Privilege,
        reason: Reason,
    },
    Exec {
        body: ExecBody,
        path: &'a [u8],
        argv: &'a [u8],
    },
    Fork(ForkBody),
    Exit(ExitBody),
}

/// What a connection said first, where it had to say a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said<'a> {
    pub hello: Hello,
    /// The agent's bytes; empty where it said none.
    pub name: &'a [u8],
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the record has {have} bytes and says it has {says}")]
    Length { have: usize, says: usize },
    #[error("the record is of ABI {0}, this daemon reads {ABI_VERSION}")]
    Abi(u16),
    #[error("record kind {0} is unknown")]
    Kind(u16),
    #[error("{field} code {code} is unknown")]
    Code { field: &'static str, code: u32 },
}

impl DecodeError {
    /// Every [`Self::label`], so that metrics start at 0.
    pub const LABELS: [&'static str; 4] = ["length", "abi", "kind", "code"];

    /// The bounded name that metrics use.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Length { .. } => "length",
            Self::Abi(_) => "abi",
            Self::Kind(_) => "kind",
            Self::Code { .. } => "code",
        }
    }
}

/// Decodes one record.
///
/// `bytes` may be longer than the record: the kernel pads records to eight bytes.
///
/// # Errors
/// [`DecodeError`] where the bytes are not a record of this ABI.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let short = |says| DecodeError::Length { have: bytes.len(), says };
    let header = Header::read_from(bytes).ok_or(short(size_of::<Header>()))?;
    if u32::from(header.abi) != ABI_VERSION {
        return Err(DecodeError::Abi(header.abi));
    }
    let length = header.length as usize;
    let rest = bytes.get(size_of::<Header>()..length).ok_or(short(length))?;
    let kind = Kind::from_code(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    let hook = code("hook", header.hook, Hook::from_code)?;
    let effect = code("effect", header.effect, Effect::from_code)?;
    let mode = code("mode", header.mode, Mode::from_code)?;
    let body = match kind {
        Kind::Network => network(read(rest, bytes)?, None)?,
        Kind::Hello => {
            let HelloBody { net, said, hello, .. } = read(rest, bytes)?;
            let at = offset_of!(HelloBody, said) + offset_of!(SpokenKey, name);
            let name = rest.get(at..).and_then(|tail| tail.get(..said.length as usize));
            let name = name.filter(|name| name.len() <= NAME_BYTES);
            let hello = code("hello", hello, Hello::from_code)?;
            network(net, Some(Said { hello, name: name.ok_or(short(said.length as usize))? }))?
        }
        Kind::Socket => {
            let body: SocketBody = read(rest, bytes)?;
            let reason = u8::try_from(body.reason).ok().and_then(Reason::from_code);
            Body::Socket {
                reason: reason.ok_or(DecodeError::Code { field: "reason", code: body.reason })?,
                body,
            }
        }
        Kind::Syscall => Body::Syscall(read(rest, bytes)?),
        Kind::File => {
            let body: FileBody = read(rest, bytes)?;
            let tail = rest.get(size_of::<FileBody>()..).unwrap_or_default();
            let path_length = body.path_length as usize;
            let says = (size_of::<Header>() + size_of::<FileBody>()).saturating_add(path_length);
            let reason = u8::try_from(body.reason).ok().and_then(Reason::from_code);
            Body::File {
                reason: reason.ok_or(DecodeError::Code { field: "reason", code: body.reason })?,
                path: tail.get(..path_length).ok_or(short(says))?,
                body,
            }
        }
        Kind::Privilege => {
            let body: PrivilegeBody = read(rest, bytes)?;
            let reason = u8::try_from(body.reason).ok().and_then(Reason::from_code);
            Body::Privilege {
                privilege: code("privilege", body.privilege, Privilege::from_code)?,
                reason: reason.ok_or(DecodeError::Code { field: "reason", code: body.reason })?,
                body,
            }
        }
        Kind::Exec => {
            let body: ExecBody = read(rest, bytes)?;
            let tail = rest.get(size_of::<ExecBody>()..).unwrap_or_default();
            let (path_length, argv_length) = (body.path_length as usize, body.argv_length as usize);
            let says = size_of::<Header>() + size_of::<ExecBody>();
            let says = says.saturating_add(path_length).saturating_add(argv_length);
            let (path, tail) = tail.split_at_checked(path_length).ok_or(short(says))?;
            let argv = tail.get(..argv_length).ok_or(short(says))?;
            Body::Exec { body, path, argv }
        }
        Kind::Fork => Body::Fork(read(rest, bytes)?),
        Kind::Exit => Body::Exit(read(rest, bytes)?),
    };
    Ok(Record { header, hook, effect, mode, body })
}

fn network(body: NetBody, said: Option<Said<'_>>) -> Result<Body<'_>, DecodeError> {
    Ok(Body::Network {
        direction: code("direction", body.direction, Direction::from_code)?,
        protocol: code("protocol", body.protocol, Protocol::from_code)?,
        reason: code("reason", body.reason, Reason::from_code)?,
        body,
        said,
    })
}

fn read<T: Wire>(rest: &[u8], whole: &[u8]) -> Result<T, DecodeError> {
    T::read_from(rest)
        .ok_or(DecodeError::Length { have: whole.len(), says: size_of::<Header>() + size_of::<T>() })
}

fn code<C: Copy + Into<u32>, T>(
    field: &'static str,
    code: C,
    from: fn(C) -> Option<T>,
) -> Result<T, DecodeError> {
    from(code).ok_or(DecodeError::Code { field, code: code.into() })
}

/// Records as the kernel side writes them, for tests and measurements of what reads them.
#[cfg(test)]
pub mod build {
    use super::{ABI_VERSION, ExecBody, Header, Kind, Wire};

    /// The bytes of a record of `kind` with this body and tail; the header's length, ABI and kind are filled in.
    pub fn record<B: Wire>(kind: Kind, header: Header, body: &B, tail: &[u8]) -> Vec<u8> {
        let length = size_of::<Header>() + size_of::<B>() + tail.len();
        let header = Header {
            abi: u16::try_from(ABI_VERSION).expect("the ABI version fits its field"),
            kind: kind.code(),
            length: u32::try_from(length).expect("a record is small"),
            ..header
        };
        [header.as_bytes(), body.as_bytes(), tail].concat()
    }

    /// An exec record.
    pub fn exec(header: Header, body: ExecBody, path: &[u8], argv: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a tail is small");
        let body = ExecBody { path_length: length(path), argv_length: length(argv), ..body };
        record(Kind::Exec, header, &body, &[path, argv].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::build::{exec, record};
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header { hook: 1, effect: 1, mode: 2, tgid: 7, ..Header::ZERO };

    #[test]
    fn network_record_goes_round() {
        let body = NetBody { port: 443, protocol: 0, direction: 0, reason: 1, ..NetBody::ZERO };
        let bytes = record(Kind::Network, HEADER, &body, &[]);
        let record = decode(&bytes).unwrap();
        assert_eq!((record.hook, record.effect, record.mode), (Hook::Connect4, Effect::Deny, Mode::Enforce));
        let Body::Network { body, reason: Reason::Rule, .. } = record.body else { panic!("{record:?}") };
        assert_eq!(body.port, 443);
    }

    #[test]
    fn a_hello_has_the_name_that_it_says_and_no_more() {
        let mut said = SpokenKey { length: 5, ..SpokenKey::ZERO };
        said.name[..8].copy_from_slice(b"evil\x1brest"[..8].try_into().unwrap());
        let net = NetBody { port: 443, reason: 18, ..NetBody::ZERO };
        let bytes = record(Kind::Hello, HEADER, &HelloBody { net, said, ..HelloBody::ZERO }, &[]);
        let Body::Network { body, reason: Reason::Sni, said: Some(found), .. } = decode(&bytes).unwrap().body
        else {
            panic!("{bytes:?}")
        };
        assert_eq!((body.port, found.hello, found.name), (443, Hello::Named, &b"evil\x1b"[..]));
        for length in [257, 264, u32::MAX] {
            let said = SpokenKey { length, ..said };
            let bytes = record(Kind::Hello, HEADER, &HelloBody { net, said, ..HelloBody::ZERO }, &[]);
            assert!(matches!(decode(&bytes), Err(DecodeError::Length { .. })), "{length}");
        }
        let unknown = HelloBody { net, hello: 9, ..HelloBody::ZERO };
        assert_eq!(
            decode(&record(Kind::Hello, HEADER, &unknown, &[])),
            Err(DecodeError::Code { field: "hello", code: 9 })
        );
    }

    #[test]
    fn exec_tail_is_split_and_padding_ignored() {
        let mut bytes = exec(HEADER, ExecBody::ZERO, b"/bin/sh", b"sh\0-c\0");
        bytes.extend([0xaa; 5]);
        let Body::Exec { path, argv, .. } = decode(&bytes).unwrap().body else { panic!("no exec") };
        assert_eq!((path, argv), (&b"/bin/sh"[..], &b"sh\0-c\0"[..]));
    }

    #[test]
    fn privilege_record_goes_round_and_unknown_ones_are_errors() {
        let body = PrivilegeBody { privilege: 3, reason: 11, target: 9, ..PrivilegeBody::ZERO };
        let bytes = record(Kind::Privilege, HEADER, &body, &[]);
        let Body::Privilege { body, privilege, reason } = decode(&bytes).unwrap().body else {
            panic!("{bytes:?}")
        };
        assert_eq!((privilege, reason, body.target), (Privilege::Ptrace, Reason::Outside, 9));
        let unknown = PrivilegeBody { privilege: 99, ..body };
        assert_eq!(
            decode(&record(Kind::Privilege, HEADER, &unknown, &[])),
            Err(DecodeError::Code { field: "privilege", code: 99 })
        );
    }

    #[test]
    fn a_tail_longer_than_the_record_is_an_error() {
        let mut bytes = exec(HEADER, ExecBody::ZERO, b"/bin/sh", b"");
        let body = size_of::<Header>();
        bytes[body + 8..body + 12].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Length { .. })));
    }

    #[test]
    fn other_abi_kind_and_codes_are_errors() {
        let good = record(Kind::Fork, HEADER, &ForkBody { child: 8, label_lost: 0 }, &[]);
        assert!(decode(&good).is_ok());
        let mut abi = good.clone();
        abi[0] = 99;
        assert_eq!(decode(&abi), Err(DecodeError::Abi(99)));
        let mut kind = good.clone();
        kind[2] = 200;
        assert_eq!(decode(&kind), Err(DecodeError::Kind(200)));
        let unknown = record(Kind::Fork, Header { effect: 9, ..HEADER }, &ForkBody::ZERO, &[]);
        assert_eq!(decode(&unknown), Err(DecodeError::Code { field: "effect", code: 9 }));
        assert!(matches!(decode(&good[..good.len() - 1]), Err(DecodeError::Length { .. })));
        assert!(matches!(decode(&[]), Err(DecodeError::Length { .. })));
    }

    #[test]
    fn every_error_has_a_listed_label() {
        let errors = [
            DecodeError::Length { have: 0, says: 0 },
            DecodeError::Abi(0),
            DecodeError::Kind(0),
            DecodeError::Code { field: "", code: 0 },
        ];
        assert_eq!(errors.map(DecodeError::label), DecodeError::LABELS);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        /// Bytes that pass the first gates and are arbitrary behind them.
        #[test]
        fn plausible_bytes_never_panic(
            kind in prop_oneof![Just(1_u16), Just(2), Just(3), Just(5), Just(6), Just(16), Just(17), Just(18), any::<u16>()],
            cut in 0_usize..200,
            claimed: u32,
            mut tail in proptest::collection::vec(any::<u8>(), 152..300),
        ) {
            tail[..2].copy_from_slice(&(ABI_VERSION as u16).to_ne_bytes());
            tail[2..4].copy_from_slice(&kind.to_ne_bytes());
            let length = if claimed % 2 == 0 { claimed % 300 } else { claimed };
            tail[4..8].copy_from_slice(&length.to_ne_bytes());
            tail.truncate(tail.len().saturating_sub(cut));
            if let Ok(Record { body: Body::Exec { path, argv, .. }, .. }) = decode(&tail) {
                prop_assert!(path.len() + argv.len() <= tail.len());
            }
        }
    }
}
