//! What programs write, by virtio serial ports: whole blocks, which the host takes from where they lie.
//!
//! A channel has [`BLOCKS`] blocks. A writer takes a free one ([`take`]), fills it, and hands it to the device
//! ([`Block::send`]); it is free again when the device is done with it, in the order of sending. Where all are on their
//! way the host is behind, and the writer waits: a future that naps (`fs::console`). Nothing interrupts.
//!
//! A channel without a port here goes by a serial port (`console`), a hundred times slower.

use core::hint::spin_loop;
use core::ptr::NonNull;

use faultline_drivers::virtio_port::DEPTH;
use spin::Mutex;

use crate::arch;
use crate::console::Channel;
use crate::memory::{BootMemory, phys_to_virt};
use crate::virtio_ports::{self, Port};

/// Bytes of a block: what a writer sends at the most between two looks at other tasks.
pub const BLOCK: usize = 16 * 1024;

/// Blocks of a channel.
const BLOCKS: usize = 16;

const _: () = assert!(BLOCKS <= DEPTH);

/// Looks at the device before a host that takes nothing counts as gone.
const PATIENCE: u32 = 50_000_000;

/// How long the end of the run sleeps between two looks at a device that is not done, in nanoseconds.
const NAP: u64 = 1_000_000;

struct Output {
    port: Port,
    /// The first block; the others follow.
    memory: NonNull<u8>,
    /// Blocks that are free, as a bit set.
    free: u32,
}

// SAFETY: the blocks belong to this value and to the takers of blocks, from whatever CPU they are used.
unsafe impl Send for Output {}

/// Standard output and standard error.
static OUTPUTS: [Mutex<Option<Output>>; 2] = [const { Mutex::new(None) }; 2];

/// Which of [`OUTPUTS`] carries a channel.
fn output(channel: Channel) -> Option<&'static Mutex<Option<Output>>> {
    match channel {
        Channel::Output => Some(&OUTPUTS[0]),
        Channel::Error => Some(&OUTPUTS[1]),
        Channel::Log | Channel::Report => None,
    }
}

/// Takes the ports, with memory for their blocks.
pub fn start(memory: &mut BootMemory) {
    for (output, name) in OUTPUTS.iter().zip([virtio_ports::OUTPUT, virtio_ports::ERROR]) {
        let Some(port) = virtio_ports::take(name) else {
            continue;
        };
        let Some(range) = memory.carve((BLOCKS * BLOCK) as u64) else {
            ::log::warn!(
                "the programs' output goes by a serial port: there is no memory for the blocks of a faster one"
            );
            return;
        };
        *output.lock() = NonNull::new(phys_to_virt(range.start)).map(|memory| Output {
            port,
            memory,
            free: u32::MAX >> (u32::BITS as usize - BLOCKS),
        });
    }
}

/// Whether the channel goes by a port of this kind.
pub fn is_on(channel: Channel) -> bool {
    output(channel).is_some_and(|output| output.lock().is_some())
}

/// A block that its taker fills.
pub struct Block {
    output: &'static Mutex<Option<Output>>,
    index: usize,
    memory: NonNull<u8>,
}

/// Takes a block of the channel, if one is free.
pub fn take(channel: Channel) -> Option<Block> {
    let output = output(channel)?;
    let mut guard = output.lock();
    let this = guard.as_mut()?;
    this.reclaim();
    let index = this.free.trailing_zeros() as usize;
    if index >= BLOCKS {
        return None;
    }
    this.free &= !(1 << index);
    Some(Block {
        output,
        index,
        // SAFETY: the memory has this many blocks.
        memory: unsafe { this.memory.add(index * BLOCK) },
    })
}

impl Block {
    /// Its memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block is not free, so that nobody else has it, and it is not on its way: `send` takes the value.
        unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), BLOCK) }
    }

    /// Hands its first `length` bytes to the device. None are a block that is given back.
    pub fn send(self, length: usize) {
        let Some(output) = &mut *self.output.lock() else { return };
        let bytes = NonNull::slice_from_raw_parts(self.memory, length.min(BLOCK));
        // SAFETY: the block is not free, so that nobody writes to it until the device has given it back. The queue has room
        // for all blocks.
        if length == 0 || unsafe { output.port.send(bytes) }.is_err() {
            output.free |= 1 << self.index;
        }
    }
}

impl Output {
    /// Takes back what the device is done with.
    fn reclaim(&mut self) {
        while let Some(buffer) = self.port.reclaim() {
            let at = buffer.as_ptr().cast::<u8>() as usize - self.memory.as_ptr() as usize;
            self.free |= 1 << (at / BLOCK);
        }
    }
}

/// Sends of `bytes` what there are blocks for; returns how much.
pub fn try_write(channel: Channel, bytes: &[u8]) -> usize {
    let mut sent = 0;
    for part in bytes.chunks(BLOCK) {
        let Some(mut block) = take(channel) else { break };
        block.bytes()[..part.len()].copy_from_slice(part);
        block.send(part.len());
        sent += part.len();
    }
    sent
}

/// Sends all of `bytes`, waiting for blocks, but not for ever: a host that takes nothing loses them.
pub fn write(channel: Channel, mut bytes: &[u8]) {
    let mut looks = 0;
    while !bytes.is_empty() && looks < PATIENCE {
        match try_write(channel, bytes) {
            0 => looks += 1,
            sent => {
                bytes = &bytes[sent..];
                looks = 0;
            }
        }
        spin_loop();
    }
}

/// Whether the devices have taken everything.
fn is_idle() -> bool {
    OUTPUTS.iter().all(|output| match &mut *output.lock() {
        Some(output) => {
            output.reclaim();
            output.port.is_idle()
        }
        None => true,
    })
}

/// Waits until the host has taken everything, however long that takes it: at the end of a run, when no task runs any more.
pub fn finish() {
    while !is_idle() {
        arch::alarm::only(Some(arch::clock::counter_at(crate::time::now() + NAP)));
        arch::idle();
    }
}

/// The same for a kernel that failed, with a limit.
///
/// # Safety
/// No other code runs again.
pub unsafe fn last_words() {
    for output in &OUTPUTS {
        // SAFETY: whoever held the lock does not run again; the worst that follows is a block that is sent in part.
        unsafe { output.force_unlock() };
    }
    for _ in 0..PATIENCE {
        if is_idle() {
            return;
        }
        spin_loop();
    }
}
