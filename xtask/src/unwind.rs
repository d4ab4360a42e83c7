//! The frames of a failed kernel, from the registers and stack words on its log.
//!
//! The kernel keeps no frame pointers. It prints a line `unwind: rip 0x... rsp 0x...` and lines `stack: 0xADDRESS: ...`;
//! the tables that say where each function keeps its caller's registers are in `.debug_frame` of the unstripped kernel
//! file on the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindSection, X86_64,
};
use object::{Object, ObjectSection};

/// Frames that are looked for at most: more than there are on the kernel's stack.
const MAX_FRAMES: usize = 4096;

/// The beginnings of the log lines that are meant for this module.
const LINES: [&str; 2] = ["unwind:", "stack:"];

/// The registers that are followed from frame to frame, as the kernel names them.
const REGISTERS: [(&str, Register); 8] = [
    ("rip", X86_64::RA),
    ("rsp", X86_64::RSP),
    ("rbp", X86_64::RBP),
    ("rbx", X86_64::RBX),
    ("r12", X86_64::R12),
    ("r13", X86_64::R13),
    ("r14", X86_64::R14),
    ("r15", X86_64::R15),
];

/// What a failed kernel has left behind of one point of its execution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Registers by their DWARF numbers.
    registers: BTreeMap<u16, u64>,
    /// Words of the stack by their addresses.
    stack: BTreeMap<u64, u64>,
}

/// Whether a line of the kernel log is meant for this module, and not for people.
#[must_use]
pub fn is_raw(line: &str) -> bool {
    LINES.iter().any(|beginning| line.starts_with(beginning))
}

/// The addresses of the frames on the log, innermost first: the instruction that failed, then return addresses. None
/// where the kernel has printed no registers; the first alone where its file has no tables.
#[must_use]
pub fn frames(log: &str, kernel: &Path) -> Vec<u64> {
    let Some(state) = State::read(log) else {
        return Vec::new();
    };
    let file = fs::read(kernel).unwrap_or_default();
    let object = object::File::parse(file.as_slice()).ok();
    let section = object.and_then(|object| object.section_by_name(".debug_frame")?.data().ok());
    state.walk(section.unwrap_or_default())
}

impl State {
    /// Reads the lines of the log.
    fn read(log: &str) -> Option<Self> {
        let mut state = Self::default();
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix(LINES[0]) {
                let words: Vec<_> = rest.split_whitespace().collect();
                for pair in words.chunks_exact(2) {
                    let known = REGISTERS.iter().find(|(name, _)| *name == pair[0]);
                    if let (Some((_, register)), Some(value)) = (known, hexadecimal(pair[1])) {
                        state.registers.insert(register.0, value);
                    }
                }
            } else if let Some((address, words)) = line.strip_prefix(LINES[1]).and_then(|rest| rest.split_once(':')) {
                let addresses = (hexadecimal(address)?..).step_by(8);
                let words = words.split_whitespace().map_while(hexadecimal);
                state.stack.extend(addresses.zip(words));
            }
        }
        state.registers.contains_key(&X86_64::RA.0).then_some(state)
    }

    fn get(&self, register: Register) -> Option<u64> {
        self.registers.get(&register.0).copied()
    }

    /// Goes from frame to frame as the tables say, as far as the words of the stack reach.
    fn walk(mut self, section: &[u8]) -> Vec<u64> {
        let mut tables = DebugFrame::new(section, LittleEndian);
        tables.set_address_size(8);
        let mut context = UnwindContext::new();
        let mut frames: Vec<u64> = self.get(X86_64::RA).into_iter().collect();
        while frames.len() < MAX_FRAMES {
            // What was called may have been the last thing that the caller did.
            let place = frames[frames.len() - 1].saturating_sub(u64::from(frames.len() > 1));
            let caller = match self.caller(&tables, &mut context, place) {
                Some(caller) => caller,
                // Where there is no function, somebody has jumped or called to.
                None if frames.len() == 1 => match self.after_return() {
                    Some(caller) => caller,
                    None => break,
                },
                None => break,
            };
            if caller.get(X86_64::RSP) <= self.get(X86_64::RSP) {
                break;
            }
            match caller.get(X86_64::RA) {
                None | Some(0) => break,
                Some(address) => frames.push(address),
            }
            self = caller;
        }
        frames
    }

    /// The registers of the caller, if the tables know the function at `place`.
    fn caller(
        &self,
        tables: &DebugFrame<EndianSlice<'_, LittleEndian>>,
        context: &mut UnwindContext<usize>,
        place: u64,
    ) -> Option<Self> {
        let bases = BaseAddresses::default();
        let row = tables
            .unwind_info_for_address(&bases, context, place, DebugFrame::cie_from_offset)
            .ok()?;
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else {
            return None;
        };
        let base = self.get(*register)?.wrapping_add_signed(*offset);
        let mut registers = BTreeMap::from([(X86_64::RSP.0, base)]);
        for (_, register) in REGISTERS.iter().filter(|(_, register)| *register != X86_64::RSP) {
            let value = match row.register(*register) {
                Some(RegisterRule::Offset(offset)) => self.stack.get(&base.wrapping_add_signed(offset)).copied(),
                // Calls preserve what no rule is about, but for the return address.
                None | Some(RegisterRule::SameValue | RegisterRule::Undefined) if *register != X86_64::RA => {
                    self.get(*register)
                }
                _ => None,
            };
            registers.extend(value.map(|value| (register.0, value)));
        }
        Some(Self {
            registers,
            stack: self.stack.clone(),
        })
    }

    /// The registers after a return at this point.
    fn after_return(&self) -> Option<Self> {
        let top = self.get(X86_64::RSP)?;
        let mut caller = self.clone();
        caller.registers.insert(X86_64::RA.0, *self.stack.get(&top)?);
        caller.registers.insert(X86_64::RSP.0, top + 8);
        Some(caller)
    }
}

fn hexadecimal(word: &str) -> Option<u64> {
    let word = word.trim();
    u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "panic: x\nunwind: rip 0x1010 rsp 0x8000 rbp 0x7\nstack: 0x8000: 11 22\nstack: 0x8010: 2020 33\n";

    #[test]
    fn registers_and_words_are_read_from_their_lines() {
        let state = State::read(LOG).unwrap();
        assert_eq!(state.get(X86_64::RA), Some(0x1010));
        assert_eq!(state.get(X86_64::RBP), Some(7));
        assert_eq!(
            state.stack,
            BTreeMap::from([(0x8000, 0x11), (0x8008, 0x22), (0x8010, 0x2020), (0x8018, 0x33)])
        );
        assert_eq!(State::read("panic: rip 0x1010\n"), None);
        assert!(LOG.lines().map(is_raw).eq([false, true, true, true]));
    }

    #[test]
    fn a_frame_is_where_the_tables_say() {
        // A function from 0x1000 on, 0x20 bytes long, whose frame is 0x10 bytes below the return address.
        let entry = |body: &[u8]| [&(body.len() as u32).to_le_bytes()[..], body].concat();
        // An entry of version 4: addresses of 8 bytes, factors 1 and -8, return address in 16; CFA = rsp + 8, saved at -8.
        let common = entry(&[&[0xff; 4][..], &[4, 0, 8, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1]].concat());
        let function = [
            &0u32.to_le_bytes()[..],
            &0x1000u64.to_le_bytes(),
            &0x20u64.to_le_bytes(),
            // From 4 bytes on the frame is 0x18 bytes with the return address.
            &[0x44, 0x0e, 0x18],
        ];
        let section = [common, entry(&function.concat())].concat();
        let state = State::read(LOG).unwrap();
        assert_eq!(state.clone().walk(&section), [0x1010, 0x2020]);
        assert_eq!(
            state.walk(&[]),
            [0x1010, 0x11],
            "without a table the return address is on top"
        );
    }

    #[test]
    fn without_words_of_the_stack_the_place_itself_is_left() {
        assert_eq!(
            frames("unwind: rip 0x1010 rsp 0x8000\n", Path::new("/nonexistent")),
            [0x1010]
        );
        assert!(frames("no such line\n", Path::new("/nonexistent")).is_empty());
    }
}
