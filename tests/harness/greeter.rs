//! What an agent sends first on a connection: hellos of TLS clients, whole, cut, and of wrong forms.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{Failure, Socket};

/// How long what was sent may take to be answered: the server answers whatever comes at once.
const PATIENCE: Duration = Duration::from_millis(1_200);

/// The bytes of an extension.
fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

/// A `server_name` extension with these names.
fn names(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|name| [&[0][..], &(name.len() as u16).to_be_bytes(), name].concat()).collect();
    extension(0, &[&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

/// The handshake message of a client with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0, 4, 0x13, 0x01, 0x13, 0x02]);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[1, 0], &(body.len() as u16).to_be_bytes()[..], &body].concat()
}

/// One record of a handshake.
fn record(bytes: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A key share as large as one of today's (X25519MLKEM768).
fn key_share() -> Vec<u8> {
    extension(51, &[0x5a; 1_258])
}

/// The pieces that are sent, each by a call of its own, for what the word asks.
fn pieces(form: &str, name: &[u8]) -> Option<Vec<Vec<u8>>> {
    let versions = extension(43, &[2, 3, 4]);
    let usual = record(&message(&[names(&[name]), versions.clone(), key_share()].concat()));
    let one = |bytes: Vec<u8>| Some(vec![bytes]);
    match form {
        "hello" | "open" | "late" => one(usual),
        // As permuted by clients that shuffle: the name behind a large key, in what may be the second segment.
        "behind-key" => one(record(&message(&[versions, key_share(), names(&[name])].concat()))),
        "plain" => one(b"GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n".to_vec()),
        "short" => one(b"GET /\r\n".to_vec()),
        "no-name" => one(record(&message(&[versions, key_share()].concat()))),
        "no-extensions" => one(record(&{
            let mut bytes = message(&[]);
            bytes.truncate(bytes.len() - 2);
            bytes[3] -= 2;
            bytes
        })),
        // A server name of no bytes, two of them, another length outside than inside.
        "empty" => one(record(&message(&names(&[b""])))),
        "two" => one(record(&message(&names(&[name, b"evil.test"])))),
        "wrong-length" => {
            let mut bytes = usual;
            let at = bytes.windows(name.len()).position(|window| window == name)?;
            bytes[at - 1] -= 1;
            one(bytes)
        }
        "zero" => one(record(&message(&names(&[&[name, b"\0"].concat()])))),
        // A record of another kind that holds the same.
        "alert" => {
            let mut bytes = usual;
            bytes[0] = 21;
            one(bytes)
        }
        // The second piece may join the first, as in any program that writes twice.
        "segments" | "writes" => Some(vec![usual[..30].to_vec(), usual[30..].to_vec()]),
        "first-byte" => Some(vec![usual[..1].to_vec(), usual[1..].to_vec()]),
        "records" => {
            let whole = message(&[names(&[name]), versions].concat());
            one([record(&whole[..60]), record(&whole[60..])].concat())
        }
        // What is dropped is sent again by TCP; the hello behind it must not open the way for it.
        "smuggled" | "smuggled-writes" => {
            Some(vec![b"POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n".to_vec(), usual])
        }
        _ => None,
    }
}

/// The connection of the last [`greet`] by `connect`.
static KEPT: Mutex<Option<TcpStream>> = Mutex::new(None);

/// Calls `address`, sends what `form` says with `name` in it, and tells whether the server heard of it: `heard`,
/// `silence`, or an errno.
#[must_use]
pub fn greet(address: &str, form: &str, name: &str) -> String {
    let Ok(to) = address.parse::<SocketAddr>() else { return "no address".to_owned() };
    let Some(pieces) = pieces(form, name.as_bytes()) else { return "unknown form".to_owned() };
    if form == "open" {
        let answer = open(to, &pieces[0]).and_then(|socket| socket.receive(&mut [0; 64]));
        return match answer {
            Ok(_) => "heard".to_owned(),
            Err(failure) if matches!(failure.errno, libc::EAGAIN | libc::EINPROGRESS) => "silence".to_owned(),
            Err(failure) => failure.errno.to_string(),
        };
    }
    match connect(to, form, &pieces) {
        Ok(mut stream) => {
            let said = answered(&mut stream);
            *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
            said
        }
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string()),
    }
}

/// Sends more on the connection of the last call: a hello with `name`, or anything.
#[must_use]
pub fn go_on(name: Option<&str>) -> String {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stream) = kept.as_mut() else { return "nothing".to_owned() };
    let hello = name.and_then(|name| Some(pieces("hello", name.as_bytes())?.concat()));
    match stream.write_all(hello.as_deref().unwrap_or(b"more")) {
        Ok(()) => answered(stream),
        Err(error) => error.raw_os_error().unwrap_or(-1).to_string(),
    }
}

fn answered(stream: &mut TcpStream) -> String {
    let answer = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.read(&mut [0; 64]));
    match answer {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "heard".to_owned(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            "silence".to_owned()
        }
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string()),
    }
}

fn connect(to: SocketAddr, form: &str, pieces: &[Vec<u8>]) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    if form == "late" {
        std::thread::sleep(Duration::from_millis(2_500));
    }
    for piece in pieces {
        if form.ends_with("writes") {
            stream.write_all(piece)?;
            continue;
        }
        // Each is a segment of its own, and stays one.
        // SAFETY: pointer and length describe `piece`.
        let sent =
            unsafe { libc::send(stream.as_raw_fd(), piece.as_ptr().cast(), piece.len(), libc::MSG_EOR) };
        if sent < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(stream)
}

/// The bytes go with the SYN (TCP Fast Open), without a cookie.
fn open(to: SocketAddr, bytes: &[u8]) -> Result<Socket, Failure> {
    const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
    let socket = if to.is_ipv4() { Socket::tcp4() } else { Socket::tcp6() }?;
    socket.set_int(libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
    socket.send_to(bytes, libc::MSG_FASTOPEN, &to.into())?;
    Ok(socket)
}
