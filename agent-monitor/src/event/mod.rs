//! Events: from the kernel's bytes to the public JSON that people and tools read.
//!
//! [`decode`] turns ring-buffer bytes into typed records, [`enrich`] adds what only user space knows (which agent,
//! which executable, which rule), [`model`] is the schema of what leaves. Called by `daemon::pipeline` for each
//! record, and by `cli::events`, which reads the same schema back. Nothing in here may panic or wait on bytes that an
//! agent chose.

pub mod attribution;
pub mod clock;
pub mod decode;
pub mod enrich;
pub mod escape;
pub mod generations;
pub mod model;
pub mod process;
pub mod repeats;
pub mod schema;
pub mod show;
pub mod words;

#[cfg(test)]
pub(crate) mod fixture;
