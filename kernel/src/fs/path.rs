//! From a path to a node.

use alloc::vec::Vec;

use super::tree::{self, NodeId, NodeKind, ROOT};
use crate::syscall::Errno;

/// Most symbolic links that one look-up follows.
const MAX_LINKS: usize = 40;

/// Whether a symbolic link at the end of the path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Follow it.
    Follow,
    /// Name the link itself.
    Keep,
}

/// The node that `path` names, seen from the directory `from`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR` or `ELOOP`, as POSIX says.
pub fn look_up(from: NodeId, path: &[u8], last_link: LastLink) -> Result<NodeId, Errno> {
    let tree = tree::tree();
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = if path[0] == b'/' { ROOT } else { from };
    let mut links = 0;
    // Parts that are still to be walked, the next one last.
    let mut left: Vec<&[u8]> = path.rsplit(|&byte| byte == b'/').collect();
    while let Some(part) = left.pop() {
        let entries = tree.entries(at).ok_or(Errno::ENOTDIR)?;
        match part {
            b"" | b"." => continue,
            b".." => {
                at = tree.node(at).parent;
                continue;
            }
            _ => {}
        }
        let next = *entries.get(part).ok_or(Errno::ENOENT)?;
        let NodeKind::Link(target) = &tree.node(next).kind else {
            at = next;
            continue;
        };
        if left.is_empty() && last_link == LastLink::Keep {
            return Ok(next);
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.first() == Some(&b'/') {
            at = ROOT;
        }
        left.extend(target.rsplit(|&byte| byte == b'/'));
    }
    Ok(at)
}
