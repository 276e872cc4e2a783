//! Diagnostics for reviews of code: SARIF 2.1.0 (OASIS), and the workflow commands of GitHub Actions.

use serde_json::{Value, json};

use crate::policy::diagnostic::{DiagnosticRecord, Severity};

/// One SARIF run with all diagnostics.
#[must_use]
pub fn sarif(diagnostics: &[DiagnosticRecord]) -> Value {
    let mut rules: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    rules.sort_unstable();
    rules.dedup();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "agent-monitor",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|rule| json!({ "id": rule })).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": diagnostics.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(diagnostic: &DiagnosticRecord) -> Value {
    let related = diagnostic.related.iter().enumerate().map(|(id, place)| {
        json!({
            "id": id,
            "message": { "text": place.message },
            "physicalLocation": {
                "artifactLocation": { "uri": place.file },
                "region": { "startLine": place.line, "startColumn": place.column },
            },
        })
    });
    json!({
        "ruleId": diagnostic.code,
        "level": level(diagnostic.severity),
        "message": { "text": message(diagnostic) },
        "locations": [{ "physicalLocation": location(diagnostic) }],
        "relatedLocations": related.collect::<Vec<_>>(),
    })
}

fn location(diagnostic: &DiagnosticRecord) -> Value {
    let file = json!({ "uri": diagnostic.file });
    match (diagnostic.line, diagnostic.column, diagnostic.end_line, diagnostic.end_column) {
        (Some(line), Some(column), Some(end_line), Some(end_column)) => json!({
            "artifactLocation": file,
            "region": { "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column },
        }),
        _ => json!({ "artifactLocation": file }),
    }
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn message(diagnostic: &DiagnosticRecord) -> String {
    diagnostic.hints.iter().fold(diagnostic.message.clone(), |text, hint| format!("{text}\n{hint}"))
}

/// One workflow command for each diagnostic.
#[must_use]
pub fn github(diagnostics: &[DiagnosticRecord]) -> String {
    let command = |diagnostic: &DiagnosticRecord| {
        let mut properties = format!("file={}", property(&diagnostic.file));
        for (name, number) in [
            ("line", diagnostic.line),
            ("col", diagnostic.column),
            ("endLine", diagnostic.end_line),
            ("endColumn", diagnostic.end_column),
        ] {
            if let Some(number) = number {
                properties.push_str(&format!(",{name}={number}"));
            }
        }
        let level = level(diagnostic.severity);
        format!(
            "::{level} {properties},title={}::{}\n",
            property(diagnostic.code),
            data(&message(diagnostic))
        )
    };
    diagnostics.iter().map(command).collect()
}

/// What a command's text can't hold as it is.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic() -> DiagnosticRecord {
        DiagnosticRecord {
            severity: Severity::Error,
            code: "profile::bad-glob",
            message: "100 % wrong".to_owned(),
            file: "a,b:c.yaml".to_owned(),
            line: Some(3),
            column: Some(7),
            end_line: Some(3),
            end_column: Some(9),
            hints: vec!["write it\notherwise".to_owned()],
            related: Vec::new(),
        }
    }

    #[test]
    fn a_workflow_command_is_one_line_and_ends_where_it_shall() {
        assert_eq!(
            github(&[diagnostic()]),
            "::error file=a%2Cb%3Ac.yaml,line=3,col=7,endLine=3,endColumn=9,title=profile%3A%3Abad-glob::100 %25 wrong%0Awrite it%0Aotherwise\n"
        );
    }

    #[test]
    fn sarif_has_the_place_and_the_rule() {
        let report = sarif(&[
            diagnostic(),
            DiagnosticRecord { line: None, severity: Severity::Warning, ..diagnostic() },
        ]);
        let run = &report["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 1);
        let [first, second] = run["results"].as_array().unwrap().as_slice() else { panic!("{report}") };
        assert_eq!((&first["level"], &second["level"]), (&"error".into(), &"warning".into()));
        let place = &first["locations"][0]["physicalLocation"];
        assert_eq!((&place["region"]["startLine"], &place["region"]["endColumn"]), (&3.into(), &9.into()));
        assert!(second["locations"][0]["physicalLocation"].get("region").is_none());
    }
}
