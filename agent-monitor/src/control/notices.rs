//! The socket at which an agent is told of its own denials.
//!
//! Served beside the control socket, to everybody who may connect: whoever belongs to an agent gets the lines that wait
//! for it, everybody else nothing. Nothing is asked here but "what of me": one byte says so, and who wrote it counts as
//! well as who connected (`control::peer`). What must stay true: no word of a client is obeyed, and a client can only cost
//! its own connection.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use ulid::Ulid;

use super::peer;

/// Name of the socket, beside the control socket.
pub const NAME: &str = "notices.sock";
/// The variable that says where it is to an agent.
pub const VARIABLE: &str = "AGENT_MONITOR_NOTICES";
/// Connections at one time.
const MAX_CLIENTS: usize = 32;
/// How long a client may take, all in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

/// What the server asks of the daemon.
pub trait Teller: Send + Sync + 'static {
    /// The agent that a process belongs to.
    fn agent_of(&self, pid: u32) -> Option<Ulid>;

    /// Takes the lines that wait for an agent.
    fn take(&self, agent: Ulid) -> Vec<u8>;
}

/// Serves until the future ends.
pub async fn serve(listener: UnixListener, teller: Arc<dyn Teller>, shutdown: impl Future<Output = ()>) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: accepting again at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // One client too many is sent away; its notices wait.
        if let Ok(permit) = Arc::clone(&clients).try_acquire_owned() {
            let teller = Arc::clone(&teller);
            tokio::spawn(async move {
                let _ = timeout(PATIENCE, client(stream, teller)).await;
                drop(permit);
            });
        }
    }
}

/// One connection: a byte, then the lines.
async fn client(mut stream: UnixStream, teller: Arc<dyn Teller>) -> io::Result<()> {
    let opener = peer::connected(stream.as_fd())?;
    let writer = loop {
        stream.readable().await?;
        let mut byte = [0; 1];
        match stream.try_io(Interest::READABLE, || peer::receive(stream.as_fd(), &mut byte)) {
            Ok((1.., Some(writer))) => break writer,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    };
    // Asks the kernel: not on the thread that serves everybody.
    let lines = tokio::task::spawn_blocking(move || {
        let agent = teller.agent_of(writer.pid)?;
        // A process that ended may have left its number to another's.
        let same = teller.agent_of(opener.pid) == Some(agent);
        (same && peer::lives(writer.pid) && peer::lives(opener.pid)).then(|| teller.take(agent))
    });
    if let Ok(Some(lines)) = lines.await {
        stream.write_all(&lines).await?;
    }
    stream.shutdown().await
}

/// What waits for the agent that this process belongs to; empty for whoever belongs to none.
///
/// # Errors
/// When nobody listens there, or this process may not connect.
pub fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = StdStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Mutex;

    use super::*;
    use crate::control::server::listen_for_all;

    /// One agent, whose processes are these; a line waits for it.
    #[derive(Default)]
    struct Fake(Mutex<Vec<u32>>);

    impl Teller for Fake {
        fn agent_of(&self, pid: u32) -> Option<Ulid> {
            self.0.lock().unwrap().contains(&pid).then(|| Ulid::from(1_u128))
        }

        fn take(&self, _: Ulid) -> Vec<u8> {
            b"a line\n".to_vec()
        }
    }

    fn serving(test: impl FnOnce(&Path, &Fake) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let fake = Arc::new(Fake::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen_for_all(&path).unwrap();
            let teller: Arc<dyn Teller> = Arc::clone(&fake) as _;
            let tested = tokio::task::spawn_blocking(move || test(&path, &fake));
            serve(listener, teller, async { tested.await.unwrap() }).await;
        });
    }

    #[test]
    fn an_agent_is_answered_and_nobody_else() {
        serving(|path, fake| {
            assert_eq!(ask(path).unwrap(), "");
            fake.0.lock().unwrap().push(std::process::id());
            assert_eq!(ask(path).unwrap(), "a line\n");
        });
    }

    /// What was written, read by whoever holds the connection.
    fn answer_to_child(path: &Path, fake: &Fake, child_is_of_agent: bool) -> String {
        let mut stream = StdStream::connect(path).unwrap();
        let theirs = OwnedFd::from(stream.try_clone().unwrap());
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read go; echo; read stay"])
            .stdin(std::process::Stdio::piped())
            .stdout(theirs)
            .spawn()
            .unwrap();
        if child_is_of_agent {
            fake.0.lock().unwrap().push(child.id());
        }
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"go\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        drop(input);
        child.wait().unwrap();
        answer
    }

    #[test]
    fn opener_and_writer_must_be_of_the_agent_both() {
        serving(|path, fake| {
            // Opened by somebody else, and handed to the agent; then the other way about.
            assert_eq!(answer_to_child(path, fake, true), "");
            *fake.0.lock().unwrap() = vec![std::process::id()];
            assert_eq!(answer_to_child(path, fake, false), "");
            assert_eq!(answer_to_child(path, fake, true), "a line\n");
        });
    }

    #[test]
    fn clients_that_say_nothing_are_sent_away() {
        serving(|path, fake| {
            fake.0.lock().unwrap().push(std::process::id());
            let mut silent: Vec<StdStream> =
                (0..MAX_CLIENTS + 5).map(|_| StdStream::connect(path).unwrap()).collect();
            let mut end = String::new();
            silent.remove(0).read_to_string(&mut end).unwrap();
            assert_eq!(end, "");
            drop(silent);
            let answered = (0..200).any(|_| {
                std::thread::yield_now();
                ask(path).is_ok_and(|lines| lines == "a line\n")
            });
            assert!(answered);
        });
    }
}
