//! OpenAI's chat completions, which most agents speak with whatever model: the whole conversation as `messages`, answered
//! by a stream of chunks, or by one object where no stream is asked for.

use serde_json::{Value, json};

use super::{Answer, Protocol, Request, Turn, offered};

pub struct Completions;

/// What agents call the tool that runs a shell.
const SHELLS: &[&str] = &["bash", "terminal"];

impl Protocol for Completions {
    fn results(&self, request: &Request) -> Option<Vec<String>> {
        // Titles are asked for without tools.
        if !asks(request) || offered(&request.body["tools"], SHELLS).is_none() {
            return None;
        }
        let messages = request.body["messages"].as_array()?.iter();
        Some(messages.filter(|message| message["role"] == "tool").map(text_of).collect())
    }

    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer {
        let (name, arguments) = match turn {
            Turn::Say(words) => return reply(number, &json!({"content": words}), "stop", request),
            Turn::Shell(command) => shell(command, request),
            Turn::Write { path, text } => editor(path, text, request),
        };
        let call = json!({"index": 0, "id": format!("call_{number:04}"), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}});
        reply(number, &json!({"content": null, "tool_calls": [call]}), "tool_calls", request)
    }

    fn aside(&self, request: &Request) -> Answer {
        match asks(request) {
            true => reply(9999, &json!({"content": "A session"}), "stop", request),
            false => Answer::json(&json!({"object": "list", "data": [{"id": "stub", "object": "model"}]})),
        }
    }
}

/// Whether the model shall say something.
pub fn asks(request: &Request) -> bool {
    request.method == "POST" && request.path.ends_with("/chat/completions")
}

/// Each waits as long as it is told, OpenCode in milliseconds, Copilot CLI and OpenHands in seconds; an emulated machine
/// is slow.
fn shell(command: &str, request: &Request) -> (&'static str, Value) {
    match offered(&request.body["tools"], SHELLS) {
        Some("terminal") => {
            let arguments = json!({"command": line(command), "timeout": 300, "security_risk": "LOW"});
            ("terminal", arguments)
        }
        _ => {
            let arguments = json!({"command": command, "description": "The next step", "timeout": 300_000,
                "initial_wait": 300});
            ("bash", arguments)
        }
    }
}

/// A script as one line: OpenHands takes one command at a time, and its terminal echoes a command of several lines among
/// what that says.
fn line(script: &str) -> String {
    let quoted = script.chars().fold(String::new(), |mut quoted, character| {
        match character {
            '\n' => quoted.push_str("\\n"),
            '\'' | '\\' => quoted.extend(['\\', character]),
            _ => quoted.push(character),
        }
        quoted
    });
    format!("bash -c $'{quoted}'")
}

fn editor(path: &str, text: &str, request: &Request) -> (&'static str, Value) {
    match offered(&request.body["tools"], &["create", "file_editor"]) {
        Some("file_editor") => {
            let arguments =
                json!({"command": "create", "path": path, "file_text": text, "security_risk": "LOW"});
            ("file_editor", arguments)
        }
        Some(name) => (name, json!({"path": path, "file_text": text})),
        None => ("write", json!({"filePath": path, "content": text})),
    }
}

/// What the model says, and why it stops there.
pub fn reply(number: usize, said: &Value, reason: &str, request: &Request) -> Answer {
    let mut message = said.clone();
    message["role"] = json!("assistant");
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    let whole = |kind: &str, choice: Value| {
        json!({"id": format!("chatcmpl-{number:04}"), "object": kind, "created": 1, "model": request.body["model"],
            "choices": [choice], "usage": usage})
    };
    if request.body["stream"] != true {
        let choice = json!({"index": 0, "message": message, "finish_reason": reason});
        return Answer::json(&whole("chat.completion", choice));
    }
    let chunks = [
        json!({"index": 0, "delta": message, "finish_reason": null}),
        json!({"index": 0, "delta": {}, "finish_reason": reason}),
    ];
    let lines = chunks.map(|choice| format!("data: {}\n\n", whole("chat.completion.chunk", choice)));
    Answer { kind: "text/event-stream", body: format!("{}data: [DONE]\n\n", lines.concat()) }
}

/// A message is text, or parts of text.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
