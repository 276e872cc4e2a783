//! How a value is written in a profile, by whoever writes one.

pub use super::compile::escape as glob;

/// A text in quotes, which YAML reads as it is whatever is in it: a JSON string is one of YAML's.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
