//! A page of a file that the kernel has in its cache.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::ptr;

use faultline_user::{PAGE, fail};

use crate::memory::{read, unmap};
use crate::series::Bench;

/// Where the file is, and its size in pages.
const FILE: &str = "/tmp/bench";
const PAGES: usize = 1024;

/// Measures it.
pub fn run(bench: &Bench) {
    bench.run("fault on a page of a file in the cache", 1, |series| {
        let _ = fs::create_dir_all("/tmp");
        let write = || {
            fs::write(FILE, vec![1; PAGES * PAGE])?;
            File::open(FILE)
        };
        let file = write().unwrap_or_else(|error| fail(format_args!("{FILE}: {error}")));
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGES * PAGE,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            fail("mmap");
        }
        let memory = memory.cast();
        read(memory, 0);
        series.begin();
        for page in 1..PAGES {
            series.time(|| read(memory, page));
        }
        series.end();
        unmap(memory.cast(), PAGES * PAGE);
        let _ = fs::remove_file(FILE);
    });
}
