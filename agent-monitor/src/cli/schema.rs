//! `agent-monitor schema`: the JSON schema of profile files, for editors; of event lines, for their readers.
//!
//! With a comment `# yaml-language-server: $schema=profile.schema.json` on its first line, a profile is completed and
//! checked while it is typed.

use std::process::ExitCode;

use anyhow::Context;

use super::print;
use crate::event::schema::event_schema;
use crate::policy::schema::{case_schema, profile_schema};

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// The schema of event lines instead
    #[arg(long)]
    pub events: bool,
    /// The schema of files with test cases instead
    #[arg(long, conflicts_with = "events")]
    pub cases: bool,
}

/// Prints the schema to standard output.
///
/// # Errors
/// If standard output can't be written.
pub fn run(args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let schema = match args {
        SchemaArgs { events: true, .. } => event_schema(),
        SchemaArgs { cases: true, .. } => case_schema(),
        SchemaArgs { .. } => profile_schema(),
    };
    let text = serde_json::to_string_pretty(schema).context("can't print the schema")?;
    print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
