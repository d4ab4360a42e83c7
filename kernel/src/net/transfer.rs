//! Messages from one socket to another. Nothing here waits or knows of user memory.

use core::task::{Context, Poll};

use faultline_fallible::{Arc, Box};

use super::inbox::{Message, Received, Refusal, Wish};
use super::rights::Rights;
use super::socket::{NO_INPUT, NO_OUTPUT, Role};
use super::{Endpoint, Socket, Style, names};
use crate::syscall::Errno;

/// Why a message was not sent; it comes back for the next try.
pub enum Obstacle {
    /// There is no room. Whoever waits in `senders` of the sending socket is told when there may be.
    Full(Message),
    /// It can't be sent.
    Error(Errno),
}

/// What there was to receive.
pub enum Took {
    /// Something, or a fault before anything.
    Got(Received),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come.
    End,
}

impl Socket {
    fn reserve(&self, cost: usize) -> bool {
        self.sent.add(cost, self.options.send_buffer())
    }

    /// What a send to the peer reports before anything is sent.
    ///
    /// # Errors
    /// `EPIPE`, `ENOTCONN`, and the error that is kept for the next call.
    pub fn check_output(&self) -> Result<(), Errno> {
        let is_over = self.over() & NO_OUTPUT != 0;
        if self.is_unix() && is_over {
            return Err(Errno::EPIPE);
        }
        self.check_error()?;
        let is_connected = matches!(self.state().role, Role::Connected { .. });
        match (is_connected, self.is_unix()) {
            (true, _) if !is_over => Ok(()),
            (false, true) => Err(Errno::ENOTCONN),
            _ => Err(Errno::EPIPE),
        }
    }

    /// Sends a message to the peer of a stream or of packets.
    ///
    /// # Errors
    /// [`Obstacle`].
    pub fn try_send(&self, message: Message, rights: &mut Option<Box<Rights>>) -> Result<(), Obstacle> {
        self.check_output().map_err(Obstacle::Error)?;
        let peer = self.peer().ok_or(Obstacle::Error(Errno::ENOTCONN))?;
        let cost = message.cost();
        if !self.reserve(cost) {
            return Err(Obstacle::Full(message));
        }
        let mut inbox = peer.inbox();
        if self.style == Style::Stream && rights.is_none() && inbox.merge(&message) {
            drop(inbox);
            self.got_through(cost);
            peer.announce();
            return Ok(());
        }
        let pushed = inbox.push(message, rights, None);
        drop(inbox);
        match pushed {
            Ok(()) => {
                peer.announce();
                Ok(())
            }
            Err((message, refusal)) => {
                self.got_through(cost);
                drop(message);
                match refusal {
                    Refusal::NoMemory | Refusal::Full => Err(Obstacle::Error(Errno::ENOMEM)),
                    Refusal::Closed if self.is_unix() => Err(Obstacle::Error(Errno::EPIPE)),
                    Refusal::Closed => {
                        // It is sent; that nobody was there comes back for the next call.
                        self.end(NO_INPUT | NO_OUTPUT);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Sends a datagram to another socket of `AF_UNIX`.
    ///
    /// # Errors
    /// [`Obstacle`].
    pub fn try_send_to(
        this: &Arc<Self>,
        target: &Arc<Self>,
        message: Message,
        rights: &mut Option<Box<Rights>>,
    ) -> Result<(), Obstacle> {
        let its_peer = target.peer();
        let error = if this.over() & NO_OUTPUT != 0 || target.over() & NO_INPUT != 0 && !target.is_closed() {
            Some(Errno::EPIPE)
        } else if its_peer.is_some_and(|peer| !Arc::ptr_eq(&peer, this)) {
            Some(Errno::EPERM)
        } else {
            this.take_error()
        };
        if let Some(errno) = error {
            return Err(Obstacle::Error(errno));
        }
        let cost = message.cost();
        if !this.reserve(cost) {
            return Err(Obstacle::Full(message));
        }
        let message = message.from(this.clone(), None);
        let pushed = target.inbox().push(message, rights, Some(this));
        match pushed {
            Ok(()) => {
                target.announce();
                Ok(())
            }
            Err((message, refusal)) => {
                this.got_through(cost);
                Err(match refusal {
                    Refusal::Full => Obstacle::Full(message),
                    Refusal::NoMemory => Obstacle::Error(Errno::ENOMEM),
                    Refusal::Closed => Obstacle::Error(Errno::ECONNREFUSED),
                })
            }
        }
    }

    /// Sends a datagram over the network; one for which there is no room is lost.
    ///
    /// # Errors
    /// [`Obstacle`].
    pub fn try_send_datagram(
        this: &Arc<Self>,
        to: &Endpoint,
        from: Endpoint,
        message: Message,
    ) -> Result<(), Obstacle> {
        if this.over() & NO_OUTPUT != 0 {
            return Err(Obstacle::Error(Errno::EPIPE));
        }
        if to.port == 0 {
            return Err(Obstacle::Error(Errno::EINVAL));
        }
        this.check_error().map_err(Obstacle::Error)?;
        let cost = message.cost();
        if !this.reserve(cost) {
            return Err(Obstacle::Full(message));
        }
        let Some(target) = names::find_port(Style::Datagram, to, Some(&from)) else {
            this.got_through(cost);
            // The machine says so, to those that it can be said to.
            let is_connected = this.state().remote.is_some();
            if is_connected {
                this.set_error(Errno::ECONNREFUSED);
                this.announce();
            }
            return Ok(());
        };
        let message = message.from(this.clone(), Some(from));
        let mut inbox = target.inbox();
        let pushed = if inbox.is_full() {
            None
        } else {
            inbox.push(message, &mut None, None).ok()
        };
        drop(inbox);
        match pushed {
            Some(()) => target.announce(),
            None => this.got_through(cost),
        }
        Ok(())
    }

    /// Bytes that a receive could get.
    ///
    /// # Errors
    /// `EINVAL` for a socket that listens.
    pub fn readable(&self) -> Result<usize, Errno> {
        if matches!(self.state().role, Role::Listening { .. }) {
            return Err(Errno::EINVAL);
        }
        Ok(self.inbox().readable(self.style == Style::Stream))
    }

    /// Whether its last descriptor is closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state().role, Role::Closed)
    }

    /// Receives up to `most` bytes.
    ///
    /// # Errors
    /// `EINVAL`, `ENOTCONN` for what can't receive, and the error that is kept for the next call.
    pub fn take(&self, most: usize, wish: Wish, copy: impl FnMut(&[u8]) -> Result<(), u64>) -> Result<Took, Errno> {
        let (peer, is_connected) = {
            let state = self.state();
            (state.peer.clone(), matches!(state.role, Role::Connected { .. }))
        };
        // Looked at first: what comes before the end is in the inbox by then.
        let over = self.over();
        let mut inbox = self.inbox();
        let received = match self.style {
            _ if inbox.is_empty() => None,
            Style::Stream => Some(inbox.take_stream(most, wish, copy)),
            Style::Datagram | Style::Packet => inbox.take_message(most, wish, copy),
        };
        let is_left = !inbox.is_empty();
        drop(inbox);
        let Some(mut received) = received else {
            self.check_error()?;
            return match (over & NO_INPUT != 0, self.style) {
                _ if self.is_connection() && !is_connected && over == 0 => Err(match (self.is_unix(), self.style) {
                    (true, Style::Stream) => Errno::EINVAL,
                    _ => Errno::ENOTCONN,
                }),
                (true, _) => Ok(Took::End),
                (false, _) => Ok(Took::Nothing),
            };
        };
        if let Some(done) = received.done.take() {
            done.give_back();
        }
        if received.cost > 0
            && let Some(peer) = peer.filter(|_| self.is_connection())
        {
            peer.got_through(received.cost);
        }
        for sender in core::mem::take(&mut received.refused) {
            sender.may_send();
        }
        if is_left && !wish.peeks {
            self.receivers.wake_one();
        }
        Ok(Took::Got(received))
    }

    /// Receives into a buffer of the kernel.
    pub fn poll_receive(&self, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        let mut at = 0;
        let most = to.len();
        let took = self.take(most, Wish::default(), |bytes| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
            Ok(())
        });
        match took {
            Err(errno) => Poll::Ready(Err(errno)),
            Ok(Took::Nothing) => Poll::Pending,
            Ok(Took::End) => Poll::Ready(Ok(0)),
            Ok(Took::Got(received)) => Poll::Ready(Ok(received.length)),
        }
    }
}
