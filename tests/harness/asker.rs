//! What an agent does about names: look-ups by the C library and by bytes, and calls to what they answered.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

/// How long an answer may take. The resolver itself gives up before.
const PATIENCE: Duration = Duration::from_secs(8);

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
        ["send", address] => send(address),
        ["udp", server, name, kind] => answer(by_datagram(server, name, kind, None)),
        ["udp-edns", server, name, kind] => answer(by_datagram(server, name, kind, Some(4_096))),
        ["tcp", server, name, kind] => answer(by_stream(server, name, kind)),
        ["unconnected", server, name, kind] => answer(by_unconnected(server, name, kind)),
        // `count` fresh names, each looked up and called at once: how many failed.
        ["reach-many", suffix, port, count] => {
            let count: u32 = count.parse().unwrap_or(0);
            let failed = (0..count)
                .filter(|n| act(&["reach", &format!("n{n}.{suffix}"), port]) != "connected")
                .count();
            failed.to_string()
        }
        ["early", address, count] => {
            let count: u32 = count.parse().unwrap_or(0);
            (0..count).filter(|_| act(&["connect", address]) == "connected").count().to_string()
        }
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

fn question(name: &str, kind: &str, payload: Option<u16>) -> Option<Vec<u8>> {
    let kind: RecordType = kind.parse().ok()?;
    let mut message = Message::new(0x5157, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).ok()?, kind));
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
fn answer(answered: Answered) -> String {
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
