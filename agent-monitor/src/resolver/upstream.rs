//! The host's own servers, which are asked for granted names.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::wire::{Answer, NoAnswer, PAYLOAD, Question, screen};

/// How long one server may take. glibc waits 5 s for us.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Rounds over the servers.
const ROUNDS: usize = 2;
/// How long all of it may take.
const ALTOGETHER: Duration = Duration::from_millis(4_500);
/// How long `resolv.conf` is believed.
const BELIEVED: Duration = Duration::from_secs(2);
/// Servers taken from it (resolv.conf(5): MAXNS is 3; some have more).
const MAX_SERVERS: usize = 4;

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no server is configured")]
    NoServer,
    #[error("{server}: {source}")]
    Io { server: SocketAddr, source: io::Error },
    #[error("{server}: {source}")]
    Answer { server: SocketAddr, source: NoAnswer },
    #[error("{server} did not answer in time")]
    Late { server: SocketAddr },
}

/// Where the servers are told.
#[derive(Debug)]
pub struct Upstream {
    told: Vec<SocketAddr>,
    file: PathBuf,
    read: Option<(Instant, Option<SystemTime>)>,
    found: Vec<SocketAddr>,
}

impl Upstream {
    /// `told`: these and no others; empty: those of `file`, a resolv.conf.
    #[must_use]
    pub fn new(told: Vec<SocketAddr>, file: PathBuf) -> Self {
        Upstream { told, file, read: None, found: Vec::new() }
    }

    /// The servers, first to be asked first.
    pub fn servers(&mut self) -> Vec<SocketAddr> {
        if !self.told.is_empty() {
            return self.told.clone();
        }
        let now = Instant::now();
        let changed = || fs::metadata(&self.file).and_then(|file| file.modified()).ok();
        match self.read {
            Some((at, _)) if now.duration_since(at) < BELIEVED => {}
            Some((_, before)) if before.is_some() && before == changed() => self.read = Some((now, before)),
            _ => {
                let modified = changed();
                let text = fs::read_to_string(&self.file).unwrap_or_default();
                self.found = servers_in(&text).0;
                self.read = Some((now, modified));
            }
        }
        self.found.clone()
    }
}

/// The servers that a resolv.conf names, and true; without any, the host's own (resolv.conf(5)), and false.
pub fn servers_in(text: &str) -> (Vec<SocketAddr>, bool) {
    let server = |line: &str| {
        let rest = line.trim_start().strip_prefix("nameserver")?;
        let address = rest.strip_prefix([' ', '\t'])?.split_whitespace().next()?;
        parse_server(address)
    };
    let mut servers: Vec<SocketAddr> = text.lines().filter_map(server).take(MAX_SERVERS).collect();
    let named = !servers.is_empty();
    if !named {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    (servers, named)
}

/// An address with or without a zone.
fn parse_server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    // A zone needs brackets: `[fe80::1%2]:53`.
    format!("[{text}]:53").parse().ok()
}

/// Asks the servers in turn until one answers.
///
/// # Errors
/// The last server's failure.
pub async fn ask(servers: &[SocketAddr], question: &Question) -> Result<Answer, AskError> {
    let mut last = AskError::NoServer;
    let asked = async {
        for _ in 0..ROUNDS {
            for &server in servers {
                match ask_one(server, question).await {
                    Ok(answer) => return Some(answer),
                    Err(error) => last = error,
                }
            }
        }
        None
    };
    match timeout(ALTOGETHER, asked).await {
        Ok(Some(answer)) => Ok(answer),
        _ => Err(last),
    }
}

async fn ask_one(server: SocketAddr, question: &Question) -> Result<Answer, AskError> {
    let io = |source| AskError::Io { server, source };
    let id = random_id();
    let Some(bytes) = question.forwarded(id) else {
        return Err(AskError::Answer { server, source: NoAnswer::Other });
    };
    let by_datagram = async {
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A port of its own for each question, and a peer: who would forge an answer must guess both and the number.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&bytes).await?;
        let mut room = vec![0; usize::from(PAYLOAD) + 1];
        loop {
            let length = socket.recv(&mut room).await?;
            match screen(question, id, &room[..length]) {
                // Somebody's guess, or an answer to what was asked on this port before.
                Err(NoAnswer::Other | NoAnswer::Malformed) => continue,
                screened => return io::Result::Ok(screened),
            }
        }
    };
    match timeout(PATIENCE, by_datagram).await {
        Err(_) => Err(AskError::Late { server }),
        Ok(Err(error)) => Err(io(error)),
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(NoAnswer::Truncated))) => match timeout(PATIENCE, by_stream(server, &bytes)).await {
            Err(_) => Err(AskError::Late { server }),
            Ok(Err(error)) => Err(io(error)),
            Ok(Ok(reply)) => {
                screen(question, id, &reply).map_err(|source| AskError::Answer { server, source })
            }
        },
        Ok(Ok(Err(source))) => Err(AskError::Answer { server, source }),
    }
}

async fn by_stream(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(head))];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

/// A number that nobody can guess.
fn random_id() -> u16 {
    let mut bytes = [0; 2];
    // SAFETY: two bytes of room. The call does not fail for so few, once the kernel has booted.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u16::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch corp\n nameserver\t192.0.2.1  # comment\nnameserver 2001:db8::1\n\
            nameserver fe80::1%3\nnameserver nonsense\nnameservers 9.9.9.9\noptions edns0\n";
        let found: Vec<String> = servers_in(text).0.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:53"]);
        assert_eq!(servers_in("search corp"), (vec!["127.0.0.1:53".parse().unwrap()], false));
    }
}
