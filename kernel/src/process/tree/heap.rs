//! The ended children of a process, of which a wait for any wants the oldest.
//!
//! A pairing heap, linked through the places of the children: adding one is a step, taking one out some steps for each
//! doubling of their number, on average over any sequence. Nothing recurses and nothing is allocated.

use super::Tree;
use super::place::{HeapLink, Word};
use crate::process::Pid;

impl Tree {
    fn heap(&self, pid: Pid) -> &HeapLink {
        &self.place(pid).heap
    }

    /// Adds `pid`, which is in no heap.
    pub(super) fn push_ended(&self, root: &Word, pid: Pid) {
        root.set(self.meld(root.get(), pid));
    }

    /// Takes `pid` out of the heap.
    pub(super) fn remove_ended(&self, root: &Word, pid: Pid) {
        let link = self.heap(pid);
        let below = self.meld_all(link.below.replace(0));
        if root.get() == pid {
            root.set(below);
            return;
        }
        let (before, after) = (link.before.replace(0), link.after.replace(0));
        // The first one below another has that one before it.
        let previous = self.heap(before);
        if previous.below.get() == pid {
            previous.below.set(after);
        } else {
            previous.after.set(after);
        }
        if after != 0 {
            self.heap(after).before.set(before);
        }
        root.set(self.meld(root.get(), below));
    }

    /// Makes one heap of two; the older root is on top. Either may be empty.
    fn meld(&self, left: Pid, right: Pid) -> Pid {
        if left == 0 || right == 0 {
            return left.max(right);
        }
        let (top, other) = if self.place(left).born.get() <= self.place(right).born.get() {
            (left, right)
        } else {
            (right, left)
        };
        let first = self.heap(top).below.replace(other);
        let link = self.heap(other);
        link.before.set(top);
        link.after.set(first);
        if first != 0 {
            self.heap(first).before.set(other);
        }
        top
    }

    /// Makes one heap of those that stand side by side from `first` on: in pairs from the left, then all from the right.
    fn meld_all(&self, first: Pid) -> Pid {
        let (mut rest, mut pairs) = (first, 0);
        while rest != 0 {
            let left = rest;
            let right = self.unlink(left);
            rest = if right == 0 { 0 } else { self.unlink(right) };
            let pair = self.meld(left, right);
            self.heap(pair).after.set(pairs);
            pairs = pair;
        }
        let mut root = 0;
        while pairs != 0 {
            let next = self.unlink(pairs);
            root = self.meld(root, pairs);
            pairs = next;
        }
        root
    }

    /// Takes the links to its neighbours from `pid`; returns the next one.
    fn unlink(&self, pid: Pid) -> Pid {
        let link = self.heap(pid);
        link.before.set(0);
        link.after.replace(0)
    }
}
