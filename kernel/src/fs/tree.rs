//! The tree of files, built once from the boot archive.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use cpio_reader::Mode;
use spin::Once;
use x86_64::PhysAddr;

use super::RamdiskFile;
use super::proc::ProcFile;

/// Index of a node in the tree.
pub type NodeId = usize;

/// The root directory.
pub const ROOT: NodeId = 0;

/// Characters that come from, or go, somewhere other than memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `/dev/null`.
    Null,
    /// `/dev/zero`.
    Zero,
    /// `/dev/random`, `/dev/urandom`.
    Random,
    /// `/dev/console`, `/dev/tty`.
    Console,
}

/// What a node is.
#[derive(Debug)]
pub enum NodeKind {
    /// A directory: names and nodes.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A file of the archive.
    File(Arc<RamdiskFile>),
    /// A symbolic link: its target.
    Link(Vec<u8>),
    /// A device.
    Device(Device),
    /// A file whose content is made when it is opened.
    Proc(ProcFile),
}

/// A node of the tree.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// The directory that holds it; the root holds itself.
    pub parent: NodeId,
    /// Its name in that directory.
    pub name: Vec<u8>,
    /// Permission bits.
    pub permissions: u32,
    /// Time of its last change, in seconds.
    pub modified: u64,
}

/// The tree of files.
#[derive(Debug)]
pub struct Tree(Vec<Node>);

static TREE: Once<Tree> = Once::new();

/// The tree of this machine: empty but for devices and `/proc` until [`install`] was called.
pub fn tree() -> &'static Tree {
    TREE.call_once(|| Tree::build(&[], None))
}

/// Builds the tree from the boot archive, which lies at the physical address `physical`, if it is contiguous.
pub fn install(archive: &'static [u8], physical: Option<PhysAddr>) {
    TREE.call_once(|| Tree::build(archive, physical));
}

impl Tree {
    fn build(archive: &'static [u8], physical: Option<PhysAddr>) -> Self {
        let root = Node {
            kind: NodeKind::Directory(BTreeMap::new()),
            parent: ROOT,
            name: Vec::new(),
            permissions: 0o755,
            modified: 0,
        };
        let mut tree = Self(vec![root]);
        for entry in cpio_reader::iter_files(archive) {
            // The packer pads names with NULs so that the bytes start on a page boundary.
            let name = entry.name().split('\0').next().unwrap_or("").as_bytes();
            let bytes = entry.file();
            let mode = entry.mode();
            let kind = if mode.contains(Mode::SYMBOLIK_LINK) {
                NodeKind::Link(bytes.to_owned())
            } else if mode.contains(Mode::REGULAR_FILE) {
                let offset = bytes.as_ptr() as u64 - archive.as_ptr() as u64;
                NodeKind::File(Arc::new(RamdiskFile::new(bytes, physical.map(|start| start + offset))))
            } else if mode.contains(Mode::DIRECTORY) {
                NodeKind::Directory(BTreeMap::new())
            } else {
                continue;
            };
            tree.add(name, kind, mode.bits() & 0o7777, entry.mtime());
        }
        for (path, device) in [
            ("dev/null", Device::Null),
            ("dev/zero", Device::Zero),
            ("dev/random", Device::Random),
            ("dev/urandom", Device::Random),
            ("dev/console", Device::Console),
            ("dev/tty", Device::Console),
        ] {
            tree.add(path.as_bytes(), NodeKind::Device(device), 0o666, 0);
        }
        for &file in ProcFile::ALL {
            tree.add(file.path().as_bytes(), NodeKind::Proc(file), 0o444, 0);
        }
        tree
    }

    /// Adds a node, and the directories that lead to it; replaces one of the same path, but keeps a directory.
    fn add(&mut self, path: &[u8], kind: NodeKind, permissions: u32, modified: u64) {
        let mut at = ROOT;
        let mut parts = path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .peekable();
        let mut kind = Some(kind);
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let NodeKind::Directory(entries) = &self.0[at].kind else {
                return;
            };
            let existing = entries.get(part).copied();
            if last && let Some(existing) = existing {
                let node = &mut self.0[existing];
                (node.permissions, node.modified) = (permissions, modified);
                if !matches!(node.kind, NodeKind::Directory(_))
                    && let Some(kind) = kind.take()
                {
                    node.kind = kind;
                }
                return;
            }
            at = match existing {
                Some(existing) => existing,
                None => {
                    let new = self.0.len();
                    let kind = if last { kind.take() } else { None };
                    self.0.push(Node {
                        kind: kind.unwrap_or_else(|| NodeKind::Directory(BTreeMap::new())),
                        parent: at,
                        name: part.to_owned(),
                        permissions: if last { permissions } else { 0o755 },
                        modified,
                    });
                    if let NodeKind::Directory(entries) = &mut self.0[at].kind {
                        entries.insert(part.to_owned(), new);
                    }
                    new
                }
            };
        }
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.0[id]
    }

    /// The entries of a directory.
    #[must_use]
    pub fn entries(&self, id: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.node(id).kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The absolute path of a node.
    #[must_use]
    pub fn path(&self, mut id: NodeId) -> Vec<u8> {
        if id == ROOT {
            return b"/".to_vec();
        }
        let mut names = Vec::new();
        while id != ROOT {
            names.push(&self.node(id).name);
            id = self.node(id).parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }
}
