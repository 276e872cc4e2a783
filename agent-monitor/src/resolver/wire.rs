//! Questions and answers, as bytes and as what they mean. No I/O.
//!
//! Both sides are hostile: an agent that asks, and whoever answers for a name. What comes out holds the asked name's own
//! chain of records and nothing else.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::policy::names;

/// Longest chain of aliases that is followed.
const MAX_CHAIN: usize = 16;
/// Records of one answer that are looked at.
const MAX_RECORDS: usize = 512;
/// Most seconds that an answer is believed.
pub const MAX_TTL: u32 = 86_400;
/// Most seconds that "there is none" is believed (RFC 2308 §5 asks for a bound).
const MAX_NEGATIVE_TTL: u32 = 300;
/// Bytes of a datagram that is not said to be longer.
const PLAIN_PAYLOAD: u16 = 512;
/// Bytes of a datagram that we take and send: no fragments (RFC 9715).
pub const PAYLOAD: u16 = 1_232;

/// A question that can be answered.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: u16,
    /// As the agent wrote it.
    pub name: Name,
    /// In the form that rules have; `None`: no rule can grant it.
    pub plain: Option<String>,
    pub kind: RecordType,
    recursion_desired: bool,
    /// Bytes of a datagram that the agent takes; it has said so in an OPT record.
    payload: Option<u16>,
}

/// What bytes from an agent are.
#[derive(Debug)]
pub enum Asked {
    Question(Box<Question>),
    /// Nothing that is answered further than with these bytes.
    Wrong(Vec<u8>),
    /// Not to be answered: it is an answer itself, or too short for a header.
    Noise,
}

/// Reads what an agent sent.
#[must_use]
pub fn read(bytes: &[u8]) -> Asked {
    let [a, b, flags, ..] = bytes else { return Asked::Noise };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Asked::Noise;
    }
    let id = u16::from_be_bytes([*a, *b]);
    let wrong =
        |op_code, code| Message::error_msg(id, op_code, code).to_vec().map_or(Asked::Noise, Asked::Wrong);
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        Err(_) => return wrong(OpCode::Query, ResponseCode::FormErr),
    };
    if message.metadata.op_code != OpCode::Query {
        return wrong(message.metadata.op_code, ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return wrong(OpCode::Query, ResponseCode::FormErr) };
    if message.version() > 0 {
        return wrong(OpCode::Query, ResponseCode::BADVERS);
    }
    let question = Question {
        id,
        plain: names::asked(query.name().iter()),
        name: query.name().clone(),
        kind: query.query_type(),
        recursion_desired: message.metadata.recursion_desired,
        payload: message.edns.as_ref().map(Edns::max_payload),
    };
    let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || transfer {
        return Asked::Wrong(question.fail(ResponseCode::Refused));
    }
    Asked::Question(Box::new(question))
}

impl Question {
    /// An answer without records.
    fn empty(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if self.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            message.set_edns(edns);
        }
        message
    }

    /// The bytes of an answer that only says this.
    #[must_use]
    pub fn fail(&self, code: ResponseCode) -> Vec<u8> {
        self.empty(code).to_vec().unwrap_or_default()
    }

    /// The bytes of an answer, and whether they hold its records: what does not fit a datagram is asked for again over
    /// TCP.
    #[must_use]
    pub fn answer(&self, answer: &Answer, datagram: bool) -> (Vec<u8>, bool) {
        let mut message = self.empty(answer.code);
        message.add_answers(answer.records.iter().cloned());
        message.add_authorities(answer.authority.iter().cloned());
        let room = if datagram { self.room() } else { usize::from(u16::MAX) };
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= room => (bytes, true),
            _ => {
                let mut message = self.empty(answer.code);
                message.metadata.truncation = true;
                (message.to_vec().unwrap_or_default(), false)
            }
        }
    }

    fn room(&self) -> usize {
        usize::from(self.payload.unwrap_or(PLAIN_PAYLOAD).clamp(PLAIN_PAYLOAD, 4_096))
    }

    /// The address that a reverse question is about.
    #[must_use]
    pub fn reverse(&self) -> Option<IpAddr> {
        if self.kind != RecordType::PTR {
            return None;
        }
        let net = self.name.parse_arpa_name().ok()?;
        let whole = if net.addr().is_ipv4() { 32 } else { 128 };
        (net.prefix_len() == whole).then(|| net.addr())
    }

    /// The answer that an address is called so.
    #[must_use]
    pub fn called(&self, host: &str, ttl: u32) -> Option<Answer> {
        let target = Name::from_ascii(format!("{host}.")).ok()?;
        let record = Record::from_rdata(self.name.clone(), ttl, RData::PTR(PTR(target)));
        Some(Answer { records: vec![record], ..Answer::empty(ResponseCode::NoError) })
    }

    /// The question for a server of the host: nothing of it is the agent's choice but the name and the type.
    #[must_use]
    pub fn forwarded(&self, id: u16) -> Option<Vec<u8>> {
        let name = Name::from_ascii(format!("{}.", self.plain.as_deref()?)).ok()?;
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, self.kind));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.set_edns(edns);
        message.to_vec().ok()
    }
}

/// What a server of the host answered, without what nobody asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub code: ResponseCode,
    pub records: Vec<Record>,
    /// The SOA record behind "there is none".
    pub authority: Vec<Record>,
}

/// Why a server's bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("it can't be read")]
    Malformed,
    #[error("it answers something else")]
    Other,
    #[error("it does not fit a datagram")]
    Truncated,
    #[error("the server failed")]
    Failed,
}

impl Answer {
    fn empty(code: ResponseCode) -> Self {
        Answer { code, records: Vec::new(), authority: Vec::new() }
    }

    /// Seconds for which it holds.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        let records = self.records.iter().map(|record| record.ttl).min();
        records.or_else(|| self.authority.iter().map(|record| record.ttl).min()).unwrap_or(0)
    }

    /// The same, some seconds later.
    #[must_use]
    pub fn after(&self, seconds: u32) -> Self {
        let mut later = self.clone();
        for record in later.records.iter_mut().chain(&mut later.authority) {
            record.ttl = record.ttl.saturating_sub(seconds);
        }
        later
    }

    /// The addresses in it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(address)
    }

    /// Takes out the addresses that `keep` does not keep.
    pub fn retain_addresses(&mut self, mut keep: impl FnMut(IpAddr) -> bool) {
        self.records.retain(|record| address(record).is_none_or(&mut keep));
    }

    /// Bytes that it takes in memory, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        let records = self.records.iter().chain(&self.authority);
        records.map(|record| size_of::<Record>() + record.name.len() + 64).sum::<usize>() + size_of::<Self>()
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(A(v4)) => Some(IpAddr::V4(v4)),
        RData::AAAA(AAAA(v6)) => Some(IpAddr::V6(v6)),
        _ => None,
    }
}

/// Reads what a server answered to [`Question::forwarded`] with `id`.
///
/// # Errors
/// [`NoAnswer`] where another way or another server must be asked.
pub fn screen(question: &Question, id: u16, bytes: &[u8]) -> Result<Answer, NoAnswer> {
    let message = Message::from_vec(bytes).map_err(|_| NoAnswer::Malformed)?;
    let Metadata { response_code: code, .. } = message.metadata;
    if message.metadata.id != id || message.metadata.message_type != MessageType::Response {
        return Err(NoAnswer::Other);
    }
    let plain = question.plain.as_deref().ok_or(NoAnswer::Other)?;
    match message.queries.as_slice() {
        [query] if query.query_type() == question.kind && is_called(query.name(), plain) => {}
        // A server that could not read the question may leave it out.
        [] if code != ResponseCode::NoError && code != ResponseCode::NXDomain => {}
        _ => return Err(NoAnswer::Other),
    }
    if message.metadata.truncation {
        return Err(NoAnswer::Truncated);
    }
    if code != ResponseCode::NoError && code != ResponseCode::NXDomain {
        return Err(NoAnswer::Failed);
    }
    let mut answer = Answer::empty(code);
    let mut at = plain.to_owned();
    let mut seen = vec![at.clone()];
    let of_chain =
        |record: &&Record, at: &str| record.dns_class == DNSClass::IN && is_called(&record.name, at);
    let all = || message.answers.iter().take(MAX_RECORDS);
    loop {
        let wanted = all().filter(|record| of_chain(record, &at)).filter(|record| {
            record.record_type() == question.kind
                || question.kind == RecordType::ANY && record.record_type() != RecordType::CNAME
        });
        let before = answer.records.len();
        answer.records.extend(wanted.filter_map(|record| harmless(record, &at)));
        if answer.records.len() > before || question.kind == RecordType::CNAME || seen.len() > MAX_CHAIN {
            break;
        }
        let alias = all().filter(|record| of_chain(record, &at)).find_map(|record| match &record.data {
            RData::CNAME(target) => Some((record, names::asked(target.0.iter())?)),
            _ => None,
        });
        let Some((record, target)) = alias.filter(|(_, target)| !seen.contains(target)) else { break };
        answer.records.push(bounded(record, MAX_TTL));
        seen.push(target.clone());
        at = target;
    }
    let negative = answer.records.iter().all(|record| record.record_type() == RecordType::CNAME);
    if negative && question.kind != RecordType::CNAME {
        let soa = message
            .authorities
            .iter()
            .take(MAX_RECORDS)
            .find(|record| record.record_type() == RecordType::SOA);
        answer.authority.extend(soa.map(|record| {
            let least = match &record.data {
                RData::SOA(soa) => record.ttl.min(soa.minimum),
                _ => 0,
            };
            bounded(record, least.min(MAX_NEGATIVE_TTL))
        }));
    }
    Ok(answer)
}

fn is_called(name: &Name, plain: &str) -> bool {
    names::asked(name.iter()).is_some_and(|name| name == plain)
}

fn bounded(record: &Record, ttl: u32) -> Record {
    let mut record = record.clone();
    record.ttl = record.ttl.min(ttl);
    record
}

/// A record of the asked type without what would lead elsewhere: a service binding's keys for an encrypted name, its
/// addresses, another name.
fn harmless(record: &Record, owner: &str) -> Option<Record> {
    let mut record = bounded(record, MAX_TTL);
    match &mut record.data {
        RData::SVCB(binding) => without_detours(binding, owner).then_some(())?,
        RData::HTTPS(HTTPS(binding)) => without_detours(binding, owner).then_some(())?,
        _ => {}
    }
    Some(record)
}

/// False: nothing of it can stay.
fn without_detours(binding: &mut SVCB, owner: &str) -> bool {
    let detour = |key: SvcParamKey| {
        matches!(key, SvcParamKey::EchConfigList | SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint)
    };
    if !binding.target_name.is_root() && !is_called(&binding.target_name, owner) {
        return false;
    }
    let needs = |value: &SvcParamValue| match value {
        SvcParamValue::Mandatory(mandatory) => mandatory.0.iter().any(|key| detour(*key)),
        _ => false,
    };
    if binding.svc_params.iter().any(|(_, value)| needs(value)) {
        return false;
    }
    binding.svc_params.retain(|(key, _)| !detour(*key));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::CNAME;
    use std::net::Ipv4Addr;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn asked(text: &str, kind: RecordType) -> Question {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name(text), kind));
        match read(&message.to_vec().unwrap()) {
            Asked::Question(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    fn reply(question: &str, kind: RecordType, records: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(9, OpCode::Query);
        message.add_query(Query::query(name(question), kind));
        message.add_answers(records);
        message.to_vec().unwrap()
    }

    fn a(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 60, RData::A(A(Ipv4Addr::new(198, 51, 100, last))))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 30, RData::CNAME(CNAME(name(target))))
    }

    #[test]
    fn what_an_agent_chose_beside_name_and_type_is_not_forwarded() {
        let question = asked("ApI.eXample.COM.", RecordType::A);
        assert_eq!(question.plain.as_deref(), Some("api.example.com"));
        let forwarded = Message::from_vec(&question.forwarded(9).unwrap()).unwrap();
        assert_eq!(forwarded.queries[0].name().to_ascii(), "api.example.com.");
        assert_eq!(forwarded.metadata.id, 9);
    }

    #[test]
    fn only_the_chain_of_the_asked_name_is_passed_on() {
        let question = asked("api.example.com.", RecordType::A);
        let records = vec![
            a("other.example.com.", 1),
            alias("cdn.example.net.", "edge.example.net."),
            a("edge.example.net.", 2),
            alias("API.example.com.", "CDN.example.net."),
            a("edge.example.net.", 3),
        ];
        let answer = screen(&question, 9, &reply("api.example.com.", RecordType::A, records)).unwrap();
        let found: Vec<IpAddr> = answer.addresses().collect();
        assert_eq!(found, ["198.51.100.2".parse::<IpAddr>().unwrap(), "198.51.100.3".parse().unwrap()]);
        assert_eq!((answer.records.len(), answer.ttl()), (4, 30));
        let (bytes, whole) = question.answer(&answer.after(10), true);
        let sent = Message::from_vec(&bytes).unwrap();
        assert!(whole && sent.metadata.id == 7 && sent.answers.len() == 4);
        assert_eq!(sent.answers[0].ttl, 20);
    }

    #[test]
    fn a_chain_without_an_end_ends() {
        let question = asked("a.example.", RecordType::A);
        let records = vec![alias("a.example.", "b.example."), alias("b.example.", "a.example.")];
        let answer = screen(&question, 9, &reply("a.example.", RecordType::A, records)).unwrap();
        assert!(answer.addresses().next().is_none() && answer.records.len() == 1);
        let long: Vec<Record> =
            (0..100).map(|i| alias(&format!("n{i}.example."), &format!("n{}.example.", i + 1))).collect();
        let question = asked("n0.example.", RecordType::A);
        let answer = screen(&question, 9, &reply("n0.example.", RecordType::A, long)).unwrap();
        assert!(answer.records.len() <= MAX_CHAIN + 1);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let question = asked("api.example.com.", RecordType::A);
        let other = reply("api.example.org.", RecordType::A, vec![a("api.example.com.", 1)]);
        assert_eq!(screen(&question, 9, &other), Err(NoAnswer::Other));
        let right = reply("api.example.com.", RecordType::A, vec![a("api.example.com.", 1)]);
        assert_eq!(screen(&question, 8, &right), Err(NoAnswer::Other));
        assert_eq!(screen(&question, 9, &right[..20]), Err(NoAnswer::Malformed));
        assert!(screen(&question, 9, &right).is_ok());
        let question = asked("api.example.com.", RecordType::AAAA);
        assert_eq!(screen(&question, 9, &right), Err(NoAnswer::Other));
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again() {
        let question = asked("a.example.", RecordType::A);
        let records = (0..60).map(|i| a("a.example.", i)).collect();
        let answer = screen(&question, 9, &reply("a.example.", RecordType::A, records)).unwrap();
        let (bytes, whole) = question.answer(&answer, true);
        let sent = Message::from_vec(&bytes).unwrap();
        assert!(!whole && sent.metadata.truncation && sent.answers.is_empty());
        assert!(question.answer(&answer, false).1);
    }

    #[test]
    fn a_service_binding_leads_nowhere_else() {
        use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, Mandatory};
        let binding = |target: &str, params: Vec<(SvcParamKey, SvcParamValue)>| {
            let data = RData::HTTPS(HTTPS(SVCB::new(1, name(target), params)));
            Record::from_rdata(name("a.example."), 60, data)
        };
        let all = vec![
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A(Ipv4Addr::new(192, 0, 2, 1))]))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        let needs = vec![
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::EchConfigList]))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        let question = asked("a.example.", RecordType::HTTPS);
        let records = vec![binding(".", all), binding(".", needs), binding("b.example.", vec![])];
        let answer = screen(&question, 9, &reply("a.example.", RecordType::HTTPS, records)).unwrap();
        let [Record { data: RData::HTTPS(HTTPS(left)), .. }] = answer.records.as_slice() else {
            panic!("{answer:?}")
        };
        let keys: Vec<SvcParamKey> = left.svc_params.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [SvcParamKey::Alpn]);
    }

    #[test]
    fn noise_is_not_answered_and_nonsense_is_told_so() {
        assert!(matches!(read(&[]), Asked::Noise));
        assert!(matches!(read(&[0; 11]), Asked::Noise));
        assert!(matches!(read(&reply("a.", RecordType::A, vec![])), Asked::Noise));
        let mut two = Message::new(7, MessageType::Query, OpCode::Query);
        two.add_query(Query::query(name("a."), RecordType::A))
            .add_query(Query::query(name("b."), RecordType::A));
        let code = |bytes: &[u8]| match read(bytes) {
            Asked::Wrong(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&two.to_vec().unwrap()), ResponseCode::FormErr);
        assert_eq!(code(&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63]), ResponseCode::FormErr);
        let update = Message::new(7, MessageType::Query, OpCode::Notify);
        assert_eq!(code(&update.to_vec().unwrap()), ResponseCode::NotImp);
    }

    use proptest::prelude::*;

    /// A well-formed message with some bytes of it changed, as a hostile side would.
    fn spoilt(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        (Just(bytes), changes, any::<prop::sample::Index>(), 0..8_u8).prop_map(
            |(mut bytes, changes, cut, how)| {
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if how == 0 {
                    bytes.truncate(cut.index(bytes.len()));
                }
                bytes
            },
        )
    }

    fn questions() -> impl Strategy<Value = Vec<u8>> {
        let kinds =
            vec![RecordType::A, RecordType::ANY, RecordType::HTTPS, RecordType::CNAME, RecordType::PTR];
        prop::sample::select(kinds).prop_flat_map(|kind| {
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name("api.example.com."), kind));
            message.set_edns(Edns::new());
            spoilt(message.to_vec().unwrap())
        })
    }

    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let records =
            vec![alias("api.example.com.", "b.example."), a("b.example.", 1), a("api.example.com.", 2)];
        spoilt(reply("api.example.com.", RecordType::A, records))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_of_either_side_end_the_thread(asked in questions(), answered in answers(), noise: Vec<u8>) {
            for (asked, answered) in [(&asked, &answered), (&noise, &answered), (&asked, &noise)] {
                if let Asked::Question(question) = read(asked) {
                    let _ = question.reverse();
                    let _ = question.forwarded(9);
                    if let Ok(answer) = screen(&question, 9, answered) {
                        prop_assert!(answer.ttl() <= MAX_TTL);
                        // Nothing that another name owns.
                        let plain = question.plain.as_deref().unwrap_or_default();
                        prop_assert!(answer.records.first().is_none_or(|record| is_called(&record.name, plain)));
                        prop_assert!(question.answer(&answer, true).0.len() <= 4_096);
                    }
                }
            }
        }
    }
}
