//! `decide()` over any table: it ends, it stays inside, it gives a decision. The kernel trusts the daemon's tables no
//! further than this.
#![no_main]

use agent_monitor_common::decide::{decide, decide_name};
use agent_monitor_common::image::Class;
use agent_monitor_common::request::{Address, NetRequest, Protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((request, table)) = input.split_first_chunk::<21>() else { return };
    let [address @ .., high, low, protocol, listen, class] = *request;
    let (address, port) = (Address::from_bytes(address), u16::from_be_bytes([high, low]));
    let protocol = Protocol::from_ip(u32::from(protocol));
    let words: Vec<u64> = table.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let request = if listen & 1 == 0 {
        NetRequest::out(address, port, protocol)
    } else {
        NetRequest::listen(address, port, protocol)
    };
    let class = Class::new(class.into());
    let decision = decide(words.as_slice(), class, request);
    assert_eq!(decision, decide(words.as_slice(), class, request));
    let _ = decide_name(words.as_slice(), class, port, request.protocol, u16::from(listen));
});
