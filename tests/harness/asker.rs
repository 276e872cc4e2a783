//! What an agent does about names: look-ups by the C library and by bytes, and calls to what they answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::Socket;

/// How long an answer may take. The resolver itself gives up before.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Does what the words say; what came of it.
#[must_use]
pub fn act(words: &[&str]) -> String {
    match words {
        ["resolve", name] => resolve(name),
        ["connect", address] => address.parse().map_or_else(
            |_| "no address".to_owned(),
            |address: SocketAddr| match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => "connected".to_owned(),
                Err(error) => {
                    error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string())
                }
            },
        ),
        // Looks up, and calls the first address at once.
        ["reach", name, port] => match (*name, port.parse::<u16>().unwrap_or(0)).to_socket_addrs() {
            Err(_) => "none".to_owned(),
            Ok(addresses) => {
                let ends: Vec<String> =
                    addresses.map(|address| act(&["connect", &address.to_string()])).collect();
                ends.first().cloned().unwrap_or_else(|| "none".to_owned())
            }
        },
        ["greet", address, form, name] => crate::greeter::greet(address, form, name),
        ["roam", how, device, server, name] => crate::roamer::ask(how, device, server, name),
        ["go-on"] => crate::greeter::go_on(None),
        ["go-on", name] => crate::greeter::go_on(Some(name)),
        ["bind", address] => match UdpSocket::bind(*address) {
            Ok(_) => "bound".to_owned(),
            Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
        },
        ["send", address] => send(address),
        ["udp", server, name, kind] => answer(by_datagram(server, name, kind, None)),
        ["udp-edns", server, name, kind] => answer(by_datagram(server, name, kind, Some(4_096))),
        ["tcp", server, name, kind] => answer(by_stream(server, name, kind)),
        ["unconnected", server, name, kind] => answer(by_unconnected(server, name, kind)),
        // `count` fresh names `n0.SUFFIX`, whose addresses end in their numbers. Each is called, looked up and called:
        // how many were reached too early, and how many were not reached.
        ["reach-many", server, suffix, address, port, count] => {
            let count: u32 = count.parse().unwrap_or(0);
            let (mut early, mut denied) = (0, 0);
            for n in 0..count {
                let to = format!("[{address}{n:x}]:{port}");
                early += u32::from(act(&["connect", &to]) == "connected");
                let answered = answer(by_datagram(server, &format!("n{n}.{suffix}"), "AAAA", None));
                denied +=
                    u32::from(!answered.starts_with("NoError") || act(&["connect", &to]) != "connected");
            }
            format!("{early} early {denied} denied")
        }
        ["sendmmsg", server, name, kind] => answer(by_messages(server, name, kind)),
        ["pieces", server, name, kind] => answer(by_pieces(server, name, kind)),
        ["hold", address] => match TcpStream::connect(*address) {
            Ok(stream) => hold(stream),
            Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
        },
        // Whether what `hold` holds still carries.
        ["held"] => held(),
        ["run", program, rest @ ..] => match std::process::Command::new(program).args(rest).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ");
                format!("{} {text}", output.status.code().unwrap_or(-1)).trim_end().to_owned()
            }
            Err(error) => error.to_string(),
        },
        _ => "unknown verb".to_owned(),
    }
}

/// The addresses of a name by `getaddrinfo`, sorted.
fn resolve(name: &str) -> String {
    let Ok(addresses) = (name, 0).to_socket_addrs() else { return "none".to_owned() };
    let mut addresses: Vec<String> = addresses.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    addresses.join(" ")
}

fn send(address: &str) -> String {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let sent = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"x", address));
    match sent {
        Ok(_) => "sent".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string()),
    }
}

/// A name whose labels may hold any byte: `\000` and the like, and `\.`.
fn name_of(text: &str) -> Option<Name> {
    let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                let next = bytes.next()?;
                let byte = if next.is_ascii_digit() {
                    let digits = [next, bytes.next()?, bytes.next()?];
                    std::str::from_utf8(&digits).ok()?.parse().ok()?
                } else {
                    next
                };
                labels.last_mut()?.push(byte);
            }
            b'.' => labels.push(Vec::new()),
            byte => labels.last_mut()?.push(byte),
        }
    }
    Name::from_labels(labels.iter().filter(|label| !label.is_empty()).map(Vec::as_slice)).ok()
}

pub fn question(name: &str, kind: &str, payload: Option<u16>) -> Option<Vec<u8>> {
    let kind: RecordType = kind.parse().ok()?;
    let mut message = Message::new(0x5157, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name_of(name)?, kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().ok()
}

type Answered = std::io::Result<(Vec<u8>, SocketAddr)>;

fn by_datagram(server: &str, name: &str, kind: &str, payload: Option<u16>) -> Answered {
    let server: SocketAddr = server.parse().map_err(std::io::Error::other)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(&question(name, kind, payload).unwrap_or_default())?;
    let mut room = vec![0; 65_536];
    let length = socket.recv(&mut room)?;
    Ok((room[..length].to_vec(), socket.peer_addr()?))
}

/// An unconnected socket takes an answer from wherever it says that it comes.
fn by_unconnected(server: &str, name: &str, kind: &str) -> Answered {
    let server: SocketAddr = server.parse().map_err(std::io::Error::other)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&question(name, kind, None).unwrap_or_default(), server)?;
    let mut room = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut room)?;
    Ok((room[..length].to_vec(), from))
}

/// By `sendmmsg`, twice the same question.
fn by_messages(server: &str, name: &str, kind: &str) -> Answered {
    let socket = Socket::udp4().map_err(std::io::Error::other)?;
    let to: SocketAddr = server.parse().map_err(std::io::Error::other)?;
    let bytes = question(name, kind, None).unwrap_or_default();
    socket.send_messages(&bytes, &[to.into(), to.into()]).map_err(errno)?;
    let mut room = vec![0; 65_536];
    let length = socket.receive(&mut room).map_err(errno)?;
    Ok((room[..length].to_vec(), to))
}

fn errno(failure: crate::Failure) -> std::io::Error {
    std::io::Error::from_raw_os_error(failure.errno)
}

/// In two pieces of one datagram (`MSG_MORE`), the name cut in the middle.
fn by_pieces(server: &str, name: &str, kind: &str) -> Answered {
    let server: SocketAddr = server.parse().map_err(std::io::Error::other)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    let bytes = question(name, kind, None).unwrap_or_default();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for (piece, flags) in [(first, libc::MSG_MORE), (rest, 0)] {
        // SAFETY: pointer and length describe `piece`.
        let sent = unsafe { libc::send(socket.as_raw_fd(), piece.as_ptr().cast(), piece.len(), flags) };
        if sent < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let mut room = vec![0; 65_536];
    let length = socket.recv(&mut room)?;
    Ok((room[..length].to_vec(), socket.peer_addr()?))
}

static HELD: Mutex<Option<TcpStream>> = Mutex::new(None);

fn hold(stream: TcpStream) -> String {
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    "connected".to_owned()
}

fn held() -> String {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stream) = held.as_mut() else { return "nothing".to_owned() };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
    let _ = stream.write_all(b"x");
    match stream.read(&mut [0; 8]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "carries".to_owned(),
        // Nobody says anything, and nobody ended it.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            "carries".to_owned()
        }
        Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
    }
}

fn by_stream(server: &str, name: &str, kind: &str) -> Answered {
    let server: SocketAddr = server.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let question = question(name, kind, None).unwrap_or_default();
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat())?;
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(head))];
    stream.read_exact(&mut reply)?;
    Ok((reply, stream.peer_addr()?))
}

/// `CODE from SERVER: data data …`, or the errno.
pub fn answer(answered: Answered) -> String {
    let (bytes, from) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            return error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string());
        }
    };
    let Ok(message) = Message::from_vec(&bytes) else { return "malformed".to_owned() };
    let mut said: Vec<String> = message.answers.iter().map(|record| data(&record.data)).collect();
    said.sort();
    let truncated = if message.metadata.truncation { " truncated" } else { "" };
    format!("{:?}{truncated} from {from}: {}", message.metadata.response_code, said.join(" "))
}

fn data(data: &RData) -> String {
    match data {
        RData::A(a) => IpAddr::from(a.0).to_string(),
        RData::AAAA(a) => IpAddr::from(a.0).to_string(),
        other => other.to_string(),
    }
}
