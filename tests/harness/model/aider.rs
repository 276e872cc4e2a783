//! What aider makes of chat completions: it has no tools. The model answers in words, with commands and edits in blocks
//! that aider finds there; whoever sits at it says yes to each, and what a command said is the next thing the model reads.

use serde_json::{Value, json};

use super::{Answer, Protocol, Request, Turn, chat};

pub struct Aider;

/// Begins each answer of the script, so that the conversation tells how many there were.
const STEP: &str = "Step ";

impl Protocol for Aider {
    fn results(&self, request: &Request) -> Option<Vec<String>> {
        if !chat::asks(request) {
            return None;
        }
        let mut results: Vec<String> = Vec::new();
        for message in request.body["messages"].as_array()? {
            let text = message["content"].as_str().unwrap_or_default();
            match message["role"].as_str() {
                Some("assistant") if text.starts_with(STEP) => results.push(String::new()),
                Some("user") => {
                    // Behind the command itself, which is a line.
                    let output = text.strip_prefix("Output from ").and_then(|text| text.split_once('\n'));
                    if let (Some(result), Some((_, output))) = (results.last_mut(), output) {
                        output.clone_into(result);
                    }
                }
                _ => {}
            }
        }
        Some(results)
    }

    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer {
        let text = match turn {
            Turn::Say(words) => words.clone(),
            Turn::Shell(command) => format!("{STEP}{number}.\n\n```bash\n{}\n```\n", in_bash(command)),
            Turn::Write { path, text } => format!(
                "{STEP}{number}.\n\n{path}\n```\n<<<<<<< SEARCH\n=======\n{text}>>>>>>> REPLACE\n```\n"
            ),
        };
        chat::reply(number, &json!({"content": text}), "stop", request)
    }

    fn aside(&self, _: &Request) -> Answer {
        Answer::json(&Value::Null)
    }
}

/// It runs each line of a block by itself, by `sh`, and says nothing of how that ended; and where an answer names a file
/// of the repository, it asks for another one that knows the file, and runs nothing.
fn in_bash(script: &str) -> String {
    let escaped: String = script
        .bytes()
        .map(|byte| match byte {
            b' ' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("\\0{byte:03o}"),
        })
        .collect();
    format!("bash -c \"$(printf %b '{escaped}')\"; echo \"exit status $?\"")
}
