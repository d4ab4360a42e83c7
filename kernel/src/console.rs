//! The four serial ports and what goes where.
//!
//! | Port | Carries |
//! |---|---|
//! | COM1 | kernel log and text trace |
//! | COM2 | the programs' standard output, raw; and what is typed |
//! | COM3 | the programs' standard error, raw |
//! | COM4 | the machine-readable report |
//!
//! Where the machine has virtio serial ports for them, the programs' output and error go there instead
//! ([`crate::output`]). With `console=com1`, or where a port is missing, its bytes go to COM1.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use faultline_drivers::serial::{COM, SerialPort};
use spin::Mutex;

use crate::output;

/// What is written, by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Kernel log and text trace.
    Log = 0,
    /// Standard output of programs.
    Output = 1,
    /// Standard error of programs.
    Error = 2,
    /// The report at the end of a run.
    Report = 3,
}

/// How many ports there are.
pub const PORTS: usize = 4;

// SAFETY: the addresses are those of the PC's serial ports, and only these statics drive them.
static SERIAL: [Mutex<SerialPort>; PORTS] = unsafe {
    [
        Mutex::new(SerialPort::at(COM[0])),
        Mutex::new(SerialPort::at(COM[1])),
        Mutex::new(SerialPort::at(COM[2])),
        Mutex::new(SerialPort::at(COM[3])),
    ]
};

static SPLIT: AtomicBool = AtomicBool::new(false);

/// Starts COM1; everything goes there until [`split`].
pub fn start() {
    SERIAL[0].lock().start();
}

/// Starts the other ports and gives each channel its own, as far as they are there.
pub fn split() {
    for port in &SERIAL[1..] {
        port.lock().start();
    }
    SPLIT.store(true, Relaxed);
}

/// Sends `bytes` on `channel`; returns when the last byte is in the port's FIFO.
pub fn write(channel: Channel, bytes: &[u8]) {
    if output::is_on(channel) {
        output::write(channel, bytes);
    } else {
        with(channel, |port| port.write(bytes));
    }
}

/// Sends what the port of `channel` takes now; returns how much.
pub fn try_write(channel: Channel, bytes: &[u8]) -> usize {
    if output::is_on(channel) {
        output::try_write(channel, bytes)
    } else {
        with(channel, |port| port.try_write(bytes))
    }
}

/// Which port carries `channel`.
pub fn port_of(channel: Channel) -> usize {
    let own = channel as usize;
    if output::is_on(channel) || SPLIT.load(Relaxed) && SERIAL[own].lock().is_alive() {
        own
    } else {
        0
    }
}

/// The next byte that has arrived on `channel`'s port.
pub fn read(channel: Channel) -> Option<u8> {
    with(channel, SerialPort::read)
}

/// Has the port of `channel` raise an interrupt whenever a byte arrives; says on which line.
pub fn listen(channel: Channel) -> u8 {
    with(channel, SerialPort::enable_receive_interrupt);
    // COM1 and COM3 have line 4, COM2 and COM4 line 3.
    let own = SPLIT.load(Relaxed) && SERIAL[channel as usize].lock().is_alive();
    if own && channel as usize % 2 == 1 { 3 } else { 4 }
}

/// Calls `act` with a writer to `channel`, which nobody else uses meanwhile.
pub fn with_writer(channel: Channel, act: impl FnOnce(&mut dyn Write)) {
    with(channel, |port| act(port));
}

/// Sends formatted text on `channel` in one piece.
pub fn print(channel: Channel, text: fmt::Arguments<'_>) {
    // The port's writer never fails.
    with(channel, |port| {
        let _ = port.write_fmt(text);
    });
}

fn with<R>(channel: Channel, act: impl FnOnce(&mut SerialPort) -> R) -> R {
    if channel != Channel::Log && SPLIT.load(Relaxed) {
        let mut port = SERIAL[channel as usize].lock();
        if port.is_alive() {
            return act(&mut port);
        }
    }
    act(&mut SERIAL[0].lock())
}

/// COM1 for the last words of a failing kernel: taken even if its owner was interrupted while using it.
pub fn last_words(text: fmt::Arguments<'_>) {
    // SAFETY: the kernel is about to end, no other code runs again, and a port's registers are valid in any state.
    unsafe { SERIAL[0].force_unlock() };
    print(Channel::Log, text);
}
