//! `agent-monitor schema`: the JSON schema of profile files, for editors.
//!
//! With a comment `# yaml-language-server: $schema=profile.schema.json` on its
//! first line, a profile is completed and checked while it is typed.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::policy::schema::profile_schema;

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema to standard output.
///
/// # Errors
/// If standard output can't be written.
pub fn run(_: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let text = serde_json::to_string_pretty(profile_schema()).context("can't print the schema")?;
    match writeln!(std::io::stdout().lock(), "{text}") {
        // The reader has seen enough: `agent-monitor schema | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("can't write to standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}
