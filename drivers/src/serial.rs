//! A serial port over `uart_16550`: transmit by FIFO bursts, receive byte by byte when the interrupt says so.
//!
//! [`SerialPort::write`] polls: it returns when the last byte is in the device's FIFO. A port that is not there, or
//! whose transmitter never empties, is dropped and swallows what is written, so output never hangs the kernel.

use core::fmt;

use uart_16550::backend::{Backend, PioBackend};
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};

/// Standard I/O addresses of the four serial ports.
pub const COM: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];

/// Polls of a full transmitter before the port counts as dead: seconds on any machine.
const POLL_LIMIT: u32 = 20_000_000;

/// One serial port.
#[derive(Debug)]
pub struct SerialPort<B: Backend = PioBackend> {
    uart: Uart16550<B>,
    alive: bool,
}

impl SerialPort<PioBackend> {
    /// The port at the I/O address `base`; silent until [`SerialPort::start`].
    ///
    /// # Safety
    /// The eight ports from `base` on belong to a serial port or to nothing, and only this value drives them.
    ///
    /// # Panics
    /// If `base + 7` is no port number.
    #[must_use]
    pub const unsafe fn at(base: u16) -> Self {
        // SAFETY: the caller's promise.
        match unsafe { Uart16550::new_port(base) } {
            Ok(uart) => Self { uart, alive: false },
            Err(_) => panic!("a serial port has eight registers"),
        }
    }
}

impl<B: Backend> SerialPort<B> {
    /// A port with its own way to the registers.
    ///
    /// # Safety
    /// As for [`Uart16550::new_with_backend`].
    pub const unsafe fn with_backend(backend: B) -> Self {
        // SAFETY: the caller's promise.
        let uart = unsafe { Uart16550::new_with_backend(backend) };
        Self { uart, alive: false }
    }

    /// Programs 115200 baud, 8 data bits, no parity, FIFOs on, interrupts off. Returns whether there is a port.
    pub fn start(&mut self) -> bool {
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            ..Config::DEFAULT
        };
        self.alive = self.uart.init(config).is_ok();
        self.alive
    }

    /// Whether the port is there and takes bytes.
    pub fn is_alive(&self) -> bool {
        self.alive
    }

    /// Sends all of `bytes`, a FIFO at a time.
    pub fn write(&mut self, mut bytes: &[u8]) {
        let mut polls = 0;
        while self.alive && !bytes.is_empty() {
            let sent = self.uart.send_bytes(bytes);
            bytes = &bytes[sent..];
            polls = if sent == 0 { polls + 1 } else { 0 };
            self.alive = polls < POLL_LIMIT;
        }
    }

    /// Sends what the FIFO takes now, without waiting; returns how much. A port that is not there takes everything.
    pub fn try_write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            if !self.alive {
                return bytes.len();
            }
            match self.uart.send_bytes(&bytes[sent..]) {
                0 => break,
                more => sent += more,
            }
        }
        sent
    }

    /// The next received byte.
    pub fn read(&mut self) -> Option<u8> {
        if self.alive {
            self.uart.try_receive_byte().ok()
        } else {
            None
        }
    }

    /// Raises the port's interrupt line whenever a byte has arrived.
    pub fn enable_receive_interrupt(&mut self) {
        if self.alive {
            self.uart.enable_interrupts(IER::DATA_READY);
        }
    }
}

/// Text for a terminal: line feeds are sent as they are.
impl<B: Backend> fmt::Write for SerialPort<B> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::vec::Vec;

    /// A 16550 whose transmitter needs a few status reads to empty its FIFO.
    #[derive(Debug, Default)]
    struct Device {
        registers: [u8; 8],
        divisor: [u8; 2],
        sent: Vec<u8>,
        received: VecDeque<u8>,
        busy: u32,
        in_fifo: usize,
        bursts: usize,
        stuck: bool,
    }

    #[derive(Debug, Clone)]
    struct Wire(Arc<Mutex<Device>>);

    impl Backend for Wire {
        unsafe fn read(&mut self, offset: u8) -> u8 {
            let mut device = self.0.lock().unwrap();
            match offset {
                0 => device.received.pop_front().unwrap_or(0),
                2 => 0xc1,
                5 => {
                    device.busy = device.busy.saturating_sub(1);
                    let ready = u8::from(!device.received.is_empty());
                    if device.busy > 0 || device.stuck {
                        return ready;
                    }
                    device.in_fifo = 0;
                    0x60 | ready
                }
                other => device.registers[usize::from(other)],
            }
        }

        unsafe fn write(&mut self, offset: u8, value: u8) {
            let mut device = self.0.lock().unwrap();
            let latch = device.registers[3] & 0x80 != 0;
            match offset {
                0 | 1 if latch => device.divisor[usize::from(offset)] = value,
                0 => {
                    assert!(device.in_fifo < 16, "FIFO overrun");
                    device.bursts += usize::from(device.in_fifo == 0);
                    device.in_fifo += 1;
                    device.busy = 5;
                    device.sent.push(value);
                }
                other => device.registers[usize::from(other)] = value,
            }
        }
    }

    fn port() -> (SerialPort<Wire>, Arc<Mutex<Device>>) {
        let device = Arc::new(Mutex::new(Device::default()));
        // SAFETY: the backend is a model.
        let mut port = unsafe { SerialPort::with_backend(Wire(device.clone())) };
        assert!(port.start());
        (port, device)
    }

    #[test]
    fn output_goes_out_in_fifo_bursts() {
        let (mut port, device) = port();
        let text: Vec<u8> = (0..100).collect();
        port.write(&text);
        let device = device.lock().unwrap();
        assert_eq!(device.sent, text);
        assert_eq!(device.bursts, 7);
        assert_eq!(device.divisor, [1, 0]);
    }

    #[test]
    fn output_without_waiting_stops_when_the_fifo_is_full() {
        let (mut port, device) = port();
        let text: Vec<u8> = (0..100).collect();
        let mut sent = 0;
        let mut tries = 0;
        while sent < text.len() {
            sent += port.try_write(&text[sent..]);
            tries += 1;
        }
        assert!(tries > 1, "the device is busy after each burst");
        assert_eq!(device.lock().unwrap().sent, text);
        device.lock().unwrap().stuck = true;
        assert_eq!(port.try_write(&text), 0);
        assert!(port.is_alive());
    }

    #[test]
    fn input_is_read_in_order() {
        let (mut port, device) = port();
        assert_eq!(port.read(), None);
        device.lock().unwrap().received.extend(b"ab");
        port.enable_receive_interrupt();
        assert_eq!((port.read(), port.read(), port.read()), (Some(b'a'), Some(b'b'), None));
        assert_eq!(device.lock().unwrap().registers[1] & 1, 1);
    }

    #[test]
    fn a_dead_port_swallows_output() {
        let (mut port, device) = port();
        device.lock().unwrap().stuck = true;
        port.write(b"x");
        assert!(!port.is_alive());
        port.write(b"y");
        assert_eq!(device.lock().unwrap().sent, b"");
    }

    #[test]
    fn a_port_that_was_not_started_is_silent() {
        let device = Arc::new(Mutex::new(Device::default()));
        // SAFETY: the backend is a model.
        let mut port = unsafe { SerialPort::with_backend(Wire(device.clone())) };
        port.write(b"x");
        assert_eq!(port.read(), None);
        assert!(device.lock().unwrap().sent.is_empty());
    }
}
