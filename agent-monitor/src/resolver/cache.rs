//! Answers that still hold, so that a name that is asked for again needs no packet. Bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use super::wire::Answer;

/// Answers kept.
const MAX_ANSWERS: usize = 4_096;
/// Bytes that they may take, roughly.
const MAX_BYTES: usize = 4 << 20;

struct Kept {
    answer: Answer,
    since: Instant,
    until: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Cache {
    answers: HashMap<(String, u16), Kept>,
    bytes: usize,
}

impl Cache {
    /// What is known, and how long it still holds: its records say whole seconds.
    pub fn find(&self, name: &str, kind: RecordType, now: Instant) -> Option<(Answer, Duration)> {
        let kept = self.answers.get(&(name.to_owned(), kind.into()))?;
        if now >= kept.until {
            return None;
        }
        let passed = now.duration_since(kept.since).as_secs();
        let left = kept.until.duration_since(now);
        Some((kept.answer.after(u32::try_from(passed).unwrap_or(u32::MAX)), left))
    }

    /// Keeps an answer as long as it holds.
    pub fn keep(&mut self, name: &str, kind: RecordType, answer: &Answer, now: Instant) {
        let ttl = answer.ttl();
        if ttl == 0 {
            return;
        }
        let weight = answer.weight();
        if self.answers.len() >= MAX_ANSWERS || self.bytes + weight > MAX_BYTES {
            self.answers.retain(|_, kept| kept.until > now);
            // All of it may hold still: then what is known starts anew, which costs a question each.
            if self.answers.len() >= MAX_ANSWERS * 3 / 4 || self.bytes + weight > MAX_BYTES * 3 / 4 {
                self.answers.clear();
            }
            self.bytes = self.answers.values().map(|kept| kept.answer.weight()).sum();
        }
        let kept = Kept { answer: answer.clone(), since: now, until: now + Duration::from_secs(ttl.into()) };
        self.bytes += weight;
        if let Some(old) = self.answers.insert((name.to_owned(), kind.into()), kept) {
            self.bytes = self.bytes.saturating_sub(old.answer.weight());
        }
    }

    /// How many answers are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};
    use std::net::Ipv4Addr;

    fn answer(ttl: u32) -> Answer {
        let data = RData::A(A(Ipv4Addr::new(198, 51, 100, 1)));
        let records = vec![Record::from_rdata(Name::from_ascii("a.").unwrap(), ttl, data)];
        Answer { code: ResponseCode::NoError, records, authority: Vec::new() }
    }

    #[test]
    fn an_answer_ages_and_goes() {
        let mut cache = Cache::default();
        let now = Instant::now();
        cache.keep("a", RecordType::A, &answer(10), now);
        let (later, left) = cache.find("a", RecordType::A, now + Duration::from_millis(4_500)).unwrap();
        assert_eq!((later.ttl(), left), (6, Duration::from_millis(5_500)));
        assert!(cache.find("a", RecordType::AAAA, now).is_none());
        assert!(cache.find("a", RecordType::A, now + Duration::from_secs(10)).is_none());
        cache.keep("b", RecordType::A, &answer(0), now);
        assert!(cache.find("b", RecordType::A, now).is_none());
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for i in 0..3 * MAX_ANSWERS {
            cache.keep(&format!("n{i}"), RecordType::A, &answer(100), now);
            assert!(cache.len() <= MAX_ANSWERS && cache.bytes <= MAX_BYTES);
        }
        assert!(cache.find(&format!("n{}", 3 * MAX_ANSWERS - 1), RecordType::A, now).is_some());
    }
}
