//! What `setsockopt` sets and `getsockopt` tells.
//!
//! Inside one machine most options of TCP and IP change nothing: they are checked, kept and told.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::net as linux;

use super::socket::Role;
use super::{Family, Socket, Style, USUAL_BUFFER};
use crate::syscall::Errno;
use crate::time::NANOSECONDS;

const IPPROTO_IP: u32 = 0;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_IPV6: u32 = 41;

/// The bounds of a buffer: what Linux allows at least, and at most without privileges, doubled.
const LEAST_SEND: u32 = 4608;
const LEAST_RECEIVE: u32 = 2304;
const MOST_BUFFER: u32 = 425_984;

/// Which sockets have an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    All,
    Unix,
    Network,
    Tcp,
    V6,
}

/// What values an option has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    /// 0 or 1, whatever is set.
    Flag,
    /// From the first to the second number.
    Between(i32, i32),
}

/// An option that is a number, which is kept.
struct Number {
    level: u32,
    name: u32,
    whose: Whose,
    first: u32,
    range: Range,
}

const fn flag(level: u32, name: u32, whose: Whose) -> Number {
    Number {
        level,
        name,
        whose,
        first: 0,
        range: Range::Flag,
    }
}

const fn number(level: u32, name: u32, whose: Whose, first: u32, least: i32, most: i32) -> Number {
    Number {
        level,
        name,
        whose,
        first,
        range: Range::Between(least, most),
    }
}

const REUSE_ADDRESS: usize = 0;
const REUSE_PORT: usize = 1;
const PASS_CREDENTIALS: usize = 2;
const V6_ONLY: usize = 3;
const LOW_WATER: usize = 4;

const NUMBERS: [Number; 24] = [
    flag(linux::SOL_SOCKET, linux::SO_REUSEADDR, Whose::All),
    flag(linux::SOL_SOCKET, linux::SO_REUSEPORT, Whose::Network),
    flag(linux::SOL_SOCKET, linux::SO_PASSCRED, Whose::Unix),
    flag(IPPROTO_IPV6, linux::IPV6_V6ONLY, Whose::V6),
    number(linux::SOL_SOCKET, linux::SO_RCVLOWAT, Whose::All, 1, i32::MIN, i32::MAX),
    flag(linux::SOL_SOCKET, linux::SO_KEEPALIVE, Whose::All),
    flag(linux::SOL_SOCKET, linux::SO_BROADCAST, Whose::All),
    flag(linux::SOL_SOCKET, linux::SO_OOBINLINE, Whose::All),
    flag(linux::SOL_SOCKET, linux::SO_DONTROUTE, Whose::All),
    flag(linux::SOL_SOCKET, linux::SO_TIMESTAMP, Whose::All),
    number(linux::SOL_SOCKET, linux::SO_PRIORITY, Whose::All, 0, 0, 6),
    flag(IPPROTO_TCP, linux::TCP_NODELAY, Whose::Tcp),
    // TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_QUICKACK, TCP_USER_TIMEOUT
    flag(IPPROTO_TCP, 3, Whose::Tcp),
    number(IPPROTO_TCP, 4, Whose::Tcp, 7200, 1, 32767),
    number(IPPROTO_TCP, 5, Whose::Tcp, 75, 1, 32767),
    number(IPPROTO_TCP, 6, Whose::Tcp, 9, 1, 127),
    Number {
        first: 1,
        ..flag(IPPROTO_TCP, 12, Whose::Tcp)
    },
    number(IPPROTO_TCP, 18, Whose::Tcp, 0, 0, i32::MAX),
    // TCP_DEFER_ACCEPT, TCP_FASTOPEN
    number(IPPROTO_TCP, 9, Whose::Tcp, 0, i32::MIN, i32::MAX),
    number(IPPROTO_TCP, 23, Whose::Tcp, 0, 0, i32::MAX),
    // IP_TOS, IP_TTL, IP_RECVERR
    number(IPPROTO_IP, 1, Whose::Network, 0, 0, 255),
    number(IPPROTO_IP, 2, Whose::Network, 64, 1, 255),
    flag(IPPROTO_IP, 11, Whose::Network),
    // IPV6_TCLASS
    number(IPPROTO_IPV6, 67, Whose::V6, 0, 0, 255),
];

/// The options of a socket.
pub struct Options {
    numbers: [AtomicU32; NUMBERS.len()],
    send_buffer: AtomicU32,
    receive_buffer: AtomicU32,
    /// On or off, and seconds.
    linger: [AtomicU32; 2],
    /// Nanoseconds that a receive and a send wait at most; 0 for without end.
    timeouts: [AtomicU64; 2],
}

impl Options {
    /// What a new socket has.
    #[must_use]
    pub fn new() -> Self {
        Self {
            numbers: core::array::from_fn(|index| AtomicU32::new(NUMBERS[index].first)),
            send_buffer: AtomicU32::new(USUAL_BUFFER as u32),
            receive_buffer: AtomicU32::new(USUAL_BUFFER as u32),
            linger: [const { AtomicU32::new(0) }; 2],
            timeouts: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// Those of a listening socket, for a connection that it accepts.
    #[must_use]
    pub fn inherit(&self) -> Self {
        let copy = |from: &AtomicU32| AtomicU32::new(from.load(Ordering::Relaxed));
        Self {
            numbers: core::array::from_fn(|index| copy(&self.numbers[index])),
            send_buffer: copy(&self.send_buffer),
            receive_buffer: copy(&self.receive_buffer),
            linger: [copy(&self.linger[0]), copy(&self.linger[1])],
            timeouts: [const { AtomicU64::new(0) }; 2],
        }
    }

    fn number(&self, index: usize) -> u32 {
        self.numbers[index].load(Ordering::Relaxed)
    }

    /// Bytes that may be on their way from it.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed) as usize
    }

    /// Whether several sockets may have its name, one after the other.
    #[must_use]
    pub fn reuses_address(&self) -> bool {
        self.number(REUSE_ADDRESS) != 0
    }

    /// Whether several sockets may have its port at the same time.
    #[must_use]
    pub fn reuses_port(&self) -> bool {
        self.number(REUSE_PORT) != 0
    }

    /// Whether each message is to say who has sent it.
    #[must_use]
    pub fn passes_credentials(&self) -> bool {
        self.number(PASS_CREDENTIALS) != 0
    }

    /// Whether it is for IPv6 only.
    #[must_use]
    pub fn is_v6_only(&self) -> bool {
        self.number(V6_ONLY) != 0
    }

    /// Whether closing it throws away what is on its way: a linger of no time.
    #[must_use]
    pub fn resets(&self) -> bool {
        let [on, seconds] = &self.linger;
        on.load(Ordering::Relaxed) != 0 && seconds.load(Ordering::Relaxed) == 0
    }

    /// Bytes of a stream that a receive waits for.
    #[must_use]
    pub fn low_water(&self) -> usize {
        (self.number(LOW_WATER) as usize).max(1)
    }

    /// Nanoseconds that a receive waits at most.
    #[must_use]
    pub fn receive_timeout(&self) -> Option<u64> {
        Some(self.timeouts[0].load(Ordering::Relaxed)).filter(|&time| time != 0)
    }

    /// Nanoseconds that a send waits at most.
    #[must_use]
    pub fn send_timeout(&self) -> Option<u64> {
        Some(self.timeouts[1].load(Ordering::Relaxed)).filter(|&time| time != 0)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Whose {
    fn includes(self, socket: &Socket) -> bool {
        match self {
            Self::All => true,
            Self::Unix => socket.is_unix(),
            Self::Network => !socket.is_unix(),
            Self::Tcp => !socket.is_unix() && socket.style == Style::Stream,
            Self::V6 => socket.family == Family::Inet6,
        }
    }
}

fn find(socket: &Socket, level: u32, name: u32) -> Option<usize> {
    NUMBERS
        .iter()
        .position(|option| option.level == level && option.name == name && option.whose.includes(socket))
}

/// What is wrong with an option that the socket does not have.
fn unknown(socket: &Socket, level: u32) -> Errno {
    let is_known = match level {
        linux::SOL_SOCKET => true,
        IPPROTO_IPV6 => socket.family == Family::Inet6,
        _ => !socket.is_unix(),
    };
    if is_known {
        Errno::ENOPROTOOPT
    } else {
        Errno::EOPNOTSUPP
    }
}

/// `setsockopt`, with the value as the program gave it.
///
/// # Errors
/// `ENOPROTOOPT`, `EOPNOTSUPP` for what the socket does not have; `EINVAL`, `EDOM` for what it can't be; `EPERM`.
pub fn set(socket: &Socket, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
    let options = &socket.options;
    let words = value.as_chunks::<4>().0;
    let first = words.first().map(|&word| i32::from_le_bytes(word));
    if level == linux::SOL_SOCKET {
        match name {
            linux::SO_SNDBUF | linux::SO_SNDBUFFORCE => {
                let size = (first.ok_or(Errno::EINVAL)? as u32).min(MOST_BUFFER / 2) * 2;
                options.send_buffer.store(size.max(LEAST_SEND), Ordering::Relaxed);
                return Ok(());
            }
            linux::SO_RCVBUF | linux::SO_RCVBUFFORCE => {
                let size = (first.ok_or(Errno::EINVAL)? as u32).min(MOST_BUFFER / 2) * 2;
                options.receive_buffer.store(size.max(LEAST_RECEIVE), Ordering::Relaxed);
                return Ok(());
            }
            linux::SO_LINGER => {
                let [on, seconds, ..] = words else {
                    return Err(Errno::EINVAL);
                };
                let on = u32::from_le_bytes(*on) != 0;
                options.linger[0].store(u32::from(on), Ordering::Relaxed);
                options.linger[1].store(u32::from_le_bytes(*seconds), Ordering::Relaxed);
                return Ok(());
            }
            linux::SO_RCVTIMEO | linux::SO_SNDTIMEO => {
                let [seconds, micros, ..] = value.as_chunks::<8>().0 else {
                    return Err(Errno::EINVAL);
                };
                let (seconds, micros) = (i64::from_le_bytes(*seconds), i64::from_le_bytes(*micros));
                if !(0..1_000_000).contains(&micros) {
                    return Err(Errno::EDOM);
                }
                // A negative time is over at once.
                let time = match u64::try_from(seconds) {
                    Ok(seconds) => seconds.saturating_mul(NANOSECONDS).saturating_add(micros as u64 * 1000),
                    Err(_) => 1,
                };
                let which = usize::from(name == linux::SO_SNDTIMEO);
                options.timeouts[which].store(time, Ordering::Relaxed);
                return Ok(());
            }
            linux::SO_TYPE | linux::SO_ERROR | linux::SO_DOMAIN | linux::SO_PROTOCOL | linux::SO_ACCEPTCONN => {
                return Err(Errno::ENOPROTOOPT);
            }
            _ => {}
        }
    }
    let index = find(socket, level, name).ok_or_else(|| unknown(socket, level))?;
    // IP takes a byte, too.
    let given = match (first, value) {
        (Some(word), _) => word,
        (None, [byte, ..]) if level == IPPROTO_IP => i32::from(*byte),
        _ => return Err(Errno::EINVAL),
    };
    let value = match NUMBERS[index].range {
        Range::Flag => u32::from(given != 0),
        Range::Between(least, most) if (least..=most).contains(&given) => given as u32,
        Range::Between(..) if name == linux::SO_PRIORITY => return Err(Errno::EPERM),
        Range::Between(..) => return Err(Errno::EINVAL),
    };
    options.numbers[index].store(value, Ordering::Relaxed);
    Ok(())
}

/// `getsockopt`: the value, and its length.
///
/// # Errors
/// `ENOPROTOOPT`, `EOPNOTSUPP` for what the socket does not have.
pub fn get(socket: &Socket, level: u32, name: u32) -> Result<([u8; 16], usize), Errno> {
    let options = &socket.options;
    let mut bytes = [0; 16];
    let word = |value: u32| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&value.to_le_bytes());
        Ok((bytes, 4))
    };
    if level == linux::SOL_SOCKET {
        match name {
            linux::SO_TYPE => return word(socket.style.number()),
            linux::SO_DOMAIN => return word(socket.family.number()),
            linux::SO_PROTOCOL => return word(protocol(socket)),
            linux::SO_ERROR => return word(socket.take_error().map_or(0, Errno::number)),
            linux::SO_ACCEPTCONN => {
                return word(u32::from(matches!(socket.state().role, Role::Listening { .. })));
            }
            linux::SO_SNDBUF => return word(options.send_buffer.load(Ordering::Relaxed)),
            linux::SO_RCVBUF => return word(options.receive_buffer.load(Ordering::Relaxed)),
            linux::SO_SNDLOWAT => return word(1),
            linux::SO_LINGER => {
                for (to, from) in bytes.chunks_exact_mut(4).zip(&options.linger) {
                    to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes());
                }
                return Ok((bytes, 8));
            }
            linux::SO_RCVTIMEO | linux::SO_SNDTIMEO => {
                let which = usize::from(name == linux::SO_SNDTIMEO);
                let time = options.timeouts[which].load(Ordering::Relaxed);
                bytes[..8].copy_from_slice(&(time / NANOSECONDS).to_le_bytes());
                bytes[8..].copy_from_slice(&(time % NANOSECONDS / 1000).to_le_bytes());
                return Ok((bytes, 16));
            }
            linux::SO_PEERCRED => {
                let none = [0, u32::MAX, u32::MAX];
                let known = socket.state().credentials;
                let numbers = known.map_or(none, |known| [known.pid, known.user, known.group]);
                for (to, from) in bytes.chunks_exact_mut(4).zip(numbers) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                return Ok((bytes, 12));
            }
            _ => {}
        }
    }
    let index = find(socket, level, name).ok_or_else(|| unknown(socket, level))?;
    word(options.number(index))
}

/// The `IPPROTO_*` number.
fn protocol(socket: &Socket) -> u32 {
    match (socket.family, socket.style) {
        (Family::Unix, _) => 0,
        (_, Style::Datagram) => IPPROTO_UDP,
        _ => IPPROTO_TCP,
    }
}
