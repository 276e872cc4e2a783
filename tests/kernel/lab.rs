//! The one world that all tests share, opened by the first test that needs it and closed after the last.

use std::sync::{Mutex, PoisonError};

use agent_monitor_tests::World;
use anyhow::Result;

/// The world.
pub struct Lab {
    pub world: World,
}

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// Runs a test's body in the lab.
pub fn with<R>(body: impl FnOnce(&mut Lab) -> Result<R>) -> Result<R> {
    // A test that panicked left its children to their drops; the world itself is as it was.
    let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    if lab.is_none() {
        *lab = Some(Lab { world: World::new()? });
    }
    match lab.as_mut() {
        Some(lab) => body(lab),
        None => unreachable!("it was just opened"),
    }
}

/// Takes the world down: its processes, cgroups and namespaces.
pub fn close() {
    drop(LAB.lock().unwrap_or_else(PoisonError::into_inner).take());
}
