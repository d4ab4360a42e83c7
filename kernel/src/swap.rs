//! The swap area: which disk it is.
//!
//! The kernel has one swap area at a time: the disk that the configuration names (`swap=`), from the start on, or the one
//! of the last `swapon`. What is in it, and when pages go there, is the memory's business ([`faultline_mm`]).

use faultline_fallible::{Arc, unsize};
use faultline_mm::{BlockDevice, SwapError, Transfer};
use spin::Mutex;

use crate::block::{self, Disk};
use crate::machine::memory;

/// A disk, as the memory holds it.
struct Area(&'static Disk);

impl BlockDevice for Area {
    fn name(&self) -> &str {
        self.0.device.name()
    }

    fn sectors(&self) -> u64 {
        self.0.device.sectors()
    }

    fn is_read_only(&self) -> bool {
        self.0.device.is_read_only()
    }

    fn start(&self, transfer: Transfer) {
        self.0.device.start(transfer);
    }
}

/// The disk that is the swap area.
static AREA: Mutex<Option<&'static Disk>> = Mutex::new(None);

/// The disk that is the swap area, if there is one.
pub fn area() -> Option<&'static Disk> {
    *AREA.lock()
}

/// Whether a disk is the swap area.
pub fn is_on(disk: &Disk) -> bool {
    area().is_some_and(|area| area.index == disk.index)
}

/// Makes the disk that the configuration names the swap area.
///
/// # Panics
/// If that can't be: a run without it would be another one than was asked for.
pub fn start() {
    if let Some(disk) = block::find("swap")
        && let Err(error) = on(disk)
    {
        panic!("no swap on {}: {error}", disk.device.name());
    }
}

/// Makes a disk the swap area.
///
/// # Errors
/// What the memory says.
pub fn on(disk: &'static Disk) -> Result<(), SwapError> {
    let mut area = AREA.lock();
    memory().swap_on(unsize!(Arc::try_new(Area(disk))? => dyn BlockDevice))?;
    *area = Some(disk);
    Ok(())
}

/// Brings back what is swapped out, and forgets the area.
///
/// # Errors
/// What the memory says; the area is still there then, and so is everything in it.
pub async fn off() -> Result<(), SwapError> {
    memory().swap_off().await?;
    *AREA.lock() = None;
    Ok(())
}
