//! Arguments of system calls in the trace, and what they point to: for `--strace`.
//!
//! After `syscall.enter`, which has the first argument, come three events with the others, and for each argument that
//! `faultline_trace::calls` says points to a text or a structure an event with the number of bytes, and those in pieces
//! of sixteen. Nothing here waits: of memory whose page is not there the trace has nothing.

use core::hint::cold_path;
use faultline_fallible::Arc;

use faultline_trace::Kind;
use faultline_trace::calls::{self, Argument, KEPT};

use super::{is_on, push};
use crate::arch::UserContext;
use crate::machine::Space;

/// Bytes of one event.
const PIECE: usize = 16;

/// Records that a thread enters a call. One test where system calls are not recorded.
#[inline(always)]
pub fn enter(space: Option<&Arc<Space>>, context: &UserContext) {
    if is_on(Kind::SyscallEnter) {
        cold_path();
        push(Kind::SyscallEnter, 0, 0, context.syscall_number(), context.rdi);
        if let Some(space) = space
            && is_on(Kind::SyscallArgs)
        {
            record_all(space, context.syscall_number(), &context.syscall_arguments());
        }
    }
}

#[cold]
#[inline(never)]
fn record_all(space: &Space, number: u64, arguments: &[u64; 6]) {
    let &[_, b, c, d, e, f] = arguments;
    push(Kind::SyscallArgs, 0, 0, b, c);
    push(Kind::SyscallMore, 0, 0, d, e);
    push(Kind::SyscallLast, 0, 0, f, 0);
    let Some(call) = calls::find(number) else { return };
    for (index, argument) in call.arguments.iter().enumerate() {
        let Some(wanted) = argument.reads(arguments, index) else {
            continue;
        };
        let mut bytes = [0; KEPT];
        let read = read(
            space,
            arguments[index],
            &mut bytes[..wanted],
            *argument == Argument::Text,
        );
        push(Kind::SyscallText, 0, 0, index as u64, read as u64);
        for piece in bytes[..read].chunks(PIECE) {
            let mut words = [0; PIECE];
            words[..piece.len()].copy_from_slice(piece);
            let value = u128::from_le_bytes(words);
            push(Kind::SyscallBytes, 0, 0, value as u64, (value >> 64) as u64);
        }
    }
}

/// Reads what is there, up to the zero of a text, which is read too. Returns how many bytes.
fn read(space: &Space, from: u64, to: &mut [u8], is_text: bool) -> usize {
    let mut done = 0;
    while done < to.len() {
        // A piece that ends where the next sixteen bytes begin lies in one page.
        let address = from.wrapping_add(done as u64);
        let length = (PIECE - (address as usize % PIECE)).min(to.len() - done);
        let piece = &mut to[done..done + length];
        if !space.try_read_user(address, piece) {
            break;
        }
        if is_text && let Some(end) = piece.iter().position(|&byte| byte == 0) {
            return done + end + 1;
        }
        done += length;
    }
    done
}
