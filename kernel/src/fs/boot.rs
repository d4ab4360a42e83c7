//! The first tree: what the boot archive holds, devices, and `/proc`.
//!
//! Names, targets of links and bytes stay in the archive. Nothing is run yet that could wait for memory, so a tree that
//! does not fit into the kernel heap ends the boot with a message, which says what to do.

use cpio_reader::Mode;
use faultline_fallible::{AllocError, Arc};

use super::device::Rule;
use super::directory::{Entries, Name, Room};
use super::proc::{self, ProcNode};
use super::tree::{self, Content, Device, InTree, Node, NodeKind, Target, directory};
use core::sync::atomic::Ordering;
use spin::Mutex;

use crate::block;

/// Members that are the content of disks begin so; they are no files.
const DISKS: &[u8] = b"boot/disk";

/// Builds the tree from the boot archive.
///
/// # Panics
/// If the kernel heap has no room for it.
pub fn build(archive: &'static [u8]) -> Arc<Node> {
    try_build(archive).unwrap_or_else(|_| {
        panic!("too little memory: the kernel heap has no room for the names of the root file system; give the machine more")
    })
}

fn try_build(archive: &'static [u8]) -> Result<Arc<Node>, AllocError> {
    let root = directory(0o755, 0)?;
    // Members of one directory follow each other mostly.
    let mut last: (&[u8], Arc<Node>) = (b"", root.clone());
    for entry in cpio_reader::iter_files(archive) {
        // The packer pads names with NULs so that the bytes start on a page boundary.
        let name = entry.name().split('\0').next().unwrap_or("").as_bytes();
        if name.starts_with(DISKS) {
            continue;
        }
        let bytes = entry.file();
        let mode = entry.mode();
        let kind = if mode.contains(Mode::SYMBOLIK_LINK) {
            NodeKind::Link(Target::Static(bytes))
        } else if mode.contains(Mode::REGULAR_FILE) {
            NodeKind::File(Mutex::new(Content::Archive(bytes)))
        } else if mode.contains(Mode::DIRECTORY) {
            NodeKind::Directory(Entries::default())
        } else {
            continue;
        };
        let node = Node::new(kind, mode.bits() & 0o7777, entry.mtime())?;
        let (above, own) = split(name);
        if above != last.0 {
            match lead_to(&root, above)? {
                Some(directory) => last = (above, directory),
                None => continue,
            }
        }
        if !own.is_empty() && own != b"." && own != b".." {
            add(&last.1, own, node)?;
        }
    }
    add_devices(&root)?;
    add_proc(&root)?;
    Ok(root)
}

/// The directory part of a path, and the last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let path = &path[..end];
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The directory of a path, made with those above it where they are not there; none if something else is in the way.
fn lead_to(root: &Arc<Node>, path: &'static [u8]) -> Result<Option<Arc<Node>>, AllocError> {
    let mut at = root.clone();
    let parts = path.split(|&byte| byte == b'/');
    for part in parts.filter(|part| !part.is_empty() && *part != b"." && *part != b"..") {
        at = match at.entries().and_then(|entries| entries.get(part)) {
            Some(existing) if existing.is_directory() => existing,
            Some(_) => return Ok(None),
            None => {
                let new = directory(0o755, 0)?;
                at.insert(Room::of(Name::Archive(part))?, new.clone());
                new
            }
        };
    }
    Ok(Some(at))
}

/// Adds a node; replaces one of the same name, but keeps a directory.
fn add(directory: &Arc<Node>, name: &'static [u8], node: Arc<Node>) -> Result<Arc<Node>, AllocError> {
    if let Some(old) = directory.entries().and_then(|entries| entries.get(name))
        && old.is_directory()
        && node.is_directory()
    {
        let permissions = node.permissions.load(Ordering::Relaxed);
        old.permissions.store(permissions, Ordering::Relaxed);
        let modified = node.modified.load(Ordering::Relaxed);
        old.modified.store(modified, Ordering::Relaxed);
        return Ok(old);
    }
    let replaced = directory.insert(Room::of(Name::Archive(name))?, node.clone());
    replaced.iter().for_each(tree::take_apart);
    Ok(node)
}

fn add_devices(root: &Arc<Node>) -> Result<(), AllocError> {
    let Some(dev) = lead_to(root, b"dev")? else {
        return Ok(());
    };
    for (name, device) in [
        (&b"null"[..], Device::Rule(Rule::Null)),
        (b"zero", Device::Rule(Rule::Zero)),
        (b"full", Device::Rule(Rule::Full)),
        (b"random", Device::Rule(Rule::Random)),
        (b"urandom", Device::Rule(Rule::Random)),
        (b"console", Device::Console),
        (b"tty", Device::Console),
    ] {
        add(&dev, name, Node::new(NodeKind::Device(device), 0o666, 0)?)?;
    }
    for disk in block::all() {
        let node = Node::new(NodeKind::Device(Device::Disk(disk.index)), 0o440, 0)?;
        add(&dev, disk.device.name().as_bytes(), node)?;
    }
    for (name, target) in [
        (&b"fd"[..], &b"/proc/self/fd"[..]),
        (b"stdin", b"/proc/self/fd/0"),
        (b"stdout", b"/proc/self/fd/1"),
        (b"stderr", b"/proc/self/fd/2"),
    ] {
        add(&dev, name, Node::new(NodeKind::Link(Target::Static(target)), 0o777, 0)?)?;
    }
    add(&dev, b"shm", directory(0o1777, 0)?)?;
    add(root, b"tmp", directory(0o1777, 0)?)?;
    Ok(())
}

/// `/proc` takes the place of a folder of that name, with what is in it; `/sys` has what programs ask about CPUs.
fn add_proc(root: &Arc<Node>) -> Result<(), AllocError> {
    let proc = Node::new(NodeKind::Directory(Entries::of_processes()), 0o555, 0)?;
    let folder = root.insert(Room::of(Name::Archive(b"proc"))?, proc.clone());
    folder.iter().for_each(tree::take_apart);
    for (name, link) in [
        (&b"self"[..], ProcNode::OwnProcess),
        (b"thread-self", ProcNode::OwnThread),
    ] {
        add(&proc, name, Node::new(NodeKind::Proc(link), 0o777, 0)?)?;
    }
    let mounts = NodeKind::Link(Target::Static(b"self/mounts"));
    add(&proc, b"mounts", Node::new(mounts, 0o777, 0)?)?;
    for &(path, file) in proc::OF_MACHINE {
        let (above, name) = split(path);
        let base = if path.starts_with(b"sys/devices/") { root } else { &proc };
        if let Some(directory) = lead_to(base, above)? {
            let node = ProcNode::File(file);
            let permissions = if proc::Text::is_writable(node) { 0o644 } else { 0o444 };
            add(&directory, name, Node::new(NodeKind::Proc(node), permissions, 0)?)?;
        }
    }
    Ok(())
}
