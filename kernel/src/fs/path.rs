//! From a path to a node.

use alloc::format;
use alloc::vec::Vec;
use faultline_fallible::Arc;

use super::tree::{self, Node, NodeKind};
use crate::process::Pid;
use crate::syscall::Errno;

/// Most symbolic links that one look-up follows.
const MAX_LINKS: usize = 40;

/// Longest name of a file.
const NAME_MAX: usize = 255;

/// Whether a symbolic link at the end of the path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Follow it.
    Follow,
    /// Name the link itself.
    Keep,
}

/// The place that a path names, whether or not there is something.
pub struct Place {
    /// The directory.
    pub directory: Arc<Node>,
    /// The name in it; empty if the path names the directory itself.
    pub name: Vec<u8>,
    /// What is there.
    pub node: Option<Arc<Node>>,
    /// The path ends with a slash: what it names has to be a directory.
    pub wants_directory: bool,
}

/// The node that `path` names, seen from the directory `from` by the process `viewer`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG` or `ELOOP`, as POSIX says.
pub fn look_up(from: &Arc<Node>, path: &[u8], last_link: LastLink, viewer: Pid) -> Result<Arc<Node>, Errno> {
    let place = locate(from, path, last_link, viewer)?;
    let node = place.node.ok_or(Errno::ENOENT)?;
    if place.wants_directory && !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    Ok(node)
}

/// The place that `path` names: its last part need not be there.
///
/// # Errors
/// As [`look_up`], about all parts but the last.
pub fn locate(from: &Arc<Node>, path: &[u8], last_link: LastLink, viewer: Pid) -> Result<Place, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = if path[0] == b'/' {
        tree::root().clone()
    } else {
        from.clone()
    };
    let mut links = 0;
    // Parts that are still to be walked, the next one last.
    let mut left: Vec<Vec<u8>> = parts(path);
    let mut wants_directory = path.ends_with(b"/");
    while let Some(part) = left.pop() {
        if !at.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if part == b".." {
            at = Node::parent(&at);
            continue;
        }
        if part.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let next = match at.child(&part) {
            Ok(next) => next,
            Err(Errno::ENOENT) if left.is_empty() => {
                return Ok(Place {
                    directory: at,
                    name: part,
                    node: None,
                    wants_directory,
                });
            }
            Err(errno) => return Err(errno),
        };
        let target = match &next.kind {
            NodeKind::Link(target) => target.clone(),
            NodeKind::OwnProcess => format!("{viewer}").into_bytes(),
            _ if left.is_empty() => {
                return Ok(Place {
                    directory: at,
                    name: part,
                    node: Some(next),
                    wants_directory,
                });
            }
            _ => {
                at = next;
                continue;
            }
        };
        if left.is_empty() && last_link == LastLink::Keep && !wants_directory {
            return Ok(Place {
                directory: at,
                name: part,
                node: Some(next),
                wants_directory,
            });
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.first() == Some(&b'/') {
            at = tree::root().clone();
        }
        wants_directory |= left.is_empty() && target.ends_with(b"/");
        left.extend(parts(&target));
    }
    Ok(Place {
        directory: at.clone(),
        name: Vec::new(),
        node: Some(at),
        wants_directory,
    })
}

/// The parts of a path that lead somewhere, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}
