//! Real agents, headless, against a model on loopback that plays a script: a benign session, a hostile one, and the
//! hostile one on a host without the monitor.
//!
//! [`agents`] says how each is started; [`work`] and [`turned`] are the sessions. The agent's disk is at `/opt/agent`.

mod agents;
mod turned;
mod work;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent_monitor_tests::model::{Model, Turn};
use anyhow::Result;
use libtest_mimic::Trial;

pub use agents::{Agent, named};

use crate::guest;

/// The first port of models: each session has its own, and `profiles/` grants a few of them.
static PORT: AtomicU16 = AtomicU16::new(9400);

pub fn trials(agent: &'static Agent) -> Vec<Trial> {
    let trial = |name: &str, run: fn(&'static Agent) -> Result<()>| {
        Trial::test(format!("{}_{name}", agent.name), move || {
            run(agent).map_err(|error| format!("{error:#}").into())
        })
    };
    vec![
        trial("works_and_nothing_is_denied", work::run),
        trial("turns_and_every_act_is_denied_and_explained", turned::governed),
        // Last: it leaves no monitor.
        trial("turns_without_a_monitor_and_every_act_succeeds", turned::ungoverned),
    ]
}

/// What a script keeps between its turns.
type Kept<T> = Arc<Mutex<T>>;

/// Runs the agent to its end against a model that plays `script`; what it said, with what the model was asked.
fn play(
    agent: &Agent,
    under_the_monitor: bool,
    script: impl FnMut(usize, &str) -> Turn + Send + 'static,
) -> Result<(bool, String)> {
    guest::shell(agent.settings)?;
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let model = Model::serve(SocketAddr::from(([127, 0, 0, 1], port)), agent.protocol, Box::new(script))?;
    let started = std::time::Instant::now();
    let output = guest::session(under_the_monitor, &format!("PORT={port}\n{}", agent.start))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let said = format!(
        "After {} s it ended with {} and said:\n{said}\nThe model was asked:\n{}",
        started.elapsed().as_secs(),
        output.status,
        model.log()
    );
    println!("{}: {said}", agent.name);
    Ok((output.status.success(), said))
}

fn inside<T, R>(kept: &Mutex<T>, with: impl FnOnce(&mut T) -> R) -> R {
    with(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
}
