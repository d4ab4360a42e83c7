//! Swap on Linux: on `null_blk`, a disk in memory that completes each request after a time on the clock, or on the machine's
//! virtio disk.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;

use faultline_user::PAGE;

use crate::series::MIB;

/// Where Linux swaps to. The modules for each lie in the machine's archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `null_blk`. What is written to it takes pages of the machine's memory.
    NullBlock {
        /// What it takes for each request, in nanoseconds.
        latency: u64,
        /// If not 0, the swap area has only so many MiB, and the device has the pages for all of them before: then swapping
        /// out needs none.
        backed: usize,
    },
    /// The first virtio disk, of so many MiB.
    Virtio(usize),
}

/// What `null_blk` needs, and what the virtio disk needs, in the order in which they need each other.
const NULL_BLOCK: [&str; 2] = ["/configfs.ko", "/null_blk.ko"];
const VIRTIO: [&str; 6] = [
    "/virtio_ring.ko",
    "/virtio.ko",
    "/virtio_pci_legacy_dev.ko",
    "/virtio_pci_modern_dev.ko",
    "/virtio_pci.ko",
    "/virtio_blk.ko",
];

/// Size of the `null_blk` device in MiB.
const SIZE: usize = 1024;

/// What a swap area begins with (`union swap_header` in Linux's `include/linux/swap.h`).
const VERSION_AT: usize = 1024;
const MAGIC: &[u8] = b"SWAPSPACE2";

/// Loads the device, and switches swap on.
pub fn swap_on(device: Device) -> io::Result<()> {
    for (kind, folder) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        mount(kind, folder)?;
    }
    // One page a fault on a file, not sixteen.
    fs::write("/sys/kernel/debug/fault_around_bytes", "4096")?;
    let (path, size) = match device {
        Device::NullBlock { latency, backed } => {
            let parameters = format!(
                "queue_mode=2 irqmode=2 completion_nsec={latency} memory_backed=1 gb=1 bs=4096 hw_queue_depth=64 \
                 submit_queues=1"
            );
            load(NULL_BLOCK[0], "")?;
            load(NULL_BLOCK[1], &parameters)?;
            ("/dev/nullb0", if backed == 0 { SIZE } else { backed })
        }
        Device::Virtio(size) => {
            for module in VIRTIO {
                load(module, "")?;
            }
            ("/dev/vda", size)
        }
    };
    let mut area = File::options().write(true).open(path)?;
    if let Device::NullBlock { backed, .. } = device {
        let ones = vec![1; MIB];
        for _ in 0..backed {
            area.write_all(&ones)?;
        }
        area.rewind()?;
    }
    let mut header = [0; PAGE];
    let last = u32::try_from(size * MIB / PAGE - 1).unwrap_or(u32::MAX);
    header[VERSION_AT..VERSION_AT + 4].copy_from_slice(&1u32.to_le_bytes());
    header[VERSION_AT + 4..VERSION_AT + 8].copy_from_slice(&last.to_le_bytes());
    header[PAGE - MAGIC.len()..].copy_from_slice(MAGIC);
    area.write_all(&header)?;
    area.sync_all()?;
    drop(area);
    fs::write("/proc/sys/vm/drop_caches", "1")?;
    let path = CString::new(path)?;
    // SAFETY: the path is a string that outlives the call.
    done(unsafe { libc::swapon(path.as_ptr(), 0) })
}

/// Mounts a file system of the kernel's own.
fn mount(kind: &str, folder: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let [kind, folder] = [CString::new(kind)?, CString::new(folder)?];
    // SAFETY: the strings outlive the call, and these kinds take no data.
    done(unsafe { libc::mount(kind.as_ptr(), folder.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) })
}

/// Loads a module of the kernel.
fn load(file: &str, parameters: &str) -> io::Result<()> {
    let file = File::open(file)?;
    let parameters = CString::new(parameters)?;
    // SAFETY: the string outlives the call; what the module does to the kernel is what this machine is for.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    done(i32::from(result != 0))
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
