//! What the schema wants at some place, and what to type if it got something
//! else.
//!
//! Called by the structure check, which walks the schema with [`resolve`],
//! [`accepts`] and [`choices`] and explains a wrong type with [`Wanted`].

use serde_json::Value as Json;

use super::diagnostic::one_of;
use super::tree::Value;
use super::words::Word;

/// Follows a reference into the schema's definitions.
pub fn resolve<'a>(root: &'a Json, schema: &'a Json) -> &'a Json {
    let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(|name| root.get("$defs")?.get(name)).unwrap_or(schema)
}

/// The schema of one value, to be put into words.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub root: &'a Json,
    pub schema: &'a Json,
}

impl<'a> Wanted<'a> {
    fn with(self, schema: &'a Json) -> Self {
        Self { schema, ..self }
    }

    fn resolved(self) -> &'a Json {
        resolve(self.root, self.schema)
    }

    /// What may stand here: `text or a list`.
    pub fn describe(self) -> String {
        let schema = self.resolved();
        if let Some(choices) = alternatives(schema) {
            let mut kinds: Vec<String> = choices.iter().map(|choice| self.with(choice).describe()).collect();
            kinds.dedup();
            return kinds.join(" or ");
        }
        if !choices(schema).is_empty() {
            return format!("one of {}", one_of(choices(schema)).replace(" or ", " and "));
        }
        words(schema.get("type")).into_iter().map(kind_of_type).collect::<Vec<_>>().join(" or ")
    }

    /// What to type instead of `value`, which was written as `raw`.
    pub fn instead_of(self, value: &Value, raw: &str) -> String {
        let (text, list, map) = (
            self.takes(&Value::Text(String::new())),
            self.takes(&Value::List(Vec::new())),
            self.takes(&Value::Map(Vec::new())),
        );
        let (word, listed) = (self.word(), self.words_listed());
        let right_in_quotes =
            text && listed.is_empty() && word.is_none_or(|word| word.check_text(raw).is_ok());
        match value {
            Value::Null if list && !text => "write `[]` for an empty list, or remove the key".to_owned(),
            Value::Null => "give it a value, or remove the key".to_owned(),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) if right_in_quotes => {
                format!("put it in quotes: `\"{raw}\"`")
            }
            Value::Text(text) if self.takes(&Value::Int(0)) && text.parse::<i64>().is_ok() => {
                format!("write `{text}` without quotes")
            }
            Value::Text(text) if self.takes(&Value::Bool(true)) => match text.as_str() {
                "yes" | "on" | "y" => "write `true`".to_owned(),
                _ => "write `true` or `false`".to_owned(),
            },
            Value::List(items) if text && items.len() == 1 => "write the value without brackets".to_owned(),
            Value::Text(_) | Value::Int(_) if list && !text && raw.len() < 60 => {
                format!("put it in brackets: `[{raw}]`")
            }
            Value::Map(_) if list && word.is_none() => "begin each item of the list with `- `".to_owned(),
            Value::List(_) if map => "write its keys without `- ` in front".to_owned(),
            _ => match (word, listed) {
                (Some(word), _) => format!("write for example {}", word.example()),
                (None, words) if !words.is_empty() => format!("write {}", one_of(words)),
                (None, _) if map => "write keys and values, for example `{ key: value }`".to_owned(),
                (None, _) => format!("write {} here", self.describe()),
            },
        }
    }

    fn takes(self, value: &Value) -> bool {
        let schema = self.resolved();
        accepts(schema, value)
            || alternatives(schema).is_some_and(|choices| {
                choices.iter().any(|choice| accepts(resolve(self.root, choice), value))
            })
    }

    /// The kind of word, alone or in a list.
    fn word(self) -> Option<Word> {
        let schema = self.resolved();
        match schema.get("format").and_then(Json::as_str) {
            Some(format) => Word::of_format(format),
            None => inner(schema).find_map(|inner| self.with(inner).word()),
        }
    }

    /// The words that the schema lists, alone or in a list.
    fn words_listed(self) -> Vec<&'a str> {
        let schema = self.resolved();
        let own = choices(schema);
        if own.is_empty() {
            return inner(schema).map(|inner| self.with(inner).words_listed()).next().unwrap_or_default();
        }
        own
    }
}

/// The schemas of which a value fulfils one; those of a mapping are about which
/// keys it needs.
pub fn alternatives(schema: &Json) -> Option<&Vec<Json>> {
    match schema.get("properties") {
        None => schema.get("anyOf").and_then(Json::as_array),
        Some(_) => None,
    }
}

fn inner(schema: &Json) -> impl Iterator<Item = &Json> {
    alternatives(schema).into_iter().flatten().chain(schema.get("items"))
}

/// One word or a list of words.
pub fn words(json: Option<&Json>) -> Vec<&str> {
    match json {
        Some(Json::String(word)) => vec![word.as_str()],
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The words that a value can be, if the schema lists them.
pub fn choices(schema: &Json) -> Vec<&str> {
    match schema.get("oneOf").and_then(Json::as_array) {
        Some(list) => list
            .iter()
            .flat_map(|choice| match choice.get("const") {
                Some(word) => words(Some(word)),
                None => words(choice.get("enum")),
            })
            .collect(),
        None => words(schema.get("enum")),
    }
}

fn kind_of_type(name: &str) -> &str {
    match name {
        "string" => "text",
        "integer" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// Whether a value is of a type that the schema takes.
pub fn accepts(schema: &Json, value: &Value) -> bool {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::Float(_) => "number",
        Value::Text(_) => "string",
        Value::List(_) => "array",
        Value::Map(_) => "object",
    };
    match schema.get("type") {
        Some(Json::String(only)) => only == name,
        Some(Json::Array(types)) => types.iter().any(|one| one == name),
        _ if !choices(schema).is_empty() => name == "string",
        _ => schema == &Json::Bool(true),
    }
}
