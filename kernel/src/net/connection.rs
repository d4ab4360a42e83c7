//! How sockets find each other: binding, listening, connecting, accepting.

use faultline_fallible::{Arc, VecDeque};

use super::inbox::Credentials;
use super::socket::{NO_INPUT, NO_OUTPUT, Role};
use super::{Address, Endpoint, Family, MOST_PENDING, Socket, Style, names};
use crate::syscall::Errno;

/// Two sockets that are each other's peers.
///
/// # Errors
/// `ENOMEM`.
pub fn pair(style: Style, own: Credentials) -> Result<[Arc<Socket>; 2], Errno> {
    let ends = [Socket::new(Family::Unix, style)?, Socket::new(Family::Unix, style)?];
    for (end, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        let mut state = end.state();
        state.role = Role::Connected { unreported: false };
        state.peer = Some(other.clone());
        state.credentials = Some(own);
    }
    Ok(ends)
}

/// Gives a socket an address; a path is bound by the caller.
///
/// # Errors
/// `EINVAL` if it has one, and those of [`names`].
pub fn bind(socket: &Arc<Socket>, address: Address) -> Result<(), Errno> {
    if !socket.local().is_unnamed() || !matches!(socket.state().role, Role::Fresh) {
        return Err(Errno::EINVAL);
    }
    match address {
        Address::Unnamed => names::bind_abstract(socket, None),
        Address::Abstract(name) => names::bind_abstract(socket, Some(name)),
        Address::Inet(endpoint) => names::bind_port(socket, endpoint),
        Address::Path(_) => Err(Errno::EINVAL),
    }
}

/// Gives a socket of the network a port, if it has none.
fn bind_somewhere(socket: &Arc<Socket>, address: Endpoint) -> Result<(), Errno> {
    if socket.local().is_unnamed() {
        names::bind_port(socket, Endpoint { port: 0, ..address })?;
    }
    Ok(())
}

/// `listen`.
///
/// # Errors
/// `EOPNOTSUPP` for datagrams, `EINVAL` for what has no name or a peer, `EADDRINUSE`.
pub fn listen(socket: &Arc<Socket>, backlog: i32, own: Credentials) -> Result<(), Errno> {
    if !socket.is_connection() {
        return Err(Errno::EOPNOTSUPP);
    }
    if socket.is_unix() && socket.local().is_unnamed() {
        return Err(Errno::EINVAL);
    }
    if !socket.is_unix() {
        bind_somewhere(socket, Endpoint::any(socket.family, 0))?;
    }
    // One more than asked, as on Linux. On the network nobody waits for room, so that there is some in any case.
    let most = match socket.is_unix() {
        true => usize::try_from(backlog).unwrap_or(MOST_PENDING).min(MOST_PENDING - 1) + 1,
        false => MOST_PENDING,
    };
    let mut state = socket.state();
    match &mut state.role {
        role @ Role::Fresh => {
            *role = Role::Listening {
                backlog: VecDeque::new(),
                most,
            };
        }
        Role::Listening { most: before, .. } => *before = most,
        _ => return Err(Errno::EINVAL),
    }
    state.credentials = Some(own);
    drop(state);
    socket.senders.wake_all();
    Ok(())
}

/// What a try to connect came to.
pub enum Attempt {
    /// It is connected.
    Done,
    /// The backlog of this socket is full.
    Full(Arc<Socket>),
}

/// Connects a socket of a stream or of packets with one that listens.
///
/// # Errors
/// `ECONNREFUSED`, `EPROTOTYPE`, `EISCONN`, `EALREADY`, `EINVAL`, `ENOMEM`; those of [`names::bind_port`].
pub fn connect(
    socket: &Arc<Socket>,
    target: &Arc<Socket>,
    reached: Option<Endpoint>,
    own: Credentials,
    waits: bool,
) -> Result<Attempt, Errno> {
    if target.style != socket.style {
        return Err(Errno::EPROTOTYPE);
    }
    begin(socket)?;
    if let Some(reached) = reached {
        if let Err(errno) = bind_somewhere(socket, reached) {
            socket.state().role = Role::Fresh;
            return Err(errno);
        }
        if let Address::Inet(local) = &mut socket.state().local
            && local.is_any()
        {
            local.address = reached.address;
        }
    }
    let result = join(socket, target, reached, own, waits);
    if !matches!(result, Ok(Attempt::Done)) {
        let mut state = socket.state();
        if matches!(state.role, Role::Connecting) {
            state.role = Role::Fresh;
        }
    }
    result
}

/// Whether a socket can be connected; from here on nobody else connects it.
fn begin(socket: &Socket) -> Result<(), Errno> {
    let mut state = socket.state();
    match &mut state.role {
        role @ Role::Fresh => {
            *role = Role::Connecting;
            drop(state);
            // A try that failed has left its mark.
            socket.begin_again();
            Ok(())
        }
        Role::Connecting => Err(Errno::EALREADY),
        Role::Connected { .. } => Err(Errno::EISCONN),
        Role::Listening { .. } | Role::Closed => Err(Errno::EINVAL),
    }
}

fn join(
    socket: &Arc<Socket>,
    target: &Arc<Socket>,
    reached: Option<Endpoint>,
    own: Credentials,
    waits: bool,
) -> Result<Attempt, Errno> {
    let server = Socket::accepted(target, reached)?;
    {
        let mut state = server.state();
        state.role = Role::Connected { unreported: false };
        state.peer = Some(socket.clone());
        state.credentials = Some(own);
    }
    let listener = {
        let mut listening = target.state();
        let credentials = listening.credentials;
        let is_over = target.over() & NO_INPUT != 0;
        let Role::Listening { backlog, most } = &mut listening.role else {
            return Err(Errno::ECONNREFUSED);
        };
        if is_over {
            return Err(Errno::ECONNREFUSED);
        }
        if backlog.len() >= *most {
            return Ok(Attempt::Full(target.clone()));
        }
        backlog.try_push_back(server.clone())?;
        credentials
    };
    {
        let mut state = socket.state();
        state.role = Role::Connected { unreported: !waits };
        state.peer = Some(server);
        state.credentials = listener;
    }
    target.announce();
    Ok(Attempt::Done)
}

/// Connects datagrams: they go there from now on, and come from there only.
///
/// # Errors
/// `EPROTOTYPE`, `ECONNREFUSED`, and those of [`names::bind_port`].
pub fn connect_datagrams(socket: &Arc<Socket>, to: Destination) -> Result<(), Errno> {
    let (peer, remote) = match to {
        Destination::Socket(target) if target.style != socket.style => return Err(Errno::EPROTOTYPE),
        Destination::Socket(target) => {
            // Who receives from its peer only refuses others.
            if target.peer().is_some_and(|peer| !Arc::ptr_eq(&peer, socket)) {
                return Err(Errno::EPERM);
            }
            (Some(target), None)
        }
        Destination::Network(endpoint) => {
            bind_somewhere(socket, endpoint)?;
            (None, Some(endpoint))
        }
        Destination::Nowhere => (None, None),
    };
    let old = {
        let mut state = socket.state();
        if let (Some(remote), Address::Inet(local)) = (remote, &mut state.local)
            && local.is_any()
        {
            local.address = remote.address;
        }
        state.remote = remote;
        core::mem::replace(&mut state.peer, peer)
    };
    drop(old);
    Ok(())
}

/// Where datagrams go.
pub enum Destination {
    /// To a socket of `AF_UNIX`.
    Socket(Arc<Socket>),
    /// To a place on the network.
    Network(Endpoint),
    /// Nowhere any more.
    Nowhere,
}

/// Takes the oldest connection; none if there is none.
///
/// # Errors
/// `EINVAL` for a socket that does not listen, `EOPNOTSUPP` for datagrams.
pub fn accept(socket: &Socket) -> Result<Option<Arc<Socket>>, Errno> {
    if !socket.is_connection() {
        return Err(Errno::EOPNOTSUPP);
    }
    let (accepted, is_left) = {
        let mut state = socket.state();
        let Role::Listening { backlog, .. } = &mut state.role else {
            return Err(Errno::EINVAL);
        };
        (backlog.pop_front(), !backlog.is_empty())
    };
    if accepted.is_none() && socket.over() & NO_INPUT != 0 {
        return Err(Errno::EINVAL);
    }
    if accepted.is_some() {
        socket.senders.wake_one();
    }
    if is_left {
        socket.receivers.wake_one();
    }
    Ok(accepted)
}

/// `shutdown`.
///
/// # Errors
/// `ENOTCONN`, `EINVAL`.
pub fn shut_down(socket: &Socket, how: u64) -> Result<(), Errno> {
    let directions = match how as u32 {
        0 => NO_INPUT,
        1 => NO_OUTPUT,
        2 => NO_INPUT | NO_OUTPUT,
        _ => return Err(Errno::EINVAL),
    };
    let (peer, is_listening, is_connected) = {
        let state = socket.state();
        let is_connected = matches!(state.role, Role::Connected { .. }) || state.remote.is_some();
        (
            state.peer.clone(),
            matches!(state.role, Role::Listening { .. }),
            is_connected,
        )
    };
    if !socket.is_unix() && !is_connected && !is_listening {
        return Err(Errno::ENOTCONN);
    }
    if is_listening && !socket.is_unix() {
        if directions & NO_INPUT != 0 {
            socket.end(NO_INPUT | NO_OUTPUT);
        }
        return Ok(());
    }
    socket.end(directions);
    if let Some(peer) = peer.filter(|_| socket.is_connection()) {
        let mut its = if directions & NO_OUTPUT != 0 { NO_INPUT } else { 0 };
        if socket.is_unix() && directions & NO_INPUT != 0 {
            its |= NO_OUTPUT;
        }
        peer.end(its);
    }
    Ok(())
}
