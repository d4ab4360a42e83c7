//! `top` as a person uses it: on a terminal, by its keys, with a kernel that runs underneath.

use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use vt100::Parser;

/// Ends a test that hangs; far beyond what it takes.
const LIMIT: Duration = Duration::from_secs(400);

/// The tool on a terminal.
struct Terminal {
    parser: Parser,
    bytes: Receiver<Vec<u8>>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    start: Instant,
    // The terminal is there for as long as this is.
    _master: Box<dyn portable_pty::MasterPty + Send>,
}

impl Terminal {
    fn open(args: &[&str]) -> Self {
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

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the tool reads its keys");
    }

    /// Waits until the screen is as wanted, and returns it.
    fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
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

    fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }
}

#[test]
fn a_running_kernel_is_watched_and_a_task_killed() {
    let mut terminal = Terminal::open(&["top", "--timeout", "300", "kill", "--children", "1000000000"]);
    // The program's first task waits for children, and children fault.
    terminal.wait("the first task", |screen| {
        let first = screen
            .lines()
            .find(|line| line.contains(" kill ") && line.starts_with("│1 "));
        first.is_some_and(|line| line.contains("call") || line.contains("ready"))
    });
    let screen = terminal.wait("faults", |screen| {
        screen.contains("demand-zero")
            && screen
                .lines()
                .any(|line| line.contains("kill") && line.contains("page 0x"))
    });
    assert!(screen.contains("in flight") && screen.contains("zeroed") && screen.contains("not needed"));

    terminal.press("s");
    terminal.wait_for("tasks by faults/s");
    terminal.press("/no such task\r");
    terminal.wait_for(" 0 tasks by faults/s, with \"no such task\"");
    terminal.press("/\x1b");
    terminal.wait("all tasks", |screen| {
        !screen.contains("with \"") && !screen.contains(" 0 tasks")
    });
    terminal.press("p");
    terminal.wait_for("paused");
    terminal.press("p");
    terminal.wait("the view going on", |screen| !screen.contains("paused"));

    // By number again, so that the first row is the program; its end is the machine's.
    terminal.press("ssss");
    terminal.wait_for("tasks by task");
    terminal.press("\x1b[B");
    terminal.press("k");
    terminal.wait_for("killed process 1 kill");
    terminal.wait_for("the machine has ended");
    terminal.press("q");
    let status = terminal.child.wait().expect("the tool can be waited for");
    assert!(status.success(), "{status:?}");
}

#[test]
fn leaving_ends_a_machine_that_runs() {
    let mut terminal = Terminal::open(&["top", "--timeout", "300", "kill", "--children", "1000000000"]);
    terminal.wait_for("demand-zero");
    terminal.press("q");
    let status = terminal.child.wait().expect("the tool can be waited for");
    assert!(status.success(), "{status:?}");
}

#[test]
fn without_a_terminal_it_refuses_politely() {
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .arg("top")
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("top draws on a terminal") && message.contains("--report"),
        "{message}"
    );
}
