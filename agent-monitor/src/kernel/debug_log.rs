//! Debug lines of the programs (feature `kernel-log`), through the `log` facade, which tracing's subscriber takes in.

use std::os::fd::AsFd;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Starts a thread that prints the lines until the process ends. A failure is one warning: the log is for developers.
pub fn start(object: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(object) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the programs' debug log is not available");
            return;
        }
    };
    let thread = std::thread::Builder::new().name("kernel-log".to_owned()).spawn(move || {
        let second = Timespec { tv_sec: Duration::from_secs(1).as_secs() as i64, tv_nsec: 0 };
        loop {
            // Woken by lines, and once a second in case a wake-up was missed; an error means the same as no line.
            let _ = poll(&mut [PollFd::from_borrowed_fd(logger.as_fd(), PollFlags::IN)], Some(&second));
            logger.flush();
        }
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "the programs' debug log is not read");
    }
}
