//! What of a path's answer counts under a profile: as the hooks do, which judge nothing of a section that is not there.

use agent_monitor_common::decide::Decision;
use agent_monitor_common::path::{ALL_RIGHTS, AUDITED_SHIFT, DENIED_SHIFT, Right, Rights};

use crate::policy::ResolvedProfile;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The rights that the profile judges.
    pub rights: Rights,
    files: bool,
}

impl Judged {
    #[must_use]
    pub fn of(profile: &ResolvedProfile) -> Self {
        let mut rights = 0;
        if profile.filesystem.is_some() {
            rights |= Right::Read as Rights | Right::Write as Rights;
        } else if !profile.protected.paths.is_empty() {
            // Of the monitor's own objects, and of nothing else.
            rights |= Right::Write as Rights;
        }
        if profile.exec.is_some() {
            rights |= Right::Execute as Rights;
        }
        if profile.unix.is_some() {
            rights |= Right::Connect as Rights;
        }
        Judged { rights, files: profile.filesystem.is_some() }
    }

    /// The decision on `needed`, all of which is judged, where rules grant and deny these rights, or would (`audited`).
    #[must_use]
    pub fn decide(self, granted: Rights, denied: Rights, audited: Rights, needed: Rights) -> Decision {
        // What no rule speaks of is free to be written where there is no `files` section.
        let by_default = if self.files { needed } else { needed & !(Right::Write as Rights) };
        match () {
            () if denied & needed != 0 => Decision::DenyRule,
            () if granted & by_default != by_default => Decision::DenyDefault,
            () if audited & by_default != 0 => Decision::Audit,
            () => Decision::Allow,
        }
    }

    /// The same, by the answer of the image's automaton.
    #[must_use]
    pub fn decide_answer(self, answer: u32, needed: Rights) -> Decision {
        let [denied, audited] = [DENIED_SHIFT, AUDITED_SHIFT].map(|shift| answer >> shift & ALL_RIGHTS);
        self.decide(answer & ALL_RIGHTS, denied, audited, needed)
    }

    /// Whether an object of this answer may be used so.
    #[must_use]
    pub fn allows(self, answer: u32, right: Right) -> bool {
        self.rights & right as Rights == 0 || self.decide_answer(answer, right as Rights).passes()
    }
}
