//! The virtio serial ports of the machine: found once at the start, told apart by the names that the host gives them, and
//! the memory of their devices.
//!
//! | name | carries |
//! |---|---|
//! | `faultline.trace` | the binary trace |
//! | `faultline.output` | the programs' standard output |
//! | `faultline.error` | the programs' standard error |

use core::ptr::NonNull;

use faultline_drivers::pci::{ConfigurationPorts, find_virtio};
use faultline_drivers::virtio::transport::DeviceType;
use faultline_drivers::virtio::transport::pci::PciTransport;
use faultline_drivers::virtio::transport::pci::bus::PciRoot;
use faultline_drivers::virtio::{BufferDirection, Hal, PhysAddr};
use faultline_drivers::virtio_port::VirtioPort;
use spin::Mutex;

use crate::layout::PHYSICAL_MEMORY;
use crate::memory::{BootMemory, PAGE, phys_to_virt};

/// The port of a binary trace.
pub const TRACE: &[u8] = b"faultline.trace";
/// The port of the programs' standard output.
pub const OUTPUT: &[u8] = b"faultline.output";
/// The port of the programs' standard error.
pub const ERROR: &[u8] = b"faultline.error";

/// Most ports that are used.
const MOST: usize = 3;

/// Pages for the four queues of a device, and one for what comes in.
const PAGES: usize = 9;

/// A port.
pub type Port = VirtioPort<DeviceMemory, PciTransport>;

/// The ports that were found and that nobody has taken.
static FOUND: Mutex<[Option<Port>; MOST]> = Mutex::new([const { None }; MOST]);

/// Finds and opens the ports, with memory from before the frame allocator takes it all.
pub fn find(memory: &mut BootMemory) {
    for (index, slot) in FOUND.lock().iter_mut().enumerate() {
        match open(index, memory) {
            Ok(Some(port)) => *slot = Some(port),
            Ok(None) => return,
            Err(why) => ::log::warn!("virtio serial port {index}: {why}"),
        }
    }
}

/// Takes the port of a name, if there is one.
pub fn take(name: &[u8]) -> Option<Port> {
    let mut found = FOUND.lock();
    let slot = found
        .iter_mut()
        .find(|slot| slot.as_ref().is_some_and(|port| port.name() == name));
    slot.and_then(Option::take)
}

fn open(index: usize, memory: &mut BootMemory) -> Result<Option<Port>, &'static str> {
    // SAFETY: ring 0; nothing else in this kernel uses the configuration ports meanwhile.
    let mut root = PciRoot::new(unsafe { ConfigurationPorts::new() });
    let found =
        find_virtio(&mut root, DeviceType::Console, index).map_err(|_| "a PCI device describes itself wrongly")?;
    let Some(function) = found else { return Ok(None) };
    let pages = memory.carve(PAGES as u64 * PAGE).ok_or("there is no memory for it")?;
    let start = phys_to_virt(pages.start);
    // SAFETY: the last of the pages that were carved; nobody else uses it.
    let inbox = unsafe {
        let inbox = start.add((PAGES - 1) * PAGE as usize);
        inbox.write_bytes(0, PAGE as usize);
        core::slice::from_raw_parts_mut(inbox, PAGE as usize)
    };
    *POOL.lock() = Pool {
        next: start as usize,
        left: PAGES - 1,
    };
    let transport = PciTransport::new::<DeviceMemory, _>(&mut root, function)
        .map_err(|_| "the device does not have the modern interface")?;
    let port = VirtioPort::new(transport, inbox).map_err(|_| "the device could not be started")?;
    Ok(Some(port))
}

/// The memory of the devices' queues: pages that were carved, taken one after the other and never given back.
#[derive(Debug)]
pub enum DeviceMemory {}

/// Pages for the device that is being opened.
struct Pool {
    /// The address of the next page.
    next: usize,
    left: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { next: 0, left: 0 });

// SAFETY: 1. pages come from memory that was carved for this, each once, so they alias nothing, and are zeroed here; 2. all
// physical memory, and with it what lies in PCI's part of the first 4 GiB, is mapped at PHYSICAL_MEMORY for ever.
unsafe impl Hal for DeviceMemory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut pool = POOL.lock();
        let memory = NonNull::new(pool.next as *mut u8).filter(|_| pages <= pool.left);
        let Some(memory) = memory else {
            return (0, NonNull::dangling());
        };
        pool.next += pages * PAGE as usize;
        pool.left -= pages;
        // SAFETY: the pages were carved, and nobody has them.
        unsafe { memory.write_bytes(0, pages * PAGE as usize) };
        (memory.as_ptr() as u64 - PHYSICAL_MEMORY, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        // The map of physical memory starts in the kernel half, so no address in it is null.
        NonNull::new(phys_to_virt(address)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let address = buffer.cast::<u8>().as_ptr() as u64;
        // What lies in the map of physical memory has its address there; control messages lie on the stack.
        crate::arch::paging::physical_address(address).unwrap_or(0)
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
