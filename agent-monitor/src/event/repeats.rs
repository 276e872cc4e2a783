//! Tells of activity that the kernel only counts: what an agent did again.
//!
//! The kernel writes a record of the first use of an object and counts the others (`agent_monitor_common::activity`).
//! `daemon::pipeline` shows every record to [`Repeats::note`], and from time to time writes the records that
//! [`Repeats::due`] makes: the first one again, without a process, with the number of repeats since it was told last.
//! What must stay true: it costs nothing while no agent lives, and its memory is bounded by the kernel's table.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_monitor_common::activity::{MAX_USED, UsedKey};
use agent_monitor_common::counters::Effect;
use agent_monitor_common::event::{FileBody, Header};
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
        let Body::File { body, .. } = &record.body else { return };
        if record.effect != Effect::Allow || body.object == 0 || body.repeats != 0 {
            return;
        }
        // Evicted keys are dropped when counts are read; a flood of new ones between two readings is not remembered.
        if self.known.len() < 2 * MAX_USED {
            let key = UsedKey::new(record.header.agent, body.rights, body.object);
            self.known.insert(key, (bytes.into(), 1));
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
    let (body, tail) = first.get(size_of::<Header>()..)?.split_at_checked(size_of::<FileBody>())?;
    let body = FileBody { repeats: u32::try_from(count).unwrap_or(u32::MAX), ..FileBody::read_from(body)? };
    let header = Header { time_ns, tgid: 0, tid: 0, cgroup: 0, ..header };
    Some([header.as_bytes(), body.as_bytes(), tail].concat())
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
    use agent_monitor_common::event::Kind;

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
