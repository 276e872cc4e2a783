//! A name server for tests: answers what it is told, over UDP and TCP, and remembers every question.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What the server says about a name.
#[derive(Clone, Debug)]
pub enum Says {
    Address(IpAddr),
    Alias(String),
    Text(String),
    /// Any other data, as it is on the wire or in memory.
    Data(RData),
}

/// What it does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// `SERVFAIL`.
    Fails,
    /// Nothing is sent.
    Silent,
    /// Answers another question first.
    Lies,
}

#[derive(Debug)]
struct State {
    records: HashMap<String, Vec<(u32, Says)>>,
    mood: Mood,
    delay: Duration,
    /// Questions as `name TYPE`, with `/tcp` behind those over TCP.
    asked: Vec<String>,
}

/// See the module. Its threads end with the process.
#[derive(Clone, Debug)]
pub struct Zone {
    state: Arc<Mutex<State>>,
    pub address: SocketAddr,
}

impl Zone {
    /// A server that knows nothing yet, on a port of the kernel's choice.
    pub fn serve(at: IpAddr) -> Result<Self> {
        // The same port for both: TCP first, which is rarer.
        let listener = TcpListener::bind((at, 0)).context("a name server for the test")?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address)?;
        let state =
            State { records: HashMap::new(), mood: Mood::Answers, delay: Duration::ZERO, asked: Vec::new() };
        let zone = Zone { state: Arc::new(Mutex::new(state)), address };
        let own = zone.clone();
        std::thread::spawn(move || {
            let mut room = [0; 4_096];
            while let Ok((length, from)) = socket.recv_from(&mut room) {
                for reply in own.replies(&room[..length], false) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        let own = zone.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || {
                    let mut head = [0; 2];
                    while stream.read_exact(&mut head).is_ok() {
                        let mut question = vec![0; usize::from(u16::from_be_bytes(head))];
                        if stream.read_exact(&mut question).is_err() {
                            return;
                        }
                        for reply in own.replies(&question, true) {
                            let length = (reply.len() as u16).to_be_bytes();
                            let _ = stream.write_all(&[&length[..], &reply].concat());
                        }
                    }
                });
            }
        });
        Ok(zone)
    }

    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says this about `name` from now on, and nothing else.
    pub fn set(&self, name: &str, ttl: u32, says: Vec<Says>) {
        let records = says.into_iter().map(|says| (ttl, says)).collect();
        self.with(|state| state.records.insert(name.to_owned(), records));
    }

    /// The same, for addresses.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let parsed = addresses.iter().filter_map(|text| text.parse().ok()).map(Says::Address);
        self.set(name, ttl, parsed.collect());
    }

    pub fn mood(&self, mood: Mood) {
        self.with(|state| state.mood = mood);
    }

    /// Answers come so much later.
    pub fn delay(&self, delay: Duration) {
        self.with(|state| state.delay = delay);
    }

    /// The questions so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.with(|state| state.asked.clone())
    }

    /// Forgets the questions.
    pub fn forget(&self) {
        self.with(|state| state.asked.clear());
    }

    fn replies(&self, question: &[u8], stream: bool) -> Vec<Vec<u8>> {
        let Ok(question) = Message::from_vec(question) else { return Vec::new() };
        let Some(query) = question.queries.first().cloned() else { return Vec::new() };
        let name = query.name().to_ascii();
        let plain = name.trim_end_matches('.').to_ascii_lowercase();
        let (mood, delay, known) = self.with(|state| {
            let way = if stream { "/tcp" } else { "" };
            state.asked.push(format!("{} {}{way}", name.trim_end_matches('.'), query.query_type()));
            (state.mood, state.delay, state.records.clone())
        });
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(query.clone());
        match mood {
            Mood::Silent => return Vec::new(),
            Mood::Fails => reply.metadata.response_code = ResponseCode::ServFail,
            Mood::Answers | Mood::Lies => {
                let mut at = plain;
                // The whole chain, as a recursive server answers.
                for _ in 0..16 {
                    let says = known.get(&at).cloned().or_else(|| numbered(&at, &known));
                    let Some(says) = says else {
                        if reply.answers.is_empty() {
                            reply.metadata.response_code = ResponseCode::NXDomain;
                        }
                        break;
                    };
                    let Ok(owner) = Name::from_ascii(format!("{at}.")) else { break };
                    let mut next = None;
                    for (ttl, says) in &says {
                        let data = data_of(says);
                        if let Says::Alias(target) = says {
                            next = Some(target.clone());
                        } else if data.record_type() != query.query_type() {
                            continue;
                        }
                        reply.add_answer(Record::from_rdata(owner.clone(), *ttl, data));
                    }
                    match next {
                        Some(target) if query.query_type() != RecordType::CNAME => at = target,
                        _ => break,
                    }
                }
            }
        }
        let Ok(bytes) = reply.to_vec() else { return Vec::new() };
        let room = question.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()));
        let bytes = if !stream && bytes.len() > room {
            reply.answers.clear();
            reply.metadata.truncation = true;
            reply.to_vec().unwrap_or_default()
        } else {
            bytes
        };
        if mood != Mood::Lies {
            return vec![bytes];
        }
        // The number of another question, then another name, then the truth.
        let mut number = bytes.clone();
        number[1] ^= 1;
        let mut other = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        let mut elsewhere = query;
        elsewhere.set_name(Name::from_ascii("lie.test.").unwrap_or_default());
        other.add_query(elsewhere);
        vec![number, other.to_vec().unwrap_or_default(), bytes]
    }
}

/// `n7.NAME`, where `n*.NAME` has an IPv6 address: that address with 7 in its last 32 bits.
fn numbered(name: &str, known: &HashMap<String, Vec<(u32, Says)>>) -> Option<Vec<(u32, Says)>> {
    let (label, rest) = name.split_once('.')?;
    let number: u32 = label.strip_prefix('n')?.parse().ok()?;
    let (ttl, says) = known.get(&format!("n*.{rest}"))?.first()?;
    let Says::Address(IpAddr::V6(first)) = says else { return None };
    let address = IpAddr::V6((u128::from(*first) | u128::from(number)).into());
    Some(vec![(*ttl, Says::Address(address))])
}

fn data_of(says: &Says) -> RData {
    match says {
        Says::Address(IpAddr::V4(v4)) => RData::A(A(*v4)),
        Says::Address(IpAddr::V6(v6)) => RData::AAAA(AAAA(*v6)),
        Says::Alias(target) => {
            RData::CNAME(CNAME(Name::from_ascii(format!("{target}.")).unwrap_or_default()))
        }
        Says::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Says::Data(data) => data.clone(),
    }
}
