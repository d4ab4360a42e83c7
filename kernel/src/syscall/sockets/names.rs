//! Names of sockets in user memory, and in the tree of files.

use core::sync::atomic::Ordering;

use faultline_fallible::Arc;
use linux_raw_sys::net;

use super::{Caller, Errno, socket_of, user};
use crate::fs::path::{LastLink, locate, look_up};
use crate::fs::tree::NodeKind;
use crate::fs::{Node, changes, tree};
use crate::net::address::{LONGEST, Name};
use crate::net::connection::Destination;
use crate::net::socket::Role;
use crate::net::{Address, Family, Socket, Style, names};

/// Most bytes of a name that a call may give: `struct sockaddr_storage`.
const MOST: u64 = 128;

/// Reads a name.
pub(super) async fn read(caller: &Caller, family: Family, address: u64, length: u64) -> Result<Address, Errno> {
    let mut bytes = [0; MOST as usize];
    let length = u64::from(length as u32);
    if length > MOST {
        return Err(Errno::EINVAL);
    }
    let bytes = &mut bytes[..length as usize];
    user::read(&caller.space, address, bytes).await?;
    Address::parse(family, bytes)
}

/// Whether a name is none: `AF_UNSPEC`.
pub(super) async fn is_unspecified(caller: &Caller, address: u64, length: u64) -> Result<bool, Errno> {
    let mut family = [0; 2];
    if (length as u32) < 2 {
        return Ok(false);
    }
    user::read(&caller.space, address, &mut family).await?;
    Ok(u32::from(u16::from_le_bytes(family)) == net::AF_UNSPEC)
}

/// Writes a name, as much of it as there is room for, and its whole length to where the room stands.
pub(super) async fn write(
    caller: &Caller,
    family: Family,
    name: &Address,
    address: u64,
    length: u64,
) -> Result<(), Errno> {
    let room = user::read_u32(&caller.space, length).await?;
    let written = write_in(caller, family, name, address, room).await?;
    user::write_u32(&caller.space, length, written).await
}

/// Writes a name to `room` bytes; says how long it is.
pub(super) async fn write_in(
    caller: &Caller,
    family: Family,
    name: &Address,
    address: u64,
    room: u32,
) -> Result<u32, Errno> {
    let room = usize::try_from(room as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; LONGEST + 1];
    let size = name.write(family, &mut bytes);
    user::write(&caller.space, address, &bytes[..size.min(room)]).await?;
    Ok(size as u32)
}

/// Makes the file that a socket is named by.
pub(super) async fn bind_path(caller: &Caller, socket: &Arc<Socket>, name: Name) -> Result<(), Errno> {
    if !socket.local().is_unnamed() || !matches!(socket.state().role, Role::Fresh) {
        return Err(Errno::EINVAL);
    }
    let process = &caller.thread.process;
    let from = process.directory.lock().0.clone();
    let place = locate(&from, &name.0, LastLink::Keep, &caller.thread).await?;
    let permissions = 0o777 & !process.umask.load(Ordering::Relaxed);
    let node = Node::new(NodeKind::Socket(Arc::downgrade(socket)), permissions, tree::now())?;
    changes::make(&place, node).map_err(|errno| match errno {
        Errno::EEXIST => Errno::EADDRINUSE,
        other => other,
    })?;
    names::set_local(socket, Address::Path(name))
}

/// The socket of `AF_UNIX` that a name means.
pub(super) async fn target(caller: &Caller, style: Style, address: &Address) -> Result<Arc<Socket>, Errno> {
    match address {
        Address::Abstract(name) => names::find_abstract(style, name),
        Address::Path(name) => {
            let from = caller.thread.process.directory.lock().0.clone();
            let node = look_up(&from, &name.0, LastLink::Follow, &caller.thread).await?;
            match &node.kind {
                NodeKind::Socket(socket) => socket.upgrade().ok_or(Errno::ECONNREFUSED),
                _ => Err(Errno::ECONNREFUSED),
            }
        }
        Address::Unnamed | Address::Inet(_) => Err(Errno::EINVAL),
    }
}

/// Where datagrams to a name go.
pub(super) async fn destination(caller: &Caller, style: Style, address: &Address) -> Result<Destination, Errno> {
    match address {
        Address::Inet(endpoint) => Ok(Destination::Network(endpoint.destination()?)),
        other => Ok(Destination::Socket(target(caller, style, other).await?)),
    }
}

/// `getsockname`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EINVAL`.
pub async fn getsockname(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let (_, socket) = socket_of(&caller, descriptor)?;
    write(&caller, socket.family, &socket.local(), address, length).await?;
    Ok(0)
}

/// `getpeername`.
///
/// # Errors
/// As [`getsockname`]; `ENOTCONN`.
pub async fn getpeername(caller: Caller, descriptor: u64, address: u64, length: u64) -> Result<u64, Errno> {
    let (_, socket) = socket_of(&caller, descriptor)?;
    let (peer, remote) = {
        let state = socket.state();
        (state.peer.clone(), state.remote)
    };
    let name = match (peer, remote) {
        (Some(peer), _) => peer.local(),
        (None, Some(remote)) => Address::Inet(remote),
        (None, None) => return Err(Errno::ENOTCONN),
    };
    write(&caller, socket.family, &name, address, length).await?;
    Ok(0)
}
