//! A treap of timer nodes: a search tree by deadline that is a heap by a pseudo-random priority.
//!
//! Insertion, removal and taking the earliest node each touch O(log n) nodes, expected, *whatever the order of the
//! deadlines*: the shape depends on the priorities only. There is no rebalancing to put off, so no single operation is
//! long, which matters where interrupts are off. The nodes lie in the sleeping futures; the tree allocates nothing.

use core::{cmp::Ordering, ptr, task::Waker};

/// One sleeping future.
#[derive(Debug)]
pub(crate) struct Node {
    /// When it is due.
    pub(crate) deadline: u64,
    /// Tells equal deadlines apart: first-in first-out.
    pub(crate) sequence: u64,
    /// Whom to wake.
    pub(crate) waker: Option<Waker>,
    /// The node is in the tree.
    pub(crate) linked: bool,
    left: *mut Node,
    right: *mut Node,
}

impl Node {
    pub(crate) const fn new(deadline: u64) -> Self {
        Self {
            deadline,
            sequence: 0,
            waker: None,
            linked: false,
            left: ptr::null_mut(),
            right: ptr::null_mut(),
        }
    }

    fn cmp(&self, other: &Node) -> Ordering {
        (self.deadline, self.sequence).cmp(&(other.deadline, other.sequence))
    }

    /// The heap order: the sequence number, scrambled (the finaliser of SplitMix64).
    fn priority(&self) -> u64 {
        let mut x = self.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The tree. Whoever owns it vouches for its nodes: a node that was inserted stays in place, and is not touched by
/// anybody else, until it has been removed.
#[derive(Debug)]
pub(crate) struct Treap {
    root: *mut Node,
}

// SAFETY: the nodes are reached through the tree only while they are in it, and hold a waker, which is `Send`.
unsafe impl Send for Treap {}

impl Treap {
    pub(crate) const fn new() -> Self {
        Self { root: ptr::null_mut() }
    }

    /// The earliest node.
    pub(crate) fn first(&self) -> Option<*mut Node> {
        let mut node = self.root;
        // SAFETY: nodes of the tree are valid (the contract of `insert`).
        while let Some(here) = unsafe { node.as_ref() }
            && !here.left.is_null()
        {
            node = here.left;
        }
        (!node.is_null()).then_some(node)
    }

    /// Inserts a node.
    ///
    /// # Safety
    /// The node is valid, its key is unique, and until it is removed it stays in place and nobody else touches it.
    pub(crate) unsafe fn insert(&mut self, new: *mut Node) {
        // SAFETY: all nodes of the tree, and `new`, are valid and ours. Each is read or written through raw pointers
        // only, so no two references to one node exist.
        unsafe {
            let priority = (*new).priority();
            // Go down by key to the first node that has to be below the new one.
            let mut link: *mut *mut Node = &raw mut self.root;
            while !(*link).is_null() && (**link).priority() >= priority {
                link = child(*link, (*new).cmp(&**link));
            }
            // Split that subtree by key: `left` and `right` are the places where the next piece goes.
            let mut rest = *link;
            *link = new;
            let (mut left, mut right) = (&raw mut (*new).left, &raw mut (*new).right);
            while !rest.is_null() {
                if (*rest).cmp(&*new) == Ordering::Less {
                    *left = rest;
                    left = &raw mut (*rest).right;
                    rest = *left;
                } else {
                    *right = rest;
                    right = &raw mut (*rest).left;
                    rest = *right;
                }
            }
            *left = ptr::null_mut();
            *right = ptr::null_mut();
            (*new).linked = true;
        }
    }

    /// Removes a node.
    ///
    /// # Safety
    /// The node is in this tree.
    pub(crate) unsafe fn remove(&mut self, node: *mut Node) {
        // SAFETY: as in `insert`.
        unsafe {
            let mut link: *mut *mut Node = &raw mut self.root;
            while *link != node {
                link = child(*link, (*node).cmp(&**link));
            }
            // Merge its two subtrees: all of the left one is before all of the right one.
            let (mut left, mut right) = ((*node).left, (*node).right);
            while !left.is_null() && !right.is_null() {
                if (*left).priority() >= (*right).priority() {
                    *link = left;
                    link = &raw mut (*left).right;
                    left = *link;
                } else {
                    *link = right;
                    link = &raw mut (*right).left;
                    right = *link;
                }
            }
            *link = if left.is_null() { right } else { left };
            (*node).linked = false;
        }
    }
}

/// The link to follow from a node for a key that compares so to it.
///
/// # Safety
/// The node is valid.
unsafe fn child(node: *mut Node, order: Ordering) -> *mut *mut Node {
    // SAFETY: the caller vouches for the node.
    unsafe {
        if order == Ordering::Less {
            &raw mut (*node).left
        } else {
            &raw mut (*node).right
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::{boxed::Box, collections::BTreeSet, vec::Vec};

    use super::*;

    /// The depth of a subtree; checks the order of keys and priorities on the way.
    fn depth(node: *mut Node, low: (u64, u64), high: (u64, u64)) -> usize {
        // SAFETY: the nodes of the test live until its end.
        let Some(here) = (unsafe { node.as_ref() }) else {
            return 0;
        };
        let key = (here.deadline, here.sequence);
        assert!(low <= key && key < high);
        for child in [here.left, here.right] {
            // SAFETY: as above.
            assert!(unsafe { child.as_ref() }.is_none_or(|child| child.priority() <= here.priority()));
        }
        1 + depth(here.left, low, key).max(depth(here.right, key, high))
    }

    /// Random insertions and removals, compared with an ordered set.
    fn against_a_model(deadline: impl Fn(u64, u64) -> u64) {
        let steps = if cfg!(miri) { 150 } else { 20_000 };
        let (mut treap, mut model, mut nodes) = (Treap::new(), BTreeSet::new(), Vec::new());
        let mut random = 1u64;
        for step in 0..steps {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let pick = random >> 33;
            if !pick.is_multiple_of(3) || nodes.is_empty() {
                let mut node = Node::new(deadline(step, pick));
                node.sequence = step;
                let node = Box::into_raw(Box::new(node));
                // SAFETY: the node is valid until it is freed below, after its removal.
                unsafe {
                    treap.insert(node);
                    assert!(model.insert(((*node).deadline, step)));
                }
                nodes.push(node);
            } else {
                let node = nodes.swap_remove(pick as usize % nodes.len());
                // SAFETY: the node is in the tree, and is freed once.
                unsafe {
                    treap.remove(node);
                    assert!(model.remove(&((*node).deadline, (*node).sequence)));
                    drop(Box::from_raw(node));
                }
            }
            // SAFETY: the node is in the tree.
            let first = treap
                .first()
                .map(|node| unsafe { ((*node).deadline, (*node).sequence) });
            assert_eq!(first, model.first().copied());
        }
        let depth = depth(treap.root, (0, 0), (u64::MAX, u64::MAX));
        // The expected depth is about 2 ln n, 18 for these trees; 4.3 ln n is exceeded almost never.
        assert!(depth <= 40, "a tree of {} is {depth} deep", model.len());
        while let Some(node) = treap.first() {
            // SAFETY: as above.
            unsafe {
                assert_eq!(model.pop_first(), Some(((*node).deadline, (*node).sequence)));
                treap.remove(node);
                drop(Box::from_raw(node));
            }
        }
        assert!(model.is_empty());
    }

    #[test]
    fn random_deadlines() {
        against_a_model(|_, random| random % 1000);
    }

    #[test]
    fn rising_deadlines_do_not_make_a_list() {
        against_a_model(|step, _| step);
    }

    #[test]
    fn falling_deadlines_do_not_make_a_list() {
        against_a_model(|step, _| u64::MAX / 2 - step);
    }

    #[test]
    fn equal_deadlines_are_in_the_order_of_their_sequence() {
        against_a_model(|_, _| 7);
    }
}
