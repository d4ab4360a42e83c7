//! The pair of 8259 interrupt controllers, over `pic8259`, with masks and the check for spurious interrupts.
//!
//! After [`InterruptController::start`] every line is masked. A line is delivered as vector `base + line`. Exactly one
//! [`InterruptController::acknowledge`] follows each delivered vector.

use pic8259::ChainedPics;

use crate::Ports;

const COMMAND: [u16; 2] = [0x20, 0xa0];
const DATA: [u16; 2] = [0x21, 0xa1];
/// OCW3: the next read of the command port gives the in-service register.
const READ_IN_SERVICE: u8 = 0x0b;
const END_OF_INTERRUPT: u8 = 0x20;
/// The line of the first controller that the second one hangs on.
const CASCADE: u8 = 2;

/// Lines of the two controllers together.
pub const LINES: u8 = 16;

/// Both controllers.
#[derive(Debug)]
pub struct InterruptController<P> {
    ports: P,
    base: u8,
}

impl<P: Ports> InterruptController<P> {
    /// The controllers, delivering from vector `base` on.
    pub const fn new(ports: P, base: u8) -> Self {
        Self { ports, base }
    }

    /// Programs the controllers and masks every line except the cascade.
    ///
    /// # Safety
    /// Interrupts are off, `base..base + 16` are vectors of the kernel's own, and nothing else drives the devices.
    pub unsafe fn start(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { ChainedPics::new_contiguous(self.base).initialize() };
        self.ports.write(DATA[0], !(1 << CASCADE));
        self.ports.write(DATA[1], 0xff);
    }

    /// Lets `line` through.
    pub fn unmask(&mut self, line: u8) {
        let (port, bit) = (DATA[usize::from(line / 8)], 1 << (line % 8));
        let mask = self.ports.read(port);
        self.ports.write(port, mask & !bit);
    }

    /// Holds `line` back.
    pub fn mask(&mut self, line: u8) {
        let (port, bit) = (DATA[usize::from(line / 8)], 1 << (line % 8));
        let mask = self.ports.read(port);
        self.ports.write(port, mask | bit);
    }

    /// Ends the interrupt that was delivered as `vector` and returns its line; `None` if it is spurious (lines 7 and
    /// 15 only) or not one of ours.
    pub fn acknowledge(&mut self, vector: u8) -> Option<u8> {
        let line = vector.checked_sub(self.base).filter(|line| *line < LINES)?;
        let spurious = line % 8 == 7 && !self.in_service(line);
        if line >= 8 {
            // A spurious line 15 was not accepted by the second controller, but its cascade line was by the first.
            if !spurious {
                self.ports.write(COMMAND[1], END_OF_INTERRUPT);
            }
            self.ports.write(COMMAND[0], END_OF_INTERRUPT);
        } else if !spurious {
            self.ports.write(COMMAND[0], END_OF_INTERRUPT);
        }
        (!spurious).then_some(line)
    }

    fn in_service(&mut self, line: u8) -> bool {
        let port = COMMAND[usize::from(line / 8)];
        self.ports.write(port, READ_IN_SERVICE);
        self.ports.read(port) & (1 << (line % 8)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Two controllers, as far as masks, in-service bits and end-of-interrupt go.
    #[derive(Default)]
    struct Model {
        masks: [u8; 2],
        in_service: [u8; 2],
        ended: Vec<usize>,
    }

    impl Ports for &mut Model {
        fn read(&mut self, port: u16) -> u8 {
            match port {
                0x20 => self.in_service[0],
                0xa0 => self.in_service[1],
                0x21 => self.masks[0],
                0xa1 => self.masks[1],
                other => panic!("read of {other:#x}"),
            }
        }

        fn write(&mut self, port: u16, value: u8) {
            match (port, value) {
                (0x20, END_OF_INTERRUPT) => self.ended.push(0),
                (0xa0, END_OF_INTERRUPT) => self.ended.push(1),
                (0x20 | 0xa0, READ_IN_SERVICE) => {}
                (0x21, mask) => self.masks[0] = mask,
                (0xa1, mask) => self.masks[1] = mask,
                other => panic!("write {other:?}"),
            }
        }
    }

    #[test]
    fn a_mask_is_one_bit() {
        let mut model = Model {
            masks: [0xfb, 0xff],
            ..Model::default()
        };
        let mut pic = InterruptController::new(&mut model, 0x20);
        pic.unmask(0);
        pic.unmask(12);
        pic.unmask(4);
        pic.mask(4);
        assert_eq!(model.masks, [0xfa, 0xef]);
    }

    #[test]
    fn an_interrupt_is_ended_once_where_it_came_from() {
        let mut model = Model {
            in_service: [0x81, 0x10],
            ..Model::default()
        };
        let mut pic = InterruptController::new(&mut model, 0x20);
        assert_eq!(pic.acknowledge(0x20), Some(0));
        assert_eq!(pic.acknowledge(0x27), Some(7));
        assert_eq!(pic.acknowledge(0x2c), Some(12));
        assert_eq!(pic.acknowledge(0x30), None);
        assert_eq!(pic.acknowledge(0x1f), None);
        assert_eq!(model.ended, [0, 0, 1, 0]);
    }

    #[test]
    fn a_spurious_interrupt_is_not_ended_by_the_controller_that_did_not_raise_it() {
        let mut model = Model::default();
        let mut pic = InterruptController::new(&mut model, 0x20);
        assert_eq!(pic.acknowledge(0x27), None);
        assert_eq!(pic.acknowledge(0x2f), None);
        assert_eq!(model.ended, [0]);
    }
}
