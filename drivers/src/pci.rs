//! The configuration space of the PCI bus, through ports 0xcf8 and 0xcfc; enough to find a device,
//! place its memory and route its interrupt.

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, MemoryBarType, PciError, PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;
use x86_64::instructions::port::Port;

use crate::Ports;

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

/// The function that routes the interrupts of PCI devices to lines of the 8259 pair: Intel's PIIX3.
const PIIX3: (u16, u16) = (0x8086, 0x7000);

/// Its registers for the four interrupt pins, a byte each.
const ROUTES: u8 = 0x60;

/// The ports that say which lines are triggered by level, eight lines each.
const TRIGGERS: [u16; 2] = [0x4d0, 0x4d1];

/// Finds the `index`th virtio device of a kind on bus 0, places its memory where the firmware has not, and lets it answer
/// and use memory. Its interrupts stay off. `None` if there are not so many.
///
/// # Errors
/// The device describes its memory in a way that there is not.
pub fn find_virtio(
    root: &mut PciRoot<ConfigurationPorts>,
    kind: DeviceType,
    index: usize,
) -> Result<Option<DeviceFunction>, PciError> {
    let mut devices = root.enumerate_bus(0);
    let found = devices
        .by_ref()
        .filter(|(_, info)| virtio_device_type(info) == Some(kind))
        .nth(index);
    let Some((function, _)) = found else { return Ok(None) };
    place_memory(root, function)?;
    let (_, command) = root.get_status_command(function);
    root.set_command(
        function,
        command | Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE,
    );
    Ok(Some(function))
}

/// Gives the memory ranges of a device addresses, if they have none.
fn place_memory(root: &mut PciRoot<ConfigurationPorts>, function: DeviceFunction) -> Result<(), PciError> {
    let mut free = UNPLACED;
    let devices = root.enumerate_bus(0);
    for (other, _) in devices.filter(|(_, info)| virtio_device_type(info).is_some()) {
        for bar in root.bars(other)? {
            if let Some(BarInfo::Memory { address, size, .. }) = bar
                && address >= UNPLACED
            {
                free = free.max(address + size);
            }
        }
    }
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
    Ok(())
}

/// Lets all interrupt pins of PCI devices raise this line of the 8259 pair, by level. Returns whether the machine has what
/// that takes.
///
/// # Panics
/// If there is no such line.
pub fn route_interrupts(root: &mut PciRoot<ConfigurationPorts>, ports: &mut impl Ports, line: u8) -> bool {
    assert!(line < 16, "there is no interrupt line {line}");
    let mut devices = root.enumerate_bus(0);
    let Some((bridge, _)) = devices.find(|(_, info)| (info.vendor_id, info.device_id) == PIIX3) else {
        return false;
    };
    // SAFETY: the value is used for this one write, and the caller has the configuration ports.
    unsafe { ConfigurationPorts::new() }.write_word(bridge, ROUTES, u32::from_le_bytes([line; 4]));
    let (port, bit) = (TRIGGERS[usize::from(line / 8)], 1 << (line % 8));
    let by_level = ports.read(port);
    ports.write(port, by_level | bit);
    true
}

/// Lets a device raise its interrupt pin.
pub fn enable_interrupts(root: &mut PciRoot<ConfigurationPorts>, function: DeviceFunction) {
    let (_, command) = root.get_status_command(function);
    root.set_command(function, command - Command::INTERRUPT_DISABLE);
}
