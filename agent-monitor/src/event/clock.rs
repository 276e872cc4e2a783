//! From the kernel's monotonic nanoseconds to wall-clock time.
//!
//! Used by `event::enrich`, once per batch of records. The distance between the two clocks is measured again in every
//! batch, so a stepped or slewed wall clock moves later events and never reorders a batch.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Distance from `CLOCK_MONOTONIC` to `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Wall nanoseconds since 1970 minus monotonic nanoseconds.
    offset: i128,
}

impl Clock {
    /// Measures the distance now.
    #[must_use]
    pub fn measure() -> Self {
        // Monotonic before and after, so that being scheduled away between the readings costs half as much.
        let before = nanoseconds(ClockId::Monotonic);
        let wall = nanoseconds(ClockId::Realtime);
        let after = nanoseconds(ClockId::Monotonic);
        Clock { offset: wall - i128::midpoint(before, after) }
    }

    /// The wall-clock time of a monotonic reading; the nearest representable time for a reading that has none.
    #[must_use]
    pub fn wall(self, monotonic_ns: u64) -> Timestamp {
        let ns = self.offset + i128::from(monotonic_ns);
        Timestamp::from_nanosecond(ns).unwrap_or(if ns < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }
}

/// `CLOCK_MONOTONIC` now, as the kernel's records carry it.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(nanoseconds(ClockId::Monotonic)).unwrap_or(0)
}

fn nanoseconds(id: ClockId) -> i128 {
    let time = clock_gettime(id);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_now_is_wall_now() {
        let wall = Clock::measure().wall(monotonic_ns());
        let distance = Timestamp::now().duration_since(wall).as_millis().abs();
        assert!(distance < 1_000, "{distance} ms");
    }

    #[test]
    fn any_reading_has_a_time() {
        for ns in [0, u64::MAX] {
            let _ = Clock::measure().wall(ns);
            let _ = Clock { offset: i128::from(i64::MIN) * 4 }.wall(ns);
        }
    }
}
