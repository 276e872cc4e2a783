//! The daemon's end of the control socket.
//!
//! Started by `daemon::run`; one task a connection. Everything a client can do wrong (be slow, send garbage, send too
//! much, connect too often, belong to an agent) ends its own connection and nothing else. What must stay true: no
//! request is obeyed before every witness of its sender was asked, see `control::peer`.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::peer::{self, Peer};
use super::protocol::{Code, MAX_REQUEST, Op, Outcome, Refusal, Reply, Request, VERSION};
use crate::sink::follow::{Next, Subscription};

/// Connections at one time.
const MAX_CLIENTS: usize = 64;
/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read what was sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server asks of the daemon.
pub trait Handler: Send + Sync + 'static {
    /// Whether a process carries a label, or carried one that was lost.
    fn is_labelled(&self, pid: u32) -> bool;

    /// Group whose members may use the socket beside root.
    fn control_group(&self) -> Option<u32>;

    /// Answers a request with JSON. May block.
    ///
    /// # Errors
    /// What the client is told.
    fn answer(&self, op: Op, from: Peer) -> Result<Box<RawValue>, Refusal>;

    /// Subscribes a follower.
    ///
    /// # Errors
    /// What the client is told.
    fn follow(&self, filter: crate::sink::follow::Filter) -> Result<Subscription, Refusal>;
}

/// Makes the socket, with access as it shall be before the first client can connect.
///
/// # Errors
/// When another daemon listens there, or the directory or socket can't be made.
pub fn listen_at(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    listen_as(path, if group.is_some() { 0o660 } else { 0o600 }, group)
}

/// Makes a socket that everybody may connect to.
///
/// # Errors
/// As [`listen_at`].
pub fn listen_for_all(path: &Path) -> io::Result<UnixListener> {
    listen_as(path, 0o666, None)
}

fn listen_as(path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match StdStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens on this socket"));
        }
        // A connection to any other file is refused too (`unix_find_bsd`): it is somebody's, and stays.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                let what = "there is a file that is no socket; name another path with --socket";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            // Left behind by a daemon that was killed.
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Accepted sockets inherit it (`unix_sock_inherit_flags`), so no byte arrives without credentials.
    sockopt::set_socket_passcred(&socket, true)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect until `listen`.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    listen(&socket, 64)?;
    UnixListener::from_std(socket.into())
}

/// Serves until `shutdown`, then removes the socket if it is still this one.
pub async fn serve(
    listener: UnixListener,
    path: &Path,
    handler: Arc<dyn Handler>,
    shutdown: impl Future<Output = ()>,
) {
    let made = fs::metadata(path).map(|data| data.ino()).ok();
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: accepting again at once would spin.
                tracing::warn!(%error, "a control connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        match Arc::clone(&clients).try_acquire_owned() {
            Ok(permit) => {
                tokio::spawn(async move {
                    client(stream, handler).await;
                    drop(permit);
                });
            }
            Err(_) => {
                let refusal =
                    Refusal::new(Code::Busy, format!("{MAX_CLIENTS} clients are connected already"));
                tokio::spawn(async move { refuse(&stream, refusal).await });
            }
        }
    }
    if made.is_some() && fs::metadata(path).map(|data| data.ino()).ok() == made {
        // A socket that can't be removed is found dead by the next daemon.
        let _ = fs::remove_file(path);
    }
}

/// One connection: one request, one reply, and event lines where they were asked for.
async fn client(stream: UnixStream, handler: Arc<dyn Handler>) {
    let request = match timeout(REQUEST_TIMEOUT, request(&stream, &handler)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => return refuse(&stream, refusal).await,
        Err(_) => {
            let seconds = REQUEST_TIMEOUT.as_secs();
            let message = format!("no whole request came within {seconds} s");
            return refuse(&stream, Refusal::new(Code::Timeout, message)).await;
        }
    };
    let (op, from) = request;
    if let Op::Events { filter } = op {
        return match handler.follow(filter) {
            Ok(subscription) => follow(stream, subscription).await,
            Err(refusal) => refuse(&stream, refusal).await,
        };
    }
    // Installing and labelling wait for the kernel: not on the thread that serves everybody.
    let answered = tokio::task::spawn_blocking(move || handler.answer(op, from)).await;
    match answered {
        Ok(Ok(reply)) => send(&stream, &Reply { v: VERSION, outcome: Outcome::Ok(reply) }).await,
        Ok(Err(refusal)) => refuse(&stream, refusal).await,
        Err(error) => {
            tracing::error!(%error, "a control request was not answered");
            refuse(&stream, Refusal::new(Code::Kernel, "the daemon failed to answer; see its log")).await;
        }
    }
}

/// Reads one request and who sent it; `None` where the client left without one.
async fn request(stream: &UnixStream, handler: &Arc<dyn Handler>) -> Result<Option<(Op, Peer)>, Refusal> {
    let opener = peer::connected(stream.as_fd())
        .map_err(|error| Refusal::new(Code::NotPermitted, format!("the caller is unknown: {error}")))?;
    check(opener, handler)?;
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    let mut checked = None;
    let (end, sender) = loop {
        let read = async {
            stream.readable().await?;
            stream.try_io(Interest::READABLE, || peer::receive(stream.as_fd(), &mut buffer))
        };
        let (read, from) = match read.await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Refusal::new(Code::NotPermitted, error.to_string()));
            }
            // Gone; there is nobody to tell.
            Err(_) => return Ok(None),
        };
        let Some(from) = from.filter(|_| read > 0) else {
            if line.is_empty() {
                return Ok(None);
            }
            return Err(Refusal::new(
                Code::BadRequest,
                "the request has no end: it must be one line of JSON",
            ));
        };
        if checked != Some(from) {
            check(from, handler)?;
            checked = Some(from);
        }
        let start = line.len();
        line.extend_from_slice(&buffer[..read]);
        if let Some(newline) = line[start..].iter().position(|&byte| byte == b'\n') {
            break (start + newline, from);
        }
        if line.len() >= MAX_REQUEST {
            let message = format!("a request has at most {MAX_REQUEST} bytes");
            return Err(Refusal::new(Code::TooLarge, message));
        }
    };
    if end >= MAX_REQUEST {
        return Err(Refusal::new(Code::TooLarge, format!("a request has at most {MAX_REQUEST} bytes")));
    }
    parse(&line[..end]).map(|op| Some((op, sender)))
}

/// Refuses a process that may not use the socket.
fn check(peer: Peer, handler: &Arc<dyn Handler>) -> Result<(), Refusal> {
    if !peer::permitted(peer, handler.control_group()) {
        let message =
            format!("user {} may not control the monitor: use root, or the control group", peer.uid);
        return Err(Refusal::new(Code::NotPermitted, message));
    }
    if peer.pid == 0 {
        let message = "the caller is in a process namespace that the monitor can't see into";
        return Err(Refusal::new(Code::NotPermitted, message));
    }
    if handler.is_labelled(peer.pid) {
        let message = "an agent may not control its monitor";
        tracing::warn!(pid = peer.pid, uid = peer.uid, "a control request of an agent was refused");
        return Err(Refusal::new(Code::LabelledCaller, message));
    }
    // After the label: an agent that writes and ends is found without one.
    if !peer::lives(peer.pid) {
        tracing::warn!(
            pid = peer.pid,
            uid = peer.uid,
            "a control request of a process that is gone was refused"
        );
        let message =
            format!("process {} ended before its request was read: it must wait for the answer", peer.pid);
        return Err(Refusal::new(Code::NotPermitted, message));
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<Op, Refusal> {
    /// Just the version, so that a request of another version is told so whatever else it holds.
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u32,
    }
    let bad = |error: serde_json::Error| Refusal::new(Code::BadRequest, format!("not a request: {error}"));
    let Versioned { v } = serde_json::from_slice(line).map_err(bad)?;
    if v != VERSION {
        let message = format!("the daemon speaks version {VERSION} of the control protocol, not {v}");
        return Err(Refusal::new(Code::UnsupportedVersion, message));
    }
    serde_json::from_slice(line).map_err(bad).map(|Request { op, .. }| op)
}

async fn refuse(stream: &UnixStream, refusal: Refusal) {
    send::<()>(stream, &Reply { v: VERSION, outcome: Outcome::Error(refusal) }).await;
}

async fn send<T: Serialize>(stream: &UnixStream, reply: &Reply<T>) {
    let Ok(mut line) = serde_json::to_vec(reply) else { return };
    line.push(b'\n');
    // A client that left or does not read loses its reply.
    let _ = write(stream, &line).await;
}

/// Writes all of `bytes`, or fails after [`WRITE_TIMEOUT`].
async fn write(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let all = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    timeout(WRITE_TIMEOUT, all).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Event lines until the client leaves, stops reading, or the daemon ends.
async fn follow(mut stream: UnixStream, mut subscription: Subscription) {
    send(&stream, &Reply { v: VERSION, outcome: Outcome::Ok(serde_json::Map::new()) }).await;
    let mut gone = [0; 1];
    loop {
        let next = tokio::select! {
            next = subscription.next() => next,
            // Nothing more is expected from the client, so its next readiness is its end.
            _ = tokio::io::AsyncReadExt::read(&mut stream, &mut gone) => return,
        };
        let lines = match next {
            None => break,
            Some(Next::Lines(lines)) => lines,
            Some(Next::Lost(lost)) => lost_line(lost).into(),
        };
        if write(&stream, &lines).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// The line that tells a follower what it missed.
fn lost_line(lost: u64) -> Vec<u8> {
    use crate::event::model::{EventType, Loss};
    let mut event =
        crate::event::model::Event::new(ulid::Ulid::generate(), jiff::Timestamp::now(), EventType::Loss);
    event.loss = Some(Loss { stage: "follower".into(), lost });
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client::{self, ClientError};
    use crate::control::protocol::Labelled;
    use crate::event::model::{Event, EventType};
    use crate::sink::follow::{Filter, Followers};
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Answers `attach` with its own words; calls one pid an agent.
    #[derive(Default)]
    struct Fake {
        labelled: AtomicU32,
        followers: Followers,
    }

    impl Handler for Fake {
        fn is_labelled(&self, pid: u32) -> bool {
            pid == self.labelled.load(Ordering::Relaxed)
        }
        fn control_group(&self) -> Option<u32> {
            // Tests may run as any user.
            Some(rustix::process::getgid().as_raw())
        }
        fn answer(&self, op: Op, from: Peer) -> Result<Box<RawValue>, Refusal> {
            let Op::Attach { profile, .. } = op else {
                return Err(Refusal::new(Code::UnknownProfile, "no such"));
            };
            let labelled = Labelled { agent: from.pid.to_string(), profile, cgroup: None, notices: None };
            Ok(serde_json::value::to_raw_value(&labelled).unwrap())
        }
        fn follow(&self, filter: Filter) -> Result<Subscription, Refusal> {
            self.followers.subscribe(filter).map_err(|full| Refusal::new(Code::Busy, full.to_string()))
        }
    }

    /// A server on a thread of its own, so that tests talk to it as clients do.
    struct Served {
        path: PathBuf,
        fake: Arc<Fake>,
        stop: Option<tokio::sync::oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
        _directory: tempfile::TempDir,
    }

    impl Served {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("run/control.sock");
            let fake = Arc::new(Fake::default());
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let (at, handler) = (path.clone(), Arc::clone(&fake));
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = listen_at(&at, None).unwrap();
                    ready.send(()).unwrap();
                    serve(listener, &at, handler, async { stopped.await.unwrap() }).await;
                });
            });
            is_ready.recv().unwrap();
            Served { path, fake, stop: Some(stop), thread: Some(thread), _directory: directory }
        }

        /// Sends bytes as they are; the reply line, empty if there is none.
        fn raw(&self, bytes: &[u8], half_close: bool) -> String {
            let mut stream = StdStream::connect(&self.path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let _ = stream.write_all(bytes);
            if half_close {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut reply = String::new();
            let _ = stream.read_to_string(&mut reply);
            reply
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            let _ = self.stop.take().map(|stop| stop.send(()));
            let _ = self.thread.take().map(std::thread::JoinHandle::join);
        }
    }

    fn attach() -> Op {
        Op::Attach { pid: 1, profile: "p".to_owned() }
    }

    #[test]
    fn a_request_is_answered_and_the_sender_known() {
        let served = Served::start();
        let labelled: Labelled = client::ask(&served.path, attach()).unwrap();
        assert_eq!(labelled.agent, std::process::id().to_string());
        let mode = fs::metadata(&served.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let path = served.path.clone();
        drop(served);
        assert!(!path.exists(), "the socket is removed");
    }

    #[test]
    fn garbage_half_huge_and_foreign_requests_are_refused_by_code() {
        let served = Served::start();
        let huge = vec![b'x'; MAX_REQUEST * 4];
        let huge_line = [&huge[..], b"\n"].concat();
        for (bytes, half_close, code) in [
            (&b"\xff\xfe\n"[..], false, "bad-request"),
            (b"{}\n", false, "bad-request"),
            (b"{\"v\":1,\"op\":\"explode\"}\n", false, "bad-request"),
            (b"{\"v\":1,\"op\":\"attach\",\"pid\":-1,\"profile\":\"p\"}\n", false, "bad-request"),
            (b"{\"v\":1,\"op\":", true, "bad-request"),
            (b"{\"v\":2,\"op\":\"new\"}\n", false, "unsupported-version"),
            (&huge, false, "too-large"),
            (&huge_line, false, "too-large"),
            (b"{\"v\":1,\"op\":\"stop\"}\n", false, "unknown-profile"),
        ] {
            let reply = served.raw(bytes, half_close);
            assert!(reply.contains(&format!("\"code\":\"{code}\"")), "{:?}: {reply}", bytes.get(..40));
        }
        assert_eq!(served.raw(b"", true), "");
        assert!(client::ask::<Labelled>(&served.path, attach()).is_ok(), "it still serves");
    }

    #[test]
    fn an_agent_is_refused() {
        let served = Served::start();
        served.fake.labelled.store(std::process::id(), Ordering::Relaxed);
        let error = client::ask::<Labelled>(&served.path, attach()).unwrap_err();
        assert!(matches!(error, ClientError::Refused(Refusal { code: Code::LabelledCaller, .. })), "{error}");
    }

    #[test]
    fn an_agent_that_inherited_an_open_connection_is_refused() {
        let served = Served::start();
        let stream = StdStream::connect(&served.path).unwrap();
        let mut reply = stream.try_clone().unwrap();
        // The child waits until it is known as an agent.
        let mut child = std::process::Command::new("sh")
            .args(["-c", r#"read go; echo '{"v":1,"op":"attach","pid":1,"profile":"p"}'"#])
            .stdin(std::process::Stdio::piped())
            .stdout(OwnedFd::from(stream))
            .spawn()
            .unwrap();
        served.fake.labelled.store(child.id(), Ordering::Relaxed);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child.wait().unwrap();
        let mut text = String::new();
        reply.read_to_string(&mut text).unwrap();
        assert!(text.contains("labelled-caller"), "{text}");
    }

    #[test]
    fn a_sender_that_is_gone_is_refused_because_its_label_is_gone_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handler: Arc<dyn Handler> = Arc::new(Fake::default());
        // The opener of both connections is this process; a child writes to one, this process to the other.
        for by_child in [true, false] {
            let (mut ours, theirs) = StdStream::pair().unwrap();
            sockopt::set_socket_passcred(&theirs, true).unwrap();
            let line = r#"{"v":1,"op":"attach","pid":1,"profile":"p"}"#;
            if by_child {
                let mut echo = std::process::Command::new("echo");
                assert!(echo.arg(line).stdout(OwnedFd::from(ours)).status().unwrap().success());
            } else {
                writeln!(ours, "{line}").unwrap();
            }
            theirs.set_nonblocking(true).unwrap();
            let read = runtime.block_on(async {
                let stream = UnixStream::from_std(theirs).unwrap();
                request(&stream, &handler).await
            });
            match read {
                Ok(Some((Op::Attach { .. }, from))) => {
                    assert!(!by_child && from.pid == std::process::id(), "{from:?}");
                }
                Err(refusal) => assert!(by_child && refusal.code == Code::NotPermitted, "{refusal:?}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_silent_client_is_sent_away() {
        let served = Served::start();
        let reply = served.raw(b"{\"v\":1", false);
        assert!(reply.contains("\"code\":\"timeout\""), "{reply}");
    }

    #[test]
    fn a_follower_gets_what_is_offered() {
        let served = Served::start();
        let mut connection = client::send(&served.path, Op::Events { filter: Filter::default() }).unwrap();
        connection.reply::<serde_json::Value>().unwrap();
        let event = Event::new(ulid::Ulid::from(1_u128), jiff::Timestamp::UNIX_EPOCH, EventType::Exec);
        served.fake.followers.offer(&event, b"first\nsecond\n");
        served.fake.followers.flush();
        let mut lines = connection.lines().unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "first");
        assert_eq!(lines.next().unwrap().unwrap(), "second");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let living = listen_at(&path, None).unwrap();
        assert_eq!(listen_at(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
        let file = directory.path().join("notes");
        fs::write(&file, "kept").unwrap();
        assert_eq!(listen_at(&file, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
