//! The terminal: what is typed on the serial line of the programs, as POSIX describes a terminal.
//!
//! ```text
//! receive interrupt ─► queue of bytes ─► task "terminal": line discipline ─► finished bytes ─► read(2)
//!                          wakes ▲          │ echo            │ Ctrl-C, Ctrl-Z: SIGINT, SIGTSTP to the foreground group
//!                                           ▼                 ▼ wakes readers
//! ```
//!
//! The interrupt handler only moves bytes into a lock-free queue and wakes the task; everything else is the task's, and
//! readers are futures that the task wakes. The queue cannot overflow: the handler, its only producer, leaves bytes in the
//! port while there is no room, and the task looks at the port again whenever it has emptied the queue.
//!
//! Without `input=terminal` in the configuration nothing is a terminal: standard input is at its end, or a pipe
//! ([`crate::fs::input`]).

mod settings;

use core::convert::Infallible;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};

use crossbeam_queue::ArrayQueue;
use faultline_executor::{Class, WaitQueue};
use faultline_fallible::{Vec, VecDeque};
use futures_util::task::AtomicWaker;
use linux_raw_sys::general as linux;
use spin::{Mutex, Once};

use self::settings::Settings;
use crate::arch::interrupts;
use crate::console::{self, Channel};
use crate::machine::executor;
use crate::process::{Pid, Process, Thread};
use crate::signal::{Disposition, Signal, SignalInfo, raise};
use crate::syscall::Errno;

pub use settings::TERMIOS;

/// Bytes between the interrupt and the task.
const QUEUE: usize = 1024;

/// Longest line that can be edited.
pub const LINE: usize = 4096;

/// The line of the log that says that input is taken.
const READY: &str = "standard input is a terminal";

static IS_ON: AtomicBool = AtomicBool::new(false);

/// What the interrupt handler leaves for the task, once there is a terminal.
static RECEIVED: Once<ArrayQueue<u8>> = Once::new();

/// The task, while it waits for a byte.
static TASK: AtomicWaker = AtomicWaker::new();

static TERMINAL: Mutex<Terminal> = Mutex::new(Terminal {
    settings: Settings::INITIAL,
    line: Vec::new(),
    finished: VecDeque::new(),
    ends: 0,
    foreground: 0,
    session: 0,
    window: [0; 4],
});

/// Who waits for something to read, or for the foreground.
static INPUT: WaitQueue = WaitQueue::new();

struct Terminal {
    settings: Settings,
    /// The line that is being edited.
    line: Vec<u8>,
    /// What can be read.
    finished: VecDeque<u8>,
    /// Ends of input that nobody has read yet.
    ends: u32,
    /// The process group that gets the signals of keys; 0 for none.
    foreground: Pid,
    /// The session whose terminal it is; 0 for none.
    session: Pid,
    /// Rows, columns, width and height in pixels, as programs set them; nothing here depends on them.
    window: [u16; 4],
}

/// Whether standard input is a terminal.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Makes the serial line of the programs a terminal with a window of so many rows and columns.
pub fn start([rows, columns]: [u16; 2]) {
    {
        let mut terminal = TERMINAL.lock();
        terminal.window = [rows, columns, 0, 0];
        // All that lines ever take, so that nothing that is typed is lost for want of memory.
        let lines = terminal.line.try_reserve_exact(LINE + 1);
        let room = lines.and_then(|()| terminal.finished.try_reserve_exact(4 * LINE + 1));
        room.expect("there is memory for the terminal at the start");
    }
    RECEIVED.call_once(|| ArrayQueue::new(QUEUE));
    IS_ON.store(true, Ordering::Relaxed);
    let task = executor().spawn("terminal", Class::Device, serve());
    task.expect("the first tasks have room").detach();
    interrupts::set_handler(console::listen(Channel::Output), receive);
    receive();
    // The tool waits for this line before it types: what comes before the port is started is lost.
    ::log::info!("{READY}");
}

/// The interrupt handler.
fn receive() {
    take_bytes();
    TASK.wake();
}

/// Takes what the port has, as far as there is room. Nothing interrupts it: interrupts are off in the handler and where the
/// task calls it.
fn take_bytes() {
    let Some(queue) = RECEIVED.get() else { return };
    while !queue.is_full()
        && let Some(byte) = console::read(Channel::Output)
    {
        let pushed = queue.push(byte);
        debug_assert!(pushed.is_ok(), "nobody else pushes");
    }
}

/// The next received byte, for the task.
fn poll_received(context: &mut Context<'_>) -> Poll<u8> {
    let Some(queue) = RECEIVED.get() else {
        return Poll::Pending;
    };
    if let Some(byte) = queue.pop() {
        return Poll::Ready(byte);
    }
    // First the waker, then another look: at the port, too, where bytes may have been left.
    TASK.register(context.waker());
    take_bytes();
    queue.pop().map_or(Poll::Pending, Poll::Ready)
}

/// The task.
async fn serve() -> Infallible {
    loop {
        let byte = poll_fn(poll_received).await;
        let (signal, is_readable) = {
            let mut terminal = TERMINAL.lock();
            let signal = terminal.take(byte).map(|signal| (signal, terminal.foreground));
            (signal, terminal.is_readable())
        };
        if let Some((signal, group)) = signal {
            raise::to_group(group, SignalInfo::kernel(signal));
        }
        if is_readable {
            INPUT.wake_all();
        }
    }
}

impl Terminal {
    fn is_readable(&self) -> bool {
        !self.finished.is_empty() || self.ends > 0
    }

    fn is_in_background(&self, process: &Process) -> bool {
        self.session == process.session() && self.foreground != 0 && self.foreground != process.group()
    }

    /// Takes a byte as the settings say; returns the signal of its key.
    fn take(&mut self, byte: u8) -> Option<Signal> {
        let settings = self.settings;
        let byte = match byte {
            b'\r' if settings.input & linux::ICRNL != 0 => b'\n',
            b'\n' if settings.input & linux::INLCR != 0 => b'\r',
            other => other,
        };
        if settings.has(linux::ISIG) {
            let keys = [
                (linux::VINTR, Signal::SIGINT),
                (linux::VQUIT, Signal::SIGQUIT),
                (linux::VSUSP, Signal::SIGTSTP),
            ];
            if let Some((_, signal)) = keys.into_iter().find(|&(key, _)| settings.is(key, byte)) {
                self.echo(byte);
                self.line.clear();
                return Some(signal);
            }
        }
        if !settings.has(linux::ICANON) {
            self.echo(byte);
            self.finish(&[byte]);
        } else if settings.is(linux::VERASE, byte) || byte == 8 {
            self.erase();
        } else if settings.is(linux::VKILL, byte) {
            while self.erase() {}
        } else if settings.is(linux::VWERASE, byte) {
            while self.line.last() == Some(&b' ') && self.erase() {}
            while self.line.last().is_some_and(|&last| last != b' ') && self.erase() {}
        } else if settings.is(linux::VEOF, byte) {
            if self.line.is_empty() {
                self.ends += 1;
            }
            self.finish_line();
        } else if byte == b'\n' {
            self.echo(byte);
            self.add_to_line(byte);
            self.finish_line();
        } else if self.line.len() < LINE {
            self.echo(byte);
            self.add_to_line(byte);
        }
        None
    }

    /// There is room: it was made at the start.
    fn add_to_line(&mut self, byte: u8) {
        let added = self.line.try_push(byte);
        debug_assert!(added.is_ok());
    }

    /// Takes the last character of the line back; says whether there was one.
    fn erase(&mut self) -> bool {
        // A character of UTF-8 may be several bytes, of which all but the first are marked.
        while self.line.last().is_some_and(|byte| byte & 0xc0 == 0x80) {
            self.line.pop();
        }
        let Some(last) = self.line.pop() else { return false };
        if self.settings.has(linux::ECHO) {
            let cells = if last < 32 || last == 127 { 2 } else { 1 };
            (0..cells).for_each(|_| console::write(Channel::Output, b"\x08 \x08"));
        }
        true
    }

    fn echo(&self, byte: u8) {
        if !self.settings.has(linux::ECHO) {
            return;
        }
        match byte {
            b'\n' => send(self.settings.output, b"\n"),
            b'\t' => send(self.settings.output, b"\t"),
            0..32 | 127 if self.settings.has(linux::ECHOCTL) => {
                send(self.settings.output, &[b'^', byte ^ 0x40]);
                if self.settings.is(linux::VINTR, byte) {
                    send(self.settings.output, b"\n");
                }
            }
            _ => send(self.settings.output, &[byte]),
        }
    }

    fn finish_line(&mut self) {
        let line = core::mem::take(&mut self.line);
        self.finish(&line);
        self.line = line;
        self.line.clear();
    }

    fn finish(&mut self, bytes: &[u8]) {
        if self.finished.len() + bytes.len() <= 4 * LINE {
            let added = self.finished.try_extend_from_slice(bytes);
            debug_assert!(added.is_ok());
        }
    }
}

/// Sends output as the flags say.
fn send(flags: u32, bytes: &[u8]) {
    if flags & linux::OPOST == 0 || flags & linux::ONLCR == 0 {
        console::write(Channel::Output, bytes);
        return;
    }
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                console::write(Channel::Output, text);
                console::write(Channel::Output, b"\r\n");
            }
            None => console::write(Channel::Output, line),
        }
    }
}

/// Sends of what a program writes to the terminal what the port takes now; returns how much.
pub fn try_write(bytes: &[u8]) -> usize {
    let flags = TERMINAL.lock().settings.output;
    if flags & linux::OPOST == 0 || flags & linux::ONLCR == 0 {
        return console::try_write(Channel::Output, bytes);
    }
    let mut sent = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let part = console::try_write(Channel::Output, text);
        sent += part;
        if part < text.len() {
            break;
        }
        if text.len() < line.len() {
            match console::try_write(Channel::Output, b"\r\n") {
                0 => break,
                // The end of the line stays together.
                1 => console::write(Channel::Output, b"\n"),
                _ => {}
            }
            sent += 1;
        }
    }
    sent
}

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBackground;

/// Takes what can be read, at most a line; 0 bytes at an end of input. Pending: wait in [`input`].
///
/// # Errors
/// [`InBackground`] for a process of the terminal's session that is not in the foreground.
pub fn poll_read(process: &Process, buffer: &mut [u8]) -> Poll<Result<usize, InBackground>> {
    let mut terminal = TERMINAL.lock();
    if terminal.is_in_background(process) {
        return Poll::Ready(Err(InBackground));
    }
    if terminal.finished.is_empty() {
        if terminal.ends > 0 {
            terminal.ends -= 1;
            return Poll::Ready(Ok(0));
        }
        return Poll::Pending;
    }
    let is_line = terminal.settings.has(linux::ICANON);
    let mut length = 0;
    while length < buffer.len()
        && let Some(byte) = terminal.finished.pop_front()
    {
        buffer[length] = byte;
        length += 1;
        if is_line && byte == b'\n' {
            break;
        }
    }
    Poll::Ready(Ok(length))
}

/// What a thread has to do before it may change the terminal: nothing in the foreground, or if it does not want `SIGTTOU`.
///
/// # Errors
/// `ERESTARTSYS` when its process group was sent `SIGTTOU`, `EIO` if nobody could continue the group.
pub fn check_change(thread: &Thread) -> Result<(), Errno> {
    let process = &thread.process;
    let unwanted = process.actions.lock().disposition(Signal::SIGTTOU) == Disposition::Ignore
        || thread.signals.lock().blocked.contains(Signal::SIGTTOU);
    if unwanted || !TERMINAL.lock().is_in_background(process) {
        return Ok(());
    }
    Err(raise::for_background(thread, Signal::SIGTTOU))
}

/// What a thread has to do before it may write: nothing, unless the terminal is set to `TOSTOP`.
///
/// # Errors
/// As [`check_change`].
pub fn check_output(thread: &Thread) -> Result<(), Errno> {
    if is_on() && TERMINAL.lock().settings.has(linux::TOSTOP) {
        check_change(thread)
    } else {
        Ok(())
    }
}

/// Whether a read would not wait.
pub fn is_readable() -> bool {
    TERMINAL.lock().is_readable()
}

/// The queue that is woken when a read may not have to wait any more.
pub fn input() -> &'static WaitQueue {
    &INPUT
}

/// Bytes that can be read now.
pub fn readable_bytes() -> usize {
    TERMINAL.lock().finished.len()
}

/// The process group in the foreground.
pub fn foreground() -> Pid {
    TERMINAL.lock().foreground
}

/// Makes the terminal that of a session, unless it has one; its leader's group is in the foreground.
pub fn adopt(session: Pid) {
    let mut terminal = TERMINAL.lock();
    if terminal.session == 0 {
        terminal.session = session;
        terminal.foreground = session;
    }
}

/// Puts a process group into the foreground.
pub fn set_foreground(group: Pid) {
    TERMINAL.lock().foreground = group;
    // Who reads from the background now is told so.
    INPUT.wake_all();
}

/// The size of the window, as `TIOCGWINSZ` passes it: rows, columns, pixels across and down.
pub fn window() -> [u16; 4] {
    TERMINAL.lock().window
}

/// Takes another size of the window; the group in the foreground learns of a change by `SIGWINCH`.
pub fn set_window(window: [u16; 4]) {
    let (before, foreground) = {
        let mut terminal = TERMINAL.lock();
        (core::mem::replace(&mut terminal.window, window), terminal.foreground)
    };
    if before != window {
        raise::to_group(foreground, SignalInfo::kernel(Signal::SIGWINCH));
    }
}

/// The settings, as `TCGETS` passes them.
pub fn settings() -> [u8; TERMIOS] {
    TERMINAL.lock().settings.to_bytes()
}

/// Takes settings, as `TCSETS` passes them.
pub fn set_settings(bytes: &[u8; TERMIOS], forget_input: bool) {
    let mut terminal = TERMINAL.lock();
    let was_line = terminal.settings.has(linux::ICANON);
    terminal.settings = Settings::from_bytes(bytes);
    if forget_input {
        terminal.line.clear();
        terminal.finished.clear();
    } else if was_line && !terminal.settings.has(linux::ICANON) {
        // What is half typed can be read at once.
        terminal.finish_line();
        drop(terminal);
        INPUT.wake_all();
    }
}
