//! Extended attributes, which no file has: to ask for one, or to set one, is `EOPNOTSUPP`, and a list of them is empty.
//! Arguments are checked in Linux's order before that.

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::{Caller, Errno, paths, user};
use crate::fs::path::LastLink;
use crate::fs::{FileKind, Node, changes};

/// The longest name of an attribute.
const NAME_MAX: usize = 255;

/// The largest value of an attribute.
const VALUE_MAX: u64 = 64 * 1024;

/// Whose attributes a call is about.
#[derive(Clone, Copy)]
pub enum Of {
    /// The file of a path, its last link followed.
    Path(u64),
    /// The file of a path, or the link that it names.
    Link(u64),
    /// An open file.
    Descriptor(u64),
}

/// `getxattr`, `lgetxattr`, `fgetxattr`.
pub async fn get(caller: Caller, of: Of, name: u64) -> Result<u64, Errno> {
    find(&caller, of).await?;
    read_name(&caller, name).await?;
    Err(Errno::EOPNOTSUPP)
}

/// `setxattr`, `lsetxattr`, `fsetxattr`.
pub async fn set(caller: Caller, of: Of, name: u64, [value, size, flags]: [u64; 3]) -> Result<u64, Errno> {
    find_to_change(&caller, of).await?;
    if flags as u32 & !(linux::XATTR_CREATE | linux::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    read_name(&caller, name).await?;
    if size > VALUE_MAX {
        return Err(Errno::E2BIG);
    }
    if size > 0 {
        user::read(&caller.space, value, &mut user::buffer(size as usize)?).await?;
    }
    Err(Errno::EOPNOTSUPP)
}

/// `listxattr`, `llistxattr`, `flistxattr`.
pub async fn list(caller: Caller, of: Of) -> Result<u64, Errno> {
    find(&caller, of).await.map(|_| 0)
}

/// `removexattr`, `lremovexattr`, `fremovexattr`.
pub async fn remove(caller: Caller, of: Of, name: u64) -> Result<u64, Errno> {
    find_to_change(&caller, of).await?;
    read_name(&caller, name).await?;
    Err(Errno::EOPNOTSUPP)
}

/// The file; none for an open one without a name.
async fn find(caller: &Caller, of: Of) -> Result<Option<Arc<Node>>, Errno> {
    let (path, last_link) = match of {
        Of::Path(path) => (path, LastLink::Follow),
        Of::Link(path) => (path, LastLink::Keep),
        Of::Descriptor(descriptor) => {
            let file = caller.thread.process.files().lock().get(descriptor)?;
            return match file.kind {
                FileKind::Path => Err(Errno::EBADF),
                _ => Ok(file.node.clone()),
            };
        }
    };
    let path = user::read_path(&caller.space, path).await?;
    paths::find(caller, paths::AT_CWD, &path, last_link).await.map(Some)
}

async fn find_to_change(caller: &Caller, of: Of) -> Result<(), Errno> {
    let node = find(caller, of).await?;
    node.map_or(Ok(()), |node| changes::check_not_mounted(&node))
}

async fn read_name(caller: &Caller, name: u64) -> Result<(), Errno> {
    let name = user::read_string(&caller.space, name, NAME_MAX + 1, Errno::ERANGE).await?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    Ok(())
}
