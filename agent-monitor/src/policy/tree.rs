//! A profile's YAML as a tree that keeps every place and every duplicate key.
//!
//! The structure check walks this tree against the schema; the typed model is
//! then read from what is left of it. Serde's own route would stop at the
//! first error and drop places.
//!
//! What must stay true: parsing ends within the budgets below for any input,
//! and the tree is never deeper than [`MAX_DEPTH`], so that recursion over it
//! is safe.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};

use super::source::{SourceFile, Span};

/// Deepest nesting of lists and mappings; a profile needs five.
const MAX_DEPTH: usize = 32;
/// Most scalars, lists and mappings in one file: 10 000 rules use about 100 000.
const MAX_NODES: usize = 250_000;
/// Most nodes that aliases (`*name`) may add by repeating anchored ones.
const MAX_ALIAS_NODES: usize = 20_000;

/// One YAML node and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, duplicates included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What a person calls this kind of value, with its article.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a number",
            Self::Float(_) => "a decimal number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Why the text is not one YAML document within bounds.
#[derive(Debug)]
pub struct SyntaxError {
    pub message: String,
    pub hint: &'static str,
    /// The file is YAML, but goes beyond a budget.
    pub over_budget: bool,
    pub span: Span,
}

/// Parses the one YAML document of a profile file.
pub fn parse(file: &SourceFile) -> Result<Node, SyntaxError> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
            max_documents: 1,
            max_total_scalar_bytes: super::source::MAX_FILE_BYTES * 2,
        },
        emit_comments: false,
        // Duplicates reach the tree, so that all of them can be reported.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `<<` is then an unknown key: `extends` is how profiles share rules.
        merge_keys: MergeKeyPolicy::AsOrdinary,
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_NODES,
            max_replay_stack_depth: MAX_DEPTH,
        },
        strict_booleans: true,
        // `0443` could be read as octal: text, which no port is.
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let raw: Raw = serde_yaml::from_str_with_options(&file.text, options)
        .map_err(|error| explain(file, error.without_snippet()))?;
    Ok(raw.into_node(file))
}

/// Turns the parser's error into one that helps the author of the file.
fn explain(file: &SourceFile, error: &serde_yaml::Error) -> SyntaxError {
    let location = error.location().unwrap_or(serde_yaml::Location::UNKNOWN);
    let start = match location.span().byte_offset() {
        Some(offset) => usize::try_from(offset).unwrap_or(usize::MAX),
        None if location.line() > 0 => file.offset(location.line(), location.column()),
        None => file.text.len(),
    };
    let span = file.span(start, start.saturating_add(1));
    // The parser repeats the place at the end of its message.
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    let plain =
        |message: &str, hint| SyntaxError { message: message.to_owned(), hint, over_budget: false, span };
    let budget = |message: &str, hint| SyntaxError { over_budget: true, ..plain(message, hint) };
    match error {
        serde_yaml::Error::Budget { breach: BudgetBreach::Documents { .. }, .. }
        | serde_yaml::Error::MultipleDocuments { .. } => plain(
            "a second YAML document begins here",
            "a profile is one document: remove the `---`, or put the second profile in a file of its own",
        ),
        serde_yaml::Error::AliasReplayLimitExceeded { .. }
        | serde_yaml::Error::AliasReplayStackDepthExceeded { .. }
        | serde_yaml::Error::AliasExpansionLimitExceeded { .. }
        | serde_yaml::Error::AliasError { .. }
        | serde_yaml::Error::RecursiveReferencesRequireWeakTypes { .. } => budget(
            "aliases (`*name`) in this file expand to too much",
            "write the rules out, or put shared rules in a base and name it under `extends`",
        ),
        serde_yaml::Error::Budget { .. } => budget(
            "this file is too large or too deeply nested for a profile",
            "a profile nests five levels deep and holds 20 000 rules at most",
        ),
        _ if message.contains("recursion limit") || message.contains("nesting") => budget(
            "this file is too deeply nested for a profile",
            "a profile nests five levels deep; look for brackets that are never closed",
        ),
        serde_yaml::Error::UnsupportedTag { .. } => plain(
            "profiles have no YAML tags (`!name`)",
            "remove the tag, or put the text in quotes if it begins with `!`",
        ),
        serde_yaml::Error::UnknownAnchor { .. } => plain(
            "this alias (`*name`) has no anchor (`&name`)",
            "put text that begins with `*` in quotes, for example \"*.sock\"",
        ),
        _ => plain(&message, syntax_hint(file, span, &message)),
    }
}

/// The mistake that most likely led to the parser's message.
fn syntax_hint(file: &SourceFile, span: Span, message: &str) -> &'static str {
    let line = file.line_index(span.start);
    let text = &file.text[file.line_start(line)..file.line_start(line + 1)];
    if message.contains("tab") {
        "indent with spaces: YAML allows no tabs there"
    } else if text.contains("::") {
        "put addresses that begin or end with a colon in quotes, for example \"::\""
    } else if text.trim_start().starts_with(['*', '&', '@', '`', '%', '|', '>']) || text.contains(": *") {
        "put text that begins with a special character in quotes"
    } else {
        "look for a missing quote, bracket, comma or space after a colon here or on the line above"
    }
}

/// A node as the deserializer hands it over, before its place is mapped.
struct Raw(Box<serde_yaml::Spanned<RawValue>>);

enum RawValue {
    Scalar(Value),
    List(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

impl Raw {
    fn into_node(self, file: &SourceFile) -> Node {
        // The place where an aliased value was written, not where it is used:
        // that is the text the reader has to change.
        let place = self.0.defined.span();
        let start = place.byte_offset().unwrap_or(0) as usize;
        let length = place.byte_len().unwrap_or(0) as usize;
        let value = match self.0.value {
            RawValue::Scalar(value) => value,
            RawValue::List(items) => {
                Value::List(items.into_iter().map(|item| item.into_node(file)).collect())
            }
            RawValue::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.into_node(file), value.into_node(file)))
                    .collect(),
            ),
        };
        let span = file.span(start, start + length);
        Node { span: whole_if_on_one_line(file, span, &value), value }
    }
}

/// The parser's place of a list or mapping is where it begins. If all of it is
/// on that line, the place is all of it.
fn whole_if_on_one_line(file: &SourceFile, span: Span, value: &Value) -> Span {
    let last = match value {
        Value::List(items) => items.last(),
        Value::Map(entries) => entries.last().map(|(_, value)| value),
        _ => None,
    };
    let Some(last) = last.filter(|last| {
        // An aliased child was written elsewhere.
        last.span.end >= span.end && file.line_index(last.span.end) == file.line_index(span.start)
    }) else {
        return span;
    };
    let closing = if file.text[span.start..].starts_with(['{', '[']) {
        let rest = &file.text[last.span.end..];
        rest.len() - rest.trim_start_matches([' ', ',']).len() + usize::from(!rest.is_empty())
    } else {
        0
    };
    file.span(span.start, last.span.end + closing)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_yaml::Spanned::deserialize(deserializer).map(|spanned| Self(Box::new(spanned)))
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Int(value)))
    }

    fn visit_u128<E>(self, value: u128) -> Result<RawValue, E> {
        // No number of a profile is near either bound.
        Ok(RawValue::Scalar(Value::Int(i128::try_from(value).unwrap_or(i128::MAX))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(value)))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Value::Text(String::from_utf8_lossy(value).into_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(RawValue::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new(Path::new("p.yaml").into(), text.to_owned())
    }

    /// Every scalar with the text it was written as.
    fn scalars(file: &SourceFile, node: &Node, found: &mut Vec<(Value, String)>) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| scalars(file, item, found)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                scalars(file, key, found);
                scalars(file, value, found);
            }),
            scalar => found.push((scalar.clone(), file.text[node.span.start..node.span.end].to_owned())),
        }
    }

    #[test]
    fn places_and_duplicates_are_kept() {
        let file = file("a: [1, \"::\"]\nnäme: {b: 8000-8100}\na: ü\n");
        let mut found = Vec::new();
        scalars(&file, &parse(&file).unwrap(), &mut found);
        let text = |text: &str| Value::Text(text.to_owned());
        let expected = [
            (text("a"), "a"),
            (Value::Int(1), "1"),
            (text("::"), "\"::\""),
            (text("näme"), "näme"),
            (text("b"), "b"),
            (text("8000-8100"), "8000-8100"),
            (text("a"), "a"),
            (text("ü"), "ü"),
        ];
        assert_eq!(found, expected.map(|(value, written)| (value, written.to_owned())));
    }

    #[test]
    fn words_that_look_like_values_stay_words() {
        for word in ["yes", "on", "0443", "1_000", ".nan", "8000-8100", "10.0.0.1"] {
            assert_eq!(parse(&file(word)).unwrap().value, Value::Text(word.to_owned()));
        }
        assert_eq!(parse(&file("true")).unwrap().value, Value::Bool(true));
        assert_eq!(parse(&file("")).unwrap().value, Value::Null);
    }

    #[test]
    fn a_collection_on_one_line_has_all_of_it_as_its_place() {
        let file = file("a: { b: [1, 2 ], c: d }\ne:\n  - f\n  - g\n");
        let Value::Map(entries) = parse(&file).unwrap().value else { panic!("not a mapping") };
        let text = |node: &Node| &file.text[node.span.start..node.span.end];
        assert_eq!(text(&entries[0].1), "{ b: [1, 2 ], c: d }");
        assert_eq!(text(&entries[1].1), "", "a list over several lines has its beginning");
    }

    #[test]
    fn bombs_are_refused_within_the_budget() {
        let line = |c: u8| {
            let below = vec![format!("*{}", char::from(c - 1)); 10].join(", ");
            format!("{0}: &{0} [{below}]\n", char::from(c))
        };
        let aliases = format!("a: &a [x]\n{}", (b'b'..=b'k').map(line).collect::<String>());
        let wide = "- 1\n".repeat(MAX_NODES + 1);
        for bomb in [aliases, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), wide] {
            let error = parse(&file(&bomb)).unwrap_err();
            assert!(error.over_budget, "{}: {}", &bomb[..20], error.message);
        }
    }
}
