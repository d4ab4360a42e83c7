//! Where the bytes of the serial ports go.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Where the serial ports go.
pub struct Ports {
    /// COM1: the kernel log and the text trace, by whole lines.
    pub log: Box<dyn Write + Send>,
    /// The program's standard output.
    pub stdout: Box<dyn Write + Send>,
    /// The program's standard error.
    pub stderr: Box<dyn Write + Send>,
}

impl Ports {
    /// The program's output is that of this process.
    #[must_use]
    pub fn of_this_process(log: Box<dyn Write + Send>) -> Self {
        Self {
            log,
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    }
}

/// The port of a binary trace.
pub struct TracePort {
    /// Where the bytes go.
    pub events: Box<dyn Write + Send>,
    /// A way to talk back.
    pub commands: Commands,
}

/// Sends commands to the kernel; clones send to the same one. A machine that isn't there (yet, or any more) gets nothing.
#[derive(Clone, Debug, Default)]
pub struct Commands(Arc<Mutex<Option<UnixStream>>>);

impl Commands {
    /// Says where commands go.
    pub(crate) fn connect(&self, port: &UnixStream) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(port.try_clone()?);
        Ok(())
    }

    /// Sends one line. Returns whether there was a machine to send it to.
    pub fn send(&self, line: &str) -> bool {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        port.as_mut().is_some_and(|port| writeln!(port, "{line}").is_ok())
    }
}

/// Memory that a port is copied to; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Whether `text` is in what has arrived from byte `from` on; says where it ends.
    #[must_use]
    pub fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = bytes.get(from..)?.windows(text.len()).position(|part| part == text)?;
        Some(from + place + text.len())
    }

    /// Takes out what has arrived.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a thread that carries a port says to the one that waits for the machine.
pub(crate) enum Carried {
    /// The bytes of this channel can't be kept: a disk is full, for example.
    Unwritten(&'static str, io::Error),
}

/// Copies a port to where it belongs as it arrives, and returns the last `keep` bytes at the end. A reader that went
/// away (a closed pipe) doesn't stop the machine; its bytes are dropped. Any other error is said once.
pub(crate) fn carry(
    name: &'static str,
    mut port: UnixStream,
    mut to: impl Write + Send + 'static,
    keep: usize,
    says: mpsc::Sender<Carried>,
) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut says = Some(says);
        let mut kept = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = match port.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            match to.write_all(&chunk[..count]).and_then(|()| to.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    if let Some(says) = says.take() {
                        // Where nobody waits any more, the machine has ended.
                        let _ = says.send(Carried::Unwritten(name, error));
                    }
                }
                _ => {}
            }
            kept.extend_from_slice(&chunk[count - count.min(keep)..count]);
            if kept.len() > 2 * keep {
                kept.drain(..kept.len() - keep);
            }
        }
        let _ = to.flush();
        kept
    })
}

/// What two ports may carry to; whole writes follow each other.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Box<dyn Write + Send>>>);

impl Shared {
    pub(crate) fn new(to: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(to)))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// Passes on whole lines only, so that the kernel's lines don't break into those of a program.
pub(crate) struct Lines<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, line: Vec::new() }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|&byte| byte == b'\n') {
            self.to.write_all(&self.line[..=end])?;
            self.line.drain(..=end);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Lines<W> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            let _ = self.to.write_all(&self.line).and_then(|()| self.to.flush());
        }
    }
}
