//! Standard input as a pipe: what comes on the port of standard output, for `input=pipe`.
//!
//! Nothing is taken from the port before a program reads, so that a program which never reads is not interrupted, and its
//! run repeats exactly. From then on bytes stay in the port until somebody wants them: the port holds the sender up, so no
//! byte is lost and none is kept in memory. An end of input cannot be seen on a serial line; it is an escape:
//!
//! | bytes | meaning |
//! |---|---|
//! | `10 10` | the byte 16 |
//! | `10 45` | there is no more |

use core::convert::Infallible;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;

use faultline_executor::{Class, WaitQueue};
use futures_util::task::AtomicWaker;
use spin::Mutex;

use crate::arch::interrupts;
use crate::console::{self, Channel};
use crate::machine::executor;

/// The byte that begins an escape.
const ESCAPE: u8 = 0x10;

/// The byte that makes an escape the end of input.
const END: u8 = b'E';

/// The line of the log that says that input is taken.
const READY: &str = "standard input is a pipe";

static IS_ON: AtomicBool = AtomicBool::new(false);
static LISTENS: AtomicBool = AtomicBool::new(false);

/// The task that wakes the readers, while it has nothing to do; and that it has.
static TASK: AtomicWaker = AtomicWaker::new();
static HAS_COME: AtomicBool = AtomicBool::new(false);

/// Who waits for a byte, or for the end.
static READERS: WaitQueue = WaitQueue::new();

static INPUT: Mutex<Input> = Mutex::new(Input {
    next: None,
    is_escaped: false,
    has_ended: false,
});

/// How far the stream has come.
struct Input {
    /// A byte that was looked at and not read yet.
    next: Option<u8>,
    /// The last byte began an escape.
    is_escaped: bool,
    /// There is no more.
    has_ended: bool,
}

impl Input {
    /// The next byte, if it is there.
    fn byte(&mut self) -> Option<u8> {
        if let Some(byte) = self.next.take() {
            return Some(byte);
        }
        while !self.has_ended {
            let byte = console::read(Channel::Output)?;
            match (self.is_escaped, byte) {
                (false, ESCAPE) => self.is_escaped = true,
                (true, END) => self.has_ended = true,
                _ => {
                    self.is_escaped = false;
                    return Some(byte);
                }
            }
        }
        None
    }
}

/// Makes standard input a pipe.
pub fn start() {
    IS_ON.store(true, Ordering::Relaxed);
    let task = executor().spawn("input", Class::Device, serve());
    task.expect("the first tasks have room").detach();
}

/// Wakes the readers when something has come, which the interrupt handler must not do itself.
async fn serve() -> Infallible {
    loop {
        poll_fn(|context| {
            TASK.register(context.waker());
            match HAS_COME.swap(false, Ordering::Relaxed) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        READERS.wake_all();
    }
}

/// Whether standard input is a pipe.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Begins to listen, at the first read.
fn listen() {
    if !LISTENS.swap(true, Ordering::Relaxed) {
        interrupts::set_handler(console::listen(Channel::Output), arrived);
        // The tool waits for this line before it sends: what comes before the port is started is lost.
        ::log::info!("{READY}");
    }
}

/// The interrupt handler. The byte stays in the port: whoever is woken takes it.
fn arrived() {
    HAS_COME.store(true, Ordering::Relaxed);
    TASK.wake();
}

/// Takes what has come; 0 bytes at the end of input. Pending: wait in [`readers`].
pub fn poll_read(to: &mut [u8]) -> Poll<usize> {
    listen();
    let mut input = INPUT.lock();
    let mut length = 0;
    while length < to.len()
        && let Some(byte) = input.byte()
    {
        to[length] = byte;
        length += 1;
    }
    if length == 0 && !input.has_ended {
        Poll::Pending
    } else {
        Poll::Ready(length)
    }
}

/// Whether a read would not wait.
pub fn is_readable() -> bool {
    listen();
    let mut input = INPUT.lock();
    input.next = input.byte();
    input.next.is_some() || input.has_ended
}

/// Who waits to read.
pub fn readers() -> &'static WaitQueue {
    &READERS
}
