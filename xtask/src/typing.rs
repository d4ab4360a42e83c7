//! What a person types, or what comes through a pipe, on its way to the programs of a machine.
//!
//! On a terminal that is switched to raw every key reaches the kernel's own line discipline, Ctrl-C included. Only Ctrl-]
//! stays here, and ends the machine: in its order where a trace is recorded, at once otherwise.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::interrupt;
use crate::machine::{Input, InputKind};
use crate::ports::Commands;

/// The key that ends the machine: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// Standard input, with the key that ends the machine taken out if a person types.
pub struct Keyboard {
    is_terminal: bool,
    /// The way to the kernel, where a trace is recorded.
    commands: Option<Commands>,
    /// Whether the key was pressed.
    escaped: Arc<AtomicBool>,
}

/// How long the kernel may take to end every process.
const PATIENCE: Duration = Duration::from_secs(5);

impl Keyboard {
    /// What is typed on a terminal, or comes otherwise; with a way to the kernel the key ends the run in its order.
    #[must_use]
    pub fn new(is_terminal: bool, commands: Option<Commands>) -> Self {
        Self {
            is_terminal,
            commands,
            escaped: Arc::default(),
        }
    }

    /// Says later whether the key was pressed.
    #[must_use]
    pub fn escaped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.escaped)
    }

    /// The input of a machine.
    #[must_use]
    pub fn input(self, kind: InputKind) -> Input {
        Input {
            from: Box::new(self),
            kind,
        }
    }
}

/// What standard input of this process can be for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing: it is closed, or the null device.
    Nothing,
    /// Bytes from a pipe, a file, or a person whose terminal shows something else.
    Pipe,
    /// A person, who sees the program's output on the same terminal.
    Terminal,
}

/// What standard input of this process is.
#[must_use]
pub fn source() -> Source {
    if io::stdin().is_terminal() {
        return match io::stdout().is_terminal() {
            true => Source::Terminal,
            false => Source::Pipe,
        };
    }
    let mut about = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call writes what it knows to a place that is large enough, and says whether it has.
    if unsafe { libc::fstat(libc::STDIN_FILENO, about.as_mut_ptr()) } != 0 {
        return Source::Nothing;
    }
    // SAFETY: the call above has succeeded.
    let about = unsafe { about.assume_init() };
    let null = fs::metadata("/dev/null").map(|null| null.rdev());
    let is_null = about.st_mode & libc::S_IFMT == libc::S_IFCHR && null.is_ok_and(|null| null == about.st_rdev);
    if is_null { Source::Nothing } else { Source::Pipe }
}

impl Read for Keyboard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = io::stdin().read(buffer)?;
        if self.is_terminal && buffer[..count].contains(&ESCAPE) {
            self.escaped.store(true, Ordering::Relaxed);
            let is_asked = self.commands.as_ref().is_some_and(|commands| commands.send("end"));
            if is_asked {
                thread::sleep(PATIENCE);
            }
            // It ended long ago, or it does not end by itself.
            interrupt::request();
            return Ok(0);
        }
        Ok(count)
    }
}

/// Lines for a terminal in raw mode, which goes down a line at a line feed and does not go back to its start.
pub struct ReturnCarriage(pub Box<dyn Write + Send>);

impl Write for ReturnCarriage {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => self.0.write_all(&[text, b"\r\n"].concat())?,
                None => self.0.write_all(line)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Rows and columns of the terminal of this process, if it has one that says so.
#[must_use]
pub fn window() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: the call writes the size to a place that is large enough, and says whether it has.
    if unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call above has succeeded.
    let size = unsafe { size.assume_init() };
    (size.ws_row != 0 && size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

/// The terminal of this process in raw mode; as it was, when the value goes.
pub struct RawTerminal(libc::termios);

impl RawTerminal {
    /// Nothing if standard input is no terminal.
    ///
    /// # Errors
    /// What the operating system says of the terminal.
    pub fn of_standard_input() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut settings = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the call writes the settings to a place that is large enough, and says whether it has.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has succeeded.
        let before = unsafe { settings.assume_init() };
        let mut raw = before;
        // SAFETY: both calls get settings that are whole.
        unsafe {
            libc::cfmakeraw(&raw mut raw);
            if libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the settings are those that the terminal had.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.0) };
    }
}
