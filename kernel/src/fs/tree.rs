//! The tree of files: built from the boot archive, and changed by programs.
//!
//! A node lives as long as somebody holds it: the directory that names it, an open file, a working directory. What was
//! in the archive stays there until it is opened for writing; then its bytes are copied to frames ([`MemoryFile`]), and
//! what programs create is made of frames from the start. So the tree is a file system in memory over the ramdisk, and
//! its data are in the account of frames. [`clear`] gives all of it back.
//!
//! Each directory has a lock of its own, held for one look or one change. Changes of names take [`CHANGES`] first, so
//! that a change of two directories is one step.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use faultline_fallible::{AllocError, Arc, Weak};

use cpio_reader::Mode;
use spin::{Mutex, Once};
use x86_64::PhysAddr;

use super::RamdiskFile;
use super::device::Rule;
use super::memory_file::MemoryFile;
use super::proc::{self, ProcFile};
use crate::arch::clock;
use crate::process::{Pid, tree as processes};
use crate::syscall::Errno;
use crate::time::NANOSECONDS;

/// Characters that come from, or go, somewhere other than memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// One that is only a rule.
    Rule(Rule),
    /// `/dev/console`, `/dev/tty`.
    Console,
}

/// Where the bytes of a regular file are.
#[derive(Clone)]
pub enum Content {
    /// In the archive.
    Archive(Arc<RamdiskFile>),
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
    Link(Vec<u8>),
    /// A device.
    Device(Device),
    /// `/proc/self`: a link to the directory of whoever looks.
    OwnProcess,
    /// The directory of a process in `/proc`.
    Process(Pid),
    /// A file whose content is made when it is opened; of a process, or of the machine.
    Proc(ProcFile, Option<Pid>),
}

/// The names in a directory.
#[derive(Default)]
pub struct Entries {
    names: Mutex<BTreeMap<Vec<u8>, Entry>>,
    /// Whether the directories of processes are listed as well.
    pub processes: bool,
}

/// A name in a directory.
#[derive(Clone)]
pub struct Entry {
    /// What it names.
    pub node: Arc<Node>,
    /// Grows from entry to entry, so that a listing can go on after changes.
    pub cookie: u64,
}

/// A node of the tree.
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its number.
    pub inode: u64,
    /// Permission bits.
    pub permissions: AtomicU32,
    /// Time of its last change, in seconds; that of a file in frames is kept there.
    pub modified: AtomicU64,
    /// How many names it has.
    pub links: AtomicU32,
    /// The directory that names it, and the name; none for the root and for what was removed.
    place: Mutex<Option<(Weak<Node>, Vec<u8>)>>,
}

/// Taken for every change of names.
pub static CHANGES: Mutex<()> = Mutex::new(());

static TREE: Once<Arc<Node>> = Once::new();
static NEXT: AtomicU64 = AtomicU64::new(2);

/// The root directory: empty but for devices and `/proc` until [`install`] was called.
pub fn root() -> &'static Arc<Node> {
    TREE.call_once(|| build(&[], None).expect(ROOM))
}

/// Builds the tree from the boot archive, which lies at the physical address `physical`, if it is contiguous.
pub fn install(archive: &'static [u8], physical: Option<PhysAddr>) {
    TREE.call_once(|| build(archive, physical).expect(ROOM));
}

/// Gives back everything that the tree holds, at the end of a run.
pub fn clear() {
    if let NodeKind::Directory(entries) = &root().kind {
        let names = core::mem::take(&mut *entries.names.lock());
        drop(names);
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
    /// There is no memory.
    pub fn new(kind: NodeKind, permissions: u32, modified: u64) -> Result<Arc<Self>, AllocError> {
        let inode = NEXT.fetch_add(1, Ordering::Relaxed);
        let node = Self::numbered(kind, permissions, inode)?;
        node.modified.store(modified, Ordering::Relaxed);
        Ok(node)
    }

    /// A node without a name that has this number.
    ///
    /// # Errors
    /// There is no memory.
    pub fn numbered(kind: NodeKind, permissions: u32, inode: u64) -> Result<Arc<Self>, AllocError> {
        Arc::try_new(Self {
            kind,
            inode,
            permissions: AtomicU32::new(permissions),
            modified: AtomicU64::new(0),
            links: AtomicU32::new(0),
            place: Mutex::new(None),
        })
    }

    /// Its names, if it is a directory of the tree.
    #[must_use]
    pub fn entries(&self) -> Option<&Entries> {
        match &self.kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory(_) | NodeKind::Process(_))
    }

    /// The directory that holds it; the root, and what was removed, holds itself.
    #[must_use]
    pub fn parent(this: &Arc<Self>) -> Arc<Node> {
        match &this.kind {
            NodeKind::Process(_) => proc::directory().unwrap_or_else(|| root().clone()),
            _ => {
                let place = this.place.lock();
                let parent = place.as_ref().and_then(|(parent, _)| parent.upgrade());
                parent.unwrap_or_else(|| this.clone())
            }
        }
    }

    /// What `name` names in this directory, `.` and `..` aside.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT`.
    pub fn child(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        match &self.kind {
            NodeKind::Directory(entries) => {
                let found = entries.names.lock().get(name).map(|entry| entry.node.clone());
                match found {
                    Some(node) => Ok(node),
                    None if entries.processes => proc::process_directory(name).ok_or(Errno::ENOENT),
                    None => Err(Errno::ENOENT),
                }
            }
            NodeKind::Process(pid) => proc::file_of_process(*pid, name).ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The entries of a directory whose cookies are above `after`, in the order of the cookies.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOMEM`.
    pub fn list(this: &Arc<Self>, after: u64) -> Result<Vec<(Vec<u8>, Entry)>, Errno> {
        /// Cookies of `.` and `..`; those of names are inode numbers, and higher.
        const OWN: [(&[u8], u64); 2] = [(b".", 1), (b"..", 2)];
        /// Cookies of processes are above those of names.
        const PROCESSES: u64 = 1 << 48;
        let mut list = Vec::new();
        for ((name, cookie), node) in OWN.into_iter().zip([this.clone(), Self::parent(this)]) {
            list.push((name.to_vec(), Entry { node, cookie }));
        }
        match &this.kind {
            NodeKind::Directory(entries) => {
                let names = entries.names.lock();
                list.try_reserve(names.len())?;
                list.extend(names.iter().map(|(name, entry)| (name.clone(), entry.clone())));
                drop(names);
                if entries.processes {
                    processes::for_each_living(|process| {
                        let name = alloc::format!("{}", process.pid).into_bytes();
                        if let Some(node) = proc::process_directory(&name) {
                            let cookie = PROCESSES + u64::from(process.pid);
                            list.push((name, Entry { node, cookie }));
                        }
                    });
                }
            }
            NodeKind::Process(pid) => {
                for (index, file) in ProcFile::OF_PROCESS.iter().enumerate() {
                    if let Some(node) = proc::file_of_process(*pid, file.name()) {
                        let cookie = 3 + index as u64;
                        list.push((file.name().to_vec(), Entry { node, cookie }));
                    }
                }
            }
            _ => return Err(Errno::ENOTDIR),
        }
        list.retain(|(_, entry)| entry.cookie > after);
        list.sort_unstable_by_key(|(_, entry)| entry.cookie);
        Ok(list)
    }

    /// The absolute path; `None` for what was removed.
    #[must_use]
    pub fn path(this: &Arc<Self>) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = this.clone();
        while !Arc::ptr_eq(&at, root()) {
            let (parent, name) = match &at.kind {
                NodeKind::Process(pid) => (proc::directory()?, alloc::format!("{pid}").into_bytes()),
                _ => {
                    let place = at.place.lock();
                    let (parent, name) = place.as_ref()?;
                    (parent.upgrade()?, name.clone())
                }
            };
            names.push(name);
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Some(path)
    }

    /// Adds a name; what it named before is given back.
    pub fn insert(this: &Arc<Self>, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        let entries = this.entries()?;
        *node.place.lock() = Some((Arc::downgrade(this), name.to_owned()));
        node.links.fetch_add(1, Ordering::Relaxed);
        let cookie = NEXT.fetch_add(1, Ordering::Relaxed);
        let old = entries.names.lock().insert(name.to_owned(), Entry { node, cookie });
        this.modified.store(now(), Ordering::Relaxed);
        old.map(|old| {
            old.node.lost_name();
            old.node
        })
    }

    /// Takes a name away; the caller lets go of the node when it holds no lock.
    pub fn remove(&self, name: &[u8]) -> Option<Arc<Node>> {
        let old = self.entries()?.names.lock().remove(name)?;
        old.node.lost_name();
        self.modified.store(now(), Ordering::Relaxed);
        Some(old.node)
    }

    fn lost_name(&self) {
        if self.links.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.place.lock() = None;
        }
    }

    /// Whether a directory has no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_some_and(|entries| entries.names.lock().is_empty())
    }

    /// How many names a directory has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().map_or(0, |entries| entries.names.lock().len())
    }
}

/// A new directory.
///
/// # Errors
/// There is no memory.
pub fn directory(permissions: u32, modified: u64) -> Result<Arc<Node>, AllocError> {
    Node::new(NodeKind::Directory(Entries::default()), permissions, modified)
}

/// The tree is made at the start, when a machine of the least size has room for it.
const ROOM: &str = "there is memory for the ramdisk's tree";

fn build(archive: &'static [u8], physical: Option<PhysAddr>) -> Result<Arc<Node>, AllocError> {
    let root = directory(0o755, 0)?;
    for entry in cpio_reader::iter_files(archive) {
        // The packer pads names with NULs so that the bytes start on a page boundary.
        let name = entry.name().split('\0').next().unwrap_or("").as_bytes();
        let bytes = entry.file();
        let mode = entry.mode();
        let kind = if mode.contains(Mode::SYMBOLIK_LINK) {
            NodeKind::Link(bytes.to_owned())
        } else if mode.contains(Mode::REGULAR_FILE) {
            let offset = bytes.as_ptr() as u64 - archive.as_ptr() as u64;
            let file = RamdiskFile::new(bytes, physical.map(|start| start + offset));
            NodeKind::File(Mutex::new(Content::Archive(Arc::try_new(file)?)))
        } else if mode.contains(Mode::DIRECTORY) {
            NodeKind::Directory(Entries::default())
        } else {
            continue;
        };
        add(&root, name, Node::new(kind, mode.bits() & 0o7777, entry.mtime())?)?;
    }
    for (path, device) in [
        ("dev/null", Device::Rule(Rule::Null)),
        ("dev/zero", Device::Rule(Rule::Zero)),
        ("dev/full", Device::Rule(Rule::Full)),
        ("dev/random", Device::Rule(Rule::Random)),
        ("dev/urandom", Device::Rule(Rule::Random)),
        ("dev/console", Device::Console),
        ("dev/tty", Device::Console),
    ] {
        add(&root, path.as_bytes(), Node::new(NodeKind::Device(device), 0o666, 0)?)?;
    }
    add(&root, b"tmp", directory(0o1777, 0)?)?;
    let entries = Entries {
        processes: true,
        ..Entries::default()
    };
    add(&root, b"proc", Node::new(NodeKind::Directory(entries), 0o555, 0)?)?;
    add(&root, b"proc/self", Node::new(NodeKind::OwnProcess, 0o777, 0)?)?;
    for &file in ProcFile::OF_MACHINE {
        let path = [b"proc/", file.name()].concat();
        add(&root, &path, Node::new(NodeKind::Proc(file, None), 0o444, 0)?)?;
    }
    Ok(root)
}

/// Adds a node, and the directories that lead to it; replaces one of the same path, but keeps a directory.
fn add(root: &Arc<Node>, path: &[u8], node: Arc<Node>) -> Result<(), AllocError> {
    let mut at = root.clone();
    let mut parts = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .peekable();
    while let Some(part) = parts.next() {
        let existing = at.child(part).ok();
        if parts.peek().is_none() {
            match existing {
                Some(old) if old.is_directory() && node.is_directory() => {
                    let permissions = node.permissions.load(Ordering::Relaxed);
                    old.permissions.store(permissions, Ordering::Relaxed);
                    let modified = node.modified.load(Ordering::Relaxed);
                    old.modified.store(modified, Ordering::Relaxed);
                }
                _ => drop(Node::insert(&at, part, node)),
            }
            return Ok(());
        }
        at = match existing {
            Some(existing) if existing.is_directory() => existing,
            Some(_) => return Ok(()),
            None => {
                let new = directory(0o755, node.modified.load(Ordering::Relaxed))?;
                Node::insert(&at, part, new.clone());
                new
            }
        };
    }
    Ok(())
}
