//! Sending and receiving, with user memory and with waits.
//!
//! What is sent is copied into a message first, faults resolved, and then put into the inbox of the other side in one step.
//! What is received is copied to user memory under the lock of the inbox, as far as its pages are there; a fault is resolved
//! without the lock, and the copy goes on behind what was taken. So a bad buffer loses nothing.

use faultline_executor::{Event, WaitQueue, yield_now};
use faultline_fallible::{Arc, Box};
use faultline_mm::Access;
use linux_raw_sys::net;

use super::super::pieces::{Pieces, Source};
use super::{Caller, Errno, KIND, Socket, credentials, messages, user};
use crate::fs::OpenFile;
use crate::net::inbox::{self, Credentials, Message, Source as From, Wish};
use crate::net::rights::Rights;
use crate::net::transfer::{Obstacle, Took};
use crate::net::{Address, Endpoint, Style};
use crate::process::waiting::event_of;
use crate::signal::{Signal, SignalInfo, raise};
use crate::time;

/// Bytes of the largest message of a stream.
const CHUNK: usize = 16 * 1024;

/// Bytes that are received under the lock at a time.
const AT_ONCE: usize = 64 * 1024;

/// Bytes of the largest datagram of UDP.
const MOST_OF_UDP: usize = 65_507;

/// Waits in a queue of a socket until there is an answer, for so many nanoseconds at most.
///
/// # Errors
/// `EAGAIN` when the time is over; `EINTR` or `ERESTARTSYS` if a signal came first.
pub async fn wait<T>(
    caller: &Caller,
    socket: &Socket,
    queue: &WaitQueue,
    most: Option<u64>,
    answer: impl FnMut() -> Option<T>,
) -> Result<T, Errno> {
    let deadline = most.map(|most| time::now().saturating_add(most));
    wait_until(caller, event_of(KIND, socket.number), queue, deadline, answer).await
}

/// As [`wait`], with a deadline.
pub(super) async fn wait_until<T>(
    caller: &Caller,
    event: Event,
    queue: &WaitQueue,
    deadline: Option<u64>,
    answer: impl FnMut() -> Option<T>,
) -> Result<T, Errno> {
    let waiting = queue.wait_until(answer);
    match deadline {
        None => {
            let waited = caller.thread.interruptible(event, waiting).await;
            waited.map_err(|_| Errno::ERESTARTSYS)
        }
        Some(deadline) => {
            let waited = caller
                .thread
                .interruptible(event, time::timeout(deadline, waiting))
                .await;
            waited.map_err(|_| Errno::EINTR)?.map_err(|_| Errno::EAGAIN)
        }
    }
}

/// Where a message goes.
pub enum To {
    /// To the peer.
    Peer,
    /// To a socket of `AF_UNIX`.
    Socket(Arc<Socket>),
    /// To a place on the network, under this name.
    Network(Endpoint, Endpoint),
}

/// `write`: sends to the peer, or to where datagrams go.
///
/// # Errors
/// Those of [`send`].
pub async fn write(caller: &Caller, file: &OpenFile, socket: &Arc<Socket>, source: Source<'_>) -> Result<u64, Errno> {
    let sending = Sending {
        to: messages::destination(caller, socket, 0, 0).await?,
        ..Sending::plain(caller)
    };
    send(caller, file, socket, source, sending).await
}

/// How something is sent.
pub struct Sending {
    /// `MSG_*` flags.
    pub flags: u32,
    /// Where to.
    pub to: To,
    /// Open files that go with it.
    pub rights: Option<Box<Rights>>,
    /// Who has sent it.
    pub credentials: Credentials,
}

impl Sending {
    /// To the peer, as `write` sends.
    pub fn plain(caller: &Caller) -> Self {
        Self {
            flags: 0,
            to: To::Peer,
            rights: None,
            credentials: credentials(caller),
        }
    }
}

/// Sends everything; as much as there is room for if it must not wait.
///
/// # Errors
/// `EAGAIN`, `EPIPE`, with `SIGPIPE` for a stream, `EMSGSIZE`, `ENOMEM`, `EFAULT`, and those of the other side.
pub async fn send(
    caller: &Caller,
    file: &OpenFile,
    socket: &Arc<Socket>,
    mut source: Source<'_>,
    mut sending: Sending,
) -> Result<u64, Errno> {
    let is_stream = socket.style == Style::Stream;
    let waits = !file.is_non_blocking() && sending.flags & net::MSG_DONTWAIT == 0;
    if !is_stream {
        let length = source.left();
        let most = match socket.is_unix() {
            true => socket.options.send_buffer() - 32,
            false => MOST_OF_UDP,
        };
        if length > most {
            return Err(Errno::EMSGSIZE);
        }
        one(caller, socket, &mut source, length, waits, &mut sending).await?;
        return Ok(length as u64);
    }
    let mut moved = 0;
    while source.left() > 0 || moved == 0 {
        let length = source.left().min(CHUNK);
        let error = match length {
            0 => socket.check_output().err(),
            _ => one(caller, socket, &mut source, length, waits, &mut sending)
                .await
                .err(),
        };
        match error {
            None => moved += length as u64,
            Some(_) if moved > 0 => break,
            Some(errno) => {
                if errno == Errno::EPIPE && sending.flags & net::MSG_NOSIGNAL == 0 {
                    raise::to_thread(&caller.thread, SignalInfo::kernel(Signal::SIGPIPE));
                }
                return Err(errno);
            }
        }
        if length == 0 {
            break;
        }
        if source.left() > 0 {
            yield_now().await;
        }
    }
    Ok(moved)
}

/// Sends one message.
async fn one(
    caller: &Caller,
    socket: &Arc<Socket>,
    source: &mut Source<'_>,
    length: usize,
    waits: bool,
    sending: &mut Sending,
) -> Result<(), Errno> {
    let mut bytes = inbox::buffer(length, socket.style == Style::Stream)?;
    while let Err(address) = source.read(&caller.space, &mut bytes) {
        user::resolve(&caller.space, address, Access::Read).await?;
    }
    let mut message = Some(Message::new(bytes, sending.credentials));
    let Sending { to, rights, .. } = sending;
    let mut attempt = || {
        let sent = match (message.take()?, &*to) {
            (message, To::Peer) => socket.try_send(message, rights),
            (message, To::Socket(target)) => Socket::try_send_to(socket, target, message, rights),
            (message, To::Network(to, from)) => Socket::try_send_datagram(socket, to, *from, message),
        };
        match sent {
            Ok(()) => Some(Ok(())),
            Err(Obstacle::Error(errno)) => Some(Err(errno)),
            Err(Obstacle::Full(_)) if !waits => Some(Err(Errno::EAGAIN)),
            Err(Obstacle::Full(again)) => {
                message = Some(again);
                None
            }
        }
    };
    match attempt() {
        Some(sent) => sent,
        None => {
            let most = socket.options.send_timeout();
            wait(caller, socket, &socket.senders, most, attempt).await?
        }
    }
}

/// What a receive has found beside the bytes.
#[derive(Default)]
pub struct Received {
    /// Bytes in the buffers.
    pub length: u64,
    /// Bytes of the message.
    pub whole: u64,
    /// Whom it is from.
    pub from: Option<Address>,
    /// Open files.
    pub rights: Option<Box<Rights>>,
    /// Who has sent it.
    pub credentials: Option<Credentials>,
}

/// Receives into the buffers: a message, or of a stream what is there, at least a byte.
///
/// # Errors
/// `EAGAIN`, `EFAULT`, `EINVAL`, `ENOTCONN`, and the error that the socket has to report.
pub async fn receive(
    caller: &Caller,
    file: &OpenFile,
    socket: &Arc<Socket>,
    pieces: &mut Pieces,
    flags: u32,
) -> Result<Received, Errno> {
    let is_stream = socket.style == Style::Stream;
    let waits = !file.is_non_blocking() && flags & net::MSG_DONTWAIT == 0;
    let wish = Wish {
        peeks: flags & net::MSG_PEEK != 0,
        by_sender: socket.options.passes_credentials(),
    };
    let whole = usize::try_from(pieces.left()).unwrap_or(usize::MAX);
    let enough = match flags & net::MSG_WAITALL {
        0 => socket.options.low_water().min(whole),
        _ => whole,
    } as u64;
    let mut all = Received::default();
    if is_stream && whole == 0 {
        return Ok(all);
    }
    loop {
        let most = usize::try_from(pieces.left()).unwrap_or(usize::MAX);
        let most = if is_stream { most.min(AT_ONCE) } else { most };
        let mut look = || match socket.take(most, wish, |bytes| pieces.write(&caller.space, bytes)) {
            Ok(Took::Nothing) if !waits => Some(Err(Errno::EAGAIN)),
            Ok(Took::Nothing) => None,
            Ok(Took::End) => Some(Ok(None)),
            Ok(Took::Got(received)) => Some(Ok(Some(received))),
            Err(errno) => Some(Err(errno)),
        };
        let took = match look() {
            Some(took) => took,
            // What came already is not waited for.
            None if all.length > 0 && all.length >= enough => break,
            None => {
                let most = socket.options.receive_timeout();
                match wait(caller, socket, &socket.receivers, most, look).await {
                    Ok(took) => took,
                    Err(errno) => Err(errno),
                }
            }
        };
        let received = match took {
            Ok(None) => break,
            Ok(Some(received)) => received,
            Err(_) if all.length > 0 => break,
            Err(errno) => return Err(errno),
        };
        all.length += received.length as u64;
        all.whole += received.whole as u64;
        all.credentials = all.credentials.or(Some(received.credentials));
        if received.rights.is_some() {
            all.rights = received.rights;
        }
        if let Some(address) = received.fault {
            match user::resolve(&caller.space, address, Access::Write).await {
                Ok(()) => {
                    yield_now().await;
                    continue;
                }
                Err(_) if all.length > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        all.from = received.source.map(|source| match source {
            From::Peer => socket.peer().map_or(Address::Unnamed, |peer| peer.local()),
            From::Socket(sender) => sender.local(),
            From::Known(address) => address,
        });
        let is_done = !is_stream || wish.peeks || received.is_cut || pieces.left() == 0;
        if is_done || received.length == 0 {
            break;
        }
        if received.length == AT_ONCE {
            yield_now().await;
        }
    }
    Ok(all)
}
