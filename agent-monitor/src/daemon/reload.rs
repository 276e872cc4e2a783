//! Profiles into force: at the start, by SIGHUP and by `agent-monitor reload`.
//!
//! Each profile stands for itself: a file with errors, an image that is too large or a kernel that can't enforce it
//! leaves that profile's old image in force and says why; the others go on. What must stay true: the table, the
//! generations and the kernel change together or not at all, and flows that lost their grant are cut at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::leases::lapse;
use super::pipeline::own_event;
use super::table::{Digest, InForce, Table};
use crate::agent::cgroup::fixed_prefix;
use crate::agent::cut::{Cut, cut};
use crate::agent::denied;
use crate::control::protocol::{Code, Refusal, ReloadOutcome, Reloaded, ReloadedProfile};
use crate::event::model::{Agent, EventType, Flow, Id, Process, ProfileChange};
use crate::kernel::{Deadline, DeniedObject, Gap, InstallError, Kernel};
use crate::policy::compile::{self, CompileError, Image};
use crate::policy::{Directory, Loaded, ResolvedProfile, load_directory};

/// A profile that can be put in force.
pub(super) struct Ready {
    profile: ResolvedProfile,
    gaps: Vec<Gap>,
    /// Or why it can't.
    image: Result<Image, (Code, String)>,
    found: Vec<DeniedObject>,
}

impl Core {
    /// Reads the profile directory and puts what changed in force; `only`: one profile.
    ///
    /// # Errors
    /// When the directory can't be read, or there is no profile `only`. What happened to each profile is the answer.
    pub fn reload(&self, only: Option<&str>) -> Result<Reloaded, Refusal> {
        let _changes = self.changes();
        let directory = load_directory(&self.settings.profiles, &self.settings.bases).map_err(|error| {
            let source =
                std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Refusal::new(Code::BadProfile, format!("{error}{source}; the profiles in force stay"))
        })?;
        self.apply(directory, only)
    }

    /// Puts a loaded directory in force at the start, before anything else can.
    ///
    /// # Errors
    /// As [`Core::reload`].
    pub fn start_with(&self, directory: Directory) -> Result<Reloaded, Refusal> {
        let _changes = self.changes();
        self.apply(directory, None)
    }

    /// Puts a loaded directory in force; the caller has the right to.
    fn apply(&self, directory: Directory, only: Option<&str>) -> Result<Reloaded, Refusal> {
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        let (profiles, others): (Vec<Loaded>, Vec<Loaded>) =
            directory.profiles.into_iter().partition(|loaded| wanted(&loaded.profile.name));
        let mut seen: Vec<String> = others.into_iter().map(|other| other.profile.name).collect();
        let mut ready = Vec::with_capacity(profiles.len());
        for Loaded { profile, warnings } in profiles {
            for warning in warnings {
                tracing::warn!(profile = %profile.name, "{}", warning.message);
            }
            seen.push(profile.name.clone());
            ready.push(self.prepare(profile));
        }
        let mut table = self.table();
        let mut reloaded = Reloaded::default();
        for failed in &directory.failed {
            let name = name_of_file(&table, &failed.file);
            if wanted(&name) {
                let why = failed.errors.to_string();
                reloaded.profiles.push(refuse(&mut table, name.clone(), Code::BadProfile, why));
            }
            seen.push(name);
        }
        for ready in ready {
            reloaded.profiles.push(self.install(&mut table, ready));
        }
        let gone: Vec<(u32, String)> = table
            .slots
            .iter()
            .filter(|(_, held)| !seen.contains(&held.profile.name) && wanted(&held.profile.name))
            .map(|(slot, held)| (*slot, held.profile.name.clone()))
            .collect();
        for (slot, name) in gone {
            reloaded.profiles.push(self.retire(&mut table, slot, name));
        }
        if let Some(only) = only
            && reloaded.profiles.is_empty()
        {
            let known = table.names().join(", ");
            let message = format!(
                "no file in {} holds a profile {only:?}; in force: {known}",
                self.settings.profiles.display()
            );
            return Err(Refusal::new(Code::UnknownProfile, message));
        }
        if let Err((code, why)) = self.install_claims(&mut table) {
            tracing::error!(%why, "the claims of executables and cgroups were not changed");
            let name = "claims".to_owned();
            reloaded.profiles.push(ReloadedProfile {
                name,
                outcome: ReloadOutcome::Refused,
                generation: None,
                code: Some(code),
                error: Some(why),
            });
        }
        self.note_leases(&table);
        drop(table);
        self.sync_syscall_hook();
        reloaded.flows_cut = self.cut_stale();
        for profile in &reloaded.profiles {
            self.tell_profile(profile);
        }
        Ok(reloaded)
    }

    /// Does for one profile what takes long, without the table: compiles it and looks for what it denies.
    pub(super) fn prepare(&self, mut profile: ResolvedProfile) -> Ready {
        profile.protect(&self.protected);
        lapse(&mut profile);
        profile.let_ask(&self.settings.notices());
        let gaps = self.kernel().posture().missing_for(&profile);
        let image = if !gaps.is_empty() && !self.settings.allow_degraded {
            Err((Code::CannotEnforce, describe_gaps(&profile, &gaps)))
        } else {
            compile::profile(&profile).map_err(|error| (Code::BadProfile, error.to_string()))
        };
        let found = if image.is_ok() { self.find_denied(&profile) } else { Vec::new() };
        Ready { profile, gaps, image, found }
    }

    /// Swaps the image of one profile.
    pub(super) fn install(&self, table: &mut Table, ready: Ready) -> ReloadedProfile {
        let Ready { profile, gaps, image, found } = ready;
        let deadline = profile.first_end().map_or(Deadline::PAST, Deadline::at);
        let name = profile.name.clone();
        let image = match image {
            Ok(image) => image,
            Err((code, why)) => return refuse(table, name, code, why),
        };
        // The kernel is asked, not the registry: an agent of a profile that is gone, made by its exec meanwhile, must
        // not come under another one.
        let free = || {
            let agents = self.kernel().agents();
            table.free_slot(|slot| agents.iter().any(|(_, state)| state.live > 0 && state.profile == slot))
        };
        let inherited = table.inherited_slot(&name);
        let Some(slot) = table.slot_of(&name).or(inherited).or_else(free) else {
            let limit = agent_monitor_common::image::MAX_PROFILES;
            return refuse(table, name, Code::BadProfile, format!("{limit} profiles are in force already"));
        };
        let profile = Arc::new(profile);
        let digest = Digest::of(&image.words);
        let same = match table.slots.get(&slot) {
            Some(held) => (held.digest == digest).then_some(held.generation),
            // Left in force by an earlier daemon.
            None => table
                .inherited
                .get(&slot)
                .filter(|left| left.digest == digest.bytes())
                .map(|left| left.generation),
        };
        // The generations first: an event of the new image finds its profile or waits for it.
        let installed = self.generations.install(slot, Arc::clone(&profile), || {
            let mut kernel = self.kernel();
            tell_digests(&mut kernel, &profile);
            // Marks of a generation before the generation, so that no hook sees it without them.
            let generation = same.unwrap_or_else(|| kernel.next_generation(slot));
            if let Err(error) = kernel.mark(slot, generation, &found) {
                tracing::error!(profile = %name, %error, "other names of what is denied are not all denied");
            }
            // The resolver too: what stands for a name by the old image does by the new one.
            self.names.prepare(slot, generation, &profile);
            let installed = match same {
                // The same image, and perhaps a file that was saved again.
                Some(generation) => kernel.set_deadline(slot, deadline).map(|()| generation),
                None => kernel.install_until(slot, &image.words, deadline),
            };
            let in_force = kernel.generation(slot);
            self.names.settle(slot, in_force);
            if let Err(error) = kernel.unmark(slot, in_force) {
                tracing::warn!(profile = %name, %error, "marks of an older image stay");
            }
            installed
        });
        let generation = match installed {
            Ok(generation) => generation,
            Err(error) => return refuse(table, name, Code::Kernel, error.to_string()),
        };
        self.denials.set_profile(&name, profile.notices.as_ref());
        self.kernel().note_profile(slot, &name, digest.bytes(), generation);
        table.inherited.remove(&slot);
        table.slots.insert(
            slot,
            InForce {
                profile,
                generation,
                digest,
                image: image.words.into(),
                gaps,
                refused: None,
                retired: false,
            },
        );
        let outcome = if same.is_some() { ReloadOutcome::Unchanged } else { ReloadOutcome::Installed };
        ReloadedProfile { name, outcome, generation: Some(generation), code: None, error: None }
    }

    /// The objects that a profile's rules deny now, where this kernel can judge files at all. A search that was cut
    /// short is told: what it did not reach is denied by its own name only.
    fn find_denied(&self, profile: &ResolvedProfile) -> Vec<DeniedObject> {
        if !self.kernel().posture().works("lsm/file_open") {
            return Vec::new();
        }
        match denied::find(profile, denied::Limits::default()) {
            Ok(found) => {
                if let Some(at) = &found.cut_at {
                    tracing::warn!(
                        profile = %profile.name, objects = found.objects.len(), entries = found.entries,
                        directory = %String::from_utf8_lossy(at).escape_debug(),
                        "the search for what this profile denies was cut short: objects that it did not reach are not denied under other names"
                    );
                }
                found.objects
            }
            Err(error) => {
                tracing::error!(profile = %profile.name, %error, "what this profile denies can't be searched for");
                Vec::new()
            }
        }
    }

    /// The file of a profile is gone.
    fn retire(&self, table: &mut Table, slot: u32, name: String) -> ReloadedProfile {
        let agents = self.registry.live().iter().filter(|agent| agent.slot == slot).count();
        let generation = table.slots.get(&slot).map(|held| held.generation);
        if agents > 0 {
            if let Some(held) = table.slots.get_mut(&slot) {
                held.retired = true;
            }
            let outcome = ReloadOutcome::Retained;
            return ReloadedProfile { name, outcome, generation, code: None, error: None };
        }
        if let Err(error) = self.kernel().uninstall(slot) {
            return refuse(table, name, Code::Kernel, error.to_string());
        }
        self.names.settle(slot, None);
        self.denials.set_profile(&name, None);
        self.kernel().note_profile(slot, "", [0; 32], generation.unwrap_or(0));
        if let Err(error) = self.kernel().unmark(slot, None) {
            tracing::warn!(profile = %name, %error, "marks of a profile that is gone stay");
        }
        table.slots.remove(&slot);
        ReloadedProfile { name, outcome: ReloadOutcome::Removed, generation: None, code: None, error: None }
    }

    /// Takes away what an earlier daemon left in force and no file stands for, once no process carries it. Its agents
    /// stay under the rules that they had.
    pub fn release_inherited(&self) {
        self.release(&mut self.table());
    }

    fn release(&self, table: &mut Table) {
        if table.inherited.is_empty() {
            return;
        }
        let mut kernel = self.kernel();
        let agents = kernel.agents();
        table.inherited.retain(|&slot, left| {
            if agents.iter().any(|(_, state)| state.live > 0 && state.profile == slot) {
                return true;
            }
            if let Err(error) = kernel.uninstall(slot) {
                tracing::error!(profile = %left.name, %error, "a profile without a file can't be taken out of force");
                return true;
            }
            if let Err(error) = kernel.unmark(slot, None) {
                tracing::warn!(profile = %left.name, %error, "marks of a profile that is gone stay");
            }
            kernel.note_profile(slot, "", [0; 32], left.generation);
            tracing::info!(profile = %left.name, "profile of an earlier daemon: its file and its agents are gone");
            false
        });
    }

    /// Tells the programs anew what pinned programs hold, where these have changed.
    pub fn check_pins(&self) {
        let profiles: Vec<_> = self.table().slots.values().map(|held| Arc::clone(&held.profile)).collect();
        for profile in profiles {
            tell_digests(&mut self.kernel(), &profile);
        }
    }

    /// Takes away the profiles whose files are gone and whose last agents have ended.
    pub fn remove_retired(&self) {
        let mut table = self.table();
        self.release(&mut table);
        let live = self.registry.live();
        let done: Vec<u32> = table
            .slots
            .iter()
            .filter(|(slot, held)| held.retired && !live.iter().any(|agent| agent.slot == **slot))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in done {
            if let Some(held) = table.slots.get(&slot) {
                let name = held.profile.name.clone();
                let removed = self.retire(&mut table, slot, name);
                self.tell_profile(&removed);
            }
        }
    }

    /// Puts the claims of all profiles in force, if they changed.
    fn install_claims(&self, table: &mut Table) -> Result<(), (Code, String)> {
        let bad = |error: CompileError| (Code::BadProfile, error.to_string());
        let refused = |error: InstallError| (Code::Kernel, error.to_string());
        // Both compiled before anything changes.
        let globs = table.claims(&[], true);
        let cgroup_claims = match globs.is_empty() {
            true => None,
            false => Some(compile::claims(&globs).map_err(bad)?.image.words),
        };
        let mut cgroup_prefixes: Vec<String> =
            globs.iter().map(|(_, glob)| fixed_prefix(glob).to_owned()).collect();
        cgroup_prefixes.sort();
        cgroup_prefixes.dedup();
        let globs = table.claims(&crate::policy::homes::of_host(), false);
        let image = match globs.is_empty() {
            true => None,
            false => {
                let claims = compile::claims(&globs).map_err(bad)?;
                for overlap in &claims.overlaps {
                    let name =
                        |slot: &u32| table.slots.get(slot).map_or("?", |held| held.profile.name.as_str());
                    tracing::warn!(path = %overlap.example, profile = name(&overlap.wins), also = name(&overlap.loses),
                        "two profiles claim the same executable; the first governs it");
                }
                Some(claims.image.words)
            }
        };
        if image != table.exe_claims {
            let mut kernel = self.kernel();
            match &image {
                Some(words) => kernel.install_claims(words).map(drop).map_err(refused)?,
                None => kernel.remove_claims().map_err(refused)?,
            }
            drop(kernel);
            table.exe_claims = image;
        }
        table.cgroup_prefixes = cgroup_prefixes;
        table.cgroup_claims = cgroup_claims;
        self.watches_cgroups.store(table.cgroup_claims.is_some(), Ordering::Release);
        Ok(())
    }

    /// Cuts the flows that no profile grants any more; how many.
    pub fn cut_stale(&self) -> u32 {
        let stale = match self.kernel().stale_flows() {
            Ok(stale) => stale,
            Err(error) => {
                tracing::error!(%error, "flows that lost their grant are dropped and can't be reset");
                return 0;
            }
        };
        let mut done = 0;
        for flow in stale {
            let (position, result) = match cut(flow.tgid, flow.fd, flow.port) {
                Ok(Cut::Gone) => continue,
                Ok(Cut::Reset) => (0, "reset"),
                Ok(Cut::Shut) => (1, "shut"),
                Err(error) => {
                    tracing::warn!(pid = flow.tgid, fd = flow.fd, %error, "a flow is dropped and can't be reset");
                    (2, "failed")
                }
            };
            self.totals.flows_cut[position].fetch_add(1, Ordering::Relaxed);
            done += u32::from(position < 2);
            let mut event = own_event(EventType::FlowCut);
            event.agent = self.registry.find(flow.agent).map(|info| Agent {
                id: Some(Id(info.id)),
                profile: info.profile.to_string().into(),
                origin: None,
            });
            event.process = Some(Process::numbered(flow.tgid));
            event.flow = Some(Flow { fd: flow.fd, port: flow.port, result: result.into() });
            self.injector.send(event);
        }
        done
    }

    /// Log, event and total of what happened to a profile.
    pub(super) fn tell_profile(&self, done: &ReloadedProfile) {
        let ReloadedProfile { name, outcome, generation, error, .. } = done;
        self.totals.count_reload(*outcome);
        match error {
            // At the start it is the reason why the daemon ends, and said there.
            Some(_) if self.startup_ms.get().is_none() => {}
            Some(error) => tracing::error!(profile = %name, "the profile was refused: {error}"),
            None => tracing::info!(profile = %name, outcome = outcome.as_str(), generation, "profile"),
        }
        if *outcome == ReloadOutcome::Unchanged {
            return;
        }
        let mut event = own_event(EventType::Profile);
        event.profile = Some(ProfileChange {
            name: name.clone().into(),
            outcome: outcome.as_str().into(),
            generation: *generation,
            error: error.clone().map(Into::into),
        });
        self.injector.send(event);
    }
}

/// Where the kernel can't tell what pinned programs hold.
fn tell_digests(kernel: &mut Kernel, profile: &ResolvedProfile) {
    let Some(exec) = &profile.exec else { return };
    if let Err(error) = kernel.check_pins(&exec.pins) {
        tracing::error!(profile = %profile.name, %error, "pinned programs are denied: their contents can't be told");
    }
}

/// Notes the refusal at the profile that stays in force, if there is one.
fn refuse(table: &mut Table, name: String, code: Code, why: String) -> ReloadedProfile {
    let slot = table.slot_of(&name);
    let held = slot.and_then(|slot| table.slots.get_mut(&slot));
    let generation = held.as_ref().map(|held| held.generation);
    if let Some(held) = held {
        held.refused = Some(why.clone());
    }
    ReloadedProfile { name, outcome: ReloadOutcome::Refused, generation, code: Some(code), error: Some(why) }
}

/// The profile whose file this is; the file's own name for one that was never in force.
fn name_of_file(table: &Table, file: &Path) -> String {
    let held = table.slots.values().find(|held| *held.profile.file == *file);
    held.map(|held| held.profile.name.clone())
        .unwrap_or_else(|| file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned())
}

/// What a profile asks and this kernel can't do, for a person.
#[must_use]
pub fn describe_gaps(profile: &ResolvedProfile, gaps: &[Gap]) -> String {
    let mut text = format!(
        "profile {} ({}) is in mode enforce, and this kernel can't enforce all of it. Blind here:",
        profile.name, profile.network.source
    );
    for gap in gaps {
        text.push_str(&format!("\n  {}: {} ({})", gap.mechanism, gap.blind, gap.why));
    }
    text.push_str("\nSee `agent-monitor doctor` for what to change, set `mode: audit`, or accept the gaps with --allow-degraded.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Posture;

    /// F13: the daemon's words about a kernel without `CONFIG_SECURITY_PATH`.
    #[test]
    fn a_profile_about_files_is_refused_where_path_hooks_are_absent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        let text = "version: 1\nname: p\nmode: enforce\nfiles: { write: [/srv/**] }\n";
        std::fs::write(&file, text).unwrap();
        let profile = crate::policy::load_profile(&file, &[]).unwrap().profile;
        let gaps = Posture::without_path_hooks().missing_for(&profile);
        assert!(!gaps.is_empty(), "a profile with a gap is refused");
        let said = describe_gaps(&profile, &gaps);
        for hook in ["lsm/path_rename: files that agents rename", "lsm/path_unlink: files that agents remove"]
        {
            assert!(said.contains(&format!("{hook} (this kernel has no such hook)")), "{hook} in {said}");
        }
    }
}
