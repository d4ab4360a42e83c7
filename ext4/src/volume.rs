//! A volume: what there is to ask of a file system.

use faultline_fallible::Vec;

use crate::block_map::{self, alike, levels};
use crate::bytes::Fields;
use crate::directory::{Entries, Entry, EntryKind};
use crate::error::{Error, Structure, corrupt};
use crate::extent::{MAX_DEPTH, Node, Run};
use crate::extents::Extents;
use crate::hash::half_md4;
use crate::index;
use crate::inode::{Inode, InodeKind, ROOT};
use crate::source::Source;
use crate::superblock::{self, Superblock};

/// The longest target of a link.
pub const TARGET_MAX: u64 = 4095;

/// A file system on a source.
pub struct Volume<S> {
    source: S,
    superblock: Superblock,
}

/// Where a walk through an extent tree is in one node.
#[derive(Clone, Copy, Default)]
struct Level {
    block: u64,
    next: u16,
    /// The blocks of the file that the node may speak of.
    first: u32,
    end: u64,
}

impl<S: Source> Volume<S> {
    /// Opens the file system on `source`.
    ///
    /// # Errors
    /// [`Error::NotExt4`], [`Error::Unsupported`], [`Error::Corrupt`], [`Error::Read`].
    pub async fn open(source: S) -> Result<Self, Error<S::Error>> {
        let superblock = source
            .read(superblock::AT, superblock::SIZE, Superblock::parse)
            .await
            .map_err(Error::Read)??;
        Ok(Self { source, superblock })
    }

    /// What the superblock says.
    #[must_use]
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where it is.
    #[must_use]
    pub const fn source(&self) -> &S {
        &self.source
    }

    async fn block<T: Send>(
        &self,
        block: u64,
        bad: Error<S::Error>,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<T, Error<S::Error>> {
        let at = self.superblock.address(block).ok_or(bad)?;
        let length = self.superblock.block_size() as usize;
        self.source.read(at, length, with).await.map_err(Error::Read)
    }

    /// The inode with this number. Those that the volume keeps for itself are not to be had, but for the root.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], [`Error::Read`].
    pub async fn inode(&self, number: u32) -> Result<Inode, Error<S::Error>> {
        let superblock = &self.superblock;
        if number > superblock.inodes || number < superblock.first_inode && number != ROOT {
            return Err(corrupt(Structure::Inode, u64::from(number)));
        }
        let index = number.wrapping_sub(1);
        let (group, index) = (
            u64::from(index / superblock.inodes_per_group),
            u64::from(index % superblock.inodes_per_group),
        );
        let bad = || corrupt(Structure::Group, group);
        let mask = superblock.block_size() - 1;
        let offset = group * u64::from(superblock.descriptor_size);
        let block = superblock.descriptors + (offset >> superblock.block_bits);
        let at = superblock.address(block).ok_or_else(bad)? + (offset & mask);
        let wide = superblock.has_wide_numbers;
        let table = self.source.read(at, superblock.descriptor_size as usize, move |bytes| {
            let fields = Fields(bytes);
            if wide {
                fields.wide(0x8, 0x28)
            } else {
                u64::from(fields.u32(0x8))
            }
        });
        let table = table.await.map_err(Error::Read)?;
        let offset = index * u64::from(superblock.inode_size);
        let block = table.checked_add(offset >> superblock.block_bits).ok_or_else(bad)?;
        let at = superblock.address(block).ok_or_else(bad)? + (offset & mask);
        let parse = |bytes: &[u8]| Inode::parse(superblock, number, bytes);
        let inode = self.source.read(at, superblock.inode_size as usize, parse);
        inode.await.map_err(Error::Read)?
    }

    /// Where the bytes of a file, a directory or a long link are.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], [`Error::Read`], [`Error::NoMemory`].
    pub async fn extents(&self, inode: &Inode) -> Result<Extents, Error<S::Error>> {
        let mut extents = Extents::new(&self.superblock);
        let has_bytes = matches!(inode.kind, InodeKind::File | InodeKind::Directory | InodeKind::Link);
        if !has_bytes || inode.short_target().is_some() {
            return Ok(extents);
        }
        if inode.has_extents() {
            self.walk_tree(inode, &mut extents).await?;
        } else {
            self.walk_map(inode, &mut extents).await?;
        }
        Ok(extents)
    }

    /// Reads an extent tree from left to right. Each node's blocks of the file lie in the range that its parent has for it,
    /// and no node but the root is empty, so no node is visited twice.
    async fn walk_tree(&self, inode: &Inode, extents: &mut Extents) -> Result<(), Error<S::Error>> {
        let bad = || corrupt(Structure::ExtentTree, u64::from(inode.number));
        let superblock = &self.superblock;
        let of = (Structure::ExtentTree, inode.number);
        let depth = Node::parse(&inode.map).ok_or_else(bad)?.depth;
        let mut path = [Level::default(); MAX_DEPTH as usize + 1];
        path[0].end = Superblock::MAX_FILE_BLOCKS;
        let mut level = 0;
        loop {
            let at = path[usize::from(level)];
            // One node: all entries of a leaf, or the next of an inner node.
            let visit = |bytes: &[u8], extents: &mut Extents| -> Result<Option<Level>, Error<S::Error>> {
                let node = Node::parse(bytes)
                    .filter(|node| node.depth == depth - level)
                    .ok_or_else(bad)?;
                if node.len() == 0 && level > 0 {
                    return Err(bad());
                }
                if node.depth > 0 {
                    let next = usize::from(at.next);
                    let Some((first, block)) = node.below(next) else {
                        return Ok(None);
                    };
                    let end = node.below(next + 1).map_or(at.end, |(first, _)| u64::from(first));
                    // The first entry of a node need not start where its parent says, but not before.
                    let in_order = first >= at.first && u64::from(first) < end && end <= at.end;
                    return in_order
                        .then_some(Some(Level {
                            block,
                            next: 0,
                            first,
                            end,
                        }))
                        .ok_or_else(bad);
                }
                for run in (0..node.len()).filter_map(|index| node.run(index)) {
                    if run.first < at.first || u64::from(run.first) + u64::from(run.count) > at.end {
                        return Err(bad());
                    }
                    extents.add(superblock, run, of)?;
                }
                Ok(None)
            };
            let below = if level == 0 {
                visit(&inode.map, extents)?
            } else {
                self.block(at.block, bad(), |bytes| visit(bytes, extents)).await??
            };
            match below {
                Some(below) => {
                    path[usize::from(level)].next += 1;
                    level += 1;
                    path[usize::from(level)] = below;
                }
                None if level == 0 => return Ok(()),
                None => level -= 1,
            }
        }
    }

    /// Reads a block map. No block of a volume is in two places, so a walk that has seen more than there are ends.
    async fn walk_map(&self, inode: &Inode, extents: &mut Extents) -> Result<(), Error<S::Error>> {
        let bad = || corrupt(Structure::BlockMap, u64::from(inode.number));
        let superblock = &self.superblock;
        let end = inode.block_count(superblock.block_bits);
        let fan_bits = superblock.block_bits - 2;
        let mut seen: u64 = 0;
        let mut at: u64 = 0;
        while at < end {
            // The place in the inode, and where the place begins.
            let mut place = (at as usize).min(block_map::DIRECT);
            let mut base = place as u64;
            while place >= block_map::DIRECT {
                let size = 1_u64 << (fan_bits * levels(place));
                if at < base + size {
                    break;
                }
                base += size;
                place += 1;
                if place == block_map::PLACES {
                    return Err(bad());
                }
            }
            let mut level = levels(place);
            let within = at - base;
            // Direct blocks are looked at together.
            let map = if level == 0 {
                &inode.map[..block_map::DIRECT * 4]
            } else {
                &inode.map[..]
            };
            let (mut number, mut count) = alike(map, place).ok_or_else(bad)?;
            while level > 0 && number != 0 {
                level -= 1;
                seen += 1;
                let index = (within >> (fan_bits * level)) as usize & ((1 << fan_bits) - 1);
                let below = self.block(u64::from(number), bad(), |bytes| alike(bytes, index));
                (number, count) = below.await?.ok_or_else(bad)?;
            }
            if level > 0 {
                // Nothing is below this number, nor below those beside it.
                let size = 1_u64 << (fan_bits * level);
                let inside = within & (size - 1);
                let alone = level == levels(place);
                at += if alone { size } else { u64::from(count) * size } - inside;
                continue;
            }
            let count = u64::from(count).min(end - at) as u32;
            if number != 0 {
                seen += u64::from(count);
                let run = Run {
                    first: at as u32,
                    count,
                    start: u64::from(number),
                    written: true,
                };
                extents.add(superblock, run, (Structure::BlockMap, inode.number))?;
            }
            if seen > superblock.blocks {
                return Err(bad());
            }
            at += u64::from(count);
        }
        Ok(())
    }

    /// What `name` names in a directory, whose extents the caller has: the number of its inode.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongKind`], [`Error::Corrupt`], [`Error::Read`].
    pub async fn find(&self, inode: &Inode, extents: &Extents, name: &[u8]) -> Result<u32, Error<S::Error>> {
        if inode.kind != InodeKind::Directory {
            return Err(Error::WrongKind);
        }
        if inode.has_index()
            && let Some(found) = self.find_by_index(inode, extents, name).await?
        {
            return found.ok_or(Error::NotFound);
        }
        let mut next = extents.next_data(0);
        while let Some(start) = next.filter(|&start| start < inode.size) {
            if let Some(found) = self.find_in_block(inode, extents, start, name).await? {
                return Ok(found);
            }
            next = extents.next_data(start + self.superblock.block_size());
        }
        Err(Error::NotFound)
    }

    /// Looks a name up by the index. `None` if only a look at all blocks can say whether it is there.
    async fn find_by_index(
        &self,
        inode: &Inode,
        extents: &Extents,
        name: &[u8],
    ) -> Result<Option<Option<u32>>, Error<S::Error>> {
        let superblock = &self.superblock;
        let read_head = |block: &[u8]| {
            let head = index::head(block)?;
            let hash = half_md4(name, superblock.seed, head.unsigned || superblock.unsigned_hash);
            Some((head, hash, index::step(block, true, hash)?))
        };
        let Some((head, hash, mut step)) = self.directory_block(inode, extents, 0, read_head).await?.flatten() else {
            return Ok(None);
        };
        for _ in 0..head.levels {
            let start = u64::from(step.block) << superblock.block_bits;
            let below = self.directory_block(inode, extents, start, |block| index::step(block, false, hash));
            let Some(below) = below.await?.flatten() else {
                return Ok(None);
            };
            step = index::Step {
                next: below.next.or(step.next),
                ..below
            };
        }
        let start = u64::from(step.block) << superblock.block_bits;
        if start >= inode.size {
            return Ok(None);
        }
        let found = self.find_in_block(inode, extents, start, name).await?;
        // The lowest bit says that names of one hash go on in the next block.
        let goes_on = step.next.is_some_and(|next| next & 1 != 0 && next & !1 == hash);
        Ok((found.is_some() || !goes_on).then_some(found))
    }

    async fn find_in_block(
        &self,
        inode: &Inode,
        extents: &Extents,
        start: u64,
        name: &[u8],
    ) -> Result<Option<u32>, Error<S::Error>> {
        let superblock = &self.superblock;
        let look = |block: &[u8]| -> Result<Option<u32>, Error<S::Error>> {
            for entry in Entries::new(superblock, block, start) {
                let entry = entry.map_err(|_| corrupt(Structure::Directory, u64::from(inode.number)))?;
                if entry.name == name {
                    return Ok(Some(entry.inode));
                }
            }
            Ok(None)
        };
        self.directory_block(inode, extents, start, look)
            .await?
            .unwrap_or(Ok(None))
    }

    /// Shows `with` the block of a directory that starts at `start`; none if it is a hole or behind the end.
    async fn directory_block<T: Send>(
        &self,
        inode: &Inode,
        extents: &Extents,
        start: u64,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<Option<T>, Error<S::Error>> {
        if start >= inode.size {
            return Ok(None);
        }
        let Some(at) = extents.piece(start).at else {
            return Ok(None);
        };
        let length = self.superblock.block_size() as usize;
        self.source.read(at, length, with).await.map(Some).map_err(Error::Read)
    }

    /// Calls `each` with the entries of one block of a directory, from the offset `from` on; says at which offset the next
    /// block begins, or none if there is none or `each` returned false. Entries come in the order of their offsets.
    ///
    /// # Errors
    /// [`Error::WrongKind`], [`Error::Corrupt`], [`Error::Read`].
    pub async fn list(
        &self,
        inode: &Inode,
        extents: &Extents,
        from: u64,
        mut each: impl FnMut(Entry<'_>) -> bool + Send,
    ) -> Result<Option<u64>, Error<S::Error>> {
        if inode.kind != InodeKind::Directory {
            return Err(Error::WrongKind);
        }
        let size = self.superblock.block_size();
        let start = from & !(size - 1);
        let superblock = &self.superblock;
        let show = |block: &[u8]| -> Result<bool, Error<S::Error>> {
            for entry in Entries::new(superblock, block, start) {
                let entry = entry.map_err(|_| corrupt(Structure::Directory, u64::from(inode.number)))?;
                if entry.offset >= from && !each(entry) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let goes_on = self
            .directory_block(inode, extents, start, show)
            .await?
            .unwrap_or(Ok(true))?;
        // What is between the blocks that there are is as long as the inode says, which may be anything.
        let next = start.checked_add(size).and_then(|next| extents.next_data(next));
        Ok(next.filter(|&next| goes_on && next < inode.size))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::WrongKind`], [`Error::Corrupt`], [`Error::Read`], [`Error::NoMemory`].
    pub async fn target(&self, inode: &Inode) -> Result<Vec<u8>, Error<S::Error>> {
        let bad = || corrupt(Structure::Link, u64::from(inode.number));
        if inode.kind != InodeKind::Link {
            return Err(Error::WrongKind);
        }
        if inode.size == 0 || inode.size > TARGET_MAX || inode.size >= self.superblock.block_size() {
            return Err(bad());
        }
        let copy = |bytes: &[u8]| Vec::try_from_slice(bytes);
        let target = match inode.short_target() {
            Some(target) => copy(target)?,
            None => {
                let extents = self.extents(inode).await?;
                let at = extents.piece(0).at.ok_or_else(bad)?;
                self.source
                    .read(at, inode.size as usize, copy)
                    .await
                    .map_err(Error::Read)??
            }
        };
        if target.contains(&0) {
            return Err(bad());
        }
        Ok(target)
    }
}

impl From<InodeKind> for EntryKind {
    fn from(kind: InodeKind) -> Self {
        match kind {
            InodeKind::File => Self::File,
            InodeKind::Directory => Self::Directory,
            InodeKind::Link => Self::Link,
            InodeKind::CharacterDevice => Self::CharacterDevice,
            InodeKind::BlockDevice => Self::BlockDevice,
            InodeKind::Pipe => Self::Pipe,
            InodeKind::Socket => Self::Socket,
        }
    }
}
