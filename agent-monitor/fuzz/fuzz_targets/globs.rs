//! Any text is a glob that compiles, or an error that says where.
#![no_main]

use agent_monitor::policy::compile::{check_glob, claims};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    // A long run of wildcards is refused for its size, soon, but not soon enough for a fuzzer.
    if input.len() > 64 {
        return;
    }
    let compiled = claims(&[(3, input.to_owned())]);
    assert!(check_glob(input).is_ok() || compiled.is_err());
    if let Ok(claims) = compiled {
        assert!(claims.overlaps.is_empty());
    }
});
