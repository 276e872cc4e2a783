//! Events about names: a denied one once a minute for each agent, and what looks like a tunnel.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long the same denial of the same agent is not told again.
const QUIET: Duration = Duration::from_secs(60);
/// Denials remembered.
const MAX_REMEMBERED: usize = 4_096;

/// Which denials were told of lately.
#[derive(Default)]
pub struct Told {
    lately: HashMap<(u32, String), Instant>,
}

impl Told {
    /// Whether a denial of `name` to an agent is to be told.
    pub fn is_news(&mut self, agent: u32, name: &str, now: Instant) -> bool {
        let key = (agent, name.to_owned());
        if self.lately.get(&key).is_some_and(|told| now.duration_since(*told) < QUIET) {
            return false;
        }
        if self.lately.len() >= MAX_REMEMBERED {
            self.lately.retain(|_, told| now.duration_since(*told) < QUIET);
            if self.lately.len() >= MAX_REMEMBERED {
                self.lately.clear();
            }
        }
        self.lately.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_denial_is_told_once_a_minute() {
        let mut told = Told::default();
        let now = Instant::now();
        assert!(told.is_news(1, "a", now) && !told.is_news(1, "a", now + QUIET / 2));
        assert!(told.is_news(2, "a", now) && told.is_news(1, "b", now));
        assert!(told.is_news(1, "a", now + QUIET));
        for i in 0..3 * MAX_REMEMBERED {
            told.is_news(3, &i.to_string(), now);
            assert!(told.lately.len() <= MAX_REMEMBERED);
        }
    }
}
