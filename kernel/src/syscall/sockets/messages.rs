//! `sendmsg`, `recvmsg` and their relatives: messages with names and with what goes beside them.

use faultline_executor::yield_now;
use faultline_fallible::{Arc, Vec};
use linux_raw_sys::general as linux;
use linux_raw_sys::net;

use super::super::pieces::{Pieces, Source};
use super::super::time as clocks;
use super::control::{Control, HEAD};
use super::flow::{self, Received, Sending, To};
use super::{Caller, Errno, names, socket_of, user};
use crate::fs::OpenFile;
use crate::net::connection::Destination;
use crate::net::inbox::Credentials;
use crate::net::rights::{self, Rights};
use crate::net::{Endpoint, Socket, connection};
use crate::time;

/// Most bytes beside a message, as on Linux.
const MOST_CONTROL: u64 = 20_480;

/// Most messages of one call, as on Linux.
const MOST_MESSAGES: u64 = 1024;

/// `MSG_WAITFORONE`: after the first message do not wait.
const WAIT_FOR_ONE: u32 = 0x1_0000;

/// Bytes of `struct mmsghdr`, and where it has the length.
const ENTRY: u64 = 64;
const LENGTH_AT: u64 = 56;

/// `struct msghdr`.
struct Header {
    name: u64,
    name_length: u32,
    pieces: u64,
    count: u64,
    control: u64,
    control_length: u64,
}

impl Header {
    async fn read(caller: &Caller, address: u64) -> Result<Self, Errno> {
        let words = user::read_words::<6>(&caller.space, address).await?;
        let [name, name_length, pieces, count, control, control_length] = words;
        Ok(Self {
            name,
            name_length: name_length as u32,
            pieces,
            count,
            control,
            control_length,
        })
    }

    async fn pieces(&self, caller: &Caller) -> Result<Pieces, Errno> {
        if self.count > u64::from(linux::UIO_MAXIOV) {
            return Err(Errno::EMSGSIZE);
        }
        Pieces::list(caller, self.pieces, self.count).await
    }
}

/// Where a message goes whose call gives a name, or none.
pub(super) async fn destination(caller: &Caller, socket: &Arc<Socket>, name: u64, length: u32) -> Result<To, Errno> {
    let is_given = name != 0 && length != 0;
    if socket.is_connection() {
        let is_refused = is_given && socket.is_unix();
        return match socket.peer() {
            Some(_) if is_refused => Err(Errno::EISCONN),
            None if is_refused && socket.style == crate::net::Style::Stream => Err(Errno::EOPNOTSUPP),
            _ => Ok(To::Peer),
        };
    }
    let to = if is_given {
        let address = names::read(caller, socket.family, name, length.into()).await?;
        names::destination(caller, socket.style, &address).await?
    } else {
        let (peer, remote) = {
            let state = socket.state();
            (state.peer.clone(), state.remote)
        };
        match (peer, remote) {
            (Some(peer), _) => Destination::Socket(peer),
            (None, Some(remote)) => Destination::Network(remote),
            (None, None) if socket.is_unix() => return Err(Errno::ENOTCONN),
            (None, None) => return Err(Errno::EDESTADDRREQ),
        }
    };
    match to {
        Destination::Socket(target) if target.style != socket.style => Err(Errno::EPROTOTYPE),
        Destination::Socket(target) => Ok(To::Socket(target)),
        Destination::Network(endpoint) => {
            let from = source_of(socket, endpoint)?;
            Ok(To::Network(endpoint, from))
        }
        Destination::Nowhere => Err(Errno::EDESTADDRREQ),
    }
}

/// The name under which a datagram goes to a place on the network; the socket gets a port if it has none.
fn source_of(socket: &Arc<Socket>, to: Endpoint) -> Result<Endpoint, Errno> {
    if socket.local().is_unnamed() {
        connection::bind(socket, crate::net::Address::Inet(Endpoint::any(socket.family, 0)))?;
    }
    let own = socket.local().endpoint().unwrap_or(to);
    Ok(if own.is_any() {
        Endpoint { port: own.port, ..to }
    } else {
        own
    })
}

/// `sendto`.
///
/// # Errors
/// Those of [`flow::send`] and of names.
pub async fn sendto(caller: Caller, [descriptor, address, length, flags, name, size]: [u64; 6]) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    let flags = check_flags(flags)?;
    let mut pieces = Pieces::one(address, length)?;
    let sending = Sending {
        flags,
        to: destination(&caller, &socket, name, size as u32).await?,
        ..Sending::plain(&caller)
    };
    flow::send(&caller, &file, &socket, Source::User(&mut pieces), sending).await
}

/// `recvfrom`.
///
/// # Errors
/// Those of [`flow::receive`].
pub async fn recvfrom(
    caller: Caller,
    [descriptor, address, length, flags, name, size]: [u64; 6],
) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    let flags = check_flags(flags)?;
    let mut pieces = Pieces::one(address, length)?;
    let received = flow::receive(&caller, &file, &socket, &mut pieces, flags).await?;
    if name != 0 {
        match &received.from {
            Some(from) if tells_names(&socket, from) => {
                names::write(&caller, socket.family, from, name, size).await?;
            }
            _ => user::write_u32(&caller.space, size, 0).await?,
        }
    }
    Ok(result(&received, flags))
}

/// Whether a receive says whom it is from: not a stream, nor a socket of `AF_UNIX` without a name.
fn tells_names(socket: &Socket, from: &crate::net::Address) -> bool {
    socket.style != crate::net::Style::Stream && !from.is_unnamed()
}

fn check_flags(flags: u64) -> Result<u32, Errno> {
    let flags = flags as u32;
    if flags & net::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(flags)
}

fn result(received: &Received, flags: u32) -> u64 {
    match flags & net::MSG_TRUNC {
        0 => received.length,
        _ => received.whole,
    }
}

/// `sendmsg`.
///
/// # Errors
/// Those of [`flow::send`]; `ENOBUFS` is `ENOMEM` here.
pub async fn sendmsg(caller: Caller, descriptor: u64, message: u64, flags: u64) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    send_one(&caller, &file, &socket, message, check_flags(flags)?).await
}

async fn send_one(
    caller: &Caller,
    file: &OpenFile,
    socket: &Arc<Socket>,
    message: u64,
    flags: u32,
) -> Result<u64, Errno> {
    let header = Header::read(caller, message).await?;
    let mut pieces = header.pieces(caller).await?;
    let mut sending = Sending {
        flags,
        to: destination(caller, socket, header.name, header.name_length).await?,
        ..Sending::plain(caller)
    };
    if header.control != 0 && header.control_length != 0 {
        read_control(caller, socket, &header, &mut sending).await?;
    }
    flow::send(caller, file, socket, Source::User(&mut pieces), sending).await
}

/// Reads what goes beside a message.
async fn read_control(caller: &Caller, socket: &Socket, header: &Header, sending: &mut Sending) -> Result<(), Errno> {
    if header.control_length > MOST_CONTROL {
        return Err(Errno::ENOMEM);
    }
    let mut bytes = user::buffer(header.control_length as usize)?;
    user::read(&caller.space, header.control, &mut bytes).await?;
    let mut files = Vec::new();
    let mut rest = &bytes[..];
    while rest.len() >= HEAD {
        let [length, kind] = rest.as_chunks::<8>().0[..2] else {
            break;
        };
        let length = u64::from_le_bytes(length) as usize;
        let kind = u64::from_le_bytes(kind);
        let (level, kind) = (kind as u32, (kind >> 32) as u32);
        let data = rest.get(HEAD..length).ok_or(Errno::EINVAL)?;
        let next = length.next_multiple_of(8).min(rest.len());
        rest = &rest[next..];
        if level != net::SOL_SOCKET {
            continue;
        }
        match kind {
            net::SCM_RIGHTS if socket.is_unix() => {
                let table = caller.thread.process.files();
                for number in data.as_chunks::<4>().0 {
                    if files.len() >= rights::MOST {
                        return Err(Errno::EINVAL);
                    }
                    let number = i32::from_le_bytes(*number);
                    let number = u64::try_from(number).map_err(|_| Errno::EBADF)?;
                    files.try_push(table.lock().get(number)?)?;
                }
            }
            net::SCM_CREDENTIALS if socket.is_unix() => {
                let [pid, user, group] = data.as_chunks::<4>().0 else {
                    return Err(Errno::EINVAL);
                };
                let given = Credentials {
                    pid: u32::from_le_bytes(*pid),
                    user: u32::from_le_bytes(*user),
                    group: u32::from_le_bytes(*group),
                };
                if given.pid != sending.credentials.pid && crate::process::tree::find_process(given.pid).is_none() {
                    return Err(Errno::ESRCH);
                }
                sending.credentials = given;
            }
            _ if socket.is_unix() => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    if !files.is_empty() {
        sending.rights = Some(Rights::try_new(files)?);
    }
    Ok(())
}

/// `recvmsg`.
///
/// # Errors
/// Those of [`flow::receive`].
pub async fn recvmsg(caller: Caller, descriptor: u64, message: u64, flags: u64) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    receive_one(&caller, &file, &socket, message, check_flags(flags)?).await
}

async fn receive_one(
    caller: &Caller,
    file: &OpenFile,
    socket: &Arc<Socket>,
    message: u64,
    flags: u32,
) -> Result<u64, Errno> {
    let header = Header::read(caller, message).await?;
    let mut pieces = header.pieces(caller).await?;
    let mut received = flow::receive(caller, file, socket, &mut pieces, flags).await?;
    let space = &caller.space;
    let mut told = 0;
    if received.whole > received.length {
        told |= net::MSG_TRUNC;
    }
    if header.name != 0 {
        let length = match &received.from {
            Some(from) if tells_names(socket, from) => {
                names::write_in(caller, socket.family, from, header.name, header.name_length).await?
            }
            _ => 0,
        };
        user::write_u32(space, message + 8, length).await?;
    }
    let mut control = Control {
        at: header.control,
        left: if header.control == 0 { 0 } else { header.control_length },
        is_cut: false,
    };
    if socket.options.passes_credentials()
        && let Some(known) = received.credentials
    {
        let words = [known.pid, known.user, known.group].map(u32::to_le_bytes);
        control.put(caller, net::SCM_CREDENTIALS, words.as_flattened()).await?;
    }
    if let Some(rights) = received.rights.take() {
        control.put_files(caller, rights, flags).await?;
    }
    if control.is_cut {
        told |= net::MSG_CTRUNC;
    }
    told |= flags & net::MSG_CMSG_CLOEXEC;
    user::write_words(space, message + 40, [control.at.wrapping_sub(header.control)]).await?;
    user::write_u32(space, message + 48, told).await?;
    Ok(result(&received, flags))
}

/// `sendmmsg`.
///
/// # Errors
/// Those of [`sendmsg`], of the first message.
pub async fn sendmmsg(caller: Caller, descriptor: u64, messages: u64, count: u64, flags: u64) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    let flags = check_flags(flags)?;
    let mut done = 0;
    while done < (count as u32 as u64).min(MOST_MESSAGES) {
        let at = messages.wrapping_add(done * ENTRY);
        match send_one(&caller, &file, &socket, at, flags).await {
            Ok(length) => user::write_u32(&caller.space, at + LENGTH_AT, length as u32).await?,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
        done += 1;
        yield_now().await;
    }
    Ok(done)
}

/// `recvmmsg`.
///
/// # Errors
/// Those of [`recvmsg`], of the first message.
pub async fn recvmmsg(caller: Caller, [descriptor, messages, count, flags, timeout]: [u64; 5]) -> Result<u64, Errno> {
    let (file, socket) = socket_of(&caller, descriptor)?;
    let mut flags = check_flags(flags)?;
    // The time is looked at between messages only, as on Linux.
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(duration))
        }
    };
    let mut done = 0;
    while done < (count as u32 as u64).min(MOST_MESSAGES) {
        let at = messages.wrapping_add(done * ENTRY);
        match receive_one(&caller, &file, &socket, at, flags & !WAIT_FOR_ONE).await {
            Ok(length) => user::write_u32(&caller.space, at + LENGTH_AT, length as u32).await?,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
        done += 1;
        if flags & WAIT_FOR_ONE != 0 {
            flags |= net::MSG_DONTWAIT;
        }
        if deadline.is_some_and(|deadline| time::now() >= deadline) {
            break;
        }
        yield_now().await;
    }
    Ok(done)
}
