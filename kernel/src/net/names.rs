//! Which sockets have which names. A path is a node of the tree of files ([`NodeKind::Socket`](crate::fs::tree::NodeKind)); the
//! names without files and the ports are here.
//!
//! The locks of the two tables are taken before that of a socket's state.

use core::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use faultline_fallible::{Arc, OrderedMap, Vec, Weak, try_format_args};
use spin::Mutex;

use super::address::Name;
use super::socket::Role;
use super::{Address, Endpoint, Family, Socket, Style};
use crate::syscall::Errno;

/// The ports that are given to who asks for none.
const FIRST: u16 = 32768;
const LAST: u16 = 60999;

/// Most sockets that share a port: all of them are looked at for each connection.
const MOST_SHARING: usize = 1024;

/// Ports that are tried before there is none.
const TRIES: usize = 1024;

static ABSTRACT: Mutex<OrderedMap<(Style, Name), Weak<Socket>>> = Mutex::new(OrderedMap::new());

static PORTS: Mutex<OrderedMap<(Style, u16), Vec<Bound>>> = Mutex::new(OrderedMap::new());

/// A socket that has a port.
struct Bound {
    socket: Weak<Socket>,
    endpoint: Endpoint,
}

/// Gives a socket a name without a file; one of five digits if `wanted` is none.
///
/// # Errors
/// `EADDRINUSE`, `ENOMEM`; `EINVAL` if it has a name.
pub fn bind_abstract(socket: &Arc<Socket>, wanted: Option<Name>) -> Result<(), Errno> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let is_automatic = wanted.is_none();
    let mut wanted = wanted;
    for _ in 0..TRIES {
        let name = match wanted.take() {
            Some(name) => name,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
                Name(Arc::try_new(
                    try_format_args(format_args!("\0{number:05x}"))?.into_bytes(),
                )?)
            }
        };
        let key = (socket.style, name.clone());
        let mut names = ABSTRACT.lock();
        if names.contains_key(&key) {
            if is_automatic {
                continue;
            }
            return Err(Errno::EADDRINUSE);
        }
        names.try_insert(key, Arc::downgrade(socket))?;
        drop(names);
        return set_local(socket, Address::Abstract(name));
    }
    Err(Errno::ENOSPC)
}

/// The socket of a name without a file.
///
/// # Errors
/// `ECONNREFUSED`.
pub fn find_abstract(style: Style, name: &Name) -> Result<Arc<Socket>, Errno> {
    let found = ABSTRACT.lock().get(&(style, name.clone())).and_then(Weak::upgrade);
    found.ok_or(Errno::ECONNREFUSED)
}

/// Gives a socket its name, unless it has one by now.
///
/// # Errors
/// `EINVAL`; then it has lost the new one.
pub fn set_local(socket: &Arc<Socket>, address: Address) -> Result<(), Errno> {
    let mut state = socket.state();
    if state.local.is_unnamed() {
        state.local = address;
        return Ok(());
    }
    drop(state);
    forget_name(socket, &address);
    Err(Errno::EINVAL)
}

/// Gives a socket a port and an address; a port that is free if none is asked for.
///
/// # Errors
/// `EADDRINUSE`, `EADDRNOTAVAIL`, `ENOMEM`; `EINVAL` if it has a name.
pub fn bind_port(socket: &Arc<Socket>, wanted: Endpoint) -> Result<(), Errno> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST);
    if !wanted.is_any() && !wanted.is_local() {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let mut ports = PORTS.lock();
    let mut endpoint = wanted;
    if wanted.port == 0 {
        let next = |port| Some(if port >= LAST { FIRST } else { port + 1 });
        let free = (0..TRIES).find_map(|_| {
            let port = NEXT
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
                .unwrap_or(FIRST);
            (!ports.contains_key(&(socket.style, port))).then_some(port)
        });
        endpoint.port = free.ok_or(Errno::EADDRINUSE)?;
    }
    let key = (socket.style, endpoint.port);
    if let Some(others) = ports.get(&key)
        && (others.len() >= MOST_SHARING || others.iter().any(|other| other.is_in_the_way(socket, &endpoint)))
    {
        return Err(Errno::EADDRINUSE);
    }
    let bound = Bound {
        socket: Arc::downgrade(socket),
        endpoint,
    };
    match ports.get_mut(&key) {
        Some(others) => others.try_push(bound)?,
        None => {
            let mut first = Vec::try_with_capacity(1)?;
            first.try_push(bound)?;
            ports.try_insert(key, first)?;
        }
    }
    drop(ports);
    set_local(socket, Address::Inet(endpoint))
}

impl Bound {
    fn is_in_the_way(&self, socket: &Socket, endpoint: &Endpoint) -> bool {
        let Some(other) = self.socket.upgrade() else {
            return false;
        };
        let (one, two) = (&socket.options, &other.options);
        if one.reuses_port() && two.reuses_port() {
            return false;
        }
        let listens = || matches!(other.state().role, Role::Listening { .. });
        if one.reuses_address() && two.reuses_address() && (socket.style == Style::Datagram || !listens()) {
            return false;
        }
        let only = |options: &super::options::Options| options.is_v6_only();
        self.endpoint.address == endpoint.address
            || (self.endpoint.is_any() || endpoint.is_any()) && {
                let same_family = self.endpoint.is_v4() == endpoint.is_v4();
                let wide = |endpoint: &Endpoint, only: bool| endpoint.is_any() && !endpoint.is_v4() && !only;
                same_family || wide(&self.endpoint, only(two)) || wide(endpoint, only(one))
            }
    }
}

/// The socket that gets what is sent to a place on the network: of datagrams the one that is connected with the `sender`, if
/// there is one, of connections one that listens.
pub fn find_port(style: Style, to: &Endpoint, sender: Option<&Endpoint>) -> Option<Arc<Socket>> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let ports = PORTS.lock();
    let bound = ports.get(&(style, to.port))?;
    let (mut best, mut best_rank, mut same) = (None, 0, 0);
    for candidate in bound {
        let Some(socket) = candidate.socket.upgrade() else {
            continue;
        };
        if !candidate.endpoint.takes(to, socket.options.is_v6_only()) {
            continue;
        }
        let state = socket.state();
        let connected = match (&state.role, state.remote) {
            (Role::Listening { .. }, _) => 0,
            _ if style == Style::Stream => continue,
            (_, Some(remote)) if sender.is_none_or(|sender| *sender != remote) => continue,
            (_, remote) => usize::from(remote.is_some()),
        };
        drop(state);
        let rank = 1 + 2 * connected + usize::from(!candidate.endpoint.is_any());
        // Several of the same rank share a port, in turn.
        same = if rank == best_rank { same + 1 } else { 1 };
        if rank > best_rank || (rank == best_rank && TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(same)) {
            (best, best_rank) = (Some(socket), rank);
        }
    }
    best
}

/// A socket loses its name.
pub fn forget(socket: &Arc<Socket>) {
    forget_name(socket, &socket.local());
}

fn forget_name(socket: &Arc<Socket>, address: &Address) {
    match address {
        Address::Abstract(name) => {
            let removed = ABSTRACT.lock().remove(&(socket.style, name.clone()));
            drop(removed);
        }
        Address::Inet(endpoint) if socket.family != Family::Unix => {
            let key = (socket.style, endpoint.port);
            let mut ports = PORTS.lock();
            let Some(bound) = ports.get_mut(&key) else { return };
            bound.retain(|bound| !bound.socket.ptr_eq(&Arc::downgrade(socket)));
            if bound.is_empty() {
                ports.remove(&key);
            }
        }
        _ => {}
    }
}
