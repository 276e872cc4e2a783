//! Anthropic's messages, as Claude Code asks for them: one request a turn with the whole conversation, answered by a
//! stream of events.

use serde_json::{Value, json};

use super::{Answer, Protocol, Request, Turn, events, offered};

pub struct Messages;

impl Protocol for Messages {
    fn results(&self, request: &Request) -> Option<Vec<String>> {
        let path = request.path.split('?').next().unwrap_or_default();
        // Titles and summaries are asked for without tools.
        if request.method != "POST"
            || path != "/v1/messages"
            || offered(&request.body["tools"], &["Bash"]).is_none()
        {
            return None;
        }
        let blocks =
            request.body["messages"].as_array()?.iter().filter_map(|message| message["content"].as_array());
        Some(blocks.flatten().filter(|block| block["type"] == "tool_result").map(text_of).collect())
    }

    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer {
        let id = format!("toolu_{number:04}");
        let tool = |name: &str| json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let argument = |input: Value| json!({"type": "input_json_delta", "partial_json": input.to_string()});
        let (block, delta, reason) = match turn {
            Turn::Shell(command) => (
                tool("Bash"),
                argument(json!({"command": command, "description": "The next step", "timeout": 300_000})),
                "tool_use",
            ),
            Turn::Write { path, text } => {
                (tool("Write"), argument(json!({"file_path": path, "content": text})), "tool_use")
            }
            Turn::Say(words) => (
                json!({"type": "text", "text": ""}),
                json!({"type": "text_delta", "text": words}),
                "end_turn",
            ),
        };
        let message = message(number, &request.body["model"]);
        events(&[
            json!({"type": "message_start", "message": message}),
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
            json!({"type": "content_block_delta", "index": 0, "delta": delta}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 1}}),
            json!({"type": "message_stop"}),
        ])
    }

    fn aside(&self, request: &Request) -> Answer {
        if request.path.contains("count_tokens") {
            return Answer::json(&json!({"input_tokens": 1}));
        }
        if request.body["stream"] == true {
            return self.turn(9999, &Turn::Say("A session".to_owned()), request);
        }
        let mut whole = message(9999, &request.body["model"]);
        whole["content"] = json!([{"type": "text", "text": "A session"}]);
        whole["stop_reason"] = json!("end_turn");
        Answer::json(&whole)
    }
}

fn message(number: usize, model: &Value) -> Value {
    json!({"id": format!("msg_{number:04}"), "type": "message", "role": "assistant", "model": model, "content": [],
           "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}})
}

/// A result is text, or blocks of text.
fn text_of(block: &Value) -> String {
    match &block["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
