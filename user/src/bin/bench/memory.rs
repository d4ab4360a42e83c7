//! Memory and processes by bare calls: nothing here costs more than the call itself.

use std::process::exit;
use std::ptr::null_mut;

use faultline_user::{PAGE, fail};

/// Private anonymous memory.
pub fn map(size: usize) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        fail("mmap");
    }
    address.cast()
}

pub fn unmap(address: *mut u8, size: usize) {
    // SAFETY: the caller mapped the range and uses it no more.
    if unsafe { libc::munmap(address.cast(), size) } != 0 {
        fail("munmap");
    }
}

pub fn protect(address: *mut u8, size: usize, protection: i32) {
    // SAFETY: the caller mapped the range; no reference into it is alive.
    if unsafe { libc::mprotect(address.cast(), size, protection) } != 0 {
        fail("mprotect");
    }
}

pub fn advise(address: *mut u8, size: usize, advice: i32) {
    // SAFETY: the caller mapped the range and wants the advice's effect.
    if unsafe { libc::madvise(address.cast(), size, advice) } != 0 {
        fail("madvise");
    }
}

pub fn write(address: *mut u8, page: usize) {
    // SAFETY: the page is in a mapping of the caller's that may be written.
    unsafe { address.add(page * PAGE).write_volatile(1) }
}

pub fn read(address: *mut u8, page: usize) -> u8 {
    // SAFETY: the page is in a mapping of the caller's that may be read.
    unsafe { address.add(page * PAGE).read_volatile() }
}

pub fn touch(address: *mut u8, size: usize) {
    (0..size / PAGE).for_each(|page| write(address, page));
}

/// Memory that parent and child both see.
pub fn share(size: usize) -> *mut u64 {
    // SAFETY: as in `map`.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        fail("mmap");
    }
    address.cast()
}

/// Forks; the child runs `child` and exits.
pub fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the program has one thread, so the child may do what the parent may.
    match unsafe { libc::fork() } {
        -1 => fail("fork"),
        0 => {
            child();
            exit(0)
        }
        pid => pid,
    }
}

/// Forks a child that exits at once, without running destructors.
pub fn fork_and_exit() -> i32 {
    // SAFETY: as in `fork`; `_exit` ends the child at once.
    unsafe {
        match libc::fork() {
            -1 => fail("fork"),
            0 => libc::_exit(0),
            pid => pid,
        }
    }
}

pub fn wait(pid: i32) {
    let mut status = 0;
    // SAFETY: `status` may be written.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid || status != 0 {
        fail("a child failed");
    }
}
