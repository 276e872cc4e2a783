//! Where two profiles differ about paths.

use agent_monitor_common::automaton::{TERMINAL, accept, step};
use agent_monitor_common::image::class;
use agent_monitor_common::path::{DENIED_BELOW, Right, Rights, directory_answer};

use super::form::{Form, ORDER};
use super::product;
use super::{Found, Kept, Sides};
use crate::policy::judge::{Judged, Request};

/// Examples of one right and direction that are kept for each pair of classes: the nearest to the root.
const MOST: usize = 48;

/// Whether a directory of this answer may be moved away: what is denied below it keeps it in its place.
fn moves(judged: Judged, answer: u32) -> bool {
    let paths = judged.rights & !(Right::Connect as Rights) != 0;
    judged.allows(answer, Right::Write) && !(paths && answer & DENIED_BELOW != 0)
}

/// Finds every difference about paths for programs of these classes.
pub fn compare(sides: &Sides<'_>, found: &mut Found) {
    let (old, new) = (&sides.old.image().words[..], &sides.new.image().words[..]);
    let start = (
        sides.old_class.field(old, class::START_PATH) as u32,
        sides.new_class.field(new, class::START_PATH) as u32,
        Form::Nothing,
    );
    let (before, after) = (Judged::of(sides.old.profile()), Judged::of(sides.new.profile()));
    if before.rights | after.rights == 0 || !found.begin(sides, vec![start.0, start.1]) {
        return;
    }
    let over = |state: u32| state & TERMINAL != 0;
    let go = |table, state, byte| if over(state) { state } else { step(table, state, byte) };
    let mut kept = Kept::new(MOVES + 1, MOST);
    product::walk(
        start,
        |(.., form)| if form == Form::No { &[] } else { &ORDER },
        |(a, b, form), byte| match form.after(byte) {
            Form::No => (TERMINAL, TERMINAL, Form::No),
            form => (go(old, a, byte), go(new, b, byte), form),
        },
        |(a, b, form), input| {
            let (own_old, own_new) = (accept(old, a), accept(new, b));
            let object = matches!(form, Form::Root | Form::Step);
            let socket = object || form == Form::Abstract;
            let mut told: Vec<(Rights, bool, bool)> = Vec::new();
            for (number, right) in Right::ALL.into_iter().enumerate() {
                let allowed = (before.allows(own_old, right), after.allows(own_new, right));
                let real = if right == Right::Connect { socket } else { object };
                // The root is a directory and nothing else.
                if real && form != Form::Root && kept.keep(found, number, allowed) {
                    told.push((right as Rights, false, allowed.1));
                }
            }
            if object {
                let (open_old, open_new) = (directory_answer(old, a), directory_answer(new, b));
                let allowed = (before.allows(open_old, Right::Read), after.allows(open_new, Right::Read));
                if kept.keep(found, LISTS, allowed) {
                    told.push((Right::Read as Rights, true, allowed.1));
                }
            }
            for (rights, directory, wider) in told {
                found.request(sides, Request::Path { path: input(), rights, directory }, wider);
            }
            // A denial below a directory keeps it in its place, though nothing else differs.
            let writes = (before.allows(own_old, Right::Write), after.allows(own_new, Right::Write));
            let moved = (moves(before, own_old), moves(after, own_new));
            if form == Form::Step && writes.0 == writes.1 && kept.keep(found, MOVES, moved) {
                found.moves(input(), moved.1);
            }
        },
    );
}

/// Kinds of examples behind those of the four rights.
const LISTS: usize = Right::ALL.len();
const MOVES: usize = LISTS + 1;
