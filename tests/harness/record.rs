//! Records of the rings as the tests read them: header and body, by kind.

use agent_monitor_common::counters::Effect;
use agent_monitor_common::event::{
    ExecBody, ExitBody, FileBody, ForkBody, Header, HelloBody, Hook, Kind, NetBody, PrivilegeBody, Reason,
    SocketBody, SyscallBody,
};
use agent_monitor_common::wire::Wire;
use anyhow::{Context, Result, bail, ensure};

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    pub header: Header,
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum Body {
    Network(NetBody),
    Hello(Box<HelloBody>),
    Socket(SocketBody),
    Syscall(SyscallBody),
    File { body: FileBody, path: Vec<u8> },
    Privilege(PrivilegeBody),
    Exec { body: ExecBody, path: Vec<u8>, argv: Vec<u8> },
    Fork(ForkBody),
    Exit(ExitBody),
}

fn read<T: Wire>(bytes: &[u8]) -> Result<T> {
    T::read_from(bytes).context("a record is shorter than its body")
}

impl Record {
    /// Reads a record and checks what the two sides must agree on.
    ///
    /// # Errors
    /// Another ABI, an unknown kind, a length that is not the record's.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let header: Header = read(bytes)?;
        ensure!(u32::from(header.abi) == agent_monitor_common::ABI_VERSION, "a record of ABI {}", header.abi);
        ensure!(header.length as usize == bytes.len(), "{} bytes of {}", bytes.len(), header.length);
        let rest = &bytes[size_of::<Header>()..];
        let body = match Kind::from_code(header.kind) {
            Some(Kind::Network) => Body::Network(read(rest)?),
            Some(Kind::Hello) => Body::Hello(Box::new(read(rest)?)),
            Some(Kind::Socket) => Body::Socket(read(rest)?),
            Some(Kind::Syscall) => Body::Syscall(read(rest)?),
            Some(Kind::Privilege) => Body::Privilege(read(rest)?),
            Some(Kind::Fork) => Body::Fork(read(rest)?),
            Some(Kind::Exit) => Body::Exit(read(rest)?),
            Some(Kind::File) => {
                let body: FileBody = read(rest)?;
                let tail = &rest[size_of::<FileBody>()..];
                let path = tail.get(..body.path_length as usize).context("a file record's path is cut")?;
                Body::File { body, path: path.to_vec() }
            }
            Some(Kind::Exec) => {
                let body: ExecBody = read(rest)?;
                let tail = &rest[size_of::<ExecBody>()..];
                let split = tail.split_at_checked(body.path_length as usize);
                let (path, argv) = split.context("an exec record's path is cut")?;
                ensure!(argv.len() == body.argv_length as usize, "an exec record's arguments are cut");
                Body::Exec { body, path: path.to_vec(), argv: argv.to_vec() }
            }
            None => bail!("a record of kind {}", header.kind),
        };
        Ok(Record { header, body })
    }

    /// The hook that wrote it.
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_code(self.header.hook)
    }

    /// Whether it is a denial.
    pub fn denies(&self) -> bool {
        self.header.effect == Effect::Deny.code()
            && !matches!(self.body, Body::Exec { .. } | Body::Fork(_) | Body::Exit(_))
    }

    /// Why the decision fell.
    pub fn reason(&self) -> Option<Reason> {
        match &self.body {
            Body::Network(b) => Reason::from_code(b.reason),
            Body::Hello(b) => Reason::from_code(b.net.reason),
            Body::Socket(b) => u8::try_from(b.reason).ok().and_then(Reason::from_code),
            Body::File { body, .. } => u8::try_from(body.reason).ok().and_then(Reason::from_code),
            Body::Privilege(b) => u8::try_from(b.reason).ok().and_then(Reason::from_code),
            _ => None,
        }
    }

    /// The judged port of a network decision.
    pub fn port(&self) -> Option<u16> {
        match &self.body {
            Body::Network(b) => Some(b.port),
            Body::Hello(b) => Some(b.net.port),
            _ => None,
        }
    }
}
