//! Names of sockets, and how calls write them.

use core::cmp::Ordering;

use faultline_fallible::{Arc, Vec};
use linux_raw_sys::net as linux;

use super::Family;
use crate::syscall::Errno;

/// Bytes of the largest name: `struct sockaddr_un`.
pub const LONGEST: usize = 110;

/// The first 12 bytes of an address of IPv4 among those of IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An address of IPv6, or one of IPv4 in its mapped form, with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Any address of a family.
    #[must_use]
    pub const fn any(family: Family, port: u16) -> Self {
        let address = match family {
            Family::Inet => Self::mapped([0; 4]),
            _ => [0; 16],
        };
        Self { address, port }
    }

    const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    fn v4(&self) -> Option<[u8; 4]> {
        let (head, tail) = self.address.split_at(12);
        (head == MAPPED).then(|| [tail[0], tail[1], tail[2], tail[3]])
    }

    /// Whether it is an address of IPv4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.v4().is_some()
    }

    /// Whether it stands for all addresses of the machine.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.address == [0; 16] || self.v4() == Some([0; 4])
    }

    /// Whether it is an address that the machine has.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let mut one = [0; 16];
        one[15] = 1;
        self.address == one || self.v4().is_some_and(|v4| v4[0] == 127)
    }

    /// Where something goes that is sent here: to all addresses means to the machine itself.
    ///
    /// # Errors
    /// `ENETUNREACH` for what is not in the machine.
    pub fn destination(self) -> Result<Self, Errno> {
        if self.is_any() {
            let mut address = [0; 16];
            address[15] = 1;
            let v4 = Self::mapped([127, 0, 0, 1]);
            return Ok(Self {
                address: if self.is_v4() { v4 } else { address },
                ..self
            });
        }
        if self.is_local() {
            Ok(self)
        } else {
            Err(Errno::ENETUNREACH)
        }
    }

    /// Whether a socket that is bound here gets what is sent to `destination`; one of IPv6 gets what is sent to IPv4, too, unless
    /// it is for IPv6 `only`.
    #[must_use]
    pub fn takes(&self, destination: &Self, only: bool) -> bool {
        self.port == destination.port
            && (self.address == destination.address
                || self.is_any() && (self.is_v4() == destination.is_v4() || !self.is_v4() && !only))
    }
}

/// A name that is no path.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(pub Arc<Vec<u8>>);

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_slice().cmp(other.0.as_slice())
    }
}

/// The name of a socket.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// None yet.
    Unnamed,
    /// A path.
    Path(Name),
    /// A name without a file; its first byte is 0.
    Abstract(Name),
    /// On the network.
    Inet(Endpoint),
}

impl Address {
    /// What a call's `bytes` say to a socket of that family.
    ///
    /// # Errors
    /// `EINVAL` for a length that can't be, `EAFNOSUPPORT` for another family, `ENOMEM`.
    pub fn parse(family: Family, bytes: &[u8]) -> Result<Self, Errno> {
        let given = bytes.first_chunk().map(|&number| u32::from(u16::from_le_bytes(number)));
        let given = given.ok_or(Errno::EINVAL)?;
        match family {
            Family::Unix => {
                if given != linux::AF_UNIX || bytes.len() > LONGEST {
                    return Err(Errno::EINVAL);
                }
                let path = &bytes[2..];
                let end = path.iter().position(|&byte| byte == 0);
                Ok(match end {
                    _ if path.is_empty() => Self::Unnamed,
                    Some(0) => Self::Abstract(Name(Arc::try_new(Vec::try_from_slice(path)?)?)),
                    end => {
                        let path = &path[..end.unwrap_or(path.len())];
                        Self::Path(Name(Arc::try_new(Vec::try_from_slice(path)?)?))
                    }
                })
            }
            Family::Inet => {
                let [_, _, high, low, a, b, c, d] = bytes[..bytes.len().min(8)] else {
                    return Err(Errno::EINVAL);
                };
                if bytes.len() < 16 {
                    return Err(Errno::EINVAL);
                }
                if given != linux::AF_INET {
                    return Err(Errno::EAFNOSUPPORT);
                }
                Ok(Self::Inet(Endpoint {
                    address: Endpoint::mapped([a, b, c, d]),
                    port: u16::from_be_bytes([high, low]),
                }))
            }
            Family::Inet6 => {
                if given != linux::AF_INET6 {
                    return Err(if bytes.len() < 24 {
                        Errno::EINVAL
                    } else {
                        Errno::EAFNOSUPPORT
                    });
                }
                let address = bytes
                    .get(8..24)
                    .and_then(|part| part.first_chunk())
                    .ok_or(Errno::EINVAL)?;
                Ok(Self::Inet(Endpoint {
                    address: *address,
                    port: u16::from_be_bytes([bytes[2], bytes[3]]),
                }))
            }
        }
    }

    /// Writes it as a socket of that family tells it; says how long it is.
    pub fn write(&self, family: Family, to: &mut [u8; LONGEST + 1]) -> usize {
        to.fill(0);
        let mut put = |at: usize, bytes: &[u8]| to[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(family.number() as u16).to_le_bytes());
        let none = Endpoint::any(family, 0);
        let endpoint = match self {
            Self::Inet(endpoint) => endpoint,
            _ => &none,
        };
        match (family, self) {
            (Family::Unix, Self::Path(Name(name))) => {
                put(2, name);
                2 + name.len() + 1
            }
            (Family::Unix, Self::Abstract(Name(name))) => {
                put(2, name);
                2 + name.len()
            }
            (Family::Unix, _) => 2,
            (Family::Inet, _) => {
                put(2, &endpoint.port.to_be_bytes());
                put(4, &endpoint.address[12..]);
                16
            }
            (Family::Inet6, _) => {
                put(2, &endpoint.port.to_be_bytes());
                put(8, &endpoint.address);
                28
            }
        }
    }

    /// Its place on the network, if it has one.
    #[must_use]
    pub const fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Inet(endpoint) => Some(*endpoint),
            _ => None,
        }
    }

    /// Whether there is none yet.
    #[must_use]
    pub const fn is_unnamed(&self) -> bool {
        matches!(self, Self::Unnamed)
    }
}
