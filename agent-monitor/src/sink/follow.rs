//! Live followers of events: `agent-monitor events --follow`.
//!
//! The control server subscribes, `daemon::pipeline` offers every event. What must stay true: a follower that reads
//! slowly loses events and is told how many; it never slows the pipeline or grows the daemon.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::Chunk;
use crate::event::model::{Event, EventType, Id, VerdictEffect};

/// Chunks between the pipeline and a follower.
const QUEUE: usize = 32;
/// Bytes of lines gathered before a chunk is sent early.
const CHUNK_BYTES: usize = 64 << 10;
/// Followers at one time.
pub const MAX_FOLLOWERS: usize = 16;

/// Which events to show; an empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// ULIDs of agents.
    pub agents: Vec<String>,
    pub profiles: Vec<String>,
    pub verdicts: Vec<VerdictEffect>,
    pub types: Vec<EventType>,
}

impl Filter {
    /// Whether an event passes. Notices of loss always do.
    #[must_use]
    pub fn passes(&self, event: &Event<'_>) -> bool {
        if event.kind == EventType::Loss {
            return true;
        }
        let agent = event.agent.as_ref();
        let id =
            |wanted: &str, id: Id| wanted.eq_ignore_ascii_case(id.0.array_to_str(&mut [0; ulid::ULID_LEN]));
        (self.agents.is_empty()
            || agent
                .and_then(|agent| agent.id)
                .is_some_and(|of| self.agents.iter().any(|wanted| id(wanted, of))))
            && (self.profiles.is_empty()
                || agent.is_some_and(|agent| self.profiles.iter().any(|wanted| *wanted == agent.profile)))
            && (self.verdicts.is_empty()
                || event.verdict.as_ref().is_some_and(|verdict| self.verdicts.contains(&verdict.effect)))
            && (self.types.is_empty() || self.types.contains(&event.kind))
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// The shared list of followers.
#[derive(Debug, Default)]
pub struct Followers {
    list: Mutex<Vec<Follower>>,
    /// So that the pipeline takes no lock while nobody follows.
    count: AtomicUsize,
    /// Events that went to, or were lost by, any follower so far.
    pub sent: AtomicU64,
    pub lost: AtomicU64,
}

#[derive(Debug)]
struct Follower {
    filter: Filter,
    sender: Sender<Chunk>,
    lost: Arc<AtomicU64>,
    pending: BytesMut,
    pending_events: u64,
    closed: bool,
}

/// The reading end of one follower.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Chunk>,
    lost: Arc<AtomicU64>,
    /// Lost events that the reader was told of.
    told: u64,
}

/// What a follower reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Lines(Bytes),
    /// This many events were lost before what follows.
    Lost(u64),
}

/// There are [`MAX_FOLLOWERS`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_FOLLOWERS} followers are connected already; end one first")]
pub struct TooManyFollowers;

impl Followers {
    /// Adds a follower.
    ///
    /// # Errors
    /// [`TooManyFollowers`].
    pub fn subscribe(&self, filter: Filter) -> Result<Subscription, TooManyFollowers> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|follower| !follower.sender.is_closed());
        if list.len() >= MAX_FOLLOWERS {
            return Err(TooManyFollowers);
        }
        let (sender, receiver) = channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        list.push(Follower {
            filter,
            sender,
            lost: Arc::clone(&lost),
            pending: BytesMut::new(),
            pending_events: 0,
            closed: false,
        });
        self.count.store(list.len(), Ordering::Release);
        Ok(Subscription { receiver, lost, told: 0 })
    }

    /// Followers now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Offers an event and its line to all whose filter passes it.
    pub fn offer(&self, event: &Event<'_>, line: &[u8]) {
        if self.count() == 0 {
            return;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for follower in &mut *list {
            if follower.filter.passes(event) {
                follower.pending.extend_from_slice(line);
                follower.pending_events += 1;
                if follower.pending.len() >= CHUNK_BYTES {
                    self.send(follower);
                }
            }
        }
    }

    /// Ends a batch: what was offered is sent.
    pub fn flush(&self) {
        if self.count() == 0 {
            return;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        for follower in &mut *list {
            self.send(follower);
        }
        list.retain(|follower| !follower.closed && !follower.sender.is_closed());
        self.count.store(list.len(), Ordering::Release);
    }

    fn send(&self, follower: &mut Follower) {
        if follower.pending_events == 0 {
            return;
        }
        let chunk = Chunk { lines: follower.pending.split().freeze(), events: follower.pending_events };
        follower.pending_events = 0;
        let events = chunk.events;
        match follower.sender.try_send(chunk) {
            Ok(()) => {
                self.sent.fetch_add(events, Ordering::Relaxed);
            }
            Err(TrySendError::Full(_)) => {
                follower.lost.fetch_add(events, Ordering::Relaxed);
                self.lost.fetch_add(events, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => follower.closed = true,
        }
    }
}

impl Subscription {
    /// The next lines, or a count of lost events that came before them; `None` when the daemon ends.
    pub async fn next(&mut self) -> Option<Next> {
        // Everything queued before a loss was counted is older than the loss.
        if self.receiver.is_empty() {
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > self.told {
                return Some(Next::Lost(lost - std::mem::replace(&mut self.told, lost)));
            }
        }
        self.receiver.recv().await.map(|chunk| Next::Lines(chunk.lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::model::{Agent, Verdict};
    use jiff::Timestamp;
    use ulid::Ulid;

    fn denial(profile: &'static str) -> Event<'static> {
        let mut event = Event::new(Ulid::from(1_u128), Timestamp::UNIX_EPOCH, EventType::Network);
        event.agent = Some(Agent { id: Some(Id(Ulid::from(9_u128))), profile: profile.into(), origin: None });
        event.verdict = Some(Verdict {
            effect: VerdictEffect::Deny,
            mode: "enforce".into(),
            errno: None,
            rule: None,
            source: None,
            reason: "rule".into(),
            mechanism: "cgroup/connect4".into(),
            generation: 1,
        });
        event
    }

    #[test]
    fn filters_are_joined_by_and() {
        let event = denial("a");
        let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
        assert!(Filter::default().passes(&event));
        assert!(filter(r#"{"profiles":["b","a"],"verdicts":["deny"],"types":["network"]}"#).passes(&event));
        assert!(filter(r#"{"agents":["00000000000000000000000009"]}"#).passes(&event));
        for miss in [
            r#"{"profiles":["b"]}"#,
            r#"{"verdicts":["would-deny"]}"#,
            r#"{"types":["exec"]}"#,
            r#"{"agents":["00000000000000000000000008"]}"#,
            r#"{"profiles":["a"],"types":["exec"]}"#,
        ] {
            assert!(!filter(miss).passes(&event), "{miss}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_loses_and_is_told() {
        let followers = Followers::default();
        let mut slow = followers.subscribe(Filter::default()).unwrap();
        for _ in 0..QUEUE + 5 {
            followers.offer(&denial("a"), b"x\n");
            followers.flush();
        }
        for _ in 0..QUEUE {
            assert_eq!(slow.next().await, Some(Next::Lines(Bytes::from_static(b"x\n"))));
        }
        assert_eq!(slow.next().await, Some(Next::Lost(5)));
        followers.offer(&denial("a"), b"y\n");
        followers.flush();
        assert_eq!(slow.next().await, Some(Next::Lines(Bytes::from_static(b"y\n"))));
        assert_eq!((followers.sent.into_inner(), followers.lost.into_inner()), (QUEUE as u64 + 1, 5));
    }

    #[test]
    fn followers_are_bounded_and_forgotten_when_they_go() {
        let followers = Followers::default();
        let all: Vec<_> =
            (0..MAX_FOLLOWERS).map(|_| followers.subscribe(Filter::default()).unwrap()).collect();
        assert_eq!(followers.subscribe(Filter::default()).unwrap_err(), TooManyFollowers);
        drop(all);
        followers.offer(&denial("a"), b"x\n");
        followers.flush();
        assert_eq!(followers.count(), 0);
        assert!(followers.subscribe(Filter::default()).is_ok());
    }
}
