//! One port of a virtio serial device: whole buffers out, without copying them, and short messages in.
//!
//! The device is virtio's "console" with several ports (virtio 1.2, section 5.3). Port 0 belongs to a console, so the
//! port here is number 1, the first of the others. Nothing waits and nothing interrupts: the caller hands over a buffer
//! with [`VirtioPort::send`], and gets it back from [`VirtioPort::reclaim`] when the device is done with it. The device
//! takes buffers in their order.
//!
//! A machine may have several such devices. The name that the device gives to the port (virtio's event `PORT_NAME`) says
//! what it is for: [`VirtioPort::name`].

use core::ptr::NonNull;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::{Error, Hal};

/// Several ports (feature bit 1), and the modern interface (bit 32).
const MULTIPORT: u64 = 1 << 1;
const VERSION_1: u64 = 1 << 32;

const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
const RECEIVE: u16 = 4;
const TRANSMIT: u16 = 5;

/// Our port.
const PORT: u32 = 1;

/// Events of the control queue.
const DEVICE_READY: u16 = 0;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Buffers that can be on their way at once.
pub const DEPTH: usize = 64;

/// A message of the control queue: port, event, value.
type Control = [u8; CONTROL];
const CONTROL: usize = 8;

/// Messages of the device that are read: that there is a port, its name, and that the host has opened it.
const ANSWERS: usize = 4;

/// Bytes of a message with a name, of which longer ones lose their end.
const ANSWER: usize = 64;

/// Bytes at the start of the memory for what comes in that belong to the device's answers for good.
pub const ANSWERS_SIZE: usize = ANSWERS * ANSWER;

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const MULTIPORT = MULTIPORT;
        const VERSION_1 = VERSION_1;
    }
}

/// The port.
#[derive(Debug)]
pub struct VirtioPort<H: Hal, T: Transport> {
    transport: T,
    transmit: VirtQueue<H, DEPTH>,
    receive: VirtQueue<H, 4>,
    /// What is on its way, the oldest at `oldest`.
    sent: [Option<(u16, NonNull<[u8]>)>; DEPTH],
    oldest: usize,
    in_flight: usize,
    name: [u8; ANSWER - CONTROL],
    /// The buffer for what comes in, and its token.
    inbox: NonNull<[u8]>,
    expected: u16,
}

// SAFETY: the pointers are to buffers that the port owns while it has them, from whatever CPU it is used.
unsafe impl<H: Hal, T: Transport + Send> Send for VirtioPort<H, T> {}

impl<H: Hal, T: Transport> VirtioPort<H, T> {
    /// Starts the device and opens the port. `inbox` is for what the host sends, all but the first [`ANSWERS_SIZE`] bytes.
    ///
    /// # Errors
    /// The device does not have several ports, or its queues are too short; `inbox` is too small.
    pub fn new(mut transport: T, inbox: &'static mut [u8]) -> Result<Self, Error> {
        let (answers, inbox) = inbox.split_at_mut_checked(ANSWERS_SIZE).ok_or(Error::InvalidParam)?;
        let features = transport.begin_init(Features::all());
        if features != Features::all() {
            return Err(Error::Unsupported);
        }
        let mut answered = VirtQueue::<H, ANSWERS>::new(&mut transport, CONTROL_RECEIVE, false, false)?;
        let mut control = VirtQueue::<H, 4>::new(&mut transport, CONTROL_TRANSMIT, false, false)?;
        let mut receive = VirtQueue::<H, 4>::new(&mut transport, RECEIVE, false, false)?;
        let mut transmit = VirtQueue::<H, DEPTH>::new(&mut transport, TRANSMIT, false, false)?;
        // Nobody listens to interrupts of this device, and the line may be shared with one to which somebody does.
        answered.set_dev_notify(false);
        control.set_dev_notify(false);
        receive.set_dev_notify(false);
        transmit.set_dev_notify(false);
        transport.finish_init();
        for answer in answers.chunks_exact_mut(ANSWER) {
            // SAFETY: the buffer lives for ever, and is not touched before the device has given it back. One that it never
            // gives back is never touched again.
            unsafe { answered.add(&[], &mut [&mut *core::ptr::from_mut(answer)]) }?;
        }
        transport.notify(CONTROL_RECEIVE);
        for (event, value) in [(DEVICE_READY, 1), (PORT_READY, 1), (PORT_OPEN, 1)] {
            let message = control_message(event, value);
            control.add_notify_wait_pop(&[&message], &mut [], &mut transport)?;
        }
        let name = name_of(&mut answered, answers);
        let inbox = NonNull::from(inbox);
        // SAFETY: the buffer lives for ever, and is not touched before `pop_used` has given it back.
        let expected = unsafe { receive.add(&[], &mut [&mut *inbox.as_ptr()]) }?;
        transport.notify(RECEIVE);
        Ok(Self {
            transport,
            transmit,
            receive,
            sent: [None; DEPTH],
            oldest: 0,
            in_flight: 0,
            name,
            inbox,
            expected,
        })
    }

    /// The name that the device has given to the port; empty if none.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|&byte| byte == 0);
        &self.name[..end.unwrap_or(self.name.len())]
    }

    /// Hands a buffer to the device.
    ///
    /// # Errors
    /// There are [`DEPTH`] buffers on their way already.
    ///
    /// # Safety
    /// The buffer is not empty, valid, and nobody writes to it until [`VirtioPort::reclaim`] has returned it.
    pub unsafe fn send(&mut self, buffer: NonNull<[u8]>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let token = unsafe { self.transmit.add(&[buffer.as_ref()], &mut []) }?;
        self.sent[(self.oldest + self.in_flight) % DEPTH] = Some((token, buffer));
        self.in_flight += 1;
        if self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
        Ok(())
    }

    /// Takes back the oldest buffer that was sent, if the device is done with it.
    pub fn reclaim(&mut self) -> Option<NonNull<[u8]>> {
        let (token, buffer) = self.sent[self.oldest].filter(|_| self.transmit.can_pop())?;
        // SAFETY: these are the token and the buffer of one `add`, and the buffer is still valid.
        unsafe { self.transmit.pop_used(token, &[buffer.as_ref()], &mut []) }.ok()?;
        self.sent[self.oldest] = None;
        self.oldest = (self.oldest + 1) % DEPTH;
        self.in_flight -= 1;
        Some(buffer)
    }

    /// Whether the device has taken everything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Gives what the host has sent to `take`, and makes room for more. Returns whether there was anything.
    pub fn receive(&mut self, take: impl FnOnce(&[u8])) -> bool {
        if !self.receive.can_pop() {
            return false;
        }
        // SAFETY: these are the token and the buffer of the last `add`, and the buffer lives for ever.
        let length = unsafe {
            let inbox = &mut *self.inbox.as_ptr();
            self.receive.pop_used(self.expected, &[], &mut [inbox])
        };
        // SAFETY: the device has given the buffer back.
        let inbox = unsafe { &mut *self.inbox.as_ptr() };
        if let Ok(length) = length {
            take(&inbox[..inbox.len().min(length as usize)]);
        }
        // SAFETY: as in `new`.
        if let Ok(token) = unsafe { self.receive.add(&[], &mut [inbox]) } {
            self.expected = token;
            self.transport.notify(RECEIVE);
        }
        true
    }
}

/// The name of the port among the device's answers, zeros behind it. The device answers what it was told before it gives
/// the message back, so its answers are there.
fn name_of<H: Hal>(answered: &mut VirtQueue<H, ANSWERS>, answers: &mut [u8]) -> [u8; ANSWER - CONTROL] {
    let mut name = [0; ANSWER - CONTROL];
    while let Some(token) = answered.peek_used() {
        let Some(answer) = answers.chunks_exact_mut(ANSWER).nth(usize::from(token)) else {
            break;
        };
        // SAFETY: buffers have the tokens 0 to 3 in their order, as each takes one descriptor of a queue that was empty.
        let Ok(length) = (unsafe { answered.pop_used(token, &[], &mut [answer]) }) else {
            break;
        };
        if let Some(found) = named(&answer[..answer.len().min(length as usize)]) {
            name[..found.len()].copy_from_slice(found);
        }
    }
    name
}

/// The name in an answer, if there is one.
fn named(answer: &[u8]) -> Option<&[u8]> {
    let (head, name) = answer.split_at_checked(CONTROL)?;
    (head[..6] == control_message(PORT_NAME, 0)[..6]).then_some(name)
}

fn control_message(event: u16, value: u16) -> Control {
    let mut message = [0; 8];
    message[..4].copy_from_slice(&PORT.to_le_bytes());
    message[4..6].copy_from_slice(&event.to_le_bytes());
    message[6..].copy_from_slice(&value.to_le_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_message_names_port_event_and_value() {
        assert_eq!(control_message(PORT_OPEN, 1), [1, 0, 0, 0, 6, 0, 1, 0]);
    }

    #[test]
    fn a_name_is_that_of_the_port() {
        assert_eq!(named(&[1, 0, 0, 0, 7, 0, 1, 0, b'a', b'b']), Some(&b"ab"[..]));
        assert_eq!(named(&[2, 0, 0, 0, 7, 0, 1, 0, b'a']), None);
        assert_eq!(named(&[1, 0, 0, 0, 6, 0, 1, 0]), None);
        assert_eq!(named(&[1, 0]), None);
    }
}
