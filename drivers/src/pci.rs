//! The configuration space of the PCI bus, through ports 0xcf8 and 0xcfc; enough to find a device and place its memory.

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, MemoryBarType, PciError, PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;
use x86_64::instructions::port::Port;

const ADDRESS: u16 = 0xcf8;
const VALUE: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// Where a memory range goes that the firmware has not placed: below the interrupt controllers, in the part of the
/// address space that a PC gives to PCI.
const UNPLACED: u64 = 0xfe00_0000;

/// The configuration mechanism of a PC.
#[derive(Debug)]
pub struct ConfigurationPorts(());

impl ConfigurationPorts {
    /// The mechanism of this machine.
    ///
    /// # Safety
    /// The caller runs in ring 0 on a PC, on one CPU, and nobody else uses the two ports meanwhile.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    fn select(function: DeviceFunction, register: u8) {
        let address = u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(register & 0xfc);
        // SAFETY: the maker of this value promised ring 0 and sole use of the ports.
        unsafe { Port::new(ADDRESS).write(ENABLE | address) };
    }
}

impl ConfigurationAccess for ConfigurationPorts {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        // SAFETY: as in `select`.
        unsafe { Port::new(VALUE).read() }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        Self::select(function, register);
        // SAFETY: as in `select`; the effect on the device is what the caller wants of it.
        unsafe { Port::new(VALUE).write(value) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(())
    }
}

/// Finds the first virtio device of a kind on bus 0, places its memory where the firmware has not, and lets it answer and
/// use memory. `None` if there is none.
///
/// # Errors
/// The device describes its memory in a way that there is not.
pub fn find_virtio(
    root: &mut PciRoot<ConfigurationPorts>,
    kind: DeviceType,
) -> Result<Option<DeviceFunction>, PciError> {
    let mut devices = root.enumerate_bus(0);
    let found = devices.find(|(_, info)| virtio_device_type(info) == Some(kind));
    let Some((function, _)) = found else { return Ok(None) };
    let mut free = UNPLACED;
    for (index, bar) in (0..).zip(root.bars(function)?) {
        let Some(BarInfo::Memory {
            address_type,
            address: 0,
            size,
            ..
        }) = bar
        else {
            continue;
        };
        // Ranges are aligned to their size, which is a power of two.
        let address = free.next_multiple_of(size.max(1));
        free = address + size;
        match address_type {
            MemoryBarType::Width64 => root.set_bar_64(function, index, address),
            _ => root.set_bar_32(function, index, address as u32),
        }
    }
    let (_, command) = root.get_status_command(function);
    root.set_command(function, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
    Ok(Some(function))
}
