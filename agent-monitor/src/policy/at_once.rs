//! Two pieces of work at once: compiling a profile, and looking for what is odd about it, are what `check` takes its
//! time for, and they have halves that need nothing of each other.

use std::panic::resume_unwind;
use std::thread;

/// Does both, `there` on a thread of its own; on this one where no thread is to be had.
pub fn both<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, &there) {
        Ok(thread) => {
            let here = here();
            (here, thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        }
        Err(_) => (here(), there()),
    })
}

/// What `of` makes of each item, in their order. `few`: for no more items a thread is not worth it.
pub fn map<T: Sync, R: Send>(items: &[T], few: usize, of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let all = |items: &[T]| items.iter().map(&of).collect::<Vec<R>>();
    if items.len() <= few {
        return all(items);
    }
    let (first, second) = items.split_at(items.len() / 2);
    let (mut mapped, more) = both(|| all(first), || all(second));
    mapped.extend(more);
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept() {
        let items: Vec<u32> = (0..101).collect();
        for few in [0, 100, 101, 1_000] {
            assert_eq!(map(&items, few, |item| item * 2), (0..101).map(|item| item * 2).collect::<Vec<_>>());
        }
        assert_eq!(map(&[], 0, |item: &u32| *item), [0_u32; 0]);
    }

    #[test]
    fn a_panic_on_the_other_thread_is_one_here() {
        let panicked = std::panic::catch_unwind(|| both(|| 1, || assert_eq!(1 + 1, 3)));
        assert!(panicked.is_err());
    }
}
