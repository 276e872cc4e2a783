//! Any bytes that a client sends first say one name that lies among them, or none.
#![no_main]

use agent_monitor_common::hello::{Hello, MAX_NAME, server_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    let found = server_name(at.into(), |at, to| match bytes.get(at as usize..at as usize + to.len()) {
        Some(from) => {
            to.copy_from_slice(from);
            true
        }
        None => false,
    });
    let (place, rest) = ((found >> 32) as u32, found as u32);
    if place == 0 {
        assert!(Hello::from_code(rest).is_some_and(|hello| hello != Hello::Named));
    } else {
        // Behind record, handshake, version, random, the lengths in between and the list's own.
        assert!(place >= u32::from(at) + 44 + 9 && (1..=MAX_NAME).contains(&rest));
    }
});
