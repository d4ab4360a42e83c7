//! Changes of the tree: making, removing and renaming.

use faultline_fallible::{AllocError, Arc};

use super::memory_file::MemoryFile;
use super::path::Place;
use super::tree::{self, CHANGES, Content, Node, NodeKind};
use crate::syscall::{Errno, has_headroom};

use spin::Mutex;

/// Makes a node at a place where nothing is.
///
/// # Errors
/// `EEXIST`; `EPERM` in a directory that is not of the tree; `ENOMEM`.
pub fn make(place: &Place, node: Arc<Node>) -> Result<(), Errno> {
    has_headroom()?;
    if place.node.is_some() {
        return Err(Errno::EEXIST);
    }
    let _changing = CHANGES.lock();
    check_writable(&place.directory)?;
    if place.directory.child(&place.name).is_ok() {
        return Err(Errno::EEXIST);
    }
    Node::insert(&place.directory, &place.name, node);
    Ok(())
}

/// An empty regular file.
///
/// # Errors
/// There is no memory.
pub fn empty_file(permissions: u32) -> Result<Arc<Node>, AllocError> {
    let content = Content::Memory(Arc::try_new(MemoryFile::new()?)?);
    Node::new(NodeKind::File(Mutex::new(content)), permissions, tree::now())
}

/// The bytes of a regular file, to be changed: copied from the archive if they are still there, unless they are to be cut
/// off anyway.
///
/// # Errors
/// `ENOSPC` without frames for the copy, `ENOMEM`.
pub fn writable(content: &Mutex<Content>, cut: bool) -> Result<Arc<MemoryFile>, Errno> {
    let mut content = content.lock();
    let file = match &*content {
        Content::Memory(file) => file.clone(),
        Content::Archive(_) if cut => Arc::try_new(MemoryFile::new()?)?,
        Content::Archive(file) => Arc::try_new(MemoryFile::copy_of(file.bytes())?)?,
    };
    *content = Content::Memory(file.clone());
    drop(content);
    if cut {
        file.truncate(0)?;
    }
    Ok(file)
}

/// Removes the name of a file or, if `directory`, of an empty directory.
///
/// # Errors
/// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY`, `EPERM`.
pub fn remove(place: &Place, directory: bool) -> Result<(), Errno> {
    let node = place.node.as_ref().ok_or(Errno::ENOENT)?;
    if place.name.is_empty() {
        return Err(if directory { Errno::EBUSY } else { Errno::EISDIR });
    }
    let changing = CHANGES.lock();
    check_writable(&place.directory)?;
    match (node.is_directory(), directory) {
        (true, false) => return Err(Errno::EISDIR),
        (false, true) => return Err(Errno::ENOTDIR),
        (false, false) if place.wants_directory => return Err(Errno::ENOTDIR),
        (true, true) if is_of_the_system(node) => return Err(Errno::EBUSY),
        (true, true) if !node.is_empty() => return Err(Errno::ENOTEMPTY),
        _ => {}
    }
    let removed = place.directory.remove(&place.name);
    drop(changing);
    drop(removed);
    Ok(())
}

/// Gives a node another name; what had that name goes, unless `keep`.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL` for a directory into itself, `EBUSY`, `EPERM`.
pub fn rename(from: &Place, to: &Place, keep: bool) -> Result<(), Errno> {
    let node = from.node.as_ref().ok_or(Errno::ENOENT)?;
    if from.name.is_empty() || to.name.is_empty() || is_of_the_system(node) {
        return Err(Errno::EBUSY);
    }
    has_headroom()?;
    let changing = CHANGES.lock();
    check_writable(&from.directory)?;
    check_writable(&to.directory)?;
    if let Some(target) = &to.node {
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
            (true, true) if !target.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
    } else if !node.is_directory() && to.wants_directory {
        return Err(Errno::ENOTDIR);
    }
    if node.is_directory() && is_inside(&to.directory, node) {
        return Err(Errno::EINVAL);
    }
    let moved = from.directory.remove(&from.name).ok_or(Errno::ENOENT)?;
    let replaced = Node::insert(&to.directory, &to.name, moved);
    drop(changing);
    drop(replaced);
    Ok(())
}

/// Gives two nodes each other's name (`RENAME_EXCHANGE`).
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EINVAL` for a directory and something in it, `EBUSY`, `EPERM`.
pub fn exchange(one: &Place, other: &Place) -> Result<(), Errno> {
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
    has_headroom()?;
    let _changing = CHANGES.lock();
    check_writable(&one.directory)?;
    check_writable(&other.directory)?;
    if is_inside(&other.directory, first) || is_inside(&one.directory, second) {
        return Err(Errno::EINVAL);
    }
    if Arc::ptr_eq(first, second) {
        return Ok(());
    }
    let moved = one.directory.remove(&one.name).ok_or(Errno::ENOENT)?;
    if let Some(replaced) = Node::insert(&other.directory, &other.name, moved) {
        Node::insert(&one.directory, &one.name, replaced);
    }
    Ok(())
}

/// Whether a directory is another one, or lies in it.
fn is_inside(directory: &Arc<Node>, outer: &Arc<Node>) -> bool {
    let mut at = directory.clone();
    loop {
        if Arc::ptr_eq(&at, outer) {
            return true;
        }
        let parent = Node::parent(&at);
        if Arc::ptr_eq(&parent, &at) {
            return false;
        }
        at = parent;
    }
}

/// Gives a file a second name.
///
/// # Errors
/// `EPERM` for a directory; those of [`make`].
pub fn link(node: &Arc<Node>, to: &Place) -> Result<(), Errno> {
    if !matches!(node.kind, NodeKind::File(_) | NodeKind::Link(_)) {
        return Err(Errno::EPERM);
    }
    make(to, node.clone())
}

/// Names can be changed in directories of the tree, but not in `/proc`, nor in a directory that was removed.
fn check_writable(directory: &Arc<Node>) -> Result<(), Errno> {
    match directory.entries() {
        Some(entries) if !entries.processes => {}
        _ => return Err(Errno::EPERM),
    }
    if Node::path(directory).is_none() {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

/// `/`, `/proc` and what is in it stay where they are.
fn is_of_the_system(node: &Arc<Node>) -> bool {
    Arc::ptr_eq(node, tree::root())
        || match &node.kind {
            NodeKind::Directory(entries) => entries.processes,
            NodeKind::Process(_) | NodeKind::Proc(..) | NodeKind::OwnProcess => true,
            _ => false,
        }
}
