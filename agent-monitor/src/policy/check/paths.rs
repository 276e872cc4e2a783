//! The rules about paths of one file: `files`, `exec`, `unix`.

use agent_monitor_common::path::{ALL_RIGHTS, Right, Rights};

use super::{FileChecker, rule_id};
use crate::policy::globs::{self, Variable};
use crate::policy::model::{
    AccessWord, DeniedFile, DeniedProgram, DeniedSocket, GrantedPath, GrantedSocket, LeaseWord, OneOrMany,
    PathGlob, PathItem, PinnedProgram, Program, Spanned, UnixGlob,
};
use crate::policy::programs::Condition;
use crate::policy::resolved::{PathRule, Pin};

/// What any rule about paths may say.
#[derive(Default)]
pub(super) struct RuleParts {
    path: Option<String>,
    exe: OneOrMany<Spanned<Program>>,
    except: OneOrMany<Spanned<Program>>,
    access: Vec<AccessWord>,
    expires: Option<Spanned<LeaseWord>>,
    audit: bool,
}

impl From<PathGlob> for RuleParts {
    fn from(PathGlob(glob): PathGlob) -> Self {
        RuleParts { path: Some(glob), ..RuleParts::default() }
    }
}

impl From<UnixGlob> for RuleParts {
    fn from(UnixGlob(glob): UnixGlob) -> Self {
        RuleParts { path: Some(glob), ..RuleParts::default() }
    }
}

impl From<GrantedPath> for RuleParts {
    fn from(rule: GrantedPath) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, expires: rule.expires, ..RuleParts::default() }
    }
}

impl From<GrantedSocket> for RuleParts {
    fn from(rule: GrantedSocket) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, expires: rule.expires, ..RuleParts::default() }
    }
}

impl From<DeniedFile> for RuleParts {
    fn from(rule: DeniedFile) -> Self {
        let path = rule.path.map(|path| path.value.0);
        let (access, audit) = (rule.access.0, rule.audit);
        RuleParts { path, exe: rule.exe, except: rule.except, access, audit, ..RuleParts::default() }
    }
}

impl From<DeniedProgram> for RuleParts {
    fn from(rule: DeniedProgram) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, except: rule.except, audit: rule.audit, ..RuleParts::default() }
    }
}

impl From<DeniedSocket> for RuleParts {
    fn from(rule: DeniedSocket) -> Self {
        let path = rule.path.map(|path| path.value.0);
        RuleParts { path, exe: rule.exe, except: rule.except, audit: rule.audit, ..RuleParts::default() }
    }
}

impl From<AccessWord> for Right {
    fn from(word: AccessWord) -> Self {
        match word {
            AccessWord::Read => Right::Read,
            AccessWord::Write => Right::Write,
            AccessWord::Execute => Right::Execute,
        }
    }
}

impl FileChecker<'_> {
    pub(super) fn path_rules<M: Into<RuleParts>, G: Into<RuleParts>>(
        &mut self,
        profile: &str,
        list: &str,
        items: Vec<Spanned<PathItem<M, G>>>,
    ) -> Vec<PathRule> {
        let rules = items.into_iter().enumerate().filter_map(|(index, item)| {
            let parts = match item.value {
                PathItem::Glob(glob) => glob.into(),
                PathItem::Rule(rule) => rule.into(),
            };
            if let Some(glob) = &parts.path
                && matches!(globs::variable_of(glob), Some((Variable::Workspace, _)))
            {
                self.workspace_uses.push(Spanned { value: (), span: item.span });
            }
            let mut programs = self.condition(parts.exe, parts.except);
            programs.until = self.lease(parts.expires.as_ref()).ok()?;
            let access = (!parts.access.is_empty())
                .then(|| parts.access.iter().fold(0, |all, word| all | Right::from(*word) as Rights));
            let rule = PathRule {
                id: rule_id(profile, list, index),
                source: self.source.place(item.span),
                // Missing only if that was reported.
                glob: parts.path?,
                programs,
                access,
            };
            if parts.audit {
                let of_list = match list {
                    "exec.deny" => Right::Execute as Rights,
                    "unix.deny" => Right::Connect as Rights,
                    _ => ALL_RIGHTS,
                };
                self.audited_paths.push(PathRule { access: Some(access.unwrap_or(of_list)), ..rule });
                return None;
            }
            Some(rule)
        });
        rules.collect()
    }

    /// The rules and the contents of pinned programs.
    pub(super) fn pinned(
        &self,
        profile: &str,
        programs: Vec<Spanned<PinnedProgram>>,
    ) -> (Vec<PathRule>, Vec<Spanned<Pin>>) {
        let whole = programs.into_iter().enumerate().filter_map(|(index, Spanned { value, span })| {
            // What is missing was reported.
            let (path, sha256) = (value.path?.value.0, value.sha256?.value.0);
            let rule = PathRule {
                id: rule_id(profile, "exec.pinned", index),
                source: self.source.place(span),
                glob: path.clone(),
                programs: Condition::default(),
                access: None,
            };
            Some((rule, Spanned { value: Pin { path, sha256 }, span }))
        });
        whole.unzip()
    }
}
