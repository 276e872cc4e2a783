//! Leases: grants that end, `expires: 2h`.
//!
//! A lease counts from the last change of the file that it is written in, so that it needs no memory: neither a reload nor
//! a restart nor a reboot makes it longer, and whoever wants it anew saves the file again. The loader turns it into the
//! moment at which it ends ([`Lease::end`]) and leaves out what has ended; the kernel ends it on its own clock, whether or
//! not the daemon lives.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

use super::diagnostic::{Code, quoted};
use super::resolved::{PathRule, ResolvedProfile};
use super::words::{Problem, problem};
use super::{NetRule, programs::Condition};

/// How long a grant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// From the last change of its file.
    For(SignedDuration),
    /// Until a moment.
    Until(Timestamp),
}

/// The shortest: a shorter one would end before it is in force.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);
/// The longest (ten years): what holds longer is no lease.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 3660);

/// Reads a lease: `2h`, `90m`, `1d 12h`, or a moment as RFC 3339 writes it.
pub fn lease(text: &str) -> Result<Lease, Problem> {
    const HINT: &str = "write how long it holds after this file's last change, such as `2h`, `90m` or `7d`, or until when, such as `2030-01-31T18:00:00Z`";
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Lease::Until(moment));
    }
    // A span has days, which a duration has not; here they are 24 hours.
    let duration = text.parse::<jiff::Span>().ok().and_then(|span| {
        (span.get_months() == 0 && span.get_years() == 0)
            .then(|| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())?
    });
    match duration {
        Some(duration) if (SHORTEST..=LONGEST).contains(&duration) => Ok(Lease::For(duration)),
        Some(_) => problem(
            Code::BadLease,
            format!("a lease of {} is out of range: it lasts from a second to ten years", quoted(text)),
            HINT,
        ),
        None => problem(Code::BadLease, format!("{} is neither a duration nor a moment", quoted(text)), HINT),
    }
}

impl Lease {
    /// When it ends, if its file was changed last at `written`. A file from the future counts from `now`.
    #[must_use]
    pub fn end(self, written: SystemTime, now: SystemTime) -> Timestamp {
        match self {
            Lease::Until(moment) => moment,
            Lease::For(duration) => {
                let from = Timestamp::try_from(written.min(now)).unwrap_or(Timestamp::UNIX_EPOCH);
                from.checked_add(duration).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

impl ResolvedProfile {
    /// The moments at which its leases end.
    fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.lendable().filter_map(|(_, condition)| condition.until)
    }

    /// When the grant of this id ends; `None`: it is no lease.
    #[must_use]
    pub fn end_of(&self, rule: &str) -> Option<Timestamp> {
        self.lendable().find(|(id, _)| *id == rule).and_then(|(_, condition)| condition.until)
    }

    /// When the first of its leases ends; `None`: it has none.
    #[must_use]
    pub fn first_end(&self) -> Option<Timestamp> {
        self.ends().min()
    }

    /// The rules that can be leases: id and condition.
    fn lendable(&self) -> impl Iterator<Item = (&str, &Condition)> {
        let network = self.network.allow.iter().chain(&self.network.listen);
        let network = network.map(|rule| (rule.id.as_str(), &rule.programs));
        let files = self.filesystem.iter().flat_map(|files| files.read.iter().chain(&files.write));
        let exec = self.exec.iter().flat_map(|exec| &exec.allow);
        let unix = self.unix.iter().flat_map(|unix| &unix.allow);
        network.chain(files.chain(exec).chain(unix).map(|rule| (rule.id.as_str(), &rule.programs)))
    }

    /// Leaves out the grants that have ended at `now`; whether there were any.
    pub fn lapse(&mut self, now: Timestamp) -> bool {
        let before = self.ends().count();
        let holds = |condition: &Condition| condition.until.is_none_or(|until| until > now);
        let net = |rule: &NetRule| holds(&rule.programs);
        let path = |rule: &PathRule| holds(&rule.programs);
        self.network.allow.retain(net);
        self.network.listen.retain(net);
        if let Some(files) = &mut self.filesystem {
            files.read.retain(path);
            files.write.retain(path);
        }
        if let Some(exec) = &mut self.exec {
            exec.allow.retain(path);
        }
        if let Some(unix) = &mut self.unix {
            unix.allow.retain(path);
        }
        self.ends().count() != before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_and_moments_are_read() {
        for (text, seconds) in
            [("2h", 7_200), ("90m", 5_400), ("1d 12h", 129_600), ("45s", 45), ("2 weeks", 1_209_600)]
        {
            assert_eq!(lease(text), Ok(Lease::For(SignedDuration::from_secs(seconds))), "{text}");
        }
        let moment = "2030-01-31T18:00:00Z";
        assert_eq!(lease(moment), Ok(Lease::Until(moment.parse().unwrap())));
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        for text in [
            "",
            "2",
            "-2h",
            "0s",
            "1mo",
            "1y",
            "11000d",
            "tomorrow",
            "2030-01-31",
            "2h 2h",
            "99999999999999999h",
        ] {
            assert_eq!(lease(text).map_err(|problem| problem.code), Err(Code::BadLease), "{text:?}");
        }
    }

    #[test]
    fn a_lease_counts_from_the_file_and_never_from_the_future() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hour = Lease::For(SignedDuration::from_hours(1));
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        assert_eq!(hour.end(now - Duration::from_secs(600), now), at(1_003_000));
        assert_eq!(hour.end(now + Duration::from_secs(600), now), at(1_003_600));
        assert_eq!(Lease::Until(at(5)).end(now, now), at(5));
    }
}
