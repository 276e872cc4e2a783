//! Counts tests from the lines that cargo's harness and libtest-mimic close a run with. Fed by every step of
//! `xtask test` and by the guests' output.
//!
//! What must stay true: nothing is counted that no harness reported. What failed tests said is kept, within bounds, for
//! the end of a run: by then it is thousands of lines back.

use std::fmt;
use std::ops::AddAssign;

/// More of what failed tests said is not repeated.
const MOST_WORDS: usize = 200;

/// Tests that were run, by how they ended, what those that failed said, and the unfinished line that was read last.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Lines; each test's begin with `---- its name ----`.
    pub said: Vec<String>,
    part: Part,
    line: Vec<u8>,
}

/// Which part of a harness's output the next line belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Part {
    #[default]
    Tests,
    /// What failed tests said, up to the list of their names.
    Failures,
}

impl Tally {
    /// Reads a piece of output; lines may be cut anywhere.
    pub fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.count(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
    }

    /// `test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 2 filtered out; finished in 0.52s`
    fn count(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return self.keep(line.trim_end());
        };
        self.part = Part::Tests;
        let Some((_, counts)) = result.split_once(". ") else { return };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// Keeps a line of what failed tests said. Both harnesses write it between two lines `failures:`.
    fn keep(&mut self, line: &str) {
        self.part = match (line, self.part) {
            ("failures:", Part::Tests) => Part::Failures,
            ("failures:", Part::Failures) => Part::Tests,
            ("", part) => part,
            (_, Part::Tests) => Part::Tests,
            (_, Part::Failures) => {
                match self.said.len() {
                    0..MOST_WORDS => self.said.push(line.to_owned()),
                    MOST_WORDS => self.said.push("(and more: see above)".to_owned()),
                    _ => {}
                }
                Part::Failures
            }
        };
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.said.extend(other.said);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(formatter, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(text: &str) -> String {
        let mut tally = Tally::default();
        // As pipes do: cut in the middle of lines.
        text.as_bytes().chunks(7).for_each(|piece| tally.read(piece));
        tally.to_string()
    }

    #[test]
    fn runs_of_several_binaries_add_up() {
        let text = "running 2 tests\ntest a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
             test result: FAILED. 5 passed; 1 failed; 3 ignored; 0 measured; 9 filtered out; finished in 1.20s\r\n";
        assert_eq!(tally(text), "7 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let text = "running 2 tests\ntest a ... FAILED\n\nfailures:\n\n---- a ----\nit was 3\n\n  not 4\n\n\n\
             failures:\n    a\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
             what comes later\n";
        let mut tally = Tally::default();
        text.as_bytes().chunks(7).for_each(|piece| tally.read(piece));
        assert_eq!(tally.said, ["---- a ----", "it was 3", "  not 4"]);
        (0..3).for_each(|_| tally.read(format!("failures:\n{}failures:\n", "x\n".repeat(150)).as_bytes()));
        assert_eq!(tally.said.len(), super::MOST_WORDS + 1);
        assert_eq!(tally.said.last().map(String::as_str), Some("(and more: see above)"));
    }

    #[test]
    fn what_a_test_prints_itself_is_not_counted() {
        assert_eq!(tally("it said: 12 passed; 3 failed\ntest result: nonsense\n"), "0 passed, 0 failed");
    }
}
