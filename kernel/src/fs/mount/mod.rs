//! A file system on a disk, mounted read-only at `/mnt`.
//!
//! ```text
//!  path walk ──► Node ──► Body ──────────────► MemoryObject    pages, shared by all who read and map the file
//!                (a name)  (an inode)              │ locate
//!                            │ metadata            ▼
//!                            ▼                  extents in memory
//!                         Volume ──► Cache ──► disk
//! ```
//!
//! A name that is looked up becomes a [`Node`] that holds the directory it is in, so that `..` and `getcwd` ask no disk.
//! Nodes are made as paths are walked, and go when nobody uses them. What costs reads stays a while: of the files that
//! were opened last [`KEPT`] are kept, and with them the pages that nobody has reclaimed.
//!
//! The file system of a disk that is to be the root (`root`) is seen below `/`, too: a name that the tree in memory does not
//! have leads to the disk. A directory that both have is the one in memory, which has the names of both and can get new ones.
//!
//! Nothing of the disk can be changed: every call that would says `EROFS`. What the disk can't deliver is `EIO`, and so is what it
//! delivers if that contradicts itself; the log says which structure it was, a few times.

mod body;
mod cache;
mod node;

use core::sync::atomic::{AtomicU32, Ordering};

use faultline_ext4::{Error, Inode, InodeKind, ROOT, Source, Superblock, Volume};
use faultline_fallible::{Arc, OrderedMap, Vec, Weak};
use faultline_mm::{SECTOR_SIZE, TransferError};
use spin::{Mutex, Once};

use crate::block::{self, Disk};
use crate::fs::Node;
use crate::fs::directory::{Name, Room};
use crate::fs::tree::{self, InTree, NodeKind};
use crate::syscall::Errno;

pub use body::{Body, sort_of};
use cache::Metadata;
pub use node::MountedNode;

/// Where it is mounted, below the root.
const PLACE: &[u8] = b"mnt";

/// Files that are kept when nobody uses them.
const KEPT: usize = 32;

/// How often what fails is read again before a disk is given up.
const TRIES: usize = 8;

/// A file system.
pub struct Mount {
    volume: Volume<Metadata>,
    /// Those that somebody holds, by their numbers.
    bodies: Mutex<OrderedMap<u32, Weak<Body>>>,
    /// Those that were opened last, and whose turn it is to go.
    kept: Mutex<([Option<Arc<Body>>; KEPT], usize)>,
}

static MOUNT: Once<Mount> = Once::new();

/// The mounted file system, if there is one.
pub fn mounted() -> Option<&'static Mount> {
    MOUNT.get()
}

/// Mounts the file system on the disk that is to be the root, else on the first disk that has one. A disk without one is a
/// disk and no more.
pub async fn start() {
    let (roots, others) = (block::all().iter(), block::all().iter());
    let in_order = roots
        .filter(|disk| disk.is_root)
        .chain(others.filter(|disk| !disk.is_root));
    for disk in in_order.filter(|disk| !disk.is_swap) {
        let name = disk.device.name();
        match mount(disk).await {
            Ok(superblock) => {
                log::info!(
                    "{name}: ext4, {} KiB, mounted read-only at /mnt",
                    superblock.size() >> 10
                );
                if disk.is_root
                    && let Err(errno) = spread().await
                {
                    log::warn!("{name}: not everything of it is below /: {errno:?}");
                }
                return;
            }
            Err(Error::NotExt4) => {}
            Err(error) => log::warn!("{name}: {error}"),
        }
    }
}

async fn mount(disk: &'static Disk) -> Result<Superblock, Error<TransferError>> {
    // There is one cache, so a disk without a file system must not take it.
    patiently(|| Volume::open(Probed(disk))).await?;
    let cache = Metadata(cache::start(disk)?);
    // What has been read stays in the cache, so each try gets further.
    let volume = patiently(|| read_root(cache)).await?;
    let superblock = *volume.superblock();
    let mount = MOUNT.call_once(|| Mount {
        volume,
        bodies: Mutex::new(OrderedMap::new()),
        kept: Mutex::new(([const { None }; KEPT], 0)),
    });
    let root = mount.body(ROOT).await.map_err(|_| Error::NoMemory)?;
    // It stays for ever, so no process is to answer for it.
    root.stored().await.map_err(|_| Error::NoMemory)?;
    let node = MountedNode::root(root).into_node()?;
    let covered = tree::root().insert(Room::of(Name::Archive(PLACE))?, node);
    covered.iter().for_each(tree::take_apart);
    Ok(superblock)
}

/// Directories of the tree in memory that get nothing from the disk.
const OWN: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Lets what the file system has be seen below the root of the tree, where that has nothing of the name.
async fn spread() -> Result<(), Errno> {
    // Directories that both have.
    let mut left: Vec<(Arc<Node>, Arc<Node>)> = Vec::new();
    let root = tree::root();
    left.try_push((root.child(PLACE)?, root.clone()))?;
    while let Some((stored, own)) = left.pop() {
        let Some(mounted) = stored.mounted() else { continue };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut is_full = false;
        let list = mounted.body.list(0, |listed| {
            let added = Vec::try_from_slice(listed.name).and_then(|name| names.try_push(name));
            is_full = added.is_err();
            !is_full
        });
        list.await?;
        if is_full {
            return Err(Errno::ENOMEM);
        }
        for name in names {
            let node = look_up(&stored, &name).await?;
            match own.child(&name) {
                Ok(there) if there.entries().is_some() && node.is_directory() => {
                    let is_own = Arc::ptr_eq(&own, root) && OWN.contains(&&name[..]);
                    if !is_own {
                        left.try_push((node, there))?;
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    let bound = node.mounted().ok_or(Errno::EIO)?.bound()?.into_node()?;
                    own.insert(Room::of(Name::Own(name))?, bound);
                }
            }
        }
    }
    Ok(())
}

/// The file system, if its root directory can be read.
async fn read_root(cache: Metadata) -> Result<Volume<Metadata>, Error<TransferError>> {
    let volume = Volume::open(cache).await?;
    let root = volume.inode(ROOT).await?;
    if root.kind != InodeKind::Directory {
        return Err(Error::WrongKind);
    }
    volume.extents(&root).await?;
    Ok(volume)
}

/// The result of a read, which is tried again a few times if the disk can't deliver.
async fn patiently<T, F>(read: impl Fn() -> F) -> Result<T, Error<TransferError>>
where
    F: Future<Output = Result<T, Error<TransferError>>>,
{
    let mut tries = 0;
    loop {
        match read().await {
            Err(Error::Read(_)) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// A disk without a cache.
struct Probed(&'static Disk);

impl Source for Probed {
    type Error = TransferError;

    async fn read<T: Send>(
        &self,
        at: u64,
        length: usize,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<T, TransferError> {
        let failed = TransferError::Device {
            sector: at / SECTOR_SIZE,
        };
        let mut bytes = Vec::try_of(0, length).map_err(|_| failed)?;
        match block::read(self.0, at, &mut bytes).await {
            Ok(read) if read == length => Ok(with(&bytes)),
            _ => Err(failed),
        }
    }
}

/// Gives back what is kept, at the end of a run.
pub fn clear() {
    let Some(mount) = mounted() else { return };
    loop {
        let kept = mount.kept.lock().0.iter_mut().find_map(Option::take);
        if kept.is_none() {
            return;
        }
    }
}

/// Opens a file of this file system.
///
/// # Errors
/// `EROFS` if it is to be written, `ENXIO` for what is no file and no directory, `EIO`, `ENOMEM`.
pub async fn open(mounted: &MountedNode, writes: bool) -> Result<Arc<Body>, Errno> {
    let body = &mounted.body;
    match body.inode.kind {
        InodeKind::File if writes => return Err(Errno::EROFS),
        InodeKind::File => {}
        _ => return Err(Errno::ENXIO),
    }
    body.open().await?;
    body.mount().keep(body);
    Ok(body.clone())
}

impl Mount {
    /// The disk.
    pub fn disk(&self) -> &'static Disk {
        self.volume.source().0.disk()
    }

    /// What it says about itself.
    pub const fn superblock(&self) -> &Superblock {
        self.volume.superblock()
    }

    /// The file with this number.
    async fn body(&'static self, number: u32) -> Result<Arc<Body>, Errno> {
        if let Some(body) = self.known(number) {
            return Ok(body);
        }
        let inode: Inode = self.volume.inode(number).await.map_err(errno)?;
        let body = Arc::try_new(Body::new(self, inode))?;
        let mut bodies = self.bodies.lock();
        let there = bodies.get(&number).and_then(Weak::upgrade);
        if there.is_none() {
            bodies.try_insert(number, Arc::downgrade(&body))?;
        }
        drop(bodies);
        // Another may have been faster; what is dropped then must not be dropped under the lock.
        Ok(there.unwrap_or(body))
    }

    fn known(&self, number: u32) -> Option<Arc<Body>> {
        self.bodies.lock().get(&number).and_then(Weak::upgrade)
    }

    /// A body has gone.
    fn forget(&self, number: u32) {
        let mut bodies = self.bodies.lock();
        // A younger one may have taken the place.
        let is_gone = bodies.get(&number).is_some_and(|body| body.strong_count() == 0);
        let gone = if is_gone { bodies.remove(&number) } else { None };
        drop(bodies);
        drop(gone);
    }

    /// Keeps a file that was opened, in place of one that was kept for longest.
    pub fn keep(&self, body: &Arc<Body>) {
        if !body.is_worth_keeping() {
            return;
        }
        let mut kept = self.kept.lock();
        let (bodies, next) = &mut *kept;
        if bodies.iter().flatten().any(|there| Arc::ptr_eq(there, body)) {
            return;
        }
        let old = bodies[*next].replace(body.clone());
        *next = (*next + 1) % KEPT;
        drop(kept);
        drop(old);
    }
}

/// The node that a name of a directory of this file system names.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EIO`, `ENOMEM`; `ELOOP` for what is deeper than any file system is.
pub async fn look_up(directory: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>, Errno> {
    let NodeKind::Mounted(mounted) = &directory.kind else {
        return Err(Errno::ENOTDIR);
    };
    let number = mounted.body.find(name).await?;
    let body = mounted.body.mount().body(number).await?;
    MountedNode::below(directory, mounted, body, name).await
}

/// What calls say about an error.
fn errno(error: Error<TransferError>) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::WrongKind => Errno::ENOTDIR,
        Error::NoMemory => Errno::ENOMEM,
        Error::Read(_) => Errno::EIO,
        Error::NotExt4 | Error::Unsupported(_) | Error::Corrupt { .. } => {
            /// Lines about it in the log at most: a program can look as often as it likes.
            const LINES: u32 = 8;
            static LOGGED: AtomicU32 = AtomicU32::new(0);
            if LOGGED.fetch_add(1, Ordering::Relaxed) < LINES {
                log::warn!("/mnt: {error}");
            }
            Errno::EIO
        }
    }
}
