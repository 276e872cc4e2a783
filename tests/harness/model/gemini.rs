//! Google's `generateContent`, as Gemini CLI asks for it: the whole conversation as `contents`; a stream of parts where
//! the path says so.

use serde_json::{Value, json};

use super::{Answer, Protocol, Request, Turn, offered};

pub struct GenerateContent;

impl Protocol for GenerateContent {
    fn results(&self, request: &Request) -> Option<Vec<String>> {
        // What it asks beside the conversation (which model, is it done) comes without the tool.
        if !request.path.contains("enerateContent")
            || offered(&request.body["tools"], &["run_shell_command"]).is_none()
        {
            return None;
        }
        let parts =
            request.body["contents"].as_array()?.iter().filter_map(|content| content["parts"].as_array());
        Some(parts.flatten().filter_map(|part| part.get("functionResponse")).map(text_of).collect())
    }

    fn turn(&self, number: usize, turn: &Turn, request: &Request) -> Answer {
        let call = |name: &str, arguments: Value| json!({"functionCall": {"id": format!("call_{number}"), "name": name, "args": arguments}});
        let part = match turn {
            Turn::Shell(command) => {
                call("run_shell_command", json!({"command": command, "description": "The next step"}))
            }
            Turn::Write { path, text } => call("write_file", json!({"file_path": path, "content": text})),
            Turn::Say(words) => json!({"text": words}),
        };
        reply(&part, request)
    }

    fn aside(&self, request: &Request) -> Answer {
        if request.path.contains("countTokens") {
            return Answer::json(&json!({"totalTokens": 1}));
        }
        // It asks a smaller model how hard the task is, to choose a larger one by.
        reply(
            &json!({"text": json!({"complexity_reasoning": "It is plain.", "complexity_score": 1}).to_string()}),
            request,
        )
    }
}

fn reply(part: &Value, request: &Request) -> Answer {
    let whole = json!({
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
        "modelVersion": "stub"
    });
    match request.path.contains("stream") {
        true => Answer { kind: "text/event-stream", body: format!("data: {whole}\r\n\r\n") },
        false => Answer::json(&whole),
    }
}

fn text_of(response: &Value) -> String {
    let answer = &response["response"];
    answer["output"]
        .as_str()
        .or_else(|| answer["error"].as_str())
        .map_or_else(|| answer.to_string(), str::to_owned)
}
