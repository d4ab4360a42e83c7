//! Lines of processes: doubly linked lists through their places.

use super::Tree;
use super::place::{Line, Place};
use crate::process::Pid;

impl Tree {
    /// Puts `pid`, which stands in no such line, at the end of the line that `head` heads.
    pub(super) fn line_up(&self, line: Line, head: &Place, pid: Pid) {
        let (ends, link) = (head.ends(line), self.place(pid).link(line));
        let last = ends.last.replace(pid);
        link.before.set(last);
        link.after.set(0);
        match last {
            0 => ends.first.set(pid),
            last => self.place(last).link(line).after.set(pid),
        }
    }

    /// Takes `pid` out of the line that `head` heads, in which it stands.
    pub(super) fn step_out(&self, line: Line, head: &Place, pid: Pid) {
        let (ends, link) = (head.ends(line), self.place(pid).link(line));
        let (before, after) = (link.before.replace(0), link.after.replace(0));
        match before {
            0 => ends.first.set(after),
            before => self.place(before).link(line).after.set(after),
        }
        match after {
            0 => ends.last.set(before),
            after => self.place(after).link(line).before.set(before),
        }
    }
}
