//! OpenAI's responses, as Codex asks for them: the whole conversation as `input`, answered by a stream of events.

use serde_json::{Value, json};

use super::{Answer, Protocol, Request, Turn, events, offered};

pub struct Responses;

impl Protocol for Responses {
    fn results(&self, request: &Request) -> Option<Vec<String>> {
        if request.method != "POST" || !request.path.ends_with("/responses") {
            return None;
        }
        let items = request.body["input"].as_array()?.iter();
        let results =
            items.filter(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("call_output")));
        Some(results.map(|item| text_of(&item["output"])).collect())
    }

    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer {
        let item = match turn {
            Turn::Shell(command) => shell(number, command, request),
            // Its own editor is a patch, which the shell tool takes as well.
            Turn::Write { path, text } => {
                let lines: String = text.lines().map(|line| format!("+{line}\n")).collect();
                patch(
                    number,
                    &format!("*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\n"),
                    request,
                )
            }
            Turn::Say(words) => json!({"type": "message", "role": "assistant", "id": format!("msg_{number}"),
                "content": [{"type": "output_text", "text": words}]}),
        };
        let id = format!("resp_{number}");
        events(&[
            json!({"type": "response.created", "response": {"id": id}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
            json!({"type": "response.completed", "response": {"id": id, "output": [], "usage": {
                "input_tokens": 1, "input_tokens_details": null, "output_tokens": 1,
                "output_tokens_details": null, "total_tokens": 2}}}),
        ])
    }

    fn aside(&self, _: &Request) -> Answer {
        Answer::json(&json!({"object": "list", "data": [], "models": []}))
    }
}

/// Which tool runs a shell depends on the model that Codex believes to talk with.
fn shell(number: usize, command: &str, request: &Request) -> Value {
    let (name, arguments) = match offered(&request.body["tools"], &["exec_command", "shell_command"]) {
        Some("exec_command") => {
            ("exec_command", json!({"cmd": command, "yield_time_ms": 30_000, "max_output_tokens": 4000}))
        }
        Some(_) => ("shell_command", json!({"command": command, "timeout_ms": 300_000})),
        None => ("shell", json!({"command": ["bash", "-c", command], "timeout_ms": 300_000})),
    };
    call(number, name, &arguments)
}

fn patch(number: usize, patch: &str, request: &Request) -> Value {
    if offered(&request.body["tools"], &["apply_patch"]).is_some() {
        return json!({"type": "custom_tool_call", "id": format!("ctc_{number}"), "call_id": format!("call_{number}"),
            "name": "apply_patch", "input": patch});
    }
    shell(number, &format!("apply_patch <<'EOP'\n{patch}EOP"), request)
}

fn call(number: usize, name: &str, arguments: &Value) -> Value {
    json!({"type": "function_call", "id": format!("fc_{number}"), "call_id": format!("call_{number}"), "name": name,
        "arguments": arguments.to_string()})
}

fn text_of(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        other => other["content"].as_str().unwrap_or_default().to_owned(),
    }
}
