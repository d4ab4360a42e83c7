//! Changes of the tree: making, removing and renaming.
//!
//! All memory that a change needs is there before it begins, so that it is made whole or not at all.

use core::sync::atomic::{AtomicU64, Ordering};

use faultline_executor::yield_now;
use faultline_fallible::{Arc, try_future};
use spin::Mutex;

use super::directory::Room;
use super::memory_file::MemoryFile;
use super::path::Place;
use super::tree::{self, CHANGES, Content, InTree, Node, NodeKind};
use crate::syscall::{Errno, has_headroom};

/// Directories that have moved: a look at what is above one is good as long as this stays.
static MOVES: AtomicU64 = AtomicU64::new(0);

/// Makes a node at a place where nothing is.
///
/// # Errors
/// `EEXIST`; `EPERM` in a directory that is not of the tree; `ENOENT` in one that was removed; `EROFS` on a disk; `ENOMEM`.
pub fn make(place: &Place, node: Arc<Node>) -> Result<(), Errno> {
    has_headroom()?;
    if place.node.is_some() {
        return Err(Errno::EEXIST);
    }
    let room = Room::new(&place.name)?;
    let _changing = CHANGES.lock();
    check_writable(&place.directory)?;
    if place.directory.child(&place.name).is_ok() {
        return Err(Errno::EEXIST);
    }
    place.directory.insert(room, node);
    Ok(())
}

/// An empty regular file.
///
/// # Errors
/// `ENOMEM`.
pub fn empty_file(permissions: u32) -> Result<Arc<Node>, Errno> {
    let content = Content::Memory(Arc::try_new(MemoryFile::new()?)?);
    Ok(Node::new(
        NodeKind::File(Mutex::new(content)),
        permissions,
        tree::now(),
    )?)
}

/// The bytes of a regular file, to be changed: copied from the archive if they are still there, unless they are to be cut
/// off anyway. A large file is copied piece by piece; what others do with it meanwhile they do with the archive's.
///
/// # Errors
/// `ENOSPC` without frames for the copy, `ENOMEM`.
pub async fn writable(content: &Mutex<Content>, cut: bool) -> Result<Arc<MemoryFile>, Errno> {
    has_headroom()?;
    let archived = match &*content.lock() {
        Content::Memory(file) => Err(file.clone()),
        Content::Archive(bytes) => Ok(*bytes),
    };
    let copy = match archived {
        Err(file) => {
            if cut {
                cut_off(&file).await?;
            }
            return Ok(file);
        }
        Ok(bytes) => {
            let copy = Arc::try_new(MemoryFile::new()?)?;
            if !cut {
                copy.append_all(bytes).await?;
            }
            copy
        }
    };
    // Somebody else may have been faster.
    let other = {
        let mut content = content.lock();
        match &*content {
            Content::Memory(file) => file.clone(),
            Content::Archive(_) => {
                *content = Content::Memory(copy.clone());
                return Ok(copy);
            }
        }
    };
    if cut {
        cut_off(&other).await?;
    }
    Ok(other)
}

/// Makes a file empty. It rarely has to wait, so the room for that is taken only then.
async fn cut_off(file: &MemoryFile) -> Result<(), Errno> {
    match file.truncate(0) {
        Err(Errno::EWAIT) => try_future(file.truncate_waiting(0))?.await,
        done => done,
    }
}

/// Removes the name of a file or, if `directory`, of an empty directory.
///
/// # Errors
/// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL`, `EBUSY`, `EPERM`, `EROFS`.
pub fn remove(place: &Place, directory: bool) -> Result<(), Errno> {
    check_not_mounted(&place.directory)?;
    let node = place.node.as_ref().ok_or(Errno::ENOENT)?;
    if directory && place.is_dot {
        return Err(Errno::EINVAL);
    }
    if place.name.is_empty() {
        return Err(match directory {
            true if Arc::ptr_eq(node, tree::root()) => Errno::EBUSY,
            true => Errno::ENOTEMPTY,
            false => Errno::EISDIR,
        });
    }
    let changing = CHANGES.lock();
    check_writable(&place.directory)?;
    match (node.is_directory(), directory) {
        (true, false) => return Err(Errno::EISDIR),
        (false, true) => return Err(Errno::ENOTDIR),
        (false, false) if place.wants_directory => return Err(Errno::ENOTDIR),
        (true, true) if is_of_the_system(node) => return Err(Errno::EBUSY),
        (true, true) if !is_empty(node) => return Err(Errno::ENOTEMPTY),
        _ => {}
    }
    check_unchanged(place, node)?;
    let removed = place.directory.remove(&place.name);
    drop(changing);
    drop(removed);
    Ok(())
}

/// Gives a node another name; what had that name goes, unless `keep`.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL` for a directory into itself, `EBUSY`, `EPERM`, `ENOMEM`,
/// `EXDEV`, `EROFS`.
pub async fn rename(from: &Place, to: &Place, keep: bool) -> Result<(), Errno> {
    check_same(&from.directory, &to.directory)?;
    check_not_mounted(&from.directory)?;
    let node = from.node.as_ref().ok_or(Errno::ENOENT)?;
    if from.name.is_empty() || to.name.is_empty() || is_of_the_system(node) {
        return Err(Errno::EBUSY);
    }
    has_headroom()?;
    let room = Room::new(&to.name)?;
    let moves = look_above(&[(&to.directory, node)], Errno::EINVAL).await?;
    let changing = CHANGES.lock();
    check_still(moves)?;
    check_writable(&from.directory)?;
    check_writable(&to.directory)?;
    check_unchanged(from, node)?;
    if !node.is_directory() && (from.wants_directory || to.wants_directory) {
        return Err(Errno::ENOTDIR);
    }
    let target = to.directory.child(&to.name).ok();
    if let Some(target) = &target {
        if keep {
            return Err(Errno::EEXIST);
        }
        if Arc::ptr_eq(node, target) {
            return Ok(());
        }
        match (node.is_directory(), target.is_directory()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if is_of_the_system(target) => return Err(Errno::EBUSY),
            (true, true) if !is_empty(target) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
    }
    let moved = from.directory.remove(&from.name).ok_or(Errno::ENOENT)?;
    if moved.is_directory() && !Arc::ptr_eq(&from.directory, &to.directory) {
        MOVES.fetch_add(1, Ordering::Relaxed);
    }
    let replaced = to.directory.insert(room, moved);
    drop(changing);
    drop((replaced, target));
    Ok(())
}

/// Gives two nodes each other's name (`RENAME_EXCHANGE`).
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EINVAL` for a directory and something in it, `EBUSY`, `EPERM`, `EXDEV`, `EROFS`.
pub async fn exchange(one: &Place, other: &Place) -> Result<(), Errno> {
    check_same(&one.directory, &other.directory)?;
    check_not_mounted(&one.directory)?;
    let (first, second) = match (&one.node, &other.node) {
        (Some(first), Some(second)) => (first, second),
        _ => return Err(Errno::ENOENT),
    };
    if one.name.is_empty() || other.name.is_empty() || is_of_the_system(first) || is_of_the_system(second) {
        return Err(Errno::EBUSY);
    }
    for (place, node) in [(one, first), (other, second)] {
        if place.wants_directory && !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
    }
    let moves = look_above(&[(&other.directory, first), (&one.directory, second)], Errno::EINVAL).await?;
    let _changing = CHANGES.lock();
    check_still(moves)?;
    check_writable(&one.directory)?;
    check_writable(&other.directory)?;
    check_unchanged(one, first)?;
    check_unchanged(other, second)?;
    if Arc::ptr_eq(first, second) {
        return Ok(());
    }
    MOVES.fetch_add(1, Ordering::Relaxed);
    one.directory
        .exchange(&one.name, &other.directory, &other.name)
        .ok_or(Errno::ENOENT)
}

/// Makes sure that no directory of the pairs is the node beside it, or lies in it. Programs choose how deep directories
/// are, so the look lets others run in between; it is good as long as the count that it returns has not changed.
async fn look_above(pairs: &[(&Arc<Node>, &Arc<Node>)], inside: Errno) -> Result<u64, Errno> {
    const TURN: usize = 512;
    let moves = MOVES.load(Ordering::Relaxed);
    let mut steps = 0_usize;
    for (directory, outer) in pairs {
        if !outer.is_directory() {
            continue;
        }
        let mut at = (*directory).clone();
        loop {
            if Arc::ptr_eq(&at, outer) {
                return Err(inside);
            }
            let parent = at.parent();
            if Arc::ptr_eq(&parent, &at) {
                break;
            }
            at = parent;
            steps += 1;
            if steps.is_multiple_of(TURN) {
                yield_now().await;
            }
        }
    }
    Ok(moves)
}

/// Whether no directory has moved since a look at what is above one; the call that finds it changed is made again.
fn check_still(moves: u64) -> Result<(), Errno> {
    if MOVES.load(Ordering::Relaxed) == moves {
        Ok(())
    } else {
        Err(MOVED)
    }
}

/// A directory has moved while a rename looked at what is above another: look again. Never seen in user mode.
pub const MOVED: Errno = Errno::ESTALE;

/// Whether a place still names what it named when it was looked up.
fn check_unchanged(place: &Place, node: &Arc<Node>) -> Result<(), Errno> {
    match place.directory.child(&place.name) {
        Ok(now) if Arc::ptr_eq(&now, node) => Ok(()),
        _ => Err(Errno::ENOENT),
    }
}

/// Gives a file a second name.
///
/// # Errors
/// `EPERM` for a directory; `ENOENT` for a file that has lost its last name; `EXDEV`; those of [`make`].
pub fn link(node: &Arc<Node>, to: &Place) -> Result<(), Errno> {
    if to.node.is_some() {
        return Err(Errno::EEXIST);
    }
    check_not_mounted(&to.directory)?;
    check_same(node, &to.directory)?;
    if !matches!(
        node.kind,
        NodeKind::File(_) | NodeKind::Link(_) | NodeKind::Socket(_) | NodeKind::Fifo(_)
    ) {
        return Err(Errno::EPERM);
    }
    if to.node.is_none() && node.links.load(Ordering::Relaxed) == 0 {
        return Err(Errno::ENOENT);
    }
    make(to, node.clone())
}

/// The mounted file system can't be changed.
///
/// # Errors
/// `EROFS`.
pub fn check_not_mounted(node: &Node) -> Result<(), Errno> {
    match node.mounted() {
        Some(_) => Err(Errno::EROFS),
        None => Ok(()),
    }
}

/// A name can't move to another file system, nor one be added there for the same file.
fn check_same(one: &Node, other: &Node) -> Result<(), Errno> {
    if one.mounted().is_some() == other.mounted().is_some() {
        Ok(())
    } else {
        Err(Errno::EXDEV)
    }
}

fn is_empty(directory: &Arc<Node>) -> bool {
    directory.entries().is_some_and(super::directory::Entries::is_empty)
}

/// Names can be changed in directories of the tree, but not in `/proc`, nor in a directory that was removed, nor on a disk.
fn check_writable(directory: &Arc<Node>) -> Result<(), Errno> {
    check_not_mounted(directory)?;
    match directory.entries() {
        Some(entries) if !entries.processes => {}
        _ => return Err(Errno::EPERM),
    }
    if directory.is_removed() {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

/// `/`, `/proc` and what is in it stay where they are.
fn is_of_the_system(node: &Arc<Node>) -> bool {
    Arc::ptr_eq(node, tree::root())
        || match &node.kind {
            NodeKind::Directory(entries) => entries.processes,
            NodeKind::Proc(_) | NodeKind::Mounted(_) => true,
            _ => false,
        }
}
