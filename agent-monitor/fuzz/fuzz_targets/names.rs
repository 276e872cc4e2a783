//! Any bytes from an agent are a question, an answer for it, or nothing; any bytes from a server are an answer that holds
//! the asked name's own records, or none.
#![no_main]

use agent_monitor::resolver::wire::{Asked, MAX_TTL, read, screen};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u16, &[u8])| {
    let (asked, id, answered) = input;
    let question = match read(asked) {
        Asked::Question(question) => question,
        Asked::Wrong(reply) => return assert!(reply.len() >= 12),
        Asked::Noise => return,
    };
    let _ = question.reverse();
    // What goes out can be read again, and asks the same.
    if let Some(bytes) = question.forwarded(id) {
        let Asked::Question(again) = read(&bytes) else { panic!("what is forwarded is no question") };
        assert_eq!(again.plain, question.plain);
    }
    // As an answer to this question, so that what lies behind the first checks is reached.
    for bytes in [answered.to_vec(), [&id.to_be_bytes(), answered.get(2..).unwrap_or_default()].concat()] {
        let Ok(answer) = screen(&question, id, &bytes) else { continue };
        assert!(answer.ttl() <= MAX_TTL);
        for datagram in [false, true] {
            let (reply, _) = question.answer(&answer, datagram);
            assert!(!datagram || reply.len() <= 4_096);
        }
        let _ = answer.after(u32::from(id));
    }
});
