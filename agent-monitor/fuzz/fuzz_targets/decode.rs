//! Any bytes in a ring buffer are a record, or an error.
#![no_main]

use agent_monitor::event::decode::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The kernel pads records, so there may be more bytes than the header says; never fewer.
    if let Ok(record) = decode(bytes) {
        assert!(record.header.length as usize <= bytes.len());
    }
});
