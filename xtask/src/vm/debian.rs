//! Debian's packages for guests, by an apt state of our own: what [`super::kernel`] and [`super::systemd`] unpack comes
//! from here.
//!
//! What must stay true: the host's package lists, sources and dpkg state are read and not touched; the mirrors are the
//! ones that the host's own sources name.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::{command, places};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that knows some releases of Debian, and of no installed package.
pub struct Apt {
    home: PathBuf,
}

impl Apt {
    /// Its state is the directory `name` of the cache.
    pub fn open(name: &str, releases: &[&str]) -> Result<Self> {
        let home = places::cache()?.join(name);
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(directory))?;
        }
        let apt = Apt { home };
        fs::write(apt.home.join("sources.list"), sources(releases)?)?;
        fs::write(apt.home.join("status"), "")?;
        let configuration = format!(
            "Dir::Etc::sourcelist \"{home}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::lists \"{home}/lists\";\n\
             Dir::State::status \"{home}/status\";\n\
             Dir::Cache \"{home}/cache\";\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
            home = apt.home.display()
        );
        fs::write(apt.home.join("apt.conf"), configuration)?;
        Ok(apt)
    }

    /// `apt-get` or `apt-cache` with this state.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.home.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// The directory that `apt-get --download-only` fills.
    pub fn archives(&self) -> PathBuf {
        self.home.join("cache/archives")
    }

    pub fn update(&self) -> Result<()> {
        eprintln!("    fetching package lists (own apt state; the host's stays as it is)");
        command::long(self.program("apt-get").arg("update"), &self.home.join("update.log"))
    }

    /// Runs a download, and where it fails once more with fresh lists: a mirror drops old versions.
    pub fn fetch(&self, download: &mut Command) -> Result<()> {
        let log = self.home.join("download.log");
        let mut lists = fs::read_dir(self.home.join("lists"))?.flatten();
        if !lists.any(|list| list.file_name().to_string_lossy().contains("_Packages")) {
            self.update()?;
        }
        if command::long(download, &log).is_err() {
            eprintln!("    trying once more with fresh lists");
            self.update()?;
            command::long(download, &log)?;
        }
        Ok(())
    }
}

/// The lines for these releases, by the mirrors of this host's own.
fn sources(releases: &[&str]) -> Result<String> {
    let targets = command::output(
        Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
            .env("LC_ALL", "C"),
    )
    .context("this host has no apt to fetch Debian's packages with")?;
    let codename = fs::read_to_string("/etc/os-release")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME=").map(|name| name.trim_matches('"').to_owned()))
        .unwrap_or_else(|| "bookworm".to_owned());
    let mirror = |release: &str| {
        targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, found)| *found == release)
            .map(|(uri, _)| uri.to_owned())
            .ok_or_else(|| {
                anyhow!(
                    "this host's package sources don't name `{release}`: add Debian's, then run this again"
                )
            })
    };
    let line = |release: &&str| {
        // Security updates have an archive of their own, and so a mirror.
        let own =
            if release.ends_with("-security") { format!("{codename}-security") } else { codename.clone() };
        Ok(format!("deb [signed-by={KEYRING}] {} {release} main\n", mirror(&own)?))
    };
    releases.iter().map(line).collect()
}
