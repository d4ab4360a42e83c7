//! A socket: its state, its events and its end.
//!
//! ```text
//!          connect                      peer closes, shutdown
//!   Fresh ---------> Connected ------------------------------> Connected, with bits in `over`
//!     |  listen
//!     +---------> Listening --- accept: a socket that is Connected
//!   any --- the last descriptor is closed: Closed
//! ```
//!
//! Two sockets that are connected hold each other. The circle ends when one of them is closed, for it lets go of the other;
//! a connection that was not accepted is closed with the socket in whose backlog it waits.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll};

use faultline_executor::WaitQueue;
use faultline_fallible::{Arc, VecDeque};
use linux_raw_sys::general as linux;
use linux_raw_sys::net;
use spin::{Mutex, MutexGuard};

use super::inbox::{Credentials, Inbox};
use super::options::Options;
use super::sent::Sent;
use super::{Address, Endpoint, names, rights};
use crate::fs::file::{File, INPUT, OUTPUT, Transfer, Written};
use crate::syscall::Errno;

/// The family of a socket's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `AF_UNIX`.
    Unix,
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

impl Family {
    /// The `AF_*` number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Unix => net::AF_UNIX,
            Self::Inet => net::AF_INET,
            Self::Inet6 => net::AF_INET6,
        }
    }
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// `SOCK_STREAM`: bytes, of TCP on the network.
    Stream,
    /// `SOCK_DGRAM`: messages to anybody, of UDP on the network.
    Datagram,
    /// `SOCK_SEQPACKET`: messages to a peer.
    Packet,
}

impl Style {
    /// The `SOCK_*` number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Stream => net::SOCK_STREAM,
            Self::Datagram => net::SOCK_DGRAM,
            Self::Packet => net::SOCK_SEQPACKET,
        }
    }
}

/// Nothing comes in any more.
pub const NO_INPUT: u8 = 1;

/// Nothing goes out any more.
pub const NO_OUTPUT: u8 = 2;

/// A socket.
pub struct Socket {
    /// The family of its names.
    pub family: Family,
    /// What it carries.
    pub style: Style,
    /// Its number, which no other has.
    pub number: u64,
    /// What programs have set.
    pub options: Options,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    /// [`NO_INPUT`] and [`NO_OUTPUT`].
    over: AtomicU8,
    /// The error that the next call on it reports; 0 for none.
    error: AtomicU32,
    /// What it has sent and nobody has received.
    pub sent: Sent,
    /// Threads that wait for a message or a connection.
    pub receivers: WaitQueue,
    /// Threads that wait for room: here for their messages, in a listening socket for their connections.
    pub senders: WaitQueue,
    polls: WaitQueue,
}

/// What is under the lock.
pub struct State {
    /// What it is doing.
    pub role: Role,
    /// Its own name.
    pub local: Address,
    /// The other end.
    pub peer: Option<Arc<Socket>>,
    /// Of a datagram socket of the network: where it is connected to.
    pub remote: Option<Endpoint>,
    /// Who was at the other end when it was connected, or listens at this one.
    pub credentials: Option<Credentials>,
}

/// What a socket is doing.
pub enum Role {
    /// Nothing yet.
    Fresh,
    /// A thread connects it.
    Connecting,
    /// It has a peer. The result of a `connect` that did not wait is still `unreported`.
    Connected {
        /// See above.
        unreported: bool,
    },
    /// It takes connections.
    Listening {
        /// Those that were not accepted yet.
        backlog: VecDeque<Arc<Socket>>,
        /// How many there may be.
        most: usize,
    },
    /// It has no descriptor any more.
    Closed,
}

impl Socket {
    /// A socket that does nothing yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(family: Family, style: Style) -> Result<Arc<Self>, Errno> {
        Self::with(family, style, Options::new(), Address::Unnamed)
    }

    /// The socket of a connection to one that listens, which was `reached` under a name of its own.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn accepted(listening: &Self, reached: Option<Endpoint>) -> Result<Arc<Self>, Errno> {
        let local = reached.map_or_else(|| listening.local(), Address::Inet);
        Self::with(listening.family, listening.style, listening.options.inherit(), local)
    }

    fn with(family: Family, style: Style, options: Options, local: Address) -> Result<Arc<Self>, Errno> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Ok(Arc::try_new(Self {
            family,
            style,
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            options,
            state: Mutex::new(State {
                role: Role::Fresh,
                local,
                peer: None,
                remote: None,
                credentials: None,
            }),
            inbox: Mutex::new(Inbox::new()),
            over: AtomicU8::new(0),
            error: AtomicU32::new(0),
            sent: Sent::default(),
            receivers: WaitQueue::new(),
            senders: WaitQueue::new(),
            polls: WaitQueue::new(),
        })?)
    }

    /// Its state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What was sent to it.
    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    /// The queue of those who poll.
    pub fn polls(&self) -> &WaitQueue {
        &self.polls
    }

    /// Whether it is a stream, or messages to one peer.
    pub fn is_connection(&self) -> bool {
        self.style != Style::Datagram
    }

    /// Whether it is of `AF_UNIX`.
    pub fn is_unix(&self) -> bool {
        self.family == Family::Unix
    }

    /// The other end.
    pub fn peer(&self) -> Option<Arc<Socket>> {
        self.state.lock().peer.clone()
    }

    /// Its own name.
    pub fn local(&self) -> Address {
        self.state.lock().local.clone()
    }

    /// Which directions are over.
    pub fn over(&self) -> u8 {
        self.over.load(Ordering::Acquire)
    }

    /// Takes the error that it has to report.
    pub fn take_error(&self) -> Option<Errno> {
        // A load first: usually there is none.
        match self.error.load(Ordering::Relaxed) {
            0 => None,
            _ => Errno::kept(self.error.swap(0, Ordering::AcqRel)),
        }
    }

    /// The next call reports an error.
    pub fn set_error(&self, errno: Errno) {
        self.error.store(errno.number(), Ordering::Release);
    }

    /// Takes the error, or nothing if there is none.
    ///
    /// # Errors
    /// The error.
    pub fn check_error(&self) -> Result<(), Errno> {
        self.take_error().map_or(Ok(()), Err)
    }

    /// Ends directions, and tells everybody who waits here.
    pub fn end(&self, directions: u8) {
        self.over.fetch_or(directions, Ordering::AcqRel);
        self.wake_everybody();
    }

    /// Both directions are open again, before another try to connect.
    pub fn begin_again(&self) {
        self.over.store(0, Ordering::Release);
    }

    fn wake_everybody(&self) {
        self.receivers.wake_all();
        self.senders.wake_all();
        self.polls.wake_all();
    }

    /// There is something to receive, or to accept.
    pub fn announce(&self) {
        self.receivers.wake_one();
        self.polls.wake_all();
    }

    /// Messages that it has sent were received, which counted as so much.
    pub fn got_through(&self, cost: usize) {
        if self.sent.remove(cost, self.options.send_buffer()) {
            self.may_send();
        }
    }

    /// There is room for what it wants to send.
    pub fn may_send(&self) {
        self.senders.wake_all();
        self.polls.wake_all();
    }

    /// Calls `each` with the connections that wait to be accepted.
    pub fn for_each_pending(&self, each: &mut dyn FnMut(&Socket)) {
        if let Role::Listening { backlog, .. } = &self.state.lock().role {
            backlog.iter().for_each(|socket| each(socket));
        }
    }

    /// Its last descriptor is closed, or it was never accepted.
    pub fn close(this: &Arc<Self>, was_accepted: bool) {
        names::forget(this);
        let (role, peer) = {
            let mut state = this.state.lock();
            (core::mem::replace(&mut state.role, Role::Closed), state.peer.take())
        };
        this.over.store(NO_INPUT | NO_OUTPUT, Ordering::Release);
        let left = this.inbox.lock().close();
        let was_unread = left.give_back();
        if let Some(peer) = peer.filter(|_| this.is_connection()) {
            let is_reset = was_unread || !was_accepted || !this.is_unix() && this.options.resets();
            if is_reset {
                peer.set_error(Errno::ECONNRESET);
            }
            // A peer on the network can go on to send, and learns then that nobody is there.
            let is_whole = is_reset || this.is_unix();
            peer.end(if is_whole { NO_INPUT | NO_OUTPUT } else { NO_INPUT });
        }
        if let Role::Listening { backlog, .. } = role {
            for pending in backlog {
                Self::close(&pending, false);
            }
        }
        this.wake_everybody();
    }

    /// The bits of `poll` for a stream that is connected, or once was.
    fn connection_events(&self, is_connected: bool) -> u32 {
        let over = self.over();
        let is_input = !self.inbox.lock().is_empty() || over & NO_INPUT != 0;
        let mut events = if is_input { INPUT } else { 0 };
        if over & NO_INPUT != 0 {
            events |= linux::POLLRDHUP;
        }
        if over == NO_INPUT | NO_OUTPUT || !is_connected {
            events |= linux::POLLHUP;
        }
        if self.sent.is_writable(self.options.send_buffer()) || over & NO_OUTPUT != 0 {
            events |= OUTPUT;
        }
        events
    }

    fn datagram_events(&self, peer: Option<Arc<Socket>>) -> u32 {
        let over = self.over();
        let is_input = !self.inbox.lock().is_empty() || over & NO_INPUT != 0;
        let mut events = if is_input { INPUT } else { 0 };
        if over & NO_INPUT != 0 {
            events |= linux::POLLRDHUP;
        }
        if over == NO_INPUT | NO_OUTPUT {
            events |= linux::POLLHUP;
        }
        // Whoever finds the peer full is told when it is not, after a try to send.
        let has_room = peer.is_none_or(|peer| !self.is_unix() || !peer.inbox.lock().is_full());
        if has_room && self.sent.is_writable(self.options.send_buffer()) {
            events |= OUTPUT;
        }
        events
    }
}

/// The descriptor's side of a socket: with it the socket is closed.
pub struct SocketEnd(pub Arc<Socket>);

impl Drop for SocketEnd {
    fn drop(&mut self) {
        Socket::close(&self.0, true);
        rights::socket_was_closed();
    }
}

impl File for SocketEnd {
    fn poll_read(&self, _: Transfer<'_>, to: &mut [u8], context: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        self.0.poll_receive(to, context)
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        // Who writes to a socket sends, which takes memory of its own: `transfer::send`.
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn events(&self) -> u32 {
        enum Kind {
            Listening(bool),
            Connection(bool),
            Datagram(Option<Arc<Socket>>),
        }
        let socket = &self.0;
        let kind = {
            let state = socket.state.lock();
            match &state.role {
                Role::Listening { backlog, .. } => Kind::Listening(!backlog.is_empty()),
                _ if !socket.is_connection() => Kind::Datagram(state.peer.clone()),
                role => Kind::Connection(matches!(role, Role::Connected { .. })),
            }
        };
        let events = match kind {
            Kind::Listening(any) => {
                let over = socket.over();
                let mut events = if any || over & NO_INPUT != 0 { INPUT } else { 0 };
                if over & NO_INPUT != 0 {
                    events |= linux::POLLRDHUP;
                }
                if over == NO_INPUT | NO_OUTPUT {
                    events |= linux::POLLHUP;
                }
                events
            }
            Kind::Connection(is_connected) => socket.connection_events(is_connected),
            Kind::Datagram(peer) => socket.datagram_events(peer),
        };
        match socket.error.load(Ordering::Acquire) {
            0 => events,
            _ => events | linux::POLLERR,
        }
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.0.polls)
    }

    fn has_offsets(&self) -> bool {
        false
    }

    fn length(&self) -> u64 {
        0
    }
}
