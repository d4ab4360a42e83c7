//! The text of a file in `/proc`, made piece by piece as it is read.
//!
//! A text is a sequence of pieces; making one needs no more than where the one before it ended. The open file keeps the
//! last piece and where the next begins. A read at offset 0 starts anew, so that a program that goes back sees what is
//! then; a read elsewhere goes on from the piece that is there, or from the start. Whoever reads takes the state out of
//! the file for the time of the read, so that two who share the file don't disturb one another.

use core::fmt::Write;
use core::sync::atomic::Ordering;

use faultline_executor::yield_now;
use faultline_fallible::Vec;
use spin::Mutex;

use super::{ProcFile, ProcNode, machine, maps, process, subject};
use crate::process::{Thread, UNCHOSEN};
use crate::syscall::{Errno, user};

/// About how much text a piece is.
const PIECE: usize = 2048;

/// An open file of `/proc`.
pub struct Text {
    node: ProcNode,
    state: Mutex<Option<State>>,
}

/// Where a reader is.
#[derive(Default)]
struct State {
    /// The offset of the piece.
    start: u64,
    piece: Vec<u8>,
    /// Where the next piece begins, in the terms of the file; none at the end.
    next: Option<u64>,
    /// The program whose path stands in the lines, once it was asked for.
    program: Option<maps::Program>,
}

impl Text {
    /// A file that nobody has read yet.
    #[must_use]
    pub const fn new(node: ProcNode) -> Self {
        Self {
            node,
            state: Mutex::new(None),
        }
    }

    /// Copies text from `offset` on; says how many bytes, 0 at the end. It is no more than a piece.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone, `ENOMEM`; `EIO` for memory that can't be read.
    pub async fn read(&self, viewer: &Thread, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        match self.node {
            ProcNode::OfTask(ProcFile::Memory, pid, _) => return maps::read_memory(pid, offset, to).await,
            ProcNode::OfTask(ProcFile::PageMap, pid, _) => return maps::read_page_map(pid, offset, to),
            _ => {}
        }
        let kept = self.state.lock().take();
        let mut state = kept
            .filter(|state| offset > 0 && state.start <= offset)
            .unwrap_or(State {
                next: Some(0),
                ..State::default()
            });
        let copied = loop {
            let skip = (offset - state.start).min(state.piece.len() as u64) as usize;
            let rest = &state.piece[skip..];
            if !rest.is_empty() {
                let length = rest.len().min(to.len());
                to[..length].copy_from_slice(&rest[..length]);
                break length;
            }
            let Some(next) = state.next else { break 0 };
            state.start += state.piece.len() as u64;
            if !state.piece.is_empty() {
                yield_now().await;
            }
            state.piece.clear();
            state.next = self.make(viewer, next, &mut state).await?;
        };
        *self.state.lock() = Some(state);
        Ok(copied)
    }

    /// Writes from `offset` on: the memory of a process, what its `clear_refs` is told, a setting.
    ///
    /// # Errors
    /// `EIO` for memory that can't be written, `EINVAL` for another file and for what a file does not take.
    pub async fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        match self.node {
            ProcNode::OfTask(ProcFile::Memory, pid, _) => maps::write_memory(pid, offset, from).await,
            ProcNode::OfTask(ProcFile::ClearReferences, pid, _) => {
                maps::clear_references(pid, from).await?;
                Ok(from.len())
            }
            ProcNode::OfTask(ProcFile::VictimAdjustment, pid, _) => {
                let wanted = number(from).filter(|wanted| (UNCHOSEN..=-UNCHOSEN).contains(wanted));
                let process = subject(pid)?;
                process
                    .victim_adjustment
                    .store(wanted.ok_or(Errno::EINVAL)?, Ordering::Relaxed);
                Ok(from.len())
            }
            // There is one value, and whoever writes that has what was asked for.
            ProcNode::File(ProcFile::Setting(text)) if from.trim_ascii() == text.trim_ascii().as_bytes() => {
                Ok(from.len())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether it can be written.
    #[must_use]
    pub const fn is_writable(node: ProcNode) -> bool {
        matches!(
            node,
            ProcNode::File(ProcFile::Setting(_))
                | ProcNode::OfTask(
                    ProcFile::Memory | ProcFile::ClearReferences | ProcFile::VictimAdjustment,
                    ..
                )
        )
    }

    /// Makes the piece that begins at `from`; says where the next one begins.
    async fn make(&self, viewer: &Thread, from: u64, state: &mut State) -> Result<Option<u64>, Errno> {
        let piece = &mut state.piece;
        piece.try_reserve(PIECE)?;
        match self.node {
            ProcNode::File(file) => {
                machine::write(file, viewer, piece).map_err(|_| Errno::ENOMEM)?;
                Ok(None)
            }
            ProcNode::OfTask(file, pid, tid) => {
                let process = subject(pid)?;
                match file {
                    ProcFile::Maps | ProcFile::PageMaps => {
                        let program = match &mut state.program {
                            Some(program) => program,
                            none => none.insert(maps::Program::of(&process)?),
                        };
                        match file {
                            ProcFile::Maps => maps::write_regions(&process, program, from, PIECE, piece),
                            _ => maps::write_pages(&process, program, from, piece).await,
                        }
                    }
                    ProcFile::CommandLine | ProcFile::Environment | ProcFile::Auxiliary => {
                        copy_range(&process, file, from, piece).await
                    }
                    ProcFile::PageMapSums => {
                        maps::write_sums(&process, piece).await?;
                        Ok(None)
                    }
                    ProcFile::OfProcess(text) => {
                        piece.write_str(text).map_err(|_| Errno::ENOMEM)?;
                        Ok(None)
                    }
                    _ => {
                        process::write(file, &process, tid, viewer, piece).await?;
                        Ok(None)
                    }
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// The number that was written as text.
fn number(text: &[u8]) -> Option<i32> {
    core::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// Copies a part of the first stack of a process, a piece at a time.
async fn copy_range(
    process: &crate::process::Process,
    file: ProcFile,
    from: u64,
    piece: &mut Vec<u8>,
) -> Result<Option<u64>, Errno> {
    let range = {
        let started = process.started.lock();
        match file {
            ProcFile::CommandLine => started.arguments.clone(),
            ProcFile::Environment => started.environment.clone(),
            _ => started.auxiliary.clone(),
        }
    };
    let Some(space) = process.space() else { return Ok(None) };
    let at = range.start.saturating_add(from);
    let length = range.end.saturating_sub(at).min(PIECE as u64);
    if length == 0 {
        return Ok(None);
    }
    piece.try_resize(length as usize, 0)?;
    if user::read(&space, at, piece).await.is_err() {
        // The program has unmapped it.
        piece.clear();
        return Ok(None);
    }
    Ok(Some(from + length))
}
