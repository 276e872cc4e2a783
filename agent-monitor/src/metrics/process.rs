//! The daemon's own use of the host, from `/proc/self`.
//!
//! Read at each scrape. The prometheus crate has the same behind a feature that brings a second procfs library.

use std::fs;

/// See the module; what can't be read is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    /// Seconds since 1970.
    pub start_seconds: f64,
    pub open_fds: u64,
}

/// Reads it now.
#[must_use]
pub fn read() -> Own {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind `comm`, which may hold anything: fields from 3 on (proc(5)).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot =
        boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok()).unwrap_or(0.0);
    Own {
        cpu_seconds: (field(14) + field(15)) as f64 / ticks,
        resident_bytes: field(24) * rustix::param::page_size() as u64,
        start_seconds: boot + field(22) as f64 / ticks,
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        let own = read();
        assert!(own.resident_bytes > 1 << 20 && own.open_fds >= 3, "{own:?}");
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - own.start_seconds).abs() < 3_600.0, "{own:?}");
    }
}
