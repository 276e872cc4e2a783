//! How xtask runs other programs: to the end with an error that shows their words, or for minutes with a sign of life.
//! Called by every task.
//!
//! What must stay true: no failure is silent, and each names the program, how it ended and where its output is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How many of its last lines a failed program may repeat on the screen.
const LAST_WORDS: usize = 25;
/// How often a long step says that it lives, when no terminal shows it line by line.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The program and its arguments, as a person would type them.
pub fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end and returns what was written to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` did not start", typed(command)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", typed(command), output.status, words.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is no text", typed(command)))
}

/// Runs a step that takes long. Its output goes to `log`; the screen shows the newest line, and the last ones when the
/// step fails.
pub fn long(command: &mut Command, log: &Path) -> Result<()> {
    let started = Instant::now();
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` did not start", typed(command)))?;
    let lines = lines_of(&mut child);

    let terminal = io::stderr().is_terminal();
    let mut recent: Vec<String> = Vec::new();
    let mut said = Instant::now();
    loop {
        match lines.recv_timeout(SIGN_OF_LIFE) {
            Ok(line) => {
                writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
                recent.push(line);
                if recent.len() > LAST_WORDS {
                    recent.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let newest = recent.last().map_or("", |line| line.trim());
        if terminal {
            eprint!("\r\x1b[K    {}", newest.chars().take(90).collect::<String>());
        } else if said.elapsed() >= SIGN_OF_LIFE {
            eprintln!("    {:>4.0} s  {newest}", started.elapsed().as_secs_f32());
            said = Instant::now();
        }
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    let status = child.wait().with_context(|| format!("`{}` was lost", typed(command)))?;
    if !status.success() {
        for line in &recent {
            eprintln!("    {line}");
        }
        bail!("`{}` failed ({status}); all it said is in {}", typed(command), log.display());
    }
    eprintln!("    done in {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}

/// Both outputs of a child, line by line, as they come. The channel closes when the child has closed both.
fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let sources: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for source in sources.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}
