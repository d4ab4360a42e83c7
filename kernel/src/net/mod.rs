//! Sockets: of `AF_UNIX`, and of `AF_INET` and `AF_INET6` inside the machine.
//!
//! A [`Socket`] has a queue of what was sent to it ([`inbox`]), a state with its names and its peer ([`socket`]), and options
//! ([`options`]). Whoever sends puts a message into the queue of another socket, so there is no network in between: TCP and UDP
//! on the loopback addresses are the same two queues with other names and other errors. `docs/system-calls.md` says why no
//! TCP stack is there.
//!
//! # Locks
//!
//! Each socket has two: of its state and of its inbox. Nobody holds two locks of sockets at a time, with one exception:
//! the search for garbage ([`rights`]), which has its own lock first. A lock of a socket is never held while an open file is
//! dropped, for that may be the end of another socket.
//!
//! # Waiting
//!
//! Who receives, or accepts, waits in [`Socket::receivers`]; who sends, or connects to a socket whose backlog is full, in
//! `senders` of the socket that has no room. Both look again when they are in the queue. Who polls waits in a third queue,
//! which is woken as a whole whenever an event may have come to hold.

pub mod address;
pub mod connection;
pub mod inbox;
pub mod names;
pub mod options;
pub mod rights;
pub mod sent;
pub mod socket;
pub mod transfer;

pub use address::{Address, Endpoint};
pub use socket::{Family, Socket, SocketEnd, Style};

/// Bytes of messages that one socket can have on their way, unless it asks for more or less.
pub const USUAL_BUFFER: usize = 212_992;

/// Most messages in one inbox; who sends one more waits, or it is lost, as the kind of socket says.
pub const MOST_MESSAGES: usize = 512;

/// Most connections that wait to be accepted.
pub const MOST_PENDING: usize = 1024;
