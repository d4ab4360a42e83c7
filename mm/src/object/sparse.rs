//! The pages of an object that are not absent: a radix tree that is as high as its highest page needs.
//!
//! Looking up, inserting and removing a page cost one step for each level, at most nine; an object without pages takes no
//! memory, whatever its size. A range of pages is not removed in place: the pages are *detached* as whole subtrees, in a
//! number of steps that depends on the height alone and without memory, and join the list of what was [`Left`], from which
//! frames go back piece by piece.

use core::fmt;

use arrayvec::ArrayVec;
use faultline_fallible::{AllocError, Box};

use super::state::PageState;
use crate::frame::FrameAllocator;

const BITS: u32 = 6;

/// Children of a node, and pages of a leaf.
const FAN: usize = 1 << BITS;

/// The highest tree. It has a place for each page of an object of 2^63 bytes, and no number of a page overflows.
const MAX_HEIGHT: u32 = 9;

/// A node with the states of neighbouring pages.
struct Leaf {
    pages: [PageState; FAN],
    count: usize,
    next: Option<Node>,
}

/// A node with other nodes.
struct Branch {
    below: [Option<Node>; FAN],
    /// Pages below it that are not absent.
    count: usize,
    next: Option<Node>,
}

enum Node {
    Leaf(Box<Leaf>),
    Branch(Box<Branch>),
}

impl Node {
    fn leaf() -> Result<Self, AllocError> {
        Ok(Self::Leaf(Box::try_new(Leaf {
            pages: [PageState::ABSENT; FAN],
            count: 0,
            next: None,
        })?))
    }

    fn branch() -> Result<Self, AllocError> {
        Ok(Self::Branch(Box::try_new(Branch {
            below: [const { None }; FAN],
            count: 0,
            next: None,
        })?))
    }

    fn count(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.count,
            Self::Branch(branch) => branch.count,
        }
    }

    fn next(&mut self) -> &mut Option<Node> {
        match self {
            Self::Leaf(leaf) => &mut leaf.next,
            Self::Branch(branch) => &mut branch.next,
        }
    }
}

/// The index of a page in its node at a level; leaves are level 0.
const fn index(page: u64, level: u32) -> usize {
    (page >> (level * BITS)) as usize % FAN
}

/// Whether a tree of this height has a place for a page.
const fn reaches(height: u32, page: u64) -> bool {
    page >> (height * BITS) == 0
}

/// The first page behind the node at `level` in which `page` is.
const fn behind(page: u64, level: u32) -> u64 {
    let shift = level * BITS;
    (((page >> shift) | (FAN as u64 - 1)) + 1) << shift
}

/// States by page.
#[derive(Default)]
pub struct Sparse {
    root: Option<Node>,
    /// Levels of the tree.
    height: u32,
}

impl Sparse {
    /// Pages of a leaf.
    pub const LEAF: u64 = FAN as u64;

    /// Pages that are not absent.
    pub fn count(&self) -> usize {
        self.root.as_ref().map_or(0, Node::count)
    }

    /// The state of a page.
    #[inline]
    pub fn get(&self, page: u64) -> PageState {
        match self.leaf(page) {
            Some(pages) => pages[index(page, 0)],
            None => PageState::ABSENT,
        }
    }

    /// The leaf that a page is in, if it is there: the page and its neighbours, up to the next multiple of [`LEAF`](Self::LEAF).
    #[inline]
    pub fn leaf(&self, page: u64) -> Option<&[PageState; FAN]> {
        if !reaches(self.height, page) {
            return None;
        }
        let mut node = self.root.as_ref();
        let mut level = self.height;
        loop {
            level = level.wrapping_sub(1);
            match node? {
                Node::Leaf(leaf) => return Some(&leaf.pages),
                Node::Branch(branch) => node = branch.below[index(page, level)].as_ref(),
            }
        }
    }

    /// The state of a page that is not absent, to be changed to another that is not.
    #[inline]
    pub fn get_mut(&mut self, page: u64) -> Option<&mut PageState> {
        if !reaches(self.height, page) {
            return None;
        }
        let mut node = self.root.as_mut();
        let mut level = self.height;
        loop {
            level = level.wrapping_sub(1);
            match node? {
                Node::Leaf(leaf) => return Some(&mut leaf.pages[index(page, 0)]).filter(|state| !state.is_absent()),
                Node::Branch(branch) => node = branch.below[index(page, level)].as_mut(),
            }
        }
    }

    /// Makes the nodes that lead to a page, so that [`insert`](Self::insert) can't fail.
    ///
    /// # Errors
    /// [`AllocError`]: nothing has changed but for nodes that have no page.
    pub fn prepare(&mut self, page: u64) -> Result<(), AllocError> {
        if !reaches(MAX_HEIGHT, page) {
            return Err(AllocError);
        }
        if self.root.is_none() {
            self.height = 1;
            while !reaches(self.height, page) {
                self.height += 1;
            }
        }
        while !reaches(self.height, page) {
            let mut above = Node::branch()?;
            if let Node::Branch(branch) = &mut above {
                branch.count = self.count();
                branch.below[0] = self.root.take();
            }
            self.root = Some(above);
            self.height += 1;
        }
        let (mut node, mut level) = (&mut self.root, self.height);
        while level > 0 {
            level -= 1;
            if node.is_none() {
                *node = Some(if level == 0 { Node::leaf()? } else { Node::branch()? });
            }
            match node {
                Some(Node::Branch(branch)) => node = &mut branch.below[index(page, level)],
                _ => break,
            }
        }
        Ok(())
    }

    /// Gives an absent page a state, after [`prepare`](Self::prepare).
    ///
    /// # Panics
    /// If the nodes are not there: another page was taken away since.
    pub fn insert(&mut self, page: u64, state: PageState) {
        let (mut node, mut level) = (&mut self.root, self.height);
        loop {
            level = level.wrapping_sub(1);
            match node {
                Some(Node::Leaf(leaf)) => {
                    leaf.count += 1;
                    leaf.pages[index(page, 0)] = state;
                    return;
                }
                Some(Node::Branch(branch)) => {
                    branch.count += 1;
                    node = &mut branch.below[index(page, level)];
                }
                None => unreachable!("the page was not prepared"),
            }
        }
    }

    /// Makes a page that is not absent so. Nodes without a page are freed.
    pub fn remove(&mut self, page: u64) {
        let last = self.count() == 1;
        let (mut node, mut level) = (&mut self.root, self.height);
        loop {
            level = level.wrapping_sub(1);
            match node {
                Some(inner) if inner.count() == 1 => {
                    *node = None;
                    break;
                }
                Some(Node::Leaf(leaf)) => {
                    leaf.count -= 1;
                    leaf.pages[index(page, 0)] = PageState::ABSENT;
                    break;
                }
                Some(Node::Branch(branch)) => {
                    branch.count -= 1;
                    node = &mut branch.below[index(page, level)];
                }
                None => unreachable!("the page is absent"),
            }
        }
        if last {
            self.height = 0;
        }
    }

    /// Takes the pages from `start` up to `end` away, to `left`.
    pub fn detach(&mut self, start: u64, end: u64, left: &mut Left) {
        if start >= end {
            return;
        }
        let Some(root) = &mut self.root else { return };
        detach_below(root, self.height - 1, 0, start, end - 1, left);
        if root.count() == 0
            && let Some(root) = self.root.take()
        {
            left.push(root);
            self.height = 0;
        }
    }

    /// Takes all pages away, to `left`, in one step.
    pub fn detach_all(&mut self, left: &mut Left) {
        if let Some(root) = self.root.take() {
            left.push(root);
            self.height = 0;
        }
    }

    /// The first page from `start` on that is not absent.
    pub fn next_page(&self, start: u64) -> Option<u64> {
        let mut page = start;
        'root: while reaches(self.height, page) {
            let (mut node, mut level) = (self.root.as_ref()?, self.height);
            loop {
                level -= 1;
                let first = index(page, level);
                let found = match node {
                    Node::Leaf(leaf) => leaf.pages[first..].iter().position(|state| !state.is_absent()),
                    Node::Branch(branch) => branch.below[first..].iter().position(Option::is_some),
                };
                let Some(skipped) = found else {
                    page = behind(page, level);
                    continue 'root;
                };
                if skipped > 0 {
                    page = ((page >> (level * BITS)) + skipped as u64) << (level * BITS);
                }
                match node {
                    Node::Leaf(_) => return Some(page),
                    Node::Branch(branch) => node = branch.below[first + skipped].as_ref()?,
                }
            }
        }
        None
    }

    /// The first page from `start` on that is absent.
    pub fn next_hole(&self, start: u64) -> u64 {
        let mut page = start;
        'root: while reaches(self.height, page) {
            let (mut node, mut level) = (self.root.as_ref(), self.height);
            while let Some(inner) = node {
                level -= 1;
                // A full subtree is passed as a whole, so that each node is looked at no more than twice.
                if inner.count() as u64 == 1 << ((level + 1) * BITS) {
                    page = behind(page, level);
                    continue 'root;
                }
                let first = index(page, level);
                match inner {
                    Node::Branch(branch) => node = branch.below[first].as_ref(),
                    Node::Leaf(leaf) => match leaf.pages[first..].iter().position(|state| state.is_absent()) {
                        Some(skipped) => return page + skipped as u64,
                        None => {
                            page = behind(page, 0);
                            continue 'root;
                        }
                    },
                }
            }
            return page;
        }
        page
    }
}

/// Detaches the pages from `first` to `last` below a node whose first page is `base`. As deep as the tree is high.
fn detach_below(node: &mut Node, level: u32, base: u64, first: u64, last: u64, left: &mut Left) {
    let size = 1_u64 << (level * BITS);
    match node {
        Node::Leaf(leaf) => {
            let from = first.saturating_sub(base) as usize;
            let to = last.saturating_sub(base).min(FAN as u64 - 1) as usize;
            let Leaf { pages, count, .. } = &mut **leaf;
            for page in pages.get_mut(from..=to).unwrap_or_default() {
                if !page.is_absent() {
                    left.pages.push(core::mem::replace(page, PageState::ABSENT));
                    *count -= 1;
                }
            }
        }
        Node::Branch(branch) => {
            let Branch {
                below: children, count, ..
            } = &mut **branch;
            for (number, below) in children.iter_mut().enumerate() {
                let Some(child) = below else { continue };
                let start = base.saturating_add((number as u64).saturating_mul(size));
                let end = start.saturating_add(size - 1);
                if end < first || start > last {
                    continue;
                }
                let before = child.count();
                if start < first || end > last {
                    detach_below(child, level - 1, start, first, last, left);
                    *count -= before - child.count();
                    if child.count() > 0 {
                        continue;
                    }
                } else {
                    *count -= before;
                }
                if let Some(child) = below.take() {
                    left.push(child);
                }
            }
        }
    }
}

/// Subtrees that no object has any more, and whose frames are still to be given back.
#[derive(Default)]
pub struct Left {
    nodes: Option<Node>,
    /// Pages of the leaves at the ends of a range that was detached.
    pages: ArrayVec<PageState, { 2 * FAN }>,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Left").finish_non_exhaustive()
    }
}

impl Left {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            nodes: None,
            pages: ArrayVec::new_const(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_none() && self.pages.is_empty()
    }

    fn push(&mut self, mut node: Node) {
        *node.next() = self.nodes.take();
        self.nodes = Some(node);
    }

    /// Adds the subtrees of another list; gives its single pages back. A list is as long as a tree is high, times the
    /// number of children of a node.
    pub fn append(&mut self, frames: &FrameAllocator, mut other: Self) {
        for page in other.pages.drain(..) {
            frames.give_back_page(page);
        }
        while let Some(mut node) = other.nodes.take() {
            other.nodes = node.next().take();
            self.push(node);
        }
    }

    /// Takes one node apart: gives back the frames of a leaf, or makes its children nodes of the list. Says how many
    /// children or frames those were; `None` when there is nothing.
    pub fn give_back_one(&mut self, frames: &FrameAllocator) -> Option<usize> {
        let mut node = self.nodes.take()?;
        self.nodes = node.next().take();
        match node {
            Node::Leaf(leaf) => {
                for &page in &leaf.pages {
                    frames.give_back_page(page);
                }
                Some(leaf.count)
            }
            Node::Branch(mut branch) => {
                let mut count = 0;
                for below in &mut branch.below {
                    if let Some(child) = below.take() {
                        self.push(child);
                        count += 1;
                    }
                }
                Some(count)
            }
        }
    }
}
