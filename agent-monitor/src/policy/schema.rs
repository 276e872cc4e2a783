//! The JSON schema of profile files, generated from the model.
//!
//! `agent-monitor schema` prints it for editors; the structure check walks it.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value as Json;

use super::cases::CaseFile;
use super::model::ProfileFile;

/// The schema (draft 2020-12), generated once.
pub fn profile_schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(schema_of::<ProfileFile>);
    &SCHEMA
}

/// The schema of files with test cases (draft 2020-12), generated once.
pub fn case_schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(schema_of::<CaseFile>);
    &SCHEMA
}

fn schema_of<T: JsonSchema>() -> Json {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = Json::from(generator.into_root_schema_for::<T>());
    simplify(&mut schema);
    schema
}

/// Takes out what describes Rust rather than the language: a key that may be
/// left out is not one that may be `null`, and defaults that are empty say
/// nothing.
pub(crate) fn simplify(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            object.remove("default");
            if let Some(Json::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Json::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type") != Some(&Json::from("null")));
                if let [Json::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(simplify);
        }
        Json::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
