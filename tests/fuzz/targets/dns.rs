//! Both sides of the resolver: an agent's question, and what a server answers to it, each any bytes.
//!
//! What must hold: nothing ends the thread, no answer lives longer than a day, and what goes to the agent fits what it
//! asked with and is read as an answer again.

#![no_main]

use agent_monitor::resolver::wire::{Asked, MAX_TTL, read, screen};
use libfuzzer_sys::fuzz_target;

/// The id of the forwarded question.
const ID: u16 = 9;

#[derive(Debug, arbitrary::Arbitrary)]
struct Sides<'a> {
    question: &'a [u8],
    answer: &'a [u8],
    datagram: bool,
}

fuzz_target!(|sides: Sides<'_>| {
    let Asked::Question(question) = read(sides.question) else { return };
    let _ = question.reverse();
    let forwarded = question.forwarded(ID);
    if question.plain.is_some() {
        // What can be granted can be asked for, and is the same question there.
        let forwarded = forwarded.expect("a question that can be forwarded");
        let Asked::Question(again) = read(&forwarded) else { panic!("{forwarded:?} is no question") };
        assert_eq!((again.id, &again.plain, again.kind), (ID, &question.plain, question.kind));
    }
    let Ok(answer) = screen(&question, ID, sides.answer) else { return };
    assert!(answer.ttl() <= MAX_TTL);
    let (bytes, _) = question.answer(&answer, sides.datagram);
    assert!(bytes.len() <= if sides.datagram { 4_096 } else { usize::from(u16::MAX) });
    // An answer is no question.
    assert!(matches!(read(&bytes), Asked::Noise));
});
