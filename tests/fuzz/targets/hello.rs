//! The first packet of a connection where a profile says `sni: require`, any bytes.
//!
//! What must hold: nothing is read outside of the packet, and a name lies behind the headers and is as long as names are.

#![no_main]

use agent_monitor_common::hello::{Hello, MAX_NAME, server_name};
use libfuzzer_sys::fuzz_target;

/// Bytes of headers before the connection's own, some of which are options.
const HEADERS: u32 = 20;

fuzz_target!(|bytes: &[u8]| {
    let packet = [&[0_u8; HEADERS as usize], bytes].concat();
    let load = |at: u32, into: &mut [u8]| {
        let from = packet.get(at as usize..).and_then(|rest| rest.get(..into.len()));
        from.is_some_and(|from| {
            into.copy_from_slice(from);
            true
        })
    };
    let found = server_name(HEADERS, load);
    let (place, length) = ((found >> 32) as u32, found as u32);
    if place == 0 {
        assert!([Hello::NotTls, Hello::NoName, Hello::Cut].iter().any(|why| why.code() == length));
        return;
    }
    assert!((1..=MAX_NAME).contains(&length));
    assert!(place > HEADERS + 44, "a name in the headers");
    // The length that the name is told with, right before it.
    assert_eq!(&packet[place as usize - 2..][..2], (length as u16).to_be_bytes());
});
