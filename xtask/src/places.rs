//! Where things are: the workspace, and the cache that all its checkouts share. Every other module asks here.
//!
//! What must stay true: everything that xtask downloads or makes outside `target/` lies in the cache, so that removing
//! one directory removes it all.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

/// The root of the workspace that this xtask was built from.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// `$XDG_CACHE_HOME/agent-monitor`, or `~/.cache/agent-monitor`; made when it is missing.
pub fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .ok_or_else(|| {
            anyhow!("neither XDG_CACHE_HOME nor HOME is set: set one of them, then run this again")
        })?;
    let cache = base.join("agent-monitor");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Where cargo installs programs.
pub fn cargo_bin() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .ok_or_else(|| anyhow!("neither CARGO_HOME nor HOME is set: set one of them, then run this again"))?;
    Ok(home.join("bin"))
}

/// Keeps two xtasks from filling the cache at once. Held until the returned file is dropped.
pub fn lock_cache() -> Result<File> {
    let path = cache()?.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another xtask to finish with {}", path.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
