//! What the commands that need no daemon print, word for word.
//!
//! Every `tests/commands/NAME.trycmd` is a session whose commands run in `tests/commands/NAME.in`. After a wanted change
//! run the test once with `TRYCMD=overwrite` and read the difference.

#[test]
fn commands_print_what_their_sessions_show() {
    trycmd::TestCases::new()
        // No daemon of the host has a say.
        .env("AGENT_MONITOR_SOCKET", "/nonexistent/control.sock")
        .env("NO_COLOR", "1")
        .case("tests/commands/*.trycmd");
}
