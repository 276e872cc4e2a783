//! The event file: JSON lines, appended, rotated by size.
//!
//! [`start`] makes a writer thread behind a bounded queue, so a slow disk stalls nobody for long: what does not fit the
//! queue or can't be written is dropped and counted. What must stay true: the file holds whole lines only, also after a
//! write that failed half-way (disk full) or was never finished (the daemon was killed); a rotation that can't be
//! finished costs no older file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Chunk;

/// Chunks between the pipeline and the disk; a chunk is up to about 256 KiB.
const QUEUE: usize = 8;
/// How long the pipeline waits for a disk that is behind: meanwhile records gather in the kernel's ring, which holds
/// half a second of 100 000 events a second in an eighth of the room.
const PATIENCE: Duration = Duration::from_millis(300);

/// Where and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    pub path: PathBuf,
    /// Bytes after which the file is renamed to `<path>.1`; 0: never.
    pub rotate_bytes: u64,
    /// Renamed files kept.
    pub keep: u32,
}

/// What the file did, for metrics and status.
#[derive(Debug, Default)]
pub struct FileCounts {
    pub written: AtomicU64,
    pub dropped: AtomicU64,
    /// Failed writes, opens and renames.
    pub errors: AtomicU64,
}

/// The pipeline's end of the writer.
#[derive(Debug)]
pub struct FileSink {
    sender: SyncSender<Chunk>,
    counts: Arc<FileCounts>,
    /// The disk was waited for in vain; it is not waited for again before it took something.
    stalled: bool,
}

impl FileSink {
    /// Hands over a chunk, waiting a little for a disk that is behind, or drops and counts it.
    pub fn send(&mut self, mut chunk: Chunk) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            chunk = match self.sender.try_send(chunk) {
                Ok(()) => {
                    self.stalled = false;
                    return;
                }
                Err(TrySendError::Full(chunk)) if !self.stalled && Instant::now() < deadline => chunk,
                Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => {
                    self.stalled = true;
                    self.counts.dropped.fetch_add(chunk.events, Ordering::Relaxed);
                    return;
                }
            };
            // The standard channel has no send with a deadline.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Opens the file and starts its thread, which ends after the sink was dropped and everything queued was written.
///
/// # Errors
/// When the file can't be opened, or the thread not be started.
pub fn start(settings: FileSettings) -> io::Result<(FileSink, Arc<FileCounts>, JoinHandle<()>)> {
    let counts = Arc::new(FileCounts::default());
    let mut writer = Writer::open(settings)?;
    let (sender, receiver) = sync_channel(QUEUE);
    let theirs = Arc::clone(&counts);
    let thread = std::thread::Builder::new()
        .name("events-file".to_owned())
        .spawn(move || run(&mut writer, &receiver, &theirs))?;
    Ok((FileSink { sender, counts: Arc::clone(&counts), stalled: false }, counts, thread))
}

fn run(writer: &mut Writer, receiver: &Receiver<Chunk>, counts: &FileCounts) {
    // One line in the log for each run of failures, not one for each chunk.
    let mut failing = false;
    for chunk in receiver {
        match writer.write(&chunk.lines) {
            Ok(()) => {
                counts.written.fetch_add(chunk.events, Ordering::Relaxed);
                if failing {
                    tracing::info!(path = %writer.settings.path.display(), "the event file can be written again");
                }
                failing = false;
            }
            Err(error) => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
                counts.dropped.fetch_add(chunk.events, Ordering::Relaxed);
                if !failing {
                    tracing::error!(path = %writer.settings.path.display(), %error,
                        "events are lost: the event file can't be written; verdicts are unchanged");
                }
                failing = true;
            }
        }
    }
}

/// The open file.
#[derive(Debug)]
struct Writer {
    settings: FileSettings,
    file: File,
    /// Bytes of whole lines in the file.
    length: u64,
}

impl Writer {
    fn open(settings: FileSettings) -> io::Result<Self> {
        let (file, length) = open(&settings.path)?;
        Ok(Writer { settings, file, length })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.settings.rotate_bytes != 0
            && self.length > 0
            && self.length + lines.len() as u64 > self.settings.rotate_bytes
        {
            self.rotate()?;
        }
        match self.file.write_all(lines) {
            Ok(()) => {
                self.length += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would spoil its successor. Truncating needs no space; a device has nothing to truncate.
                let _ = self.file.set_len(self.length);
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.path;
        if !path.try_exists()? {
            // Renamed already, and the new one could not be opened then; or somebody moved it.
            (self.file, self.length) = open(path)?;
            return Ok(());
        }
        if self.settings.keep == 0 {
            fs::remove_file(path)?;
        }
        for n in (1..=self.settings.keep).rev() {
            let from = if n == 1 { path.clone() } else { numbered(path, n - 1) };
            match fs::rename(&from, numbered(path, n)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.length) = open(path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    // Events hold command lines: for root's eyes.
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let mut length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1)?;
        if last != *b"\n" {
            // A line that an earlier daemon did not finish: it must not spoil ours.
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok((file, length))
}

/// `<path>.<n>`: the `n`th newest of the renamed files.
#[must_use]
pub fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(directory: &Path, rotate_bytes: u64, keep: u32) -> FileSettings {
        FileSettings { path: directory.join("events.jsonl"), rotate_bytes, keep }
    }

    fn chunk(text: &str) -> Chunk {
        Chunk { lines: text.to_owned().into(), events: text.lines().count() as u64 }
    }

    #[test]
    fn lines_are_appended_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), 0, 0);
        fs::write(&settings.path, "old\n").unwrap();
        let (mut sink, counts, thread) = start(settings.clone()).unwrap();
        sink.send(chunk("a\nb\n"));
        sink.send(chunk("c\n"));
        drop(sink);
        thread.join().unwrap();
        assert_eq!(fs::read_to_string(&settings.path).unwrap(), "old\na\nb\nc\n");
        assert_eq!(counts.written.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), 6, 2);
        let mut writer = Writer::open(settings.clone()).unwrap();
        for line in ["1111\n", "2222\n", "3333\n", "4444\n"] {
            writer.write(line.as_bytes()).unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&settings.path), "4444\n");
        assert_eq!(read(&numbered(&settings.path, 1)), "3333\n");
        assert_eq!(read(&numbered(&settings.path, 2)), "2222\n");
        assert!(!numbered(&settings.path, 3).exists());
    }

    #[test]
    fn a_rotation_that_cannot_be_finished_costs_no_older_file() {
        for keep in [0, 3] {
            let directory = tempfile::tempdir().unwrap();
            let logs = directory.path().join("logs");
            fs::create_dir(&logs).unwrap();
            let settings = settings(&logs, 6, keep);
            let mut writer = Writer::open(settings.clone()).unwrap();
            for line in ["1111\n", "2222\n"] {
                writer.write(line.as_bytes()).unwrap();
            }
            // The new file can't be made where its directory is gone.
            let aside = directory.path().join("aside");
            fs::rename(&logs, &aside).unwrap();
            for _ in 0..5 {
                assert!(writer.write(b"lost\n").is_err());
            }
            fs::rename(&aside, &logs).unwrap();
            fs::rename(&settings.path, directory.path().join("moved")).unwrap();
            writer.write(b"3333\n").unwrap();
            assert_eq!(fs::read_to_string(&settings.path).unwrap(), "3333\n");
            if keep > 0 {
                assert_eq!(fs::read_to_string(numbered(&settings.path, 1)).unwrap(), "1111\n");
                assert!(!numbered(&settings.path, 2).exists(), "nothing was renamed for nothing");
            }
        }
    }

    #[test]
    fn a_line_that_was_never_finished_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), 0, 0);
        fs::write(&settings.path, "whole\nhal").unwrap();
        Writer::open(settings.clone()).unwrap().write(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&settings.path).unwrap(), "whole\nhal\nnext\n");
    }

    #[test]
    fn a_stuck_disk_is_waited_for_once() {
        // The receiver never takes anything: a disk that hangs.
        let (sender, _receiver) = sync_channel(1);
        let mut sink = FileSink { sender, counts: Arc::default(), stalled: false };
        let began = Instant::now();
        for _ in 0..50 {
            sink.send(chunk("a\n"));
        }
        assert_eq!(sink.counts.dropped.load(Ordering::Relaxed), 49);
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 20);
    }

    #[test]
    fn a_full_disk_is_counted_and_does_not_stop_the_sender() {
        let settings = FileSettings { path: "/dev/full".into(), rotate_bytes: 0, keep: 0 };
        let (mut sink, counts, thread) = start(settings).unwrap();
        for _ in 0..100 {
            sink.send(chunk("a\nb\n"));
        }
        drop(sink);
        thread.join().unwrap();
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 200);
        assert_eq!(counts.written.load(Ordering::Relaxed), 0);
    }
}
