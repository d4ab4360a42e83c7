//! What was sent to a socket and not received yet.
//!
//! An inbox is a queue of messages. Of a stream their boundaries mean nothing: a short write goes into the room that is left
//! in the last message, and a read takes from as many as it has room for. A message counts as what it takes of the kernel
//! heap, against the socket that has sent it, until it was received as a whole; it is charged to the process that sent it.
//!
//! Open files that come with a message lie in a queue of their own, so that the search for garbage finds them without a walk
//! over the messages.

use faultline_fallible::{AllocError, Arc, Box, Vec, VecDeque};

use super::rights::Rights;
use super::{Address, Endpoint, MOST_MESSAGES, Socket};
use crate::process::Pid;

/// What a message counts as beside its bytes.
const OVERHEAD: usize = 256;

/// Bytes of the least message of a stream, so that short writes find room in it.
const LEAST: usize = 256;

/// Who has sent something: there is one user, whose number is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub pid: Pid,
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

/// A message on its way.
pub struct Message {
    bytes: Vec<u8>,
    /// Bytes of it that were received.
    start: usize,
    /// What it counts as.
    cost: usize,
    /// Who has sent it.
    pub credentials: Credentials,
    /// Whether open files come with it.
    carries: bool,
    origin: Origin,
}

/// Where a message comes from.
enum Origin {
    /// From the peer.
    Peer,
    /// From this socket, whose name is told, and in whose account it counts.
    Socket(Arc<Socket>),
    /// From a socket of the network, whose name was this.
    Network(Arc<Socket>, Endpoint),
}

impl Message {
    /// A message of the peer. `bytes` may have more room, for what is written next to a stream.
    #[must_use]
    pub fn new(bytes: Vec<u8>, credentials: Credentials) -> Self {
        Self {
            start: 0,
            cost: bytes.capacity() + OVERHEAD,
            bytes,
            credentials,
            carries: false,
            origin: Origin::Peer,
        }
    }

    /// The same from anybody, with the name that it has on the network.
    #[must_use]
    pub fn from(self, sender: Arc<Socket>, endpoint: Option<Endpoint>) -> Self {
        let origin = match endpoint {
            None => Origin::Socket(sender),
            Some(endpoint) => Origin::Network(sender, endpoint),
        };
        Self { origin, ..self }
    }

    /// What it counts as.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.cost
    }

    /// Bytes that are left of it.
    #[must_use]
    pub fn left(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Gives what it counted as back to the one who sent it.
    pub fn give_back(self) {
        match &self.origin {
            Origin::Peer => {}
            Origin::Socket(sender) | Origin::Network(sender, _) => sender.got_through(self.cost),
        }
    }

    fn source(&self) -> Source {
        match &self.origin {
            Origin::Peer => Source::Peer,
            Origin::Socket(sender) => Source::Socket(sender.clone()),
            Origin::Network(_, endpoint) => Source::Known(Address::Inet(*endpoint)),
        }
    }
}

/// Whom a message that was received is from.
pub enum Source {
    /// The peer; the name of a stream's peer is not told.
    Peer,
    /// The socket, which is asked for its name.
    Socket(Arc<Socket>),
    /// Somebody of this name.
    Known(Address),
}

/// A buffer for a message of `length` bytes, all 0; of a stream, with some room behind.
///
/// # Errors
/// [`AllocError`].
pub fn buffer(length: usize, is_stream: bool) -> Result<Vec<u8>, AllocError> {
    let mut bytes = Vec::try_with_capacity(if is_stream { length.max(LEAST) } else { length })?;
    bytes.try_resize(length, 0)?;
    Ok(bytes)
}

/// The messages to a socket.
pub struct Inbox {
    messages: VecDeque<Message>,
    rights: VecDeque<Box<Rights>>,
    /// Bytes that can be received.
    bytes: usize,
    /// The socket is gone, and what is sent to it is refused.
    is_closed: bool,
    /// Sockets that found no room for another message and want to be told.
    refused: Vec<Arc<Socket>>,
}

/// Why a message was not taken.
pub enum Refusal {
    /// The socket is gone.
    Closed,
    /// There are too many; the sender will be told.
    Full,
    /// There is no memory for the queue.
    NoMemory,
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Leave everything where it is.
    pub peeks: bool,
    /// Of a stream: end where messages of another process begin.
    pub by_sender: bool,
}

/// What was received.
#[derive(Default)]
pub struct Received {
    /// Bytes that were copied.
    pub length: usize,
    /// Bytes of the whole message.
    pub whole: usize,
    /// Open files that came with it.
    pub rights: Option<Box<Rights>>,
    /// Who has sent it.
    pub credentials: Credentials,
    /// Whom it is from.
    pub source: Option<Source>,
    /// What a stream's messages that are done counted as.
    pub cost: usize,
    /// A fault has to be resolved here before there can be more.
    pub fault: Option<u64>,
    /// The message that is done; it is given back without the lock.
    pub done: Option<Message>,
    /// It ends here although there may be more: with open files, or with another sender.
    pub is_cut: bool,
    /// Senders that were refused and may come again.
    pub refused: Vec<Arc<Socket>>,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            rights: VecDeque::new(),
            bytes: 0,
            is_closed: false,
            refused: Vec::new(),
        }
    }

    /// Bytes that a read could get: of messages, those of the first.
    pub fn readable(&self, is_stream: bool) -> usize {
        match is_stream {
            true => self.bytes,
            false => self.messages.front().map_or(0, |message| message.left().len()),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether it takes no more messages for now.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= MOST_MESSAGES
    }

    /// Adds bytes of a stream to the last message, if it has room for all of them and is from the same sender.
    pub fn merge(&mut self, message: &Message) -> bool {
        let Some(last) = self.messages.back_mut() else {
            return false;
        };
        let room = last.bytes.capacity() - last.bytes.len();
        let fits = room >= message.bytes.len() && last.credentials == message.credentials && !last.carries;
        // There is room, so that it does not allocate.
        let added = fits && last.bytes.try_extend_from_slice(&message.bytes).is_ok();
        if added {
            self.bytes += message.bytes.len();
        }
        added
    }

    /// Adds a message. What open files it has are taken from `rights` if it is added.
    ///
    /// # Errors
    /// [`Refusal`], with the message.
    pub fn push(
        &mut self,
        mut message: Message,
        rights: &mut Option<Box<Rights>>,
        sender: Option<&Arc<Socket>>,
    ) -> Result<(), (Message, Refusal)> {
        if self.is_closed {
            return Err((message, Refusal::Closed));
        }
        if let Some(sender) = sender
            && self.is_full()
        {
            let is_noted = self.refused.iter().any(|other| Arc::ptr_eq(other, sender));
            let noted = is_noted || self.refused.try_push(sender.clone()).is_ok();
            let refusal = if noted { Refusal::Full } else { Refusal::NoMemory };
            return Err((message, refusal));
        }
        if self.messages.try_reserve(1).is_err() || (rights.is_some() && self.rights.try_reserve(1).is_err()) {
            return Err((message, Refusal::NoMemory));
        }
        let length = message.bytes.len();
        if let Some(rights) = rights.take() {
            message.carries = true;
            // There is room.
            let _ = self.rights.push_within_capacity(rights);
        }
        let _ = self.messages.push_within_capacity(message);
        self.bytes += length;
        Ok(())
    }

    /// Receives bytes of a stream, up to `most`.
    pub fn take_stream(&mut self, most: usize, wish: Wish, mut copy: impl FnMut(&[u8]) -> Result<(), u64>) -> Received {
        let mut received = Received::default();
        let mut at = 0;
        while received.length < most {
            let Some(message) = self.messages.get(at) else { break };
            if at == 0 && received.length == 0 {
                received.credentials = message.credentials;
            } else if received.is_cut || (wish.by_sender && message.credentials != received.credentials) {
                received.is_cut = true;
                break;
            }
            let part = message.left().len().min(most - received.length);
            if let Err(address) = copy(&message.left()[..part]) {
                received.fault = Some(address);
                break;
            }
            received.length += part;
            if message.carries && message.start == 0 {
                // What comes after open files is for the next read.
                received.is_cut = true;
                received.rights = self.first_rights(wish.peeks);
            }
            if wish.peeks {
                at += 1;
                continue;
            }
            self.bytes -= part;
            let Some(message) = self.messages.front_mut() else {
                break;
            };
            message.start += part;
            message.carries &= received.rights.is_none();
            if message.left().is_empty() {
                received.cost += message.cost;
                self.messages.pop_front();
            } else {
                break;
            }
        }
        received.whole = received.length;
        received
    }

    /// Receives the first message, up to `most` bytes of it.
    pub fn take_message(
        &mut self,
        most: usize,
        wish: Wish,
        mut copy: impl FnMut(&[u8]) -> Result<(), u64>,
    ) -> Option<Received> {
        let message = self.messages.front()?;
        let mut received = Received {
            whole: message.left().len(),
            length: message.left().len().min(most),
            credentials: message.credentials,
            ..Received::default()
        };
        if let Err(address) = copy(&message.left()[..received.length]) {
            return Some(Received {
                fault: Some(address),
                credentials: message.credentials,
                ..Received::default()
            });
        }
        received.source = Some(message.source());
        if message.carries {
            received.rights = self.first_rights(wish.peeks);
        }
        if !wish.peeks {
            self.bytes -= received.whole;
            received.done = self.messages.pop_front();
            received.cost = received.done.as_ref().map_or(0, |done| done.cost);
            received.refused = core::mem::take(&mut self.refused);
        }
        Some(received)
    }

    /// The open files of the first message that has some; whoever peeks gets others to the same files.
    fn first_rights(&mut self, peeks: bool) -> Option<Box<Rights>> {
        match peeks {
            false => self.rights.pop_front(),
            // Without memory they are not shown; they are there for who does not only peek.
            true => self.rights.front().and_then(|rights| rights.try_share().ok()),
        }
    }

    /// The open files that are on their way here.
    pub fn rights(&self) -> impl Iterator<Item = &Box<Rights>> {
        self.rights.iter()
    }

    /// Takes the open files away, because nobody can ever receive them.
    pub fn take_rights(&mut self) -> VecDeque<Box<Rights>> {
        for message in self.messages.iter_mut().filter(|_| !self.rights.is_empty()) {
            message.carries = false;
        }
        core::mem::take(&mut self.rights)
    }

    /// It takes nothing more. What was in it is given out, to be dropped without the lock.
    pub fn close(&mut self) -> Self {
        let closed = Self {
            is_closed: true,
            ..Self::new()
        };
        core::mem::replace(self, closed)
    }

    /// Gives what is left back to those who sent it; says whether there was anything.
    pub fn give_back(mut self) -> bool {
        let any = !self.messages.is_empty();
        while let Some(message) = self.messages.pop_front() {
            message.give_back();
        }
        for sender in &self.refused {
            sender.may_send();
        }
        any
    }
}
