//! A name of the mounted file system that somebody uses.
//!
//! It holds the directory that it is in, up to the root of the file system. So a node is dropped after those below it. The
//! drop of the deepest takes the chain apart in a loop, because programs choose how deep it is.

use core::sync::atomic::Ordering;

use faultline_ext4::InodeKind;
use faultline_fallible::{AllocError, Arc, Box, Vec};

use super::Body;
use crate::fs::Node;
use crate::fs::tree::NodeKind;
use crate::syscall::Errno;

/// The deepest that a node may be. A directory of a damaged file system may be below itself.
const DEEPEST: u32 = 8192;

/// What a node of the mounted file system is.
pub struct MountedNode {
    /// The file that it names.
    pub body: Arc<Body>,
    /// The target, if it is a symbolic link.
    target: Vec<u8>,
    place: Option<Place>,
    depth: u32,
}

/// The directory, and the name in it.
struct Place {
    directory: Arc<Node>,
    name: Vec<u8>,
}

impl MountedNode {
    /// The root directory of the file system.
    pub(super) const fn root(body: Arc<Body>) -> Self {
        Self {
            body,
            target: Vec::new(),
            place: None,
            depth: 0,
        }
    }

    /// What `name` names in a directory, which `mounted` is.
    pub(super) async fn below(
        directory: &Arc<Node>,
        mounted: &Self,
        body: Arc<Body>,
        name: &[u8],
    ) -> Result<Arc<Node>, Errno> {
        if mounted.depth >= DEEPEST {
            return Err(Errno::ELOOP);
        }
        let target = match body.inode.kind {
            InodeKind::Link => body.mount().volume.target(&body.inode).await.map_err(super::errno)?,
            _ => Vec::new(),
        };
        let place = Place {
            directory: directory.clone(),
            name: Vec::try_from_slice(name)?,
        };
        let node = Self {
            body,
            target,
            place: Some(place),
            depth: mounted.depth + 1,
        };
        Ok(node.into_node()?)
    }

    /// The same file, for a name of the tree in memory.
    pub(super) fn bound(&self) -> Result<Self, AllocError> {
        Ok(Self {
            body: self.body.clone(),
            target: Vec::try_from_slice(&self.target)?,
            place: None,
            depth: 0,
        })
    }

    pub(super) fn into_node(self) -> Result<Arc<Node>, AllocError> {
        let inode = self.body.inode;
        let kind = NodeKind::Mounted(Box::try_new(self)?);
        let node = Node::numbered(kind, inode.permissions.into(), inode.number.into())?;
        node.links.store(inode.links.into(), Ordering::Relaxed);
        node.modified.store(inode.modified as u64, Ordering::Relaxed);
        Ok(node)
    }

    /// What it is.
    pub fn kind(&self) -> InodeKind {
        self.body.inode.kind
    }

    /// The target, if it is a symbolic link.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// The directory that it is in; none for the root of the file system, and for what has a name in memory.
    pub fn directory(&self) -> Option<&Arc<Node>> {
        self.place.as_ref().map(|place| &place.directory)
    }

    /// Its name; none for the root of the file system.
    pub fn name(&self) -> Option<&[u8]> {
        self.place.as_ref().map(|place| &place.name[..])
    }
}

impl Drop for MountedNode {
    fn drop(&mut self) {
        let mut next = self.place.take().map(|place| place.directory);
        while let Some(directory) = next {
            next = match Arc::try_unwrap(directory) {
                Ok(Node {
                    kind: NodeKind::Mounted(mut mounted),
                    ..
                }) => mounted.place.take().map(|place| place.directory),
                _ => None,
            };
        }
    }
}
