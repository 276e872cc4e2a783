//! Checks a profile's tree against the schema and reports every deviation.
//!
//! What passes is handed on as a tree of the sound parts only: wrong values,
//! unknown keys and rules that are wrong in themselves are taken out, so that
//! the checks of meaning run on the rest of a faulty profile too. What must
//! stay true: if nothing was reported, nothing was taken out; and what is
//! handed on can be read into the model.
//!
//! This is no general JSON schema validator. It knows the words that the
//! model's schema uses; a test checks that there are no others.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;

use super::diagnostic::{Code, Diagnostic, MAX_REPORTED, nearest, one_of, quoted};
use super::expected::{Wanted, accepts, alternatives, choices, resolve, words};
use super::source::{SourceFile, Span};
use super::tree::{Node, Value};
use super::words::{Problem, Word};

/// Keys that later versions of the language add, so that a profile from there
/// gets a truthful answer: the key is right, this program is too old.
const LATER_TOP_LEVEL: &[&str] = &["limits", "respond", "secrets"];
const LATER_NETWORK_RULE: &[&str] = &["host", "ask", "then"];

/// The properties of a mapping that has none of its own.
static NO_PROPERTIES: OnceLock<serde_json::Map<String, Json>> = OnceLock::new();

pub struct Structure<'a> {
    file: &'a Arc<SourceFile>,
    root: &'a Json,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// How many problems were known before this check.
    before: usize,
}

/// Checks the whole tree; the sound parts of it, if it is a mapping at all. `what`: what the file is, in messages (`a
/// profile`).
pub fn check<'a>(
    file: &'a Arc<SourceFile>,
    what: &str,
    schema: &'a Json,
    tree: Node,
    diagnostics: &'a mut Vec<Diagnostic>,
) -> Option<Node> {
    let before = diagnostics.len();
    Structure { file, root: schema, diagnostics, before }.node(tree, schema, &Path::Top(what))
}

/// Where in the file a node is, for messages.
enum Path<'a> {
    /// What the file is.
    Top(&'a str),
    Key {
        parent: &'a Path<'a>,
        key: &'a str,
        span: Span,
    },
    Item {
        parent: &'a Path<'a>,
        index: usize,
    },
}

impl Path<'_> {
    /// `network.allow[2].cidr`; empty at the top.
    fn text(&self) -> String {
        match self {
            Self::Top(_) => String::new(),
            Self::Key { parent: Self::Top(_), key, .. } => (*key).to_owned(),
            Self::Key { parent, key, .. } => format!("{}.{key}", parent.text()),
            Self::Item { parent, index } => format!("{}[{index}]", parent.text()),
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Top(what) => (*what).to_owned(),
            _ => format!("`{}`", self.text()),
        }
    }

    /// What to point at when the value itself has no text.
    fn key_span(&self) -> Option<Span> {
        match self {
            Self::Key { span, .. } => Some(*span),
            _ => None,
        }
    }

    fn is_item(&self) -> bool {
        matches!(self, Self::Item { .. })
    }

    fn is_network_rule(&self) -> bool {
        matches!(self, Self::Item { .. }) && self.text().starts_with("network.")
    }
}

impl<'a> Structure<'a> {
    fn node(&mut self, node: Node, schema: &'a Json, path: &Path<'_>) -> Option<Node> {
        if self.has_enough() {
            return None;
        }
        let schema = resolve(self.root, schema);
        if let Some(choices) = alternatives(schema) {
            // Choices differ by type: a value and a list of such values.
            return match choices.iter().find(|choice| accepts(resolve(self.root, choice), &node.value)) {
                Some(choice) => self.node(node, choice, path),
                None => self.wrong_type(&node, schema, path),
            };
        }
        if !accepts(schema, &node.value) {
            return self.wrong_type(&node, schema, path);
        }
        match node.value {
            Value::Map(entries) => self.mapping(entries, node.span, schema, path),
            Value::List(items) => self.list(items, node.span, schema, path),
            _ => self.scalar(node, schema, path),
        }
    }

    /// Whether to stop. This check reports errors only, so a tree that was cut
    /// short is never used.
    fn has_enough(&self) -> bool {
        self.diagnostics.len() - self.before >= MAX_REPORTED
    }

    fn mapping(
        &mut self,
        entries: Vec<(Node, Node)>,
        span: Span,
        schema: &'a Json,
        path: &Path<'_>,
    ) -> Option<Node> {
        // A mapping whose keys are the author's own names, all with values of one kind.
        let open = schema.get("additionalProperties").filter(|values| values.is_object());
        let none = NO_PROPERTIES.get_or_init(serde_json::Map::new);
        let properties = match schema.get("properties").and_then(Json::as_object) {
            Some(properties) => properties,
            None => open.map(|_| none)?,
        };
        let reported_before = self.diagnostics.len();
        let first_key = entries.first().map(|(key, _)| key.span);
        let mut seen: HashMap<String, Span> = HashMap::new();
        // Keys that an unknown one was probably meant to be are not missing too.
        let mut meant: Vec<&str> = Vec::new();
        let mut sound = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            if self.has_enough() {
                break;
            }
            let Value::Text(name) = &key.value else {
                self.report(
                    Code::UnknownKey,
                    key.span,
                    format!("{} can't be a key in {}", key.value.kind(), path.place()),
                    "here",
                    known_keys_hint(properties),
                );
                continue;
            };
            let named =
                schema.get("propertyNames").and_then(|names| names.get("format")).and_then(Json::as_str);
            if let Some(word) = named.and_then(Word::of_format)
                && let Err(Problem { code, message, hint }) = word.check_text(name)
            {
                self.report(code, key.span, message, "", hint);
                continue;
            }
            let Some(property) = properties.get(name).or(open) else {
                meant.extend(self.unknown_key(name, key.span, properties, path));
                continue;
            };
            let first = seen.get(name).copied();
            let below = Path::Key { parent: path, key: name, span: key.span };
            let value = self.node(value, property, &below);
            if let Some(first) = first {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::DuplicateKey,
                        self.file,
                        key.span,
                        format!("the key {} is given twice in {}", quoted(name), path.place()),
                    )
                    .here("again here")
                    .also(self.file, first, "first here")
                    .hint("keep one of them, with everything under it"),
                );
                continue;
            }
            seen.insert(name.clone(), key.span);
            if let Some(value) = value {
                sound.push((key, value));
            }
        }
        let whole = first_key.filter(|_| span.start == span.end).unwrap_or(span);
        let given = |name: &str| seen.contains_key(name) || meant.contains(&name);
        self.completeness(given, seen.len() + meant.len(), whole, schema, path);
        let faulty = self.diagnostics.len() > reported_before;
        // Half a rule would only lead to wrong conclusions about the other half.
        (!(faulty && path.is_item())).then_some(Node { value: Value::Map(sound), span: whole })
    }

    /// Keys that must be there, and how many.
    fn completeness(
        &mut self,
        given: impl Fn(&str) -> bool,
        count: usize,
        span: Span,
        schema: &'a Json,
        path: &Path<'_>,
    ) {
        for name in words(schema.get("required")) {
            if !given(name) {
                let hint = match (path, name) {
                    (Path::Top(_), "version") => "add `version: 1` as the first line".to_owned(),
                    (Path::Top(_), "name") => {
                        "add `name:` with a name of your choice, for example `name: my-agent`".to_owned()
                    }
                    _ => format!("add `{name}:` to {}", path.place()),
                };
                self.report(
                    Code::MissingKey,
                    span,
                    format!("{} needs the key `{name}`", path.place()),
                    "",
                    hint,
                );
            }
        }
        if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
            let sets: Vec<Vec<&str>> = choices.iter().map(|choice| words(choice.get("required"))).collect();
            if !sets.iter().any(|set| set.iter().all(|name| given(name))) {
                let names = one_of(sets.iter().flatten().copied());
                self.report(
                    Code::MissingKey,
                    span,
                    format!("{} needs the key {names}", path.place()),
                    "",
                    "say which addresses the rule is about; `cidr: [0.0.0.0/0, \"::/0\"]` is every address",
                );
            }
        }
        let bound =
            |name: &str| schema.get(name).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        let (least, most) =
            (bound("minProperties").unwrap_or(0), bound("maxProperties").unwrap_or(usize::MAX));
        if count < least || count > most {
            let names = schema
                .get("properties")
                .and_then(Json::as_object)
                .map(|keys| keys.keys().map(String::as_str));
            self.report(
                Code::MissingKey,
                span,
                format!("{} needs exactly one key", path.place()),
                "",
                format!(
                    "write one of {} here; for either, write two list items",
                    one_of(names.into_iter().flatten()).replace(" or ", " and ")
                ),
            );
        }
    }

    /// Reports an unknown key; the known one that was probably meant.
    fn unknown_key(
        &mut self,
        name: &str,
        span: Span,
        properties: &'a serde_json::Map<String, Json>,
        path: &Path<'_>,
    ) -> Option<&'a str> {
        let mut meant = None;
        let later = match path {
            Path::Top(_) => LATER_TOP_LEVEL.contains(&name),
            _ => path.is_network_rule() && LATER_NETWORK_RULE.contains(&name),
        };
        let message = format!("unknown key {} in {}", quoted(name), path.place());
        let mut diagnostic = Diagnostic::error(Code::UnknownKey, self.file, span, message);
        if later {
            let hint = if name == "host" {
                // It says whom the rule is about, so the address is not missing.
                meant = properties.keys().find(|key| *key == "address").map(String::as_str);
                "rules by `host` are not supported by this version: write `cidr` or `address`".to_owned()
            } else {
                format!("`{name}` is not supported by this version of agent-monitor: remove it, or update")
            };
            diagnostic = diagnostic.hint(hint);
        } else if name == "<<" {
            diagnostic = diagnostic.hint("put shared rules in a base and name it under `extends`");
        } else if let Some(near) = nearest(name, properties.keys().map(String::as_str)) {
            diagnostic = diagnostic.here(format!("did you mean `{near}`?"));
            meant = Some(near);
        }
        self.diagnostics.push(diagnostic.hint(known_keys_hint(properties)));
        meant
    }

    fn list(&mut self, items: Vec<Node>, span: Span, schema: &'a Json, path: &Path<'_>) -> Option<Node> {
        let least = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            self.report(
                Code::EmptyList,
                path.key_span().unwrap_or(span),
                format!("{} is an empty list", path.place()),
                "",
                match path {
                    Path::Key { key: "ports", .. } => "list a port, or remove `ports` to mean every port",
                    Path::Key { key: "protocol", .. } => {
                        "list a protocol, or remove `protocol` to mean `tcp`"
                    }
                    _ => "add an item, or remove the key",
                },
            );
            return None;
        }
        let item_schema = schema.get("items").unwrap_or(&Json::Bool(true));
        let sound = items
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| self.node(item, item_schema, &Path::Item { parent: path, index }))
            .collect();
        Some(Node { value: Value::List(sound), span })
    }

    fn scalar(&mut self, node: Node, schema: &'a Json, path: &Path<'_>) -> Option<Node> {
        if let Some(word) = schema.get("format").and_then(Json::as_str).and_then(Word::of_format) {
            let result = match &node.value {
                Value::Text(text) => Some(word.check_text(text)),
                Value::Int(number) => word.check_number(*number),
                _ => None,
            };
            return match result {
                Some(Ok(())) => Some(node),
                Some(Err(Problem { code, message, hint })) => {
                    self.report(code, span_of(&node, path), message, "", hint);
                    None
                }
                None => self.wrong_type(&node, schema, path),
            };
        }
        let choices = choices(schema);
        let Value::Text(text) = &node.value else {
            return Some(node);
        };
        if choices.is_empty() || choices.contains(&text.as_str()) {
            return Some(node);
        }
        let here = nearest(text, choices.iter().copied()).map(|word| format!("did you mean `{word}`?"));
        self.report(
            Code::UnknownValue,
            span_of(&node, path),
            format!("{} can't be {}", path.place(), quoted(text)),
            &here.unwrap_or_default(),
            format!("write {}", one_of(choices.iter().copied())),
        );
        None
    }

    fn wrong_type(&mut self, node: &Node, schema: &'a Json, path: &Path<'_>) -> Option<Node> {
        let wanted = Wanted { root: self.root, schema };
        let raw = &self.file.text[node.span.start..node.span.end];
        let message = match path {
            Path::Top(_) if node.value == Value::Null => "this file is empty".to_owned(),
            Path::Top(what) => format!("{what} is a mapping, but this is {}", node.value.kind()),
            _ => format!("{} must be {}, not {}", path.place(), wanted.describe(), node.value.kind()),
        };
        let hint = match path {
            Path::Top(_) if node.value == Value::Null => {
                "a profile begins with `version: 1`, `name:` and `mode:`".to_owned()
            }
            _ => wanted.instead_of(&node.value, raw),
        };
        self.report(Code::WrongType, span_of(node, path), message, "", hint);
        None
    }

    fn report(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        here: &str,
        hint: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::error(code, self.file, span, message).here(here).hint(hint));
    }
}

/// Points at the key of a value that was left empty.
fn span_of(node: &Node, path: &Path<'_>) -> Span {
    match node.value {
        Value::Null | Value::Map(_) => path.key_span().unwrap_or(node.span),
        _ => node.span,
    }
}

fn known_keys_hint(properties: &serde_json::Map<String, Json>) -> String {
    let keys: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
    format!("the keys here are {}", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::schema::profile_schema;
    use super::*;

    /// A schema word that this file does not know would be silently ignored.
    #[test]
    fn the_schema_uses_only_words_that_are_checked() {
        const CHECKED: &[&str] = &[
            "$ref",
            "anyOf",
            "enum",
            "const",
            "format",
            "items",
            "maxProperties",
            "minItems",
            "minProperties",
            "oneOf",
            "properties",
            "required",
            "type",
            // False: unknown keys are errors. A schema: every key's value is like that.
            "additionalProperties",
            "propertyNames",
        ];
        // Said by `format` in our own words.
        const BY_FORMAT: &[&str] = &["pattern", "minimum", "maximum", "maxLength"];
        const REMARKS: &[&str] = &["$schema", "$defs", "title", "description", "examples"];
        fn collect(schema: &Json, found: &mut BTreeSet<String>) {
            let Some(object) = schema.as_object() else { return };
            let by_format = object.contains_key("format");
            for (key, value) in object {
                match key.as_str() {
                    "properties" | "$defs" => {
                        value.as_object().unwrap().values().for_each(|schema| collect(schema, found));
                    }
                    "items" => collect(value, found),
                    "anyOf" | "oneOf" => {
                        value.as_array().unwrap().iter().for_each(|schema| collect(schema, found))
                    }
                    "format" => assert!(Word::of_format(value.as_str().unwrap()).is_some(), "{value}"),
                    "additionalProperties" if value.is_object() => collect(value, found),
                    "additionalProperties" => assert_eq!(value, &Json::Bool(false)),
                    "propertyNames" => {
                        assert!(Word::of_format(value["format"].as_str().unwrap()).is_some(), "{value}");
                    }
                    word if by_format && BY_FORMAT.contains(&word) => {}
                    _ => {}
                }
                let said_elsewhere =
                    REMARKS.contains(&key.as_str()) || (by_format && BY_FORMAT.contains(&key.as_str()));
                if !said_elsewhere {
                    found.insert(key.clone());
                }
            }
        }
        let mut found = BTreeSet::new();
        collect(profile_schema(), &mut found);
        let unknown: Vec<_> = found.iter().filter(|word| !CHECKED.contains(&word.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}\n{:#}", profile_schema());
    }
}
