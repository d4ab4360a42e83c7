//! Calls that make, name and connect sockets. Those that move messages are in [`messages`].

mod control;
pub mod flow;
pub mod messages;
mod names;

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;
use linux_raw_sys::net;

use super::transfer::opened;
use super::{Caller, Errno, has_headroom, user};
use crate::fs::{FileKind, OpenFile};
use crate::net::connection::{self, Attempt};
use crate::net::inbox::Credentials;
use crate::net::socket::{NO_INPUT, NO_OUTPUT, Role};
use crate::net::{Address, Endpoint, Family, Socket, SocketEnd, Style, options};
use crate::process::waiting::event_of;
use crate::time;

pub use names::{getpeername, getsockname};

/// What the wait-for graph calls it.
const KIND: &str = "socket";

/// The flags beside the kind of a socket.
const FLAGS: u32 = linux::O_NONBLOCK | linux::O_CLOEXEC;

/// The open file of a descriptor, and its socket.
fn socket_of(caller: &Caller, descriptor: u64) -> Result<(Arc<OpenFile>, Arc<Socket>), Errno> {
    let file = opened(caller, descriptor)?;
    match &file.kind {
        FileKind::Socket(end) => {
            let socket = end.0.clone();
            Ok((file, socket))
        }
        FileKind::Path => Err(Errno::EBADF),
        _ => Err(Errno::ENOTSOCK),
    }
}

/// What the caller tells others about itself.
fn credentials(caller: &Caller) -> Credentials {
    Credentials {
        pid: caller.thread.process.pid,
        user: 0,
        group: 0,
    }
}

fn open_file(socket: Arc<Socket>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    // The end closes the socket, also where the file is not made.
    let kind = FileKind::Socket(SocketEnd(socket));
    let mode = linux::O_RDWR | flags & linux::O_NONBLOCK;
    Ok(Arc::try_new(OpenFile::new(kind, None, mode))?)
}

fn style_of(kind: u64) -> Result<(Style, u32), Errno> {
    let flags = kind as u32 & FLAGS;
    let style = match kind as u32 & !FLAGS {
        net::SOCK_STREAM => Style::Stream,
        net::SOCK_DGRAM => Style::Datagram,
        net::SOCK_SEQPACKET => Style::Packet,
        net::SOCK_RAW | net::SOCK_RDM | 6..=10 => return Err(Errno::ESOCKTNOSUPPORT),
        _ => return Err(Errno::EINVAL),
    };
    Ok((style, flags))
}

/// `socket`.
///
/// # Errors
/// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EINVAL`, `EMFILE`, `ENOMEM`.
pub async fn socket(caller: Caller, family: u64, kind: u64, protocol: u64) -> Result<u64, Errno> {
    let (family, protocol) = (family as u32, protocol as u32);
    let (style, flags) = style_of(kind)?;
    let family = match family {
        net::AF_UNIX => Family::Unix,
        net::AF_INET => Family::Inet,
        net::AF_INET6 => Family::Inet6,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    match (family, style, protocol) {
        (Family::Unix, _, 0 | net::AF_UNIX) => {}
        (Family::Unix, ..) => return Err(Errno::EPROTONOSUPPORT),
        (_, Style::Stream, 0 | 6) | (_, Style::Datagram, 0 | 17) => {}
        (_, Style::Packet, _) => return Err(Errno::ESOCKTNOSUPPORT),
        _ => return Err(Errno::EPROTONOSUPPORT),
    }
    has_headroom()?;
    let file = open_file(Socket::new(family, style)?, flags)?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags & linux::O_CLOEXEC != 0, 0)
}

/// `socketpair`.
///
/// # Errors
/// As [`socket()`]; `EOPNOTSUPP` for other families than `AF_UNIX`; `EFAULT`.
pub async fn socketpair(caller: Caller, family: u64, kind: u64, protocol: u64, to: u64) -> Result<u64, Errno> {
    let (style, flags) = style_of(kind)?;
    match (family as u32, protocol as u32) {
        (net::AF_UNIX, 0 | net::AF_UNIX) => {}
        (net::AF_UNIX, _) => return Err(Errno::EPROTONOSUPPORT),
        (net::AF_INET | net::AF_INET6, _) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    has_headroom()?;
    let [first, second] = connection::pair(style, credentials(&caller))?;
    let [first, second] = [open_file(first, flags), open_file(second, flags)];
    let (first, second) = (first?, second?);
    let files = caller.thread.process.files();
    let close_on_exec = flags & linux::O_CLOEXEC != 0;
    let numbers = {
        let mut files = files.lock();
        let one = files.add(first, close_on_exec, 0)?;
        match files.add(second, close_on_exec, 0) {
            Ok(other) => [one, other],
            Err(errno) => {
                let removed = files.remove(one);
                drop(files);
                drop(removed);
                return Err(errno);
            }
        }
    };
    let written = user::write_words(&caller.space, to, [numbers[1] << 32 | numbers[0]]).await;
    if written.is_err() {
        let ends = {
            let mut files = files.lock();
            numbers.map(|number| files.remove(number))
        };
        drop(ends);
    }
    written.map(|()| 0)
}

/// `bind`.
///
/// # Errors
/// `EINVAL`, `EADDRINUSE`, `EADDRNOTAVAIL`, `EAFNOSUPPORT`, `ENOMEM`; those of a path.
pub async fn bind(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let (_, socket) = socket_of(&caller, descriptor)?;
    let address = names::read(&caller, socket.family, address, length).await?;
    has_headroom()?;
    match address {
        Address::Path(name) => names::bind_path(&caller, &socket, name).await?,
        other => connection::bind(&socket, other)?,
    }
    Ok(0)
}

/// `listen`.
///
/// # Errors
/// Those of [`connection::listen`].
pub fn listen(caller: &Caller, descriptor: u64, backlog: u64) -> Result<u64, Errno> {
    let (_, socket) = socket_of(caller, descriptor)?;
    connection::listen(&socket, backlog as i32, credentials(caller))?;
    Ok(0)
}

/// `shutdown`.
///
/// # Errors
/// `ENOTCONN`, `EINVAL`.
pub fn shutdown(caller: &Caller, descriptor: u64, how: u64) -> Result<u64, Errno> {
    let (_, socket) = socket_of(caller, descriptor)?;
    connection::shut_down(&socket, how)?;
    Ok(0)
}

/// `accept4`.
///
/// # Errors
/// `EINVAL`, `EOPNOTSUPP`, `EAGAIN`, `EMFILE`, `ENOMEM`, `EFAULT`.
pub async fn accept4(caller: Caller, descriptor: u64, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let (file, socket) = socket_of(&caller, descriptor)?;
    has_headroom()?;
    let files = caller.thread.process.files();
    let accept = || {
        // A connection for which there is no descriptor stays where it is.
        files.lock().check_room()?;
        connection::accept(&socket)
    };
    let look = || match accept() {
        Ok(None) if file.is_non_blocking() => Some(Err(Errno::EAGAIN)),
        Ok(None) => None,
        Ok(Some(accepted)) => Some(Ok(accepted)),
        Err(errno) => Some(Err(errno)),
    };
    let deadline = socket.options.receive_timeout();
    let accepted = match look() {
        Some(accepted) => accepted?,
        None => {
            let accepted = flow::wait(&caller, &socket, &socket.receivers, deadline, look).await?;
            if accepted.is_err() {
                // The wake that has come to nothing is for whoever waits in another process.
                socket.receivers.wake_one();
            }
            accepted?
        }
    };
    let peer = accepted.peer();
    let family = accepted.family;
    let accepted = open_file(accepted, flags)?;
    if address != 0 {
        let name = peer.map_or(Address::Unnamed, |peer| peer.local());
        names::write(&caller, family, &name, address, length).await?;
    }
    files.lock().add(accepted, flags & linux::O_CLOEXEC != 0, 0)
}

/// `connect`.
///
/// # Errors
/// `ECONNREFUSED`, `EISCONN`, `EALREADY`, `EINPROGRESS`, `EAGAIN`, `EPROTOTYPE`, `ENETUNREACH`, `EAFNOSUPPORT`, `EINVAL`,
/// `ENOMEM`; those of a path.
pub async fn connect(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    if !socket.is_connection() && names::is_unspecified(&caller, address, length).await? {
        connection::connect_datagrams(&socket, connection::Destination::Nowhere)?;
        return Ok(0);
    }
    let address = names::read(&caller, socket.family, address, length).await?;
    has_headroom()?;
    if !socket.is_connection() {
        let to = names::destination(&caller, socket.style, &address).await?;
        connection::connect_datagrams(&socket, to)?;
        return Ok(0);
    }
    if let Role::Connected { unreported } = &mut socket.state().role
        && core::mem::take(unreported)
    {
        return Ok(0);
    }
    let own = credentials(&caller);
    let Some(endpoint) = address.endpoint() else {
        return connect_unix(&caller, &file, &socket, &address, own).await;
    };
    let endpoint = endpoint.destination()?;
    let waits = !file.is_non_blocking();
    match connect_network(&socket, endpoint, own, waits) {
        Err(Errno::ECONNREFUSED) if !waits => {
            socket.set_error(Errno::ECONNREFUSED);
            socket.end(NO_INPUT | NO_OUTPUT);
            Err(Errno::EINPROGRESS)
        }
        Ok(()) if !waits => Err(Errno::EINPROGRESS),
        done => done.map(|()| 0),
    }
}

fn connect_network(socket: &Arc<Socket>, to: Endpoint, own: Credentials, waits: bool) -> Result<(), Errno> {
    let target = crate::net::names::find_port(socket.style, &to, None).ok_or(Errno::ECONNREFUSED)?;
    match connection::connect(socket, &target, Some(to), own, waits)? {
        Attempt::Done => Ok(()),
        Attempt::Full(_) => Err(Errno::ECONNREFUSED),
    }
}

async fn connect_unix(
    caller: &Caller,
    file: &OpenFile,
    socket: &Arc<Socket>,
    address: &Address,
    own: Credentials,
) -> Result<u64, Errno> {
    let deadline = socket
        .options
        .send_timeout()
        .map(|time| time::now().saturating_add(time));
    let target = names::target(caller, socket.style, address).await?;
    let full = match connection::connect(socket, &target, None, own, true)? {
        Attempt::Done => return Ok(0),
        Attempt::Full(_) if file.is_non_blocking() => return Err(Errno::EAGAIN),
        Attempt::Full(full) => full,
    };
    let attempt = || match connection::connect(socket, &full, None, own, true) {
        Ok(Attempt::Done) => Some(Ok(())),
        Ok(Attempt::Full(_)) => None,
        Err(errno) => Some(Err(errno)),
    };
    let event = event_of(KIND, full.number);
    flow::wait_until(caller, event, &full.senders, deadline, attempt).await??;
    Ok(0)
}

/// `setsockopt`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, and those of [`options::set`].
pub async fn setsockopt(caller: Caller, [descriptor, level, name, value, length]: [u64; 5]) -> Result<u64, Errno> {
    const MOST: usize = 64;
    let (_, socket) = socket_of(&caller, descriptor)?;
    let length = usize::try_from(length as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; MOST];
    let bytes = &mut bytes[..length.min(MOST)];
    user::read(&caller.space, value, bytes).await?;
    options::set(&socket, level as u32, name as u32, bytes)?;
    Ok(0)
}

/// `getsockopt`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, and those of [`options::get`].
pub async fn getsockopt(caller: Caller, [descriptor, level, name, value, length]: [u64; 5]) -> Result<u64, Errno> {
    let (_, socket) = socket_of(&caller, descriptor)?;
    let room = user::read_u32(&caller.space, length).await?;
    let room = usize::try_from(room as i32).map_err(|_| Errno::EINVAL)?;
    let (bytes, size) = options::get(&socket, level as u32, name as u32)?;
    let size = size.min(room);
    user::write(&caller.space, value, &bytes[..size]).await?;
    user::write_u32(&caller.space, length, size as u32).await?;
    Ok(0)
}
