//! The tree of files: built from the boot archive, and changed by programs.
//!
//! A node lives as long as somebody holds it: the directory that names it, an open file, a working directory. What was
//! in the archive stays there until it is opened for writing; then its bytes are copied to frames ([`MemoryFile`]), and
//! what programs create is made of frames from the start. So the tree is a file system in memory over the ramdisk, and
//! its data are in the account of frames. [`clear`] gives all of it back.
//!
//! Each directory has a lock of its own, held for one look or one change. Changes of names take [`CHANGES`] first, so
//! that a change of two directories is one step. Nothing here recurses: programs choose how deep directories are.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use faultline_ext4::InodeKind;
use faultline_fallible::{AllocError, Arc, Box, Vec, Weak};
use spin::{Mutex, Once};
use x86_64::PhysAddr;

use super::boot;
use super::device::Rule;
use super::directory::{Entries, Room};
use super::memory_file::MemoryFile;
use super::mount::{self, MountedNode};
use super::pipe::named::Fifo;
use super::proc::{self, ProcNode};
use super::ramdisk::RamdiskFile;
use super::stat::Sort;
use crate::arch::clock;
use crate::net::Socket;
use crate::syscall::Errno;
use crate::time::NANOSECONDS;

/// Characters that come from, or go, somewhere other than memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// One that is only a rule.
    Rule(Rule),
    /// `/dev/console`, `/dev/tty`.
    Console,
    /// A disk, by its place among all of them.
    Disk(usize),
}

/// Where the bytes of a regular file are.
#[derive(Clone)]
pub enum Content {
    /// In the archive.
    Archive(&'static [u8]),
    /// In frames.
    Memory(Arc<MemoryFile>),
}

/// What a node is.
pub enum NodeKind {
    /// A directory.
    Directory(Entries),
    /// A regular file.
    File(Mutex<Content>),
    /// A symbolic link: its target.
    Link(Target),
    /// A device.
    Device(Device),
    /// What `/proc` shows.
    Proc(ProcNode),
    /// The name of pipes.
    Fifo(Fifo),
    /// The name of a socket, which need not be there any more.
    Socket(Weak<Socket>),
    /// What the mounted file system has.
    Mounted(Box<MountedNode>),
}

/// The target of a symbolic link.
pub enum Target {
    /// Where it stands in the boot archive, or in the kernel.
    Static(&'static [u8]),
    /// A copy.
    Own(Vec<u8>),
}

impl core::ops::Deref for Target {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(target) => target,
            Self::Own(target) => target,
        }
    }
}

/// A node of the tree.
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its number.
    pub inode: u64,
    /// Permission bits.
    pub permissions: AtomicU32,
    /// How many names it has.
    pub links: AtomicU32,
    /// Time of its last change, in seconds; that of a file in frames is kept there.
    pub modified: AtomicU64,
    /// The directory that named it last, and the place of the name in it; none for the root and what had no name yet.
    place: Mutex<Option<(Weak<Node>, u64)>>,
}

/// An entry of a directory, as a listing shows it.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its place among the entries.
    pub place: u64,
    /// The number of what it names.
    pub inode: u64,
    /// What it names.
    pub sort: Sort,
}

/// Taken for every change of names.
pub static CHANGES: Mutex<()> = Mutex::new(());

static TREE: Once<Arc<Node>> = Once::new();
static NEXT: AtomicU64 = AtomicU64::new(2);

/// The root directory: empty but for devices and `/proc` until [`install`] was called.
pub fn root() -> &'static Arc<Node> {
    TREE.call_once(|| boot::build(&[]))
}

/// Builds the tree from the boot archive, which lies at the physical address `physical`, if it is contiguous.
pub fn install(archive: &'static [u8], physical: Option<PhysAddr>) {
    RamdiskFile::set_archive(archive, physical);
    TREE.call_once(|| boot::build(archive));
}

/// Gives back everything that the tree holds, at the end of a run.
pub fn clear() {
    take_apart(root());
    mount::clear();
}

/// Takes a subtree apart that nobody uses any more: from the leaves upwards, one name a step.
pub fn take_apart(top: &Arc<Node>) {
    let mut at = top.clone();
    while let NodeKind::Directory(entries) = &at.kind {
        match entries.take_apart() {
            Some(Some(deeper)) => at = deeper,
            Some(None) => {}
            None if Arc::ptr_eq(&at, top) => return,
            None => at = at.parent(),
        }
    }
}

/// The time for [`Node::modified`].
pub fn now() -> u64 {
    clock::wall_clock() / NANOSECONDS
}

impl Node {
    /// A node without a name.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn new(kind: NodeKind, permissions: u32, modified: u64) -> Result<Arc<Self>, AllocError> {
        let inode = NEXT.fetch_add(1, Ordering::Relaxed);
        let node = Self::numbered(kind, permissions, inode)?;
        node.modified.store(modified, Ordering::Relaxed);
        Ok(node)
    }

    /// A node without a name that has this number.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn numbered(kind: NodeKind, permissions: u32, inode: u64) -> Result<Arc<Self>, AllocError> {
        Arc::try_new(Self {
            kind,
            inode,
            permissions: AtomicU32::new(permissions),
            links: AtomicU32::new(0),
            modified: AtomicU64::new(0),
            place: Mutex::new(None),
        })
    }

    /// Its names, if it is a directory of the tree.
    #[must_use]
    pub const fn entries(&self) -> Option<&Entries> {
        match &self.kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        match &self.kind {
            NodeKind::Directory(_) => true,
            NodeKind::Proc(node) => node.is_directory(),
            NodeKind::Mounted(node) => node.kind() == InodeKind::Directory,
            _ => false,
        }
    }

    /// Whether it is a symbolic link of any kind.
    #[must_use]
    pub fn is_link(&self) -> bool {
        match &self.kind {
            NodeKind::Link(_) => true,
            NodeKind::Proc(node) => node.is_link(),
            NodeKind::Mounted(node) => node.kind() == InodeKind::Link,
            _ => false,
        }
    }

    /// The target, if it is a symbolic link that is text.
    pub fn target(&self) -> Option<&[u8]> {
        match &self.kind {
            NodeKind::Link(target) => Some(target),
            NodeKind::Mounted(node) if node.kind() == InodeKind::Link => Some(node.target()),
            _ => None,
        }
    }

    /// What it is in the mounted file system, if it is there.
    pub fn mounted(&self) -> Option<&MountedNode> {
        match &self.kind {
            NodeKind::Mounted(node) => Some(node),
            _ => None,
        }
    }

    /// What `name` names in this directory, `.` and `..` aside. A directory of the mounted file system may have to be waited
    /// for: [`mount::look_up`].
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT`, `ENOMEM`.
    pub fn child(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        match &self.kind {
            NodeKind::Directory(entries) => match entries.get(name) {
                Some(node) => Ok(node),
                None if entries.processes => proc::process_directory(name),
                None => Err(Errno::ENOENT),
            },
            NodeKind::Proc(node) if node.is_directory() => proc::child(*node, name),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// It has lost a name. It still knows the directory that it was in, to which `..` leads.
    fn lost_name(&self) {
        self.links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a node can do with its place in the tree, which takes a hold on it.
pub trait InTree {
    /// Whether it has lost its last name.
    #[must_use]
    fn is_removed(&self) -> bool;

    /// The directory that holds it, or held it last; the root holds itself, and so does what has lost its directory.
    #[must_use]
    fn parent(&self) -> Arc<Node>;

    /// Calls `each` with the entries of a directory behind the place `after`, in the order of their places. Ends when it returns false. Nothing is copied; the lock of the directory is held for as
    /// long as `each` goes on.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn list(&self, after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), Errno>;

    /// Puts its name in front of what stands in `path` from `start` on, and a slash before it; returns where it begins
    /// and the directory that it is in.
    ///
    /// # Errors
    /// `ENOENT` for what was removed, `ENAMETOOLONG` without room.
    fn prepend_name(&self, path: &mut [u8], start: usize) -> Result<(usize, Arc<Node>), Errno>;

    /// Writes the absolute path to the end of `path`; says where it begins. The work is bounded by the size of `path`.
    ///
    /// # Errors
    /// `ENOENT` for what was removed, `ENAMETOOLONG` for what does not fit.
    fn path(&self, path: &mut [u8]) -> Result<usize, Errno>;

    /// Adds a name; what it named before is given back.
    fn insert(&self, room: Room, node: Arc<Node>) -> Option<Arc<Node>>;

    /// Takes a name away; the caller lets go of the node when it holds no lock.
    fn remove(&self, name: &[u8]) -> Option<Arc<Node>>;

    /// Lets two names name what the other named.
    fn exchange(&self, name: &[u8], other: &Arc<Node>, other_name: &[u8]) -> Option<()>;
}

impl InTree for Arc<Node> {
    fn is_removed(&self) -> bool {
        !Arc::ptr_eq(self, root())
            && !matches!(self.kind, NodeKind::Proc(_) | NodeKind::Mounted(_))
            && self.links.load(Ordering::Relaxed) == 0
    }

    fn parent(&self) -> Arc<Node> {
        let parent = match &self.kind {
            NodeKind::Proc(node) => proc::parent(*node),
            NodeKind::Mounted(node) if node.directory().is_some() => node.directory().cloned(),
            _ => {
                let place = self.place.lock();
                place.as_ref().and_then(|(parent, _)| parent.upgrade())
            }
        };
        parent.unwrap_or_else(|| self.clone())
    }

    fn list(&self, after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), Errno> {
        for (name, place, node) in [(&b"."[..], 1, self.clone()), (b"..", 2, self.parent())] {
            let listed = Listed {
                name,
                place,
                inode: node.inode,
                sort: Sort::Directory,
            };
            if after < place && !each(listed) {
                return Ok(());
            }
        }
        match &self.kind {
            NodeKind::Directory(entries) => {
                let mut goes_on = true;
                entries.list(after, |name, place, node| {
                    goes_on = each(Listed {
                        name,
                        place,
                        inode: node.inode,
                        sort: Sort::of(node),
                    });
                    goes_on
                });
                if goes_on && entries.processes {
                    proc::list_processes(after, each);
                }
            }
            NodeKind::Proc(node) => proc::list(*node, after, each)?,
            _ => {}
        }
        Ok(())
    }

    fn prepend_name(&self, path: &mut [u8], start: usize) -> Result<(usize, Arc<Node>), Errno> {
        let mut put = |name: &[u8]| {
            let begin = start.checked_sub(name.len() + 1).ok_or(Errno::ENAMETOOLONG)?;
            path[begin] = b'/';
            path[begin + 1..start].copy_from_slice(name);
            Ok::<usize, Errno>(begin)
        };
        if let NodeKind::Proc(node) = &self.kind
            && node.is_directory()
        {
            let begin = node.with_name(put).ok_or(Errno::ENOENT)??;
            return Ok((begin, proc::parent(*node).ok_or(Errno::ENOENT)?));
        }
        if let Some(mounted) = self.mounted()
            && let (Some(directory), Some(name)) = (mounted.directory(), mounted.name())
        {
            return Ok((put(name)?, directory.clone()));
        }
        if self.is_removed() {
            return Err(Errno::ENOENT);
        }
        let (parent, place) = {
            let place = self.place.lock();
            let (parent, place) = place.as_ref().ok_or(Errno::ENOENT)?;
            (parent.upgrade().ok_or(Errno::ENOENT)?, *place)
        };
        let entries = parent.entries().ok_or(Errno::ENOENT)?;
        let begin = entries.name_at(place, self, &mut put).ok_or(Errno::ENOENT)??;
        Ok((begin, parent))
    }

    fn path(&self, path: &mut [u8]) -> Result<usize, Errno> {
        let mut start = path.len();
        let mut at = self.clone();
        while !Arc::ptr_eq(&at, root()) {
            (start, at) = at.prepend_name(path, start)?;
        }
        if start == path.len() {
            start = start.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
            path[start] = b'/';
        }
        Ok(start)
    }

    fn insert(&self, room: Room, node: Arc<Node>) -> Option<Arc<Node>> {
        let entries = self.entries()?;
        node.links.fetch_add(1, Ordering::Relaxed);
        let (place, old) = entries.insert(room, node.clone());
        *node.place.lock() = Some((Arc::downgrade(self), place));
        self.modified.store(now(), Ordering::Relaxed);
        if let Some(old) = &old {
            old.lost_name();
        }
        old
    }

    fn remove(&self, name: &[u8]) -> Option<Arc<Node>> {
        let old = self.entries()?.remove(name)?;
        old.lost_name();
        self.modified.store(now(), Ordering::Relaxed);
        Some(old)
    }

    fn exchange(&self, name: &[u8], other: &Arc<Node>, other_name: &[u8]) -> Option<()> {
        let first = self.entries()?.get(name)?;
        let second = other.entries()?.get(other_name)?;
        self.entries()?.replace(name, second.clone())?;
        other.entries()?.replace(other_name, first.clone())?;
        for (node, directory, name) in [(&first, other, other_name), (&second, self, name)] {
            *node.place.lock() = Some((Arc::downgrade(directory), super::directory::place_of(name)));
            directory.modified.store(now(), Ordering::Relaxed);
        }
        Some(())
    }
}

/// A new directory.
///
/// # Errors
/// [`AllocError`].
pub fn directory(permissions: u32, modified: u64) -> Result<Arc<Node>, AllocError> {
    Node::new(NodeKind::Directory(Entries::default()), permissions, modified)
}
