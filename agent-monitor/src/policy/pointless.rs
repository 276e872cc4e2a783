//! Warns of rules that can never matter: what a deny takes back, and what another rule says already.
//!
//! Called by `merge`, for a chain whose files are sound: what is taken out of a faulty one could make another rule look
//! useless. Rules of the profile's own file only: a base is also used by others, and tightening what a base allows is
//! what a deny is for.

use std::collections::HashSet;
use std::sync::Arc;

use super::check::FileProfile;
use super::diagnostic::{Code, Diagnostic};
use super::load::LinkedFile;
use super::model::Spanned;
use super::overlap::Coverage;
use super::path_overlap::PathCoverage;
use super::resolved::{NetRule, PathRule};
use super::source::Span;

/// Rules about destinations and ports.
pub fn network(chain: &[LinkedFile], diagnostics: &mut Vec<Diagnostic>) {
    // Bases first: of two equal rules the later one is reported.
    let list = |of: fn(&FileProfile) -> &Vec<Spanned<NetRule>>| -> Vec<(&LinkedFile, &Spanned<NetRule>)> {
        chain.iter().rev().flat_map(|file| of(&file.profile).iter().map(move |rule| (file, rule))).collect()
    };
    let is_own = |file: &LinkedFile| is_own(chain, file);
    let allow = list(|file| &file.allow);
    let deny = list(|file| &file.deny);
    let listen = list(|file| &file.listen);
    let denials = Coverage::new(deny.iter().map(|(_, rule)| &rule.value));
    for (file, rule) in allow.iter().filter(|(file, _)| is_own(file)) {
        if let Some(index) = denials.of(&rule.value, None) {
            let (by_file, by) = deny[index];
            let message = format!("`{}` allows nothing: a deny covers it", rule.value.id);
            diagnostics.push(useless((file, rule.span), (by_file, by.span), message));
        }
    }
    for (name, rules) in [("allow", &allow), ("deny", &deny), ("listen", &listen)] {
        let coverage = Coverage::new(rules.iter().map(|(_, rule)| &rule.value));
        for (index, (file, rule)) in rules.iter().enumerate().filter(|(_, (file, _))| is_own(file)) {
            if let Some(other) = coverage.of(&rule.value, Some(index)) {
                let (by_file, by) = rules[other];
                diagnostics.push(redundant((file, rule.span), (by_file, by.span), &rule.value.id, name));
            }
        }
    }
}

/// Rules about paths.
pub fn paths(chain: &[LinkedFile], diagnostics: &mut Vec<Diagnostic>) {
    type List = fn(&FileProfile) -> &[PathRule];
    fn coverage<'a>(rules: &[(&LinkedFile, &'a PathRule)]) -> PathCoverage<'a> {
        PathCoverage::new(rules.iter().map(|(_, rule)| *rule))
    }
    let is_own = |file: &LinkedFile| is_own(chain, file);
    // Bases first, as above.
    let list = |of: List| -> Vec<(&LinkedFile, &PathRule)> {
        chain.iter().rev().flat_map(|file| of(&file.profile).iter().map(move |rule| (file, rule))).collect()
    };
    let read = list(|file| file.filesystem.as_ref().map_or(&[], |files| &files.read));
    let write = list(|file| file.filesystem.as_ref().map_or(&[], |files| &files.write));
    let deny = list(|file| file.filesystem.as_ref().map_or(&[], |files| &files.deny));
    let allow = list(|file| file.exec.as_ref().map_or(&[], |exec| &exec.allow));
    let deny_exec = list(|file| file.exec.as_ref().map_or(&[], |exec| &exec.deny));
    let sockets = list(|file| file.unix.as_ref().map_or(&[], |unix| &unix.allow));
    let deny_sockets = list(|file| file.unix.as_ref().map_or(&[], |unix| &unix.deny));

    let denials = coverage(&deny);
    let exec_denials = coverage(&deny_exec);
    let socket_denials = coverage(&deny_sockets);
    let mut reported: HashSet<&str> = HashSet::new();
    // What `files.deny` denies is neither a program nor a socket either.
    for (grants, denials, deny) in [
        (&read, &denials, &deny),
        (&write, &denials, &deny),
        (&allow, &denials, &deny),
        (&sockets, &denials, &deny),
        (&allow, &exec_denials, &deny_exec),
        (&sockets, &socket_denials, &deny_sockets),
    ] {
        for &(file, rule) in grants.iter().filter(|(file, _)| is_own(file)) {
            if reported.contains(rule.id.as_str()) {
                continue;
            }
            let Some(index) = denials.of(rule, None) else { continue };
            let (by_file, by) = deny[index];
            let message = format!("`{}` grants nothing: a deny covers it", rule.id);
            diagnostics.push(useless(
                (file, glob_span(file, rule)),
                (by_file, glob_span(by_file, by)),
                message,
            ));
            reported.insert(&rule.id);
        }
    }
    let lists = [
        ("files.read", &read, coverage(&read)),
        ("files.write", &write, coverage(&write)),
        ("files.deny", &deny, denials),
        ("exec.allow", &allow, coverage(&allow)),
        ("exec.deny", &deny_exec, exec_denials),
        ("unix.allow", &sockets, coverage(&sockets)),
        ("unix.deny", &deny_sockets, socket_denials),
    ];
    for (name, rules, coverage) in lists {
        for (index, (file, rule)) in rules.iter().enumerate() {
            if !is_own(file) || reported.contains(rule.id.as_str()) {
                continue;
            }
            let Some(other) = coverage.of(rule, Some(index)) else { continue };
            let (by_file, by) = rules[other];
            diagnostics.push(redundant(
                (file, glob_span(file, rule)),
                (by_file, glob_span(by_file, by)),
                &rule.id,
                name,
            ));
        }
    }
}

/// Where a rule stands.
type Place<'a> = (&'a LinkedFile, Span);

fn useless((file, span): Place<'_>, (by_file, by): Place<'_>, message: String) -> Diagnostic {
    Diagnostic::warning(Code::UselessRule, &file.source, span, message)
        .also(&by_file.source, by, "denied here")
        .hint("remove this rule, or make the deny narrower: a deny always wins")
}

fn redundant((file, span): Place<'_>, (by_file, by): Place<'_>, id: &str, list: &str) -> Diagnostic {
    let message = format!("`{id}` adds nothing: another `{list}` rule covers it");
    Diagnostic::warning(Code::RedundantRule, &file.source, span, message)
        .also(&by_file.source, by, "covered by this one")
        .hint("remove one of the two")
}

/// Whether a file is the profile's own, which is the first of its chain.
fn is_own(chain: &[LinkedFile], file: &LinkedFile) -> bool {
    chain.first().is_some_and(|own| Arc::ptr_eq(&own.source, &file.source))
}

/// Where a rule's glob stands in its file, at or soon behind where the rule begins; else where the rule begins.
fn glob_span(file: &LinkedFile, rule: &PathRule) -> Span {
    let file = &file.source;
    let begin = file.offset(rule.source.line.into(), rule.source.column.into());
    match file.text[begin..].find(&rule.glob) {
        Some(ahead) => file.span(begin + ahead, begin + ahead + rule.glob.len()),
        None => file.span(begin, begin),
    }
}
