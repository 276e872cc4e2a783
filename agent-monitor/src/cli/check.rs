//! `agent-monitor check`: are these profiles right?
//!
//! Prints every problem of every file with its place, or what a sound profile
//! says in short. Exit code 0, or 65 if a profile has errors; warnings do not
//! count. Needs no privilege and no kernel, unless `--kernel this` asks for it.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::enforcement::{Enforcement, Found, Of};
use super::summary::Summary;
use super::{annotate, colours, print};
use crate::exit::Exit;
use crate::policy::compile::{self, CompileError, Image};
use crate::policy::diagnostic::{Code, Diagnostic, DiagnosticRecord, render_all};
use crate::policy::load::DEFAULT_DIRECTORIES;
use crate::policy::{Base, Checked, Loaded, ResolvedProfile, check_profile_while, load_directory};

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Profile files, or directories whose profiles are checked together.
    #[arg(required = true, value_name = "PROFILE")]
    pub profiles: Vec<PathBuf>,
    /// Where bases are looked up that are not beside the profile; may be given
    /// several times.
    #[arg(long = "bases", value_name = "DIR", default_values = DEFAULT_DIRECTORIES)]
    pub bases: Vec<PathBuf>,
    /// `text` for people: problems on standard error. The others: on standard
    /// output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Say of each rule which mechanism of a kernel enforces it; exit code 69 if
    /// one that is enforced nowhere else would be left to `run --allow-degraded`.
    #[arg(long, value_enum, value_name = "KERNEL")]
    pub kernel: Option<Of>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// SARIF 2.1.0, for tools that show findings beside code.
    Sarif,
    /// Workflow commands, which GitHub Actions shows beside the lines of a change.
    Github,
}

/// Checks all profiles and prints the outcome.
///
/// # Errors
/// If the outcome can't be printed or a directory can't be listed; problems of
/// profiles are an outcome.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let stderr = std::io::stderr();
    let printed = check(args, colours(&stderr))?;
    stderr.lock().write_all(printed.stderr.as_bytes()).context("can't write to standard error")?;
    print(&printed.stdout)?;
    Ok(ExitCode::from(printed.code))
}

/// What a run of the command says.
struct Printed {
    stdout: String,
    stderr: String,
    code: u8,
}

fn check(args: &CheckArgs, colour: bool) -> anyhow::Result<Printed> {
    let mut outcomes = Vec::new();
    for path in &args.profiles {
        if path.is_dir() {
            check_directory(path, &args.bases, &mut outcomes)?;
        } else {
            // What it will have to say is put into words while the rules are compiled.
            let remarked = |remark: &Diagnostic| {
                if args.format == Format::Text {
                    remark.render_ahead(colour);
                }
            };
            outcomes.push(match check_profile_while(path, &args.bases, compile::profile, remarked) {
                Ok((Checked::Profile(loaded), image)) => {
                    let image = image.unwrap_or_else(|| compile::profile(&loaded.profile));
                    Outcome::compiled(*loaded, image)
                }
                Ok((Checked::Base(base), _)) => Outcome::base(*base),
                Err(errors) => Outcome::failed(path, errors.0),
            });
        }
    }
    forget_repeats(&mut outcomes);
    let all_sound = outcomes.iter().all(|outcome| outcome.summary.is_some());
    let kernel = args.kernel.map(Found::find).transpose()?;
    if let Some(kernel) = &kernel {
        for outcome in &mut outcomes {
            outcome.enforcement = outcome.profile.as_ref().map(|profile| kernel.enforces(profile));
        }
    }
    let enforced = outcomes.iter().all(|outcome| !outcome.enforcement.as_ref().is_some_and(|of| of.degraded));
    let code = match (all_sound, enforced) {
        (false, _) => Exit::BadProfile as u8,
        (true, false) => Exit::CannotEnforce as u8,
        (true, true) => 0,
    };
    Ok(match args.format {
        Format::Text => text(&outcomes, colour, code),
        Format::Json => Printed { stdout: json(&outcomes)?, stderr: String::new(), code },
        Format::Sarif => {
            let report = serde_json::to_string_pretty(&annotate::sarif(&records(&outcomes)));
            Printed { stdout: report.context("can't print the report")? + "\n", stderr: String::new(), code }
        }
        Format::Github => {
            Printed { stdout: annotate::github(&records(&outcomes)), stderr: String::new(), code }
        }
    })
}

fn check_directory(path: &Path, bases: &[PathBuf], outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
    let directory = load_directory(path, bases)?;
    let before = outcomes.len();
    outcomes.extend(directory.profiles.into_iter().map(|loaded| {
        let image = compile::profile(&loaded.profile);
        Outcome::compiled(loaded, image)
    }));
    outcomes.extend(directory.bases.into_iter().map(Outcome::base));
    outcomes
        .extend(directory.failed.into_iter().map(|failed| Outcome::failed(&failed.file, failed.errors.0)));
    outcomes[before..].sort_by(|a, b| a.file.cmp(&b.file));
    anyhow::ensure!(outcomes.len() > before, "{} holds no profiles (*.yaml)", path.display());
    Ok(())
}

/// One checked file.
struct Outcome {
    file: PathBuf,
    /// Nothing if there are errors.
    summary: Option<Summary>,
    /// Nothing if there are errors, and for a base.
    profile: Option<Box<ResolvedProfile>>,
    /// Where it was asked for.
    enforcement: Option<Enforcement>,
    diagnostics: Vec<Diagnostic>,
}

impl Outcome {
    /// Also a profile without mistakes can have more rules than the kernel's image
    /// has room for.
    fn compiled(loaded: Loaded, image: Result<Image, CompileError>) -> Self {
        match image {
            Ok(image) => Self::profile(loaded, &image),
            Err(error) => Self::failed(&loaded.profile.file, vec![image_error(&loaded.profile, &error)]),
        }
    }

    fn profile(loaded: Loaded, image: &Image) -> Self {
        let Loaded { profile, warnings } = loaded;
        Self {
            file: profile.file.to_path_buf(),
            summary: Some(Summary::of_profile(&profile, image)),
            profile: Some(Box::new(profile)),
            enforcement: None,
            diagnostics: warnings,
        }
    }

    fn base(base: Base) -> Self {
        Self {
            file: base.file.to_path_buf(),
            summary: Some(Summary::of_base(&base)),
            profile: None,
            enforcement: None,
            diagnostics: base.warnings,
        }
    }

    fn failed(file: &Path, diagnostics: Vec<Diagnostic>) -> Self {
        Self { file: file.to_path_buf(), summary: None, profile: None, enforcement: None, diagnostics }
    }
}

fn image_error(profile: &ResolvedProfile, error: &CompileError) -> Diagnostic {
    let CompileError::TooLarge { words, limit, dearest, .. } = error else {
        return Diagnostic::at_source(Code::ImageTooLarge, &profile.network.source, error.to_string())
            .hint("remove the rule that the message names");
    };
    let message = format!("the rules need {words} words or more, and the kernel's image holds {limit}");
    let place = dearest.first().map_or(&profile.network.source, |rule| &rule.source);
    let diagnostic = Diagnostic::at_source(Code::ImageTooLarge, place, message);
    let diagnostic = dearest.iter().fold(diagnostic, |diagnostic, rule| {
        diagnostic.hint(format!("`{}` ({}) needs {} words", rule.id, rule.source, rule.words))
    });
    diagnostic
        .hint("write fewer or larger networks, fewer ranges of ports, or fewer globs with `**` or `*` inside")
}

/// A base's problem is found again by every profile that extends it.
fn forget_repeats(outcomes: &mut [Outcome]) {
    let mut seen = HashSet::new();
    for outcome in outcomes {
        outcome.diagnostics.retain(|diagnostic| {
            seen.insert((
                diagnostic.file.clone(),
                diagnostic.place(),
                diagnostic.code,
                diagnostic.message.clone(),
            ))
        });
    }
}

fn text(outcomes: &[Outcome], colour: bool, code: u8) -> Printed {
    let mut problems = Vec::new();
    let mut stdout = String::new();
    for outcome in outcomes {
        problems.extend(outcome.diagnostics.iter().cloned());
        if let Some(sound) = &outcome.summary {
            stdout.push_str(&sound.describe(&outcome.file));
        }
        if let Some(enforcement) = &outcome.enforcement {
            stdout.push_str(&enforcement.describe());
        }
    }
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    let mut stderr = render_all(&problems, colour);
    if !problems.is_empty() {
        let bad = outcomes.iter().filter(|outcome| outcome.summary.is_none()).count();
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let verdict = match bad {
            0 => "nothing that keeps a profile from being used".to_owned(),
            _ => format!("{} can't be used", plural(bad, "profile")),
        };
        stderr.push_str(&format!(
            "\n{}, {}: {verdict}\n",
            plural(errors, "error"),
            plural(warnings, "warning")
        ));
    }
    Printed { stdout, stderr, code }
}

#[derive(Serialize)]
struct Report<'a> {
    profiles: Vec<ReportedProfile<'a>>,
}

#[derive(Serialize)]
struct ReportedProfile<'a> {
    file: String,
    ok: bool,
    #[serde(flatten)]
    summary: Option<&'a Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enforcement: Option<&'a Enforcement>,
    diagnostics: Vec<DiagnosticRecord>,
}

fn records(outcomes: &[Outcome]) -> Vec<DiagnosticRecord> {
    outcomes.iter().flat_map(|outcome| &outcome.diagnostics).map(DiagnosticRecord::from).collect()
}

fn json(outcomes: &[Outcome]) -> anyhow::Result<String> {
    let profiles = outcomes.iter().map(|outcome| ReportedProfile {
        file: outcome.file.display().to_string(),
        ok: outcome.summary.is_some(),
        summary: outcome.summary.as_ref(),
        enforcement: outcome.enforcement.as_ref(),
        diagnostics: outcome.diagnostics.iter().map(DiagnosticRecord::from).collect(),
    });
    let report = Report { profiles: profiles.collect() };
    Ok(serde_json::to_string_pretty(&report).context("can't print the report")? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "version: 1\nname: sound\nmode: audit\nnetwork: { allow: [{ cidr: 10.0.0.0/8 }] }\n";
    const FAULTY: &str = "version: 1\nname: faulty\nmode: perhaps\nport: 1\n";

    fn checked(files: &[(&str, &str)], profiles: &[&str], format: Format) -> Printed {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let profiles = profiles.iter().map(|name| directory.path().join(name)).collect();
        check(&CheckArgs { profiles, bases: Vec::new(), format, kernel: None }, false).unwrap()
    }

    #[test]
    fn a_sound_profile_is_summed_up_and_exits_0() {
        let printed = checked(&[("sound.yaml", SOUND)], &["sound.yaml"], Format::Text);
        assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
        assert!(printed.stdout.contains("OK, profile sound, mode audit"), "{}", printed.stdout);
        assert!(printed.stdout.contains("network 1 allow, 0 deny, 0 listen"), "{}", printed.stdout);
        assert!(printed.stdout.contains(" KiB in the kernel, 2 classes of programs"), "{}", printed.stdout);
    }

    #[test]
    fn errors_of_all_profiles_are_printed_and_exit_65() {
        let files = [("sound.yaml", SOUND), ("faulty.yaml", FAULTY)];
        let printed = checked(&files, &["sound.yaml", "faulty.yaml", "missing.yaml"], Format::Text);
        assert_eq!(printed.code, 65);
        assert!(printed.stdout.contains("profile sound") && !printed.stdout.contains("faulty"));
        for code in ["profile::unknown-value", "profile::unknown-key", "profile::unreadable"] {
            assert!(printed.stderr.contains(code), "{code} in {}", printed.stderr);
        }
        assert!(
            printed.stderr.ends_with("3 errors, 0 warnings: 2 profiles can't be used\n"),
            "{}",
            printed.stderr
        );
    }

    #[test]
    fn warnings_do_not_fail() {
        let text = format!("{SOUND}agents: []\n").replace("{ cidr: 10.0.0.0/8 }", "{ address: 0.0.0.0 }");
        let printed = checked(&[("p.yaml", &text)], &["p.yaml"], Format::Text);
        assert_eq!(printed.code, 0);
        assert!(printed.stderr.contains("0 errors, 1 warning: nothing that keeps"), "{}", printed.stderr);
    }

    #[test]
    fn each_rule_has_its_mechanism_on_the_kernel_asked_about() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.yaml");
        let text = SOUND.replace("audit", "enforce") + "files: { read: [/usr/**, \"/usr/*/x?\"] }\n";
        std::fs::write(&path, text).unwrap();
        let asked = |kernel, format| {
            let args = CheckArgs { profiles: vec![path.clone()], bases: Vec::new(), format, kernel };
            check(&args, false).unwrap()
        };
        let plain = asked(None, Format::Text);
        assert!(plain.code == 0 && !plain.stdout.contains("sound:files.read[0]"), "{}", plain.stdout);
        for (kernel, mechanisms, code) in [
            (Of::Lsm, ["lsm", "lsm"], 0),
            (Of::Landlock, ["landlock", "landlock, in part"], 69),
            (Of::None, ["nothing", "nothing"], 69),
        ] {
            let printed = asked(Some(kernel), Format::Json);
            assert_eq!(printed.code, code, "{kernel:?}");
            let report: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
            let rules = report["profiles"][0]["enforcement"]["rules"].as_array().unwrap();
            let of = |rule: &str| rules.iter().find(|row| row["rule"] == rule).unwrap()["mechanism"].clone();
            assert_eq!([of("sound:files.read[0]"), of("sound:files.read[1]")], mechanisms, "{kernel:?}");
            assert_eq!(of("sound:network"), "cgroup");
            let text = asked(Some(kernel), Format::Text).stdout;
            assert!(text.contains("sound:files.read[1]"), "{text}");
        }
    }

    #[test]
    fn json_holds_everything_on_standard_output() {
        let files = [("sound.yaml", SOUND), ("faulty.yaml", FAULTY)];
        let printed = checked(&files, &[""], Format::Json);
        assert_eq!((printed.code, printed.stderr.as_str()), (65, ""));
        let report: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        let [faulty, sound] = report["profiles"].as_array().unwrap().as_slice() else { panic!("{report}") };
        assert_eq!((&sound["ok"], &sound["mode"]), (&true.into(), &"audit".into()));
        assert_eq!(faulty["ok"], false);
        let first = &faulty["diagnostics"][0];
        assert_eq!(first["code"], "profile::unknown-value");
        assert_eq!((&first["line"], &first["column"]), (&3.into(), &7.into()));
        assert_eq!((&first["end_line"], &first["end_column"]), (&3.into(), &14.into()));
        assert!(first["hints"][0].as_str().unwrap().contains("`enforce`"));
    }

    #[test]
    fn a_faulty_base_is_reported_once_for_all_that_extend_it() {
        let child = |name: &str| format!("version: 1\nname: {name}\nmode: audit\nextends: [faulty]\n");
        let files = [("a.yaml", &*child("a")), ("b.yaml", &*child("b")), ("faulty.yaml", FAULTY)];
        let printed = checked(&files, &["a.yaml", "b.yaml", "faulty.yaml"], Format::Text);
        assert!(
            printed.stderr.ends_with("2 errors, 0 warnings: 3 profiles can't be used\n"),
            "{}",
            printed.stderr
        );
    }

    #[test]
    fn a_profile_too_large_for_the_kernel_names_its_dearest_rules() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        std::fs::write(&file, SOUND).unwrap();
        let profile = crate::policy::load_profile(&file, &[]).unwrap().profile;
        let rule = &profile.network.allow[0];
        let error = CompileError::TooLarge {
            profile: profile.name.clone(),
            words: 9,
            limit: 7,
            dearest: vec![compile::RuleCost { id: rule.id.clone(), source: rule.source.clone(), words: 5 }],
        };
        let diagnostic = image_error(&profile, &error);
        assert_eq!((diagnostic.code, diagnostic.place()), (Code::ImageTooLarge, Some(rule.source.clone())));
        let text = diagnostic.render(false);
        for part in ["need 9 words or more", "holds 7", "`sound:network.allow[0]`", "needs 5 words", "fewer"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
