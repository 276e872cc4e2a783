//! A model on loopback that plays a script: real agents ask it what to do, and do it. Used by `attacks`, which runs the
//! agents under the monitor.
//!
//! [`http`] takes the requests; [`anthropic`], [`chat`], [`responses`] and [`gemini`] speak the protocols, a file each, and
//! [`aider`] what one agent makes of one of them.
//!
//! What must stay true: a turn is known by how many results of tools the conversation holds, so an agent that asks again
//! gets the same answer again; what the agent sent back is kept as it came.

pub mod aider;
pub mod anthropic;
pub mod chat;
pub mod gemini;
mod http;
pub mod responses;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

pub use http::{Answer, Request};

/// What the model says.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Run this in a shell.
    Shell(String),
    /// Make this file, by the agent's own tool for it.
    Write { path: String, text: String },
    /// Words that end the session.
    Say(String),
}

/// How agents of one kind talk with their model.
pub trait Protocol: Send + Sync {
    /// What the tools of the conversation gave back so far; nothing for a request that is no turn of the session.
    fn results(&self, request: &Request) -> Option<Vec<String>>;
    /// A turn, as the answer to `request`. Its number makes the identifiers.
    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer;
    /// The answer to whatever else agents ask.
    fn aside(&self, request: &Request) -> Answer;
}

/// Says what the model does next: it gets the number of the turn and what the tool of the last turn gave back.
pub type Script = dyn FnMut(usize, &str) -> Turn + Send;

/// The server. It serves as long as the process lives.
pub struct Model {
    /// A line for each request.
    log: Arc<Mutex<Vec<String>>>,
}

impl Model {
    pub fn serve(address: SocketAddr, protocol: &'static dyn Protocol, script: Box<Script>) -> Result<Model> {
        let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let session = Arc::new(Mutex::new(Session { script, played: Vec::new() }));
        let kept = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (session, log) = (session.clone(), log.clone());
                thread::spawn(move || {
                    let served = http::serve(stream, |request| answer(request, protocol, &session, &log));
                    if let Err(error) = served {
                        note(&log, format!("not served: {error:#}"));
                    }
                });
            }
        });
        Ok(Model { log: kept })
    }

    /// What was asked and answered, a line each.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

struct Session {
    script: Box<Script>,
    played: Vec<Turn>,
}

fn answer(
    request: &Request,
    protocol: &dyn Protocol,
    session: &Mutex<Session>,
    log: &Mutex<Vec<String>>,
) -> Answer {
    let asked = format!("{} {}", request.method, request.path);
    let Some(results) = protocol.results(request) else {
        note(log, format!("{asked}: aside"));
        return protocol.aside(request);
    };
    let turn = {
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let last = results.last().map_or("", String::as_str);
        while session.played.len() <= results.len() {
            let number = session.played.len();
            let turn = (session.script)(number, last);
            session.played.push(turn);
        }
        session.played[results.len()].clone()
    };
    let last: String = results.last().map_or("", String::as_str).chars().take(400).collect();
    note(log, format!("{asked}: told {last:?}, turn {} is {turn:?}", results.len()));
    protocol.turn(results.len(), &turn, request)
}

fn note(log: &Mutex<Vec<String>>, line: String) {
    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// A stream of server-sent events, whole: each with its `type` as its name, as these protocols want it.
fn events(events: &[Value]) -> Answer {
    let lines = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("message")));
    Answer { kind: "text/event-stream", body: lines.collect() }
}

/// The first of `names` that the request offers as a tool, by `name` somewhere below `tools`.
fn offered<'a>(tools: &Value, names: &[&'a str]) -> Option<&'a str> {
    names.iter().copied().find(|name| has(tools, name))
}

fn has(tools: &Value, name: &str) -> bool {
    match tools {
        Value::Array(each) => each.iter().any(|tool| has(tool, name)),
        Value::Object(fields) => {
            fields.get("name").is_some_and(|own| own == name)
                || fields.get("function").is_some_and(|field| has(field, name))
                || fields.values().any(|field| field.is_array() && has(field, name))
        }
        _ => false,
    }
}
