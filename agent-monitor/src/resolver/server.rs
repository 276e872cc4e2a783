//! The thread that answers agents' questions.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_monitor_common::name::{Asker, Resolver as Place};
use agent_monitor_common::request::Protocol;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{interval_at, timeout};

use super::cache::Cache;
use super::filter::{self, Answers, Own};
use super::grants::{InForce, Names, monotonic};
use super::sockets::{self, Bound};
use super::told::Told;
use super::upstream::{self, Upstream};
use super::volume::{Tally, Volume};
use super::waiting::Waiting;
use super::wire::{self, Answer, Asked, Question};

/// Connections at one time.
const MAX_STREAMS: usize = 256;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams that are read from one socket before the others have a turn.
const TURN: usize = 32;
/// How often what has long expired is forgotten.
const TIDY: Duration = Duration::from_secs(60);

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Granted, and answered by a server of the host.
    Answered,
    /// Granted, and answered by what is known.
    Cached,
    /// Answered by what the monitor knows itself: a reverse question, `localhost`.
    Own,
    /// No rule grants the name.
    Denied,
    /// Nobody knows who asks: not an agent's question, or its trace was lost.
    Unknown,
    /// The asker's profile is changing.
    Changing,
    /// No server of the host answered.
    Failed,
    /// It could not be read.
    Malformed,
    /// Too many wait.
    Busy,
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Cached,
        Self::Own,
        Self::Denied,
        Self::Unknown,
        Self::Changing,
        Self::Failed,
        Self::Malformed,
        Self::Busy,
    ];

    /// The word of the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Cached => "cached",
            Self::Own => "own",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Changing => "changing",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
        }
    }
}

/// What the daemon is told of.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub asker: Asker,
    pub name: String,
    pub kind: String,
    pub what: Why,
    pub in_force: Arc<InForce>,
}

/// Why it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No rule grants the name.
    Denied,
    /// These addresses answered for the name and may not.
    Rebinding(Vec<IpAddr>),
    /// The agent asks as a tunnel would; the name is the last of many.
    Tunnel(Tally),
}

impl Why {
    /// Whether it is a sign of something and no verdict.
    #[must_use]
    pub const fn is_sign(&self) -> bool {
        matches!(self, Self::Tunnel(_))
    }
}

/// Totals.
#[derive(Debug, Default)]
pub struct Totals {
    /// By position in [`Outcome::ALL`].
    pub lookups: [AtomicU64; Outcome::ALL.len()],
    /// Addresses that may not answer for a name.
    pub rebinding: AtomicU64,
    /// Questions with a label that looks like data.
    pub odd: AtomicU64,
    /// Windows in which an agent asked as a tunnel would.
    pub tunnels: AtomicU64,
}

/// How to resolve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers to ask; empty: those of `resolv_conf`.
    pub servers: Vec<SocketAddr>,
    pub resolv_conf: PathBuf,
    /// How long an address is reachable after its answer has expired.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            servers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            grace: Duration::from_secs(10),
        }
    }
}

/// The running thread.
pub struct Resolver {
    pub names: Arc<Names>,
    pub totals: Arc<Totals>,
    pub place: Place,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Ends the thread. The kernel is told first, so that agents see at once that names do not resolve.
    pub fn stop(&mut self) {
        let gone = Place { port: 0, ..self.place };
        if let Err(error) = self.names.set_resolver(gone) {
            tracing::warn!(%error, "the kernel can't be told that names do not resolve");
        }
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that resolves names failed");
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// Binds, tells the kernel, and starts the thread. `tell` is called from it.
///
/// # Errors
/// When no port is free, or the thread can't be made: then names do not resolve.
pub fn start(
    names: Arc<Names>,
    options: Options,
    tell: impl Fn(Lookup) + Send + Sync + 'static,
) -> io::Result<Resolver> {
    let Bound { resolver: place, network, datagrams, listeners } = sockets::bind(names.resolver().port)?;
    let totals = Arc::new(Totals::default());
    let shared = Arc::new(Shared {
        names: Arc::clone(&names),
        totals: Arc::clone(&totals),
        upstream: Mutex::new(Upstream::new(options.servers, options.resolv_conf)),
        cache: Mutex::default(),
        own: Mutex::new(Own::new()),
        told: Mutex::default(),
        volume: Mutex::default(),
        waiting: Waiting::default(),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        grace: options.grace,
        tell: Box::new(tell),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (datagrams, listeners) = {
        let _entered = runtime.enter();
        let datagrams: io::Result<Vec<_>> = datagrams.into_iter().map(UdpSocket::from_std).collect();
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(TcpListener::from_std).collect();
        (datagrams?, listeners?)
    };
    let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
        runtime.block_on(async move {
            for socket in datagrams {
                tokio::spawn(serve_datagrams(Arc::clone(&shared), Arc::new(socket)));
            }
            for listener in listeners {
                tokio::spawn(serve_streams(Arc::clone(&shared), listener));
            }
            tokio::spawn(async move {
                let mut tick = interval_at(tokio::time::Instant::now() + TIDY, TIDY);
                loop {
                    tick.tick().await;
                    shared.names.tidy();
                }
            });
            // Dropped, not sent to.
            let _ = stopped.await;
        });
        // What still waits for a server is not waited for.
        runtime.shutdown_background();
    })?;
    names.set_network(network).map_err(io::Error::other)?;
    // From here on agents' questions come.
    names.set_resolver(place).map_err(io::Error::other)?;
    Ok(Resolver { names, totals, place, stop: Some(stop), thread: Some(thread) })
}

struct Shared {
    names: Arc<Names>,
    totals: Arc<Totals>,
    upstream: Mutex<Upstream>,
    cache: Mutex<Cache>,
    own: Mutex<Own>,
    told: Mutex<Told>,
    volume: Mutex<Volume>,
    waiting: Waiting,
    streams: Arc<Semaphore>,
    grace: Duration,
    tell: Box<dyn Fn(Lookup) + Send + Sync>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What can be said at once.
enum First {
    Reply(Vec<u8>),
    Nothing,
    Ask(Box<Pending>),
}

/// A question that a server of the host must be asked.
struct Pending {
    question: Question,
    asker: Asker,
    in_force: Arc<InForce>,
    datagram: bool,
}

impl Shared {
    fn count(&self, outcome: Outcome) {
        let position = Outcome::ALL.iter().position(|known| *known == outcome);
        if let Some(total) = position.and_then(|position| self.totals.lookups.get(position)) {
            total.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn first(&self, bytes: &[u8], from: SocketAddr, protocol: Protocol) -> First {
        let question = match wire::read(bytes) {
            Asked::Question(question) => *question,
            Asked::Wrong(reply) => {
                self.count(Outcome::Malformed);
                return First::Reply(reply);
            }
            Asked::Noise => {
                self.count(Outcome::Malformed);
                return First::Nothing;
            }
        };
        let fail = |outcome, code| {
            self.count(outcome);
            First::Reply(question.fail(code))
        };
        let Some(asker) = self.names.asker(from.ip(), from.port(), protocol.code()) else {
            return fail(Outcome::Unknown, ResponseCode::Refused);
        };
        let Some(in_force) = self.names.in_force(asker.profile, asker.generation) else {
            return fail(Outcome::Changing, ResponseCode::ServFail);
        };
        let datagram = protocol == Protocol::Udp;
        if let Some(own) = self.own_answer(&question, asker.profile) {
            self.count(Outcome::Own);
            return First::Reply(question.answer(&own, datagram).0);
        }
        self.watch(&question, asker, &in_force);
        let granted = question.plain.as_ref().and_then(|name| in_force.granted(asker.class, name));
        if granted.is_none() {
            self.tell_denied(&question, asker, &in_force);
            if !in_force.only_watches() || question.plain.is_none() {
                return fail(Outcome::Denied, ResponseCode::NXDomain);
            }
        }
        let pending = Pending { question, asker, in_force, datagram };
        let name = pending.question.plain.as_deref().unwrap_or_default();
        let known = locked(&self.cache).find(name, pending.question.kind, Instant::now());
        match known {
            Some((answer, left)) => {
                self.count(Outcome::Cached);
                First::Reply(self.release(&pending, answer, left))
            }
            None => First::Ask(Box::new(pending)),
        }
    }

    /// What needs no rule and no server.
    fn own_answer(&self, question: &Question, slot: u32) -> Option<Answer> {
        if let Some(address) = question.reverse() {
            let (host, ttl) = self.names.live_host_of(slot, address)?;
            return question.called(&host, ttl);
        }
        // RFC 6761 §6.3. Whether the loopback may be called, the rules about addresses say.
        let name = question.plain.as_deref()?;
        if name != "localhost" && !name.ends_with(".localhost") {
            return None;
        }
        let data = match question.kind {
            RecordType::A => Some(RData::A(A(Ipv4Addr::LOCALHOST))),
            RecordType::AAAA => Some(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
            _ => None,
        };
        let records = data.map(|data| Record::from_rdata(question.name.clone(), 60, data));
        Some(Answer {
            code: ResponseCode::NoError,
            records: records.into_iter().collect(),
            authority: Vec::new(),
        })
    }

    /// Looks for a tunnel.
    fn watch(&self, question: &Question, asker: Asker, in_force: &Arc<InForce>) {
        let name = question.plain.clone().unwrap_or_else(|| question.name.to_ascii());
        let noted = locked(&self.volume).note(asker.agent, &name, Instant::now());
        if noted.odd {
            self.totals.odd.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(tally) = noted.tunnel {
            self.totals.tunnels.fetch_add(1, Ordering::Relaxed);
            (self.tell)(Lookup {
                asker,
                name,
                kind: question.kind.to_string(),
                what: Why::Tunnel(tally),
                in_force: Arc::clone(in_force),
            });
        }
    }

    fn tell_denied(&self, question: &Question, asker: Asker, in_force: &Arc<InForce>) {
        let name = question.plain.clone().unwrap_or_else(|| question.name.to_ascii());
        if locked(&self.told).is_news(asker.agent, &name, Instant::now()) {
            (self.tell)(Lookup {
                asker,
                name,
                kind: question.kind.to_string(),
                what: Why::Denied,
                in_force: Arc::clone(in_force),
            });
        }
    }

    /// Asks, and keeps what is said.
    async fn ask(&self, pending: &Pending) -> Vec<u8> {
        let question = &pending.question;
        let Some(_place) = self.waiting.enter(pending.asker.agent) else {
            self.count(Outcome::Busy);
            return question.fail(ResponseCode::ServFail);
        };
        let servers = locked(&self.upstream).servers();
        match upstream::ask(&servers, question).await {
            Ok(answer) => {
                self.count(Outcome::Answered);
                let name = question.plain.as_deref().unwrap_or_default();
                locked(&self.cache).keep(name, question.kind, &answer, Instant::now());
                let holds = Duration::from_secs(answer.ttl().into());
                self.release(pending, answer, holds)
            }
            Err(error) => {
                self.count(Outcome::Failed);
                tracing::debug!(name = %question.name, %error, "no answer");
                question.fail(ResponseCode::ServFail)
            }
        }
    }

    /// Tells the kernel of the addresses that may answer, and only then gives out the bytes that name them.
    fn release(&self, pending: &Pending, mut answer: Answer, holds: Duration) -> Vec<u8> {
        let Pending { question, asker, in_force, datagram } = pending;
        let program = in_force.program(asker.class);
        let (mut refused, mut by_number) = (Vec::new(), Vec::new());
        {
            let mut own = locked(&self.own);
            answer.retain_addresses(|address| {
                let judged = filter::judge(&in_force.profile.network, program, &mut own, address);
                match judged {
                    Ok(Answers::ByName) => {}
                    Ok(Answers::ByNumber) => by_number.push(address),
                    Err(_) => refused.push(address),
                }
                judged.is_ok() || in_force.only_watches()
            });
        }
        let name = question.plain.as_deref().unwrap_or_default();
        if !refused.is_empty() {
            self.totals.rebinding.fetch_add(refused.len() as u64, Ordering::Relaxed);
            if locked(&self.told).is_news(asker.agent, &format!("{name} ->"), Instant::now()) {
                (self.tell)(Lookup {
                    asker: *asker,
                    name: name.to_owned(),
                    kind: question.kind.to_string(),
                    what: Why::Rebinding(refused.clone()),
                    in_force: Arc::clone(in_force),
                });
            }
        }
        let (bytes, whole) = question.answer(&answer, *datagram);
        if !whole || in_force.granted(asker.class, name).is_none() {
            return bytes;
        }
        let left = u64::try_from((holds + self.grace).as_nanos()).unwrap_or(u64::MAX);
        let until = monotonic().saturating_add(left);
        let name: Arc<str> = name.into();
        let mut without = Vec::new();
        let named = |address: &IpAddr| !refused.contains(address) && !by_number.contains(address);
        for address in answer.addresses().filter(named) {
            if self.names.grant(asker.profile, &name, address, until).is_err() {
                without.push(address);
            }
        }
        if without.is_empty() {
            return bytes;
        }
        answer.retain_addresses(|address| !without.contains(&address));
        question.answer(&answer, *datagram).0
    }
}

async fn serve_datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut room = vec![0; 4_096];
    loop {
        if socket.readable().await.is_err() {
            // Not seen to happen; without a pause it would take the processor.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        for _ in 0..TURN {
            let (length, from) = match socket.try_recv_from(&mut room) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier reply found nobody.
                Err(_) => continue,
            };
            match shared.first(&room[..length], from, Protocol::Udp) {
                First::Reply(bytes) => send(&socket, &bytes, from).await,
                First::Nothing => {}
                First::Ask(pending) => {
                    let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let bytes = shared.ask(&pending).await;
                        send(&socket, &bytes, from).await;
                    });
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A reply that finds nobody is nobody's loss.
async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%error, %to, "an answer was not sent");
    }
}

async fn serve_streams(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Descriptors are short.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _permit = permit;
            // An end, an error and a silence are one: the connection is closed.
            let _ = serve_stream(&shared, stream, from).await;
        });
    }
}

async fn serve_stream(shared: &Shared, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    loop {
        let mut head = [0; 2];
        timeout(IDLE, stream.read_exact(&mut head)).await??;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(head))];
        timeout(IDLE, stream.read_exact(&mut bytes)).await??;
        let reply = match shared.first(&bytes, from, Protocol::Tcp) {
            First::Reply(reply) => reply,
            First::Nothing => return Ok(()),
            First::Ask(pending) => shared.ask(&pending).await,
        };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat())).await??;
    }
}
