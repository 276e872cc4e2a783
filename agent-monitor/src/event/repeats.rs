//! Tells of activity that the kernel only counts: what an agent did again.
//!
//! The kernel writes a record of the first use of an object and counts the others (`agent_monitor_common::activity`).
//! `daemon::pipeline` shows every record to [`Repeats::note`], and from time to time writes the records that
//! [`Repeats::due`] makes: the first one again, without a process, with the number of repeats since it was told last.
//! What must stay true: it costs nothing while no agent lives, and its memory is bounded by the kernel's table.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_monitor_common::activity::{MAX_USED, PRIVILEGE, SOCKET_KIND, UsedKey};
use agent_monitor_common::counters::Effect;
use agent_monitor_common::event::{FileBody, Header, Kind, PrivilegeBody, SocketBody};
use agent_monitor_common::request::socket_kind;
use agent_monitor_common::wire::Wire;

use super::decode::{Body, Record};

/// How often repeats are told of.
pub const PERIOD: Duration = Duration::from_secs(10);

/// The kernel's counts.
pub trait Uses: Send {
    /// Every key with its count.
    fn counts(&self, each: &mut dyn FnMut(UsedKey, u64));
    /// Takes a count out.
    fn forget(&mut self, key: UsedKey);
}

impl Uses for crate::kernel::UsedReader {
    fn counts(&self, each: &mut dyn FnMut(UsedKey, u64)) {
        crate::kernel::UsedReader::counts(self).for_each(|(key, count)| each(key, count));
    }

    fn forget(&mut self, key: UsedKey) {
        crate::kernel::UsedReader::forget(self, key);
    }
}

/// See the module.
pub struct Repeats {
    uses: Box<dyn Uses>,
    /// Of each object the record of its first use, and how often that use was told of.
    known: HashMap<UsedKey, (Box<[u8]>, u64)>,
    next: Instant,
}

impl Repeats {
    #[must_use]
    pub fn new(uses: impl Uses + 'static) -> Self {
        Repeats { uses: Box::new(uses), known: HashMap::new(), next: Instant::now() + PERIOD }
    }

    /// Remembers a record of a first use.
    pub fn note(&mut self, record: &Record<'_>, bytes: &[u8]) {
        if record.effect != Effect::Allow {
            return;
        }
        let (rights, object, repeats) = match &record.body {
            Body::File { body, .. } if body.object != 0 => (body.rights, body.object, body.repeats),
            Body::Privilege { body, .. } => {
                (PRIVILEGE, UsedKey::privilege(body.privilege, body.number), body.repeats)
            }
            Body::Socket { body, .. } => match socket_kind(body.family, body.kind, body.protocol) {
                Some(kind) => (SOCKET_KIND, u64::from(kind.code()), body.repeats),
                None => return,
            },
            _ => return,
        };
        // Evicted keys are dropped when counts are read; a flood of new ones between two readings is not remembered.
        if repeats == 0 && self.known.len() < 2 * MAX_USED {
            self.known.insert(UsedKey::new(record.header.agent, rights, object), (bytes.into(), 1));
        }
    }

    /// When counts are to be read next; `None`: nothing was used yet.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (!self.known.is_empty()).then_some(self.next)
    }

    /// The records of what was repeated since the last call; empty before the deadline, unless `now_or_never`. `lives`:
    /// whether an agent has a process; counts of others are taken out after they were told of.
    pub fn due(&mut self, now: Instant, now_or_never: bool, lives: impl Fn(u32) -> bool) -> Vec<Vec<u8>> {
        if self.known.is_empty() || (now < self.next && !now_or_never) {
            return Vec::new();
        }
        self.next = now + PERIOD;
        let mut counts = HashMap::new();
        self.uses.counts(&mut |key, count| {
            counts.insert(key, count);
        });
        let time_ns = monotonic_ns();
        let mut records = Vec::new();
        for (key, (first, told)) in &mut self.known {
            let Some(count) = counts.get(key).copied() else { continue };
            if count > *told
                && let Some(record) = repeated(first, count - *told, time_ns)
            {
                records.push(record);
                *told = count;
            }
        }
        for key in counts.keys().filter(|key| !lives(key.agent)) {
            self.uses.forget(*key);
        }
        self.known.retain(|key, _| counts.contains_key(key) && lives(key.agent));
        records
    }
}

/// The record of a first use, made the record of `count` repeats.
fn repeated(first: &[u8], count: u64, time_ns: u64) -> Option<Vec<u8>> {
    let header = Header::read_from(first)?;
    let body = first.get(size_of::<Header>()..)?;
    let repeats = u32::try_from(count).unwrap_or(u32::MAX);
    let body = match Kind::from_code(header.kind)? {
        Kind::File => changed::<FileBody>(body, |body| body.repeats = repeats),
        Kind::Privilege => changed::<PrivilegeBody>(body, |body| body.repeats = repeats),
        Kind::Socket => changed::<SocketBody>(body, |body| body.repeats = repeats),
        _ => None,
    }?;
    let header = Header { time_ns, tgid: 0, tid: 0, cgroup: 0, ..header };
    Some([header.as_bytes(), &body].concat())
}

/// The body of a record with its tail, one thing of it changed.
fn changed<B: Wire>(bytes: &[u8], change: impl FnOnce(&mut B)) -> Option<Vec<u8>> {
    let mut body = B::read_from(bytes)?;
    change(&mut body);
    Some([body.as_bytes(), &bytes[size_of::<B>()..]].concat())
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::decode::{build, decode};

    #[derive(Clone, Default)]
    struct Counted(Arc<Mutex<HashMap<UsedKey, u64>>>);

    impl Uses for Counted {
        fn counts(&self, each: &mut dyn FnMut(UsedKey, u64)) {
            self.0.lock().unwrap().iter().for_each(|(key, count)| each(*key, *count));
        }
        fn forget(&mut self, key: UsedKey) {
            self.0.lock().unwrap().remove(&key);
        }
    }

    fn first_use(agent: u32, object: u64) -> Vec<u8> {
        let header =
            Header { hook: 18, effect: 0, mode: 2, agent, tgid: 9, tid: 9, cgroup: 3, ..Header::ZERO };
        let body = FileBody { rights: 1, reason: 1, path_length: 4, path_total: 4, object, ..FileBody::ZERO };
        build::record(Kind::File, header, &body, b"/a/b")
    }

    fn note(repeats: &mut Repeats, bytes: &[u8]) {
        repeats.note(&decode(bytes).unwrap(), bytes);
    }

    #[test]
    fn repeats_are_told_once_each_without_a_process() {
        let counted = Counted::default();
        let mut repeats = Repeats::new(counted.clone());
        assert_eq!(repeats.deadline(), None);
        note(&mut repeats, &first_use(5, 77));
        let key = UsedKey::new(5, 1, 77);
        counted.0.lock().unwrap().insert(key, 1);
        let later = Instant::now() + PERIOD;
        assert!(repeats.due(Instant::now(), false, |_| true).is_empty(), "before its time");
        assert!(repeats.due(later, false, |_| true).is_empty(), "nothing was repeated");
        counted.0.lock().unwrap().insert(key, 42);
        let records = repeats.due(later + PERIOD, false, |_| true);
        let [bytes] = records.as_slice() else { panic!("{records:?}") };
        let record = decode(bytes).unwrap();
        let Body::File { body, path, .. } = record.body else { panic!("{record:?}") };
        assert_eq!((body.repeats, path, record.header.tgid, record.header.agent), (41, &b"/a/b"[..], 0, 5));
        assert!(repeats.due(later + 3 * PERIOD, false, |_| true).is_empty(), "told already");
        // A record of repeats is no first use.
        note(&mut repeats, bytes);
        assert_eq!(repeats.known.len(), 1);
    }

    #[test]
    fn privileges_and_sockets_are_repeated_too() {
        let header = Header { hook: 40, effect: 0, mode: 2, agent: 5, tgid: 9, tid: 9, ..Header::ZERO };
        let privilege = PrivilegeBody { privilege: 0, number: 10, reason: 1, ..PrivilegeBody::ZERO };
        let socket = SocketBody { family: 16, kind: 3, reason: 1, ..SocketBody::ZERO };
        let first = [
            build::record(Kind::Privilege, header, &privilege, &[]),
            build::record(Kind::Socket, header, &socket, &[]),
        ];
        let counted = Counted::default();
        let mut repeats = Repeats::new(counted.clone());
        first.iter().for_each(|bytes| note(&mut repeats, bytes));
        for (rights, object) in [(PRIVILEGE, 10), (SOCKET_KIND, 9)] {
            counted.0.lock().unwrap().insert(UsedKey::new(5, rights, object), 8);
        }
        let records = repeats.due(Instant::now(), true, |_| true);
        let mut told: Vec<(&str, u32)> = Vec::new();
        for bytes in &records {
            match decode(bytes).unwrap().body {
                Body::Privilege { body, .. } => told.push(("privilege", body.repeats)),
                Body::Socket { body, .. } => told.push(("socket", body.repeats)),
                other => panic!("{other:?}"),
            }
        }
        told.sort_unstable();
        assert_eq!(told, [("privilege", 7), ("socket", 7)]);
    }

    #[test]
    fn what_belongs_to_an_ended_agent_is_told_and_forgotten() {
        let counted = Counted::default();
        let mut repeats = Repeats::new(counted.clone());
        for (agent, count) in [(5, 3), (6, 9)] {
            note(&mut repeats, &first_use(agent, 77));
            counted.0.lock().unwrap().insert(UsedKey::new(agent, 1, 77), count);
        }
        let told = repeats.due(Instant::now(), true, |agent| agent == 6);
        assert_eq!(told.len(), 2);
        assert_eq!(counted.0.lock().unwrap().keys().map(|key| key.agent).collect::<Vec<_>>(), [6]);
        assert_eq!(repeats.known.len(), 1);
        // An evicted count is no longer remembered.
        counted.0.lock().unwrap().clear();
        assert!(repeats.due(Instant::now(), true, |_| true).is_empty());
        assert_eq!(repeats.deadline(), None);
    }
}
