//! The JSON schema of an event line, generated from the model.
//!
//! `agent-monitor schema --events` prints it, for whoever reads the event file by program.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::model::Event;
use crate::policy::schema::simplify;

/// The schema (draft 2020-12), generated once. Readers must allow fields that it does not have: see `event::model`.
pub fn event_schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
        let generator = SchemaGenerator::new(SchemaSettings::draft2020_12().for_serialize());
        let mut schema = Json::from(generator.into_root_schema_for::<Event<'static>>());
        // What is not there is left out of a line, never `null`.
        simplify(&mut schema);
        schema
    });
    &SCHEMA
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixture::full_event;
    use crate::event::model::{EventType, VerdictEffect};
    use std::collections::BTreeSet;

    /// Follows a reference into `$defs`.
    fn resolved(schema: &Json) -> &Json {
        match schema.get("$ref").and_then(Json::as_str) {
            Some(path) => &event_schema()["$defs"][path.strip_prefix("#/$defs/").unwrap()],
            None => schema,
        }
    }

    /// Holds the keys and kinds of a value that has every field against the schema, at every depth.
    fn compare(schema: &Json, value: &Json, at: &str) {
        let schema = resolved(schema);
        let kind = match value {
            Json::Null => panic!("{at}: a line never holds null"),
            Json::Bool(_) => "boolean",
            Json::Number(_) => "integer",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        };
        let word = |choice: &Json| choice == value || choice.get("const") == Some(value);
        let choices = ["enum", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
        let listed = choices.is_some_and(|choices| {
            choices.iter().any(|choice| {
                word(choice) || choice["enum"].as_array().is_some_and(|all| all.iter().any(word))
            })
        });
        assert!(listed || schema["type"] == kind, "{at}: {value} by {schema}");
        match value {
            Json::Object(fields) => {
                let written: BTreeSet<_> = fields.keys().collect();
                let described: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
                assert_eq!(written, described, "{at}");
                fields.iter().for_each(|(key, value)| {
                    compare(&schema["properties"][key], value, &format!("{at}.{key}"))
                });
            }
            Json::Array(items) => {
                items.iter().for_each(|item| compare(&schema["items"], item, &format!("{at}[]")))
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_has_every_field_of_a_line_and_no_other() {
        compare(event_schema(), &serde_json::to_value(full_event()).unwrap(), "event");
    }

    #[test]
    fn what_is_required_is_in_the_barest_line() {
        let bare =
            crate::event::model::Event::new(ulid::Ulid::nil(), jiff::Timestamp::UNIX_EPOCH, EventType::Loss);
        let bare = serde_json::to_value(bare).unwrap();
        let required: BTreeSet<_> =
            event_schema()["required"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
        let written: BTreeSet<_> = bare.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(required, written);
    }

    #[test]
    fn every_word_of_types_and_verdicts_is_listed() {
        let text = event_schema().to_string();
        let words = EventType::ALL
            .map(EventType::as_str)
            .into_iter()
            .chain(VerdictEffect::ALL.map(VerdictEffect::as_str));
        for word in words {
            assert!(text.contains(&format!("\"{word}\"")), "{word}");
        }
    }
}
