//! Debian's stock kernels: found in an apt state of our own, downloaded, unpacked and cached, never installed. Called
//! by [`super::run`] once for each kernel.
//!
//! What must stay true: a cached kernel needs no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::debian::Apt;
use super::vmlinux;
use crate::{command, places};

/// The kernels that `--kernel all` means: oldest supported, Debian 12's newer one, and two from the present.
pub const ALL: &[&str] = &["6.1", "6.12", "6.18", "7.3"];

/// Where they come from: 6.1 and 6.12 are in Debian 12's security archive, newer ones in Debian 13's backports.
const RELEASES: &[&str] = &["bookworm-security", "trixie-backports"];

/// An unpacked kernel.
pub struct Kernel {
    /// As it calls itself: `6.12.117+deb12-cloud-amd64`.
    pub release: String,
    /// The uncompressed ELF image, which QEMU enters directly (PVH).
    pub image: PathBuf,
    /// The directory above `lib/modules/<release>`.
    pub root: PathBuf,
}

/// The newest kernel of a series (`6.12`) that the archive has, or the cached one.
pub fn get(series: &str) -> Result<Kernel> {
    let well_formed = series.split_once('.').is_some_and(|(major, minor)| {
        [major, minor].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    if !well_formed {
        bail!("`{series}` is no kernel series: give one like 6.12, or one of {}, or all", ALL.join(", "));
    }
    let _lock = places::lock_cache()?;
    let home = places::cache()?.join("kernels").join(series);
    if !home.join("vmlinux").is_file() {
        eprintln!("linux {series}: fetching Debian's kernel into {}", home.display());
        fetch(series, &home)?;
    }
    let modules = home.join("lib/modules");
    let release = fs::read_dir(&modules)
        .with_context(|| format!("cannot read {}", modules.display()))?
        .flatten()
        .next()
        .ok_or_else(|| {
            anyhow!("{} is empty: remove {} and run this again", modules.display(), home.display())
        })?
        .file_name()
        .to_string_lossy()
        .into_owned();
    Ok(Kernel { release, image: home.join("vmlinux"), root: home })
}

fn fetch(series: &str, home: &Path) -> Result<()> {
    let apt = Apt::open("apt", RELEASES)?;
    let name = match newest(&apt, series)? {
        Some(name) => name,
        None => {
            apt.update()?;
            newest(&apt, series)?.ok_or_else(|| none(&apt, series))?
        }
    };
    let partial = home.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let mut packages = parts(&apt, &name)?;
    packages.insert(0, name);
    apt.fetch(apt.program("apt-get").arg("download").args(&packages).current_dir(&partial))?;
    for file in files(&partial)?.into_iter().filter(|file| file.extension().is_some_and(|it| it == "deb")) {
        command::output(Command::new("dpkg").arg("-x").arg(&file).arg(&partial))?;
        fs::remove_file(&file)?;
    }
    // Newer packages are merged into /usr; the guest and depmod look below /lib.
    let merged = partial.join("usr/lib/modules");
    if merged.is_dir() {
        fs::create_dir_all(partial.join("lib"))?;
        fs::rename(&merged, partial.join("lib/modules"))?;
    }
    let compressed = boot_image(&partial)?;
    vmlinux::extract(&compressed, &partial.join("vmlinux"))?;
    let modules = partial.join("lib/modules");
    let release = files(&modules)?.pop().ok_or_else(|| anyhow!("{} holds no modules", modules.display()))?;
    command::output(Command::new("depmod").arg("--basedir").arg(&partial).args(release.file_name()))?;
    let _ = fs::remove_dir_all(home);
    fs::rename(&partial, home).with_context(|| format!("cannot move {} into place", home.display()))?;
    Ok(())
}

/// `boot/vmlinuz-*`, or beside its modules in packages from 7.x.
fn boot_image(root: &Path) -> Result<PathBuf> {
    let boot = files(&root.join("boot")).unwrap_or_default();
    let beside = files(&root.join("lib/modules"))?.into_iter().map(|release| release.join("vmlinuz"));
    boot.into_iter()
        .chain(beside)
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("vmlinuz") && path.is_file()
        })
        .ok_or_else(|| {
            anyhow!("the package holds no kernel image: remove {} and run this again", root.display())
        })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn all(apt: &Apt) -> Result<Vec<String>> {
    let pattern = r"^linux-image-[0-9].*[0-9a-z]-cloud-amd64$";
    let found = command::output(apt.program("apt-cache").args(["search", "--names-only", pattern]))?;
    Ok(found.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn newest(apt: &Apt, series: &str) -> Result<Option<String>> {
    let wanted = format!("linux-image-{series}.");
    let all = all(apt)?.into_iter();
    Ok(all.filter(|name| name.starts_with(&wanted)).max_by_key(|name| numbers(name)))
}

fn none(apt: &Apt, series: &str) -> anyhow::Error {
    let mut offered: Vec<Vec<u64>> =
        all(apt).unwrap_or_default().iter().map(|name| numbers(name).into_iter().take(2).collect()).collect();
    offered.sort();
    offered.dedup();
    let offered: Vec<String> =
        offered.iter().map(|pair| pair.iter().map(u64::to_string).collect::<Vec<_>>().join(".")).collect();
    anyhow!("the archive has no cloud kernel of series {series}: choose one of {}", offered.join(", "))
}

/// The packages that newer kernels are split into.
fn parts(apt: &Apt, name: &str) -> Result<Vec<String>> {
    let shown = command::output(apt.program("apt-cache").args(["depends", "--important", name]))?;
    Ok(shown
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|package| package.starts_with("linux-binary-") || package.starts_with("linux-modules-"))
        .map(str::to_owned)
        .collect())
}

/// The numbers of a package name, in order: versions compare by them.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|character: char| !character.is_ascii_digit()).filter_map(|run| run.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn the_newest_kernel_is_the_highest_number() {
        let mut names = [
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
        ];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[2], "linux-image-6.12.117+deb12-cloud-amd64");
        assert!(numbers("linux-image-6.1.0-56-cloud-amd64") > numbers("linux-image-6.1.0-9-cloud-amd64"));
    }
}
