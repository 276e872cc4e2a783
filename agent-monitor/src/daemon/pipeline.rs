//! The thread between the kernel's rings and the sinks: drain, order, decode, enrich, write.
//!
//! Started by `daemon::run`; one thread with one epoll, because at 100 000 events a second every hand-over between
//! tasks costs more than the work. What must stay true: it waits for a sink no longer than the rings have room for
//! (`sink::jsonl`); records of both rings are put in
//! the order of their times, so that an exec comes before the verdicts of what it started; whatever a record holds,
//! the loop goes on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use agent_monitor_common::event::Header;
use agent_monitor_common::wire::Wire;
use bytes::Bytes;
use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::mpsc::UnboundedSender;
use ulid::Ulid;

use crate::agent::registry::AgentInfo;
use crate::event::decode::{DecodeError, decode};
use crate::event::enrich::{Change, Enricher};
use crate::event::model::{Event, EventType, Id, Loss};
use crate::event::repeats::Repeats;
use crate::sink::Chunk;
use crate::sink::denials::Denials;
use crate::sink::follow::Followers;
use crate::sink::jsonl::FileSink;

/// Records taken from a ring at once.
const DRAIN: usize = 4_096;
/// Bytes of lines after which a chunk goes to the file.
const CHUNK_BYTES: usize = 256 << 10;
/// Lines up to this size are copied out of the buffer instead of giving the buffer away.
const SMALL: usize = 32 << 10;
/// Events of the daemon's own that wait for the pipeline.
const MAX_INJECTED: usize = 8_192;

/// The consumer end of a ring.
pub trait Records: AsFd + Send {
    /// Hands at most `limit` records to `each`; how many there were.
    fn drain(&mut self, limit: usize, each: &mut dyn FnMut(&[u8])) -> usize;
}

/// What the pipeline tells the daemon.
#[derive(Debug)]
pub enum Notice {
    /// The kernel made an agent at an exec.
    Started(Arc<AgentInfo>),
    /// An agent's last process went.
    Ended(Arc<AgentInfo>),
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct PipelineCounts {
    /// By position in [`EventType::ALL`].
    pub events: [AtomicU64; EventType::ALL.len()],
    /// By position in [`DecodeError::LABELS`].
    pub decode_errors: [AtomicU64; DecodeError::LABELS.len()],
}

/// How the rest of the daemon reaches the pipeline: events of its own, and the word to stop.
#[derive(Debug)]
pub struct Injector {
    queue: Mutex<VecDeque<Event<'static>>>,
    stop: AtomicBool,
    wake: OwnedFd,
    /// Events that found the queue full: lost, and counted in `status` and the metrics.
    pub dropped: AtomicU64,
}

impl Injector {
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Injector {
            queue: Mutex::default(),
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            dropped: AtomicU64::new(0),
        })
    }

    /// Adds an event; the pipeline gives it its id.
    pub fn send(&self, event: Event<'static>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= MAX_INJECTED {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push_back(event);
        drop(queue);
        self.wake();
    }

    /// The pipeline drains what is there and ends.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the pipeline is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> VecDeque<Event<'static>> {
        // The counter is reset before the queue is read, so a later event wakes again.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An event of the daemon's own; the pipeline gives it its id.
#[must_use]
pub fn own_event(kind: EventType) -> Event<'static> {
    Event::new(Ulid::nil(), Timestamp::now(), kind)
}

/// What the pipeline works with.
pub struct Pipeline {
    pub enricher: Enricher,
    pub file: Option<FileSink>,
    pub followers: Arc<Followers>,
    /// What agents are told of their denials.
    pub denials: Arc<Denials>,
    pub counts: Arc<PipelineCounts>,
    pub notices: UnboundedSender<Notice>,
    /// What the kernel counts instead of telling.
    pub repeats: Option<Repeats>,
    lines: Vec<u8>,
    events: u64,
    /// Decode failures that followers and file were not told of yet.
    undecodable: u64,
    batch: Batch,
}

/// Records of both rings, copied out so that the rings have room again.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Time, whether it is a verdict (an exec with the same time comes first), position and length in `bytes`.
    records: Vec<(u64, bool, u32, u32)>,
}

impl Batch {
    fn push(&mut self, verdict: bool, record: &[u8]) {
        let time = Header::read_from(record).map_or(0, |header| header.time_ns);
        // At most 2 × DRAIN records of a few KiB each: far below 4 GiB.
        let (Ok(at), Ok(length)) = (u32::try_from(self.bytes.len()), u32::try_from(record.len())) else {
            return;
        };
        self.bytes.extend_from_slice(record);
        self.records.push((time, verdict, at, length));
    }

    fn clear(&mut self) {
        self.records.clear();
        // One burst must not be paid for in memory forever.
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
    }
}

impl Pipeline {
    #[must_use]
    pub fn new(
        enricher: Enricher,
        file: Option<FileSink>,
        followers: Arc<Followers>,
        counts: Arc<PipelineCounts>,
        notices: UnboundedSender<Notice>,
    ) -> Self {
        Pipeline {
            enricher,
            file,
            followers,
            denials: Arc::default(),
            counts,
            notices,
            repeats: None,
            lines: Vec::new(),
            events: 0,
            undecodable: 0,
            batch: Batch::default(),
        }
    }

    /// Starts the thread. It ends after [`Injector::stop`], when both rings are empty and the sinks were handed
    /// everything.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(
        mut self,
        mut verdicts: impl Records + 'static,
        mut activity: impl Records + 'static,
        injector: Arc<Injector>,
    ) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            loop {
                let stopping = injector.stop.load(Ordering::Acquire);
                let more = self.turn(&mut verdicts, &mut activity, &injector);
                if more {
                    continue;
                }
                self.tell_repeats(stopping);
                if stopping {
                    return;
                }
                let until = self.repeats.as_ref().and_then(Repeats::deadline);
                wait([verdicts.as_fd(), activity.as_fd(), injector.wake.as_fd()], until);
            }
        })
    }

    /// Handles what is there now; whether a ring may hold more.
    fn turn(
        &mut self,
        verdicts: &mut impl Records,
        activity: &mut impl Records,
        injector: &Injector,
    ) -> bool {
        self.enricher.begin_batch();
        for event in injector.take() {
            self.inject(event);
        }
        let mut batch = std::mem::take(&mut self.batch);
        // Verdicts first: whatever came before one of them in time is in the activity ring by now.
        let taken = verdicts.drain(DRAIN, &mut |record| batch.push(true, record));
        let taken_activity = activity.drain(DRAIN, &mut |record| batch.push(false, record));
        batch.records.sort_by_key(|&(time, verdict, ..)| (time, verdict));
        for &(_, _, at, length) in &batch.records {
            if let Some(bytes) = batch.bytes.get(at as usize..at as usize + length as usize) {
                self.record(bytes);
            }
        }
        batch.clear();
        self.batch = batch;
        self.flush();
        taken == DRAIN || taken_activity == DRAIN
    }

    /// One record, to the sinks.
    pub fn record(&mut self, bytes: &[u8]) {
        let record = match decode(bytes) {
            Ok(record) => record,
            Err(error) => return self.count_undecodable(error),
        };
        if let Some(repeats) = &mut self.repeats {
            repeats.note(&record, bytes);
        }
        let change = self.enricher.note(&record);
        let time = self.enricher.time(&record);
        if let Some(Change::Started(info)) = &change {
            let event = self.enricher.agent_event(EventType::AgentStarted, info, time);
            Sinks::of(&mut self.lines, &mut self.events, &self.followers, &self.denials, &self.counts)
                .emit(&event);
        }
        let event = self.enricher.event(&record);
        Sinks::of(&mut self.lines, &mut self.events, &self.followers, &self.denials, &self.counts)
            .emit(&event);
        if let Some(Change::Ended(info)) = &change {
            let event = self.enricher.agent_event(EventType::AgentEnded, info, time);
            Sinks::of(&mut self.lines, &mut self.events, &self.followers, &self.denials, &self.counts)
                .emit(&event);
        }
        let notice = match change {
            None => None,
            Some(Change::Started(info)) => Some(Notice::Started(info)),
            Some(Change::Ended(info)) => Some(Notice::Ended(info)),
        };
        if let Some(notice) = notice {
            // Nobody listens only when the daemon is ending.
            let _ = self.notices.send(notice);
        }
        if self.lines.len() >= CHUNK_BYTES {
            self.flush_file();
        }
    }

    /// Records of what was repeated, when it is time; `stopping`: now.
    fn tell_repeats(&mut self, stopping: bool) {
        let Some(repeats) = &mut self.repeats else { return };
        let enricher = &self.enricher;
        let records = repeats.due(Instant::now(), stopping, |agent| enricher.lives(agent));
        if records.is_empty() {
            return;
        }
        for record in records {
            self.record(&record);
        }
        self.flush();
    }

    fn inject(&mut self, mut event: Event<'static>) {
        event.id = Id(self.enricher.next_id(event.time.0));
        Sinks::of(&mut self.lines, &mut self.events, &self.followers, &self.denials, &self.counts)
            .emit(&event);
    }

    fn count_undecodable(&mut self, error: DecodeError) {
        let position = DecodeError::LABELS.iter().position(|label| *label == error.label());
        if let Some(count) = position.and_then(|position| self.counts.decode_errors.get(position)) {
            // The first of each kind says what is wrong; a flood of them is in the metric.
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!(%error, "a record of the kernel side can't be read");
            }
        }
        self.undecodable += 1;
    }

    /// Hands everything to the sinks.
    pub fn flush(&mut self) {
        if self.undecodable > 0 {
            let mut event = own_event(EventType::Loss);
            event.loss = Some(Loss { stage: "decode".into(), lost: std::mem::take(&mut self.undecodable) });
            self.inject(event);
        }
        self.flush_file();
        self.followers.flush();
    }

    fn flush_file(&mut self) {
        let events = std::mem::take(&mut self.events);
        if let (Some(file), true) = (&mut self.file, events > 0) {
            let lines = if self.lines.len() <= SMALL {
                Bytes::copy_from_slice(&self.lines)
            } else {
                Bytes::from(std::mem::replace(&mut self.lines, Vec::with_capacity(CHUNK_BYTES + SMALL)))
            };
            file.send(Chunk { lines, events });
        }
        self.lines.clear();
    }
}

/// The parts of a pipeline that take an event, apart from the enricher that the event borrows from.
struct Sinks<'a> {
    lines: &'a mut Vec<u8>,
    events: &'a mut u64,
    followers: &'a Followers,
    denials: &'a Denials,
    counts: &'a PipelineCounts,
}

impl<'a> Sinks<'a> {
    fn of(
        lines: &'a mut Vec<u8>,
        events: &'a mut u64,
        followers: &'a Followers,
        denials: &'a Denials,
        counts: &'a PipelineCounts,
    ) -> Self {
        Sinks { lines, events, followers, denials, counts }
    }

    fn emit(self, event: &Event<'_>) {
        let start = self.lines.len();
        // Writing to memory can't fail, and no part of an event is a map with other keys than strings.
        if serde_json::to_writer(&mut *self.lines, event).is_err() {
            self.lines.truncate(start);
            return;
        }
        self.lines.push(b'\n');
        *self.events += 1;
        let position = EventType::ALL.iter().position(|kind| *kind == event.kind);
        if let Some(count) = position.and_then(|position| self.counts.events.get(position)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.followers.offer(event, &self.lines[start..]);
        self.denials.offer(event);
    }
}

/// Waits until one of the descriptors can be read, or until then.
fn wait(fds: [BorrowedFd<'_>; 3], until: Option<Instant>) {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    // An interrupted wait is a turn that finds nothing.
    let _ = poll(&mut polled, left.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::registry::Registry;
    use crate::event::decode::build;
    use crate::event::fixture::profile;
    use crate::event::generations::Generations;
    use crate::event::process::Processes;
    use crate::sink::jsonl::{self, FileSettings};
    use agent_monitor_common::event::{ExecBody, ExitBody, Kind, NetBody};
    use std::path::Path;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    /// A ring whose records were written beforehand; its descriptor is always readable.
    struct Written(VecDeque<Vec<u8>>, OwnedFd);

    impl Written {
        fn new(records: impl IntoIterator<Item = Vec<u8>>) -> Self {
            Written(records.into_iter().collect(), eventfd(1, EventfdFlags::CLOEXEC).unwrap())
        }
    }

    impl AsFd for Written {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    impl Records for Written {
        fn drain(&mut self, limit: usize, each: &mut dyn FnMut(&[u8])) -> usize {
            let n = limit.min(self.0.len());
            self.0.drain(..n).for_each(|record| each(&record));
            n
        }
    }

    fn pipeline(file: Option<FileSink>) -> (Pipeline, UnboundedReceiver<Notice>) {
        let generations = Arc::new(Generations::default());
        generations.install(0, profile("p"), || Ok::<_, ()>(1)).unwrap();
        let processes = Processes::new(Path::new("/nowhere"), Path::new("/nowhere"));
        let enricher = Enricher::new(processes, Arc::new(Registry::default()), generations);
        let (notices, receiver) = unbounded_channel();
        (Pipeline::new(enricher, file, Arc::default(), Arc::default(), notices), receiver)
    }

    fn header(time_ns: u64, hook: u16) -> Header {
        Header {
            time_ns,
            hook,
            effect: 1,
            mode: 2,
            agent: 4,
            generation: 1,
            tgid: 50,
            tid: 50,
            ..Header::ZERO
        }
    }

    fn denial(time_ns: u64) -> Vec<u8> {
        let address = "10.0.0.5".parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets();
        let body = NetBody { address, port: 443, reason: 1, ..NetBody::ZERO };
        build::record(Kind::Network, Header { errno: 101, ..header(time_ns, 1) }, &body, &[])
    }

    #[test]
    fn both_rings_are_merged_in_time_and_drained_at_stop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let settings = FileSettings { path: path.clone(), rotate_bytes: 0, keep: 0 };
        let (file, counts, writer) = jsonl::start(settings).unwrap();
        let (pipeline, mut notices) = pipeline(Some(file));
        let exec = build::exec(header(10, 15), ExecBody::ZERO, b"/bin/curl", b"curl\0");
        let exit = build::record(Kind::Exit, header(30, 16), &ExitBody { code: 0, last: 1 }, &[]);
        let verdicts = Written::new([denial(20), vec![0; 60], denial(25)]);
        let activity = Written::new([exec, exit]);
        let injector = Arc::new(Injector::new().unwrap());
        injector.send(own_event(EventType::Profile));
        injector.stop();
        pipeline.start(verdicts, activity, injector).unwrap().join().unwrap();
        writer.join().unwrap();

        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Event<'_>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        let expected =
            ["profile", "agent.started", "exec", "network", "network", "exit", "agent.ended", "loss"];
        assert_eq!(kinds, expected);
        assert_eq!(events[3].process.as_ref().unwrap().exe.as_deref(), Some("/bin/curl"));
        assert_eq!(events[7].loss.as_ref().unwrap().lost, 1);
        assert!(events.is_sorted_by(|a, b| a.id < b.id));
        assert_eq!(counts.written.load(Ordering::Relaxed), expected.len() as u64);
        assert!(matches!(notices.try_recv(), Ok(Notice::Started(_))));
        assert!(matches!(notices.try_recv(), Ok(Notice::Ended(info)) if info.key == 4));
    }

    /// Not a test of speed: prints what one event costs, for the benchmark's reader.
    /// `cargo test --release -p agent-monitor --lib -- --ignored --nocapture cost_of_an_event`
    #[test]
    #[ignore = "a measurement, run by hand in release"]
    fn cost_of_an_event() {
        const EVENTS: u32 = 500_000;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let settings = FileSettings { path, rotate_bytes: 64 << 20, keep: 1 };
        let (file, counts, writer) = jsonl::start(settings).unwrap();
        let (mut pipeline, _notices) = pipeline(Some(file));
        let argv = b"curl\0--silent\0https://example.org/some/path\0";
        let exec = build::exec(header(1, 15), ExecBody::ZERO, b"/usr/bin/curl", argv);
        pipeline.record(&exec);
        let record = denial(20);
        let start = std::time::Instant::now();
        for n in 0..EVENTS {
            if n % 1_000 == 0 {
                pipeline.enricher.begin_batch();
            }
            pipeline.record(&record);
        }
        pipeline.flush();
        let took = start.elapsed();
        drop(pipeline);
        writer.join().unwrap();
        println!(
            "{:.2} µs for one event in the pipeline thread, {:.2} µs with the file written; {} written, {} dropped",
            took.as_secs_f64() * 1e6 / f64::from(EVENTS),
            start.elapsed().as_secs_f64() * 1e6 / f64::from(EVENTS),
            counts.written.load(Ordering::Relaxed),
            counts.dropped.load(Ordering::Relaxed),
        );
    }
}
