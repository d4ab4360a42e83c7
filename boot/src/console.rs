//! The stage's only output: one line on COM1 when it fails, then the end of QEMU.

use core::fmt::{Arguments, Write};

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::hlt;
use x86_64::instructions::port::Port;

/// What the stage writes to the debug-exit device when it cannot enter the kernel.
pub const FAILED: u32 = 0x12;

const COM1: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;

struct Line(Option<Uart16550<PioBackend>>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if let Some(port) = &mut self.0 {
            port.send_bytes_exact(text.as_bytes());
        }
        Ok(())
    }
}

/// Prints `boot: message` and ends QEMU with [`FAILED`]; without a debug-exit device the CPU halts.
pub fn fail(message: Arguments<'_>) -> ! {
    // SAFETY: COM1 is at its standard address and nothing else runs.
    let mut port = unsafe { Uart16550::new_port(COM1) }.ok();
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    };
    if port.as_mut().is_some_and(|port| port.init(config).is_err()) {
        port = None;
    }
    // `Line` never returns an error.
    let _ = writeln!(Line(port), "boot: {message}");
    // SAFETY: a write to this port ends QEMU when it has the device, and does nothing when it has not.
    unsafe { Port::new(DEBUG_EXIT).write(FAILED) };
    loop {
        hlt();
    }
}
