//! The JSON schema as an editor sees it.
//!
//! The schema that `agent-monitor schema` prints is judged here by the rules of
//! JSON Schema alone, written down again for the words it uses and without our
//! own formats: the shipped profiles and all examples are valid by it, and it
//! refuses what it can of the mistakes that the loader refuses.

#![expect(clippy::unwrap_used, reason = "what these tests prepare either works or fails the test")]

use std::path::{Path, PathBuf};

use agent_monitor::policy::schema::profile_schema;
use agent_monitor::policy::{Checked, check_profile};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use serde_json::Value;

/// Why `value` is not valid, with the place.
fn invalid(schema: &Value, value: &Value, at: &str) -> Option<String> {
    let Some(rules) = schema.as_object() else {
        return (schema == &Value::Bool(false)).then(|| format!("{at}: nothing is allowed here"));
    };
    rules.iter().find_map(|(word, rule)| violates(rules, word, rule, value, at))
}

fn violates(
    schema: &serde_json::Map<String, Value>,
    word: &str,
    rule: &Value,
    value: &Value,
    at: &str,
) -> Option<String> {
    let list = || rule.as_array().unwrap().iter();
    let count = || rule.as_u64().unwrap();
    let fulfilled = |choices: &Value| {
        choices.as_array().unwrap().iter().filter(|choice| invalid(choice, value, at).is_none()).count()
    };
    let kept = match (word, value) {
        ("$ref", _) => {
            let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
            return invalid(&profile_schema()["$defs"][name], value, at);
        }
        ("type", _) => match rule {
            Value::String(name) => is_of_type(name, value),
            names => names.as_array().unwrap().iter().any(|name| is_of_type(name.as_str().unwrap(), value)),
        },
        ("const", _) => rule == value,
        ("enum", _) => list().any(|choice| choice == value),
        ("anyOf", _) => fulfilled(rule) >= 1,
        ("oneOf", _) => fulfilled(rule) == 1,
        ("pattern", Value::String(text)) => Regex::new(rule.as_str().unwrap()).unwrap().is_match(text),
        ("maxLength", Value::String(text)) => text.chars().count() as u64 <= count(),
        ("minimum", Value::Number(number)) => number.as_f64().unwrap() >= rule.as_f64().unwrap(),
        ("maximum", Value::Number(number)) => number.as_f64().unwrap() <= rule.as_f64().unwrap(),
        ("minItems", Value::Array(items)) => items.len() as u64 >= count(),
        ("minProperties", Value::Object(keys)) => keys.len() as u64 >= count(),
        ("maxProperties", Value::Object(keys)) => keys.len() as u64 <= count(),
        ("required", Value::Object(keys)) => list().all(|name| keys.contains_key(name.as_str().unwrap())),
        ("items", Value::Array(items)) => {
            return items
                .iter()
                .enumerate()
                .find_map(|(index, item)| invalid(rule, item, &format!("{at}[{index}]")));
        }
        ("properties", Value::Object(keys)) => {
            return keys.iter().find_map(|(key, value)| {
                invalid(rule.get(key).unwrap_or(&Value::Bool(true)), value, &format!("{at}.{key}"))
            });
        }
        ("additionalProperties", Value::Object(keys)) if rule.is_object() => {
            return keys.iter().find_map(|(key, value)| invalid(rule, value, &format!("{at}.{key}")));
        }
        ("additionalProperties", Value::Object(keys)) => {
            assert_eq!(rule, false);
            keys.keys().all(|key| schema["properties"].get(key).is_some())
        }
        ("propertyNames", Value::Object(keys)) => {
            return keys
                .keys()
                .find_map(|key| invalid(rule, &Value::String(key.clone()), &format!("{at}.{key}")));
        }
        (
            "$schema"
            | "$defs"
            | "title"
            | "description"
            | "examples"
            | "format"
            | "pattern"
            | "maxLength"
            | "minimum"
            | "maximum"
            | "minItems"
            | "minProperties"
            | "maxProperties"
            | "required"
            | "items"
            | "properties"
            | "additionalProperties"
            | "propertyNames",
            _,
        ) => true,
        (unknown, _) => panic!("the schema uses `{unknown}`, which is not judged here"),
    };
    (!kept).then(|| format!("{at}: {value} is against {word} {rule}"))
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    }
}

/// Reads YAML as editors do, by the rules of YAML 1.2.
fn yaml(text: &str) -> Value {
    let options = serde_yaml::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        merge_keys: serde_yaml::options::MergeKeyPolicy::AsOrdinary,
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::LastWins,
    };
    serde_yaml::from_str_with_options(text, options).unwrap()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(name)
}

fn case(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics/cases").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn shipped_profiles_are_valid() {
    for entry in std::fs::read_dir(shipped("")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            let profile = yaml(&std::fs::read_to_string(&file).unwrap());
            assert_eq!(invalid(profile_schema(), &profile, &file.display().to_string()), None);
        }
    }
}

#[test]
fn what_an_editor_can_see_is_refused() {
    for name in [
        "unknown-key.yaml",
        "missing-key.yaml",
        "wrong-type.yaml",
        "wrong-type-deep.yaml",
        "unknown-value.yaml",
        "bad-addresses.yaml",
        "bad-ports.yaml",
        "bad-name.yaml",
        "bad-glob.yaml",
        "empty-list.yaml",
        "unsupported-version.yaml",
        "not-a-mapping.yaml",
        "empty.yaml",
    ] {
        assert!(invalid(profile_schema(), &yaml(&case(name)), name).is_some(), "{name} is valid");
    }
}

/// Calls `see` for every key's schema in `schema`, with its path.
fn each_key(schema: &Value, at: &str, see: &mut impl FnMut(&str, &Value)) {
    for (key, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{at}.{key}");
        see(&path, below);
        each_key(below, &path, see);
    }
    for (name, below) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
        each_key(below, name, see);
    }
}

#[test]
fn every_key_is_described_with_valid_examples() {
    let mut keys = 0;
    each_key(profile_schema(), "", &mut |path, schema| {
        keys += 1;
        assert!(schema["description"].as_str().is_some_and(|text| text.len() > 20), "{path}");
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("{path} has no examples"));
        assert!(!examples.is_empty(), "{path}");
        for example in examples {
            assert_eq!(invalid(schema, example, path), None);
        }
    });
    assert!(keys > 20, "{keys} keys");
}

#[test]
fn every_listed_word_is_described() {
    for (name, schema) in profile_schema()["$defs"].as_object().unwrap() {
        for word in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
            if word.get("const").is_some() {
                assert!(word["description"].is_string(), "{name} {word}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the loader takes, an editor does not mark as wrong.
    #[test]
    fn the_schema_refuses_nothing_that_loads(
        cut in any::<prop::sample::Index>(),
        length in 0_usize..30,
        replacement in prop::sample::select(vec![
            "", "\n", "0", "1-2", "[1, \"3 - 4\"]", "10.0.0.0/8", "\"::1\"", "::ffff:1.2.3.4", "any", "udp",
            "[tcp]", "a-b.c_d", "/usr/**", "**/x", "~/y", "/a/{b,c}", "base", "true", "audit", "[]",
            "\n  sockets: [raw, ping]\n", "\n    - { cidr: \"fe80::/10\", ports: 5 }\n", " comment: c, ",
        ]),
    ) {
        let text = std::fs::read_to_string(shipped("coding-agent.yaml")).unwrap();
        let start = text.floor_char_boundary(cut.index(text.len()));
        let end = text.ceil_char_boundary((start + length).min(text.len()));
        let changed = format!("{}{replacement}{}", &text[..start], &text[end..]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.yaml");
        std::fs::write(&path, &changed).unwrap();
        let search = [shipped("")];
        if let Ok(Checked::Profile(_)) = check_profile(&path, &search) {
            prop_assert_eq!(invalid(profile_schema(), &yaml(&changed), "p"), None);
        }
    }
}
