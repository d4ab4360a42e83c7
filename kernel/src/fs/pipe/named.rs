//! Named pipes: a node of the tree whose openers meet on one pipe.
//!
//! The pipe is there as long as an end of it is open. Who opens one end waits for the other, unless it must not wait; it is
//! counted as an end meanwhile, and a count of all that ever were there keeps it from missing one that has gone again.

use faultline_fallible::{Arc, Weak};
use linux_raw_sys::general as linux;
use spin::Mutex;

use super::{Pipe, ReadEnd, WriteEnd};
use crate::fs::{FileKind, Node, OpenFile};
use crate::process::Thread;
use crate::process::waiting::event;
use crate::syscall::Errno;

/// A name for pipes.
#[derive(Default)]
pub struct Fifo(Mutex<Weak<Pipe>>);

/// Which ends an opener has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Reads,
    Writes,
    Both,
}

impl Fifo {
    /// The pipe, with the ends of one more opener.
    fn meet(&self, ends: Ends, waits: bool) -> Result<Arc<Pipe>, Errno> {
        let mut current = self.0.lock();
        let pipe = current.upgrade().filter(|pipe| pipe.is_in_use());
        if ends == Ends::Writes && !waits && pipe.as_ref().is_none_or(|pipe| pipe.state.lock().readers == 0) {
            return Err(Errno::ENXIO);
        }
        let pipe = match pipe {
            Some(pipe) => pipe,
            None => {
                let new = Arc::try_new(Pipe::with_ends(0))?;
                *current = Arc::downgrade(&new);
                new
            }
        };
        let mut state = pipe.state.lock();
        if ends != Ends::Writes {
            state.readers += 1;
            state.opened[0] += 1;
        }
        if ends != Ends::Reads {
            state.writers += 1;
            state.opened[1] += 1;
        }
        drop(state);
        Ok(pipe)
    }

    /// Opens it.
    ///
    /// # Errors
    /// `ENXIO` for writing without waiting and without a reader; `ERESTARTSYS` if a signal came first; `ENOMEM`.
    pub async fn open(&self, thread: &Thread, node: Arc<Node>, flags: u32) -> Result<OpenFile, Errno> {
        let waits = flags & linux::O_NONBLOCK == 0;
        let ends = match flags & linux::O_ACCMODE {
            linux::O_RDONLY => Ends::Reads,
            linux::O_WRONLY => Ends::Writes,
            _ => Ends::Both,
        };
        let pipe = self.meet(ends, waits)?;
        let opened = pipe.state.lock().opened;
        // From here on the ends are closed with the kind, whatever happens.
        let reader = |pipe: &Arc<Pipe>| ReadEnd {
            pipe: pipe.clone(),
            writers_before: match pipe.state.lock().writers {
                0 => opened[1],
                _ => 0,
            },
        };
        let kind = match ends {
            Ends::Reads => FileKind::PipeReader(reader(&pipe)),
            Ends::Writes => FileKind::PipeWriter(WriteEnd(pipe.clone())),
            Ends::Both => FileKind::Fifo(reader(&pipe), WriteEnd(pipe.clone())),
        };
        pipe.openers.wake_all();
        let other = match ends {
            Ends::Reads => 1,
            Ends::Writes => 0,
            Ends::Both => return Ok(OpenFile::new(kind, Some(node), flags)),
        };
        let has_met = || {
            let state = pipe.state.lock();
            let is_there = [state.readers, state.writers][other] > 0;
            (is_there || state.opened[other] != opened[other]).then_some(())
        };
        if waits && has_met().is_none() {
            let meeting = pipe.openers.wait_until(has_met);
            let met = thread.interruptible(event("named pipe"), meeting).await;
            met.map_err(|_| Errno::ERESTARTSYS)?;
        }
        Ok(OpenFile::new(kind, Some(node), flags))
    }
}

impl Pipe {
    /// Whether an end of it is open. What is left of the last use is not for the next.
    fn is_in_use(&self) -> bool {
        let state = self.state.lock();
        state.readers > 0 || state.writers > 0
    }
}
