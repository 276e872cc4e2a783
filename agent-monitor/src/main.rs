//! The `agent-monitor` binary: every verb is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_monitor::cli::main()
}
