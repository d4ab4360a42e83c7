//! The tool on a terminal, as a person uses it.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use vt100::Parser;

/// Ends a test that hangs; far beyond what it takes.
const LIMIT: Duration = Duration::from_secs(200);

/// The tool on a terminal.
pub struct Terminal {
    parser: Parser,
    bytes: Receiver<Vec<u8>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    start: Instant,
    // The terminal is there for as long as this is.
    _master: Box<dyn portable_pty::MasterPty + Send>,
}

impl Terminal {
    /// Starts the tool on a terminal of 40 rows and 130 columns.
    pub fn open(args: &[&str]) -> Self {
        let (rows, cols) = (40, 130);
        let area = PtySize {
            rows,
            cols,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(area).expect("there are terminals");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_faultline"));
        command.args(args);
        command.cwd(env!("CARGO_MANIFEST_DIR"));
        command.env("TERM", "xterm-256color");
        let child = pair.slave.spawn_command(command).expect("the tool starts");
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().expect("a terminal can be read");
        let (send, bytes) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if send.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let size = |cells| NonZero::new(cells).expect("a terminal has cells");
        Self {
            parser: Parser::new(size(rows), size(cols), 0),
            bytes,
            keys: pair.master.take_writer().expect("a terminal can be written to"),
            child,
            start: Instant::now(),
            _master: pair.master,
        }
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the tool reads its keys");
    }

    /// Waits until the screen is as wanted, and returns it.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let screen = self.parser.screen().contents();
            if wanted(&screen) {
                return screen;
            }
            assert!(
                self.start.elapsed() < LIMIT,
                "{what} never came; the screen was\n{screen}"
            );
            match self.bytes.recv_timeout(Duration::from_millis(200)) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("{what} never came; the tool ended with\n{screen}"),
            }
        }
    }

    /// Waits until a text is on the screen, and returns the screen.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits until the tool ends, and returns its exit status.
    pub fn end(&mut self) -> u32 {
        let status = self.child.wait().expect("the tool can be waited for");
        status.exit_code()
    }
}
