//! Names for the addresses in a trace: the function or the variable of the program in which an address lies.
//!
//! A process says the name of the file that it runs and where that starts (`task.name`, `task.exec`); a child of `fork`
//! runs what its parent runs. So each address of a fault belongs to a file of the run, and the file's symbols name it.

use std::collections::{BTreeMap, HashMap};

use faultline_trace::{Event, Kind, TrapWord};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::Recording;
use crate::session::Task;

/// What a thread runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The name of the program's file, at most its first 16 bytes.
    pub program: String,
    /// The address of its first instruction.
    pub entry: u64,
    /// The process that the thread belongs to.
    pub process: u32,
}

/// What each thread runs, as the events tell it.
#[derive(Clone, Debug, Default)]
pub struct Threads(BTreeMap<u32, Running>);

impl Threads {
    /// Takes notice of an event.
    pub fn take(&mut self, event: &Event) {
        match event.kind {
            Kind::TaskStart => {
                let process = event.a as u32;
                let inherited = self.0.get(&process).or_else(|| self.0.get(&(event.b as u32)));
                let running = Running {
                    process,
                    ..inherited.cloned().unwrap_or_default()
                };
                self.0.insert(event.task, running);
            }
            Kind::TaskName => self.0.entry(event.task).or_default().program = name_of(event),
            Kind::TaskExec => self.0.entry(event.task).or_default().entry = event.b,
            _ => {}
        }
    }

    /// What a thread runs, if that is known.
    #[must_use]
    pub fn get(&self, task: u32) -> Option<&Running> {
        self.0.get(&task)
    }

    /// Every thread that was seen.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Running)> {
        self.0.iter().map(|(task, running)| (*task, running))
    }
}

/// The name in a `task.name` event.
fn name_of(event: &Event) -> String {
    let bytes = [event.a.to_le_bytes(), event.b.to_le_bytes()].concat();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// Puts a name to each address of a fault, and to each instruction that faulted.
pub fn resolve(recording: &mut Recording, tasks: &[Task]) {
    let programs: HashMap<String, Symbols> = tasks
        .iter()
        .filter_map(|task| {
            let name = task.name.rsplit('/').next().unwrap_or(&task.name);
            let short = &name.as_bytes()[..name.len().min(16)];
            Some((
                String::from_utf8_lossy(short).into_owned(),
                Symbols::read(&task.program)?,
            ))
        })
        .collect();
    let mut threads = Threads::default();
    let mut names = BTreeMap::new();
    for event in &recording.events {
        threads.take(event);
        if event.kind != Kind::FaultTrap {
            continue;
        }
        let Some(running) = threads.get(event.task) else {
            continue;
        };
        let Some(symbols) = programs.get(&running.program) else {
            continue;
        };
        for address in [event.a, TrapWord(event.b).instruction()] {
            names.entry((event.space, address)).or_insert_with(|| {
                let found = symbols.find(address.wrapping_sub(symbols.bias(running.entry)));
                found.map(|found| format!("{}: {found}", running.program))
            });
        }
    }
    recording.names = names.into_iter().filter_map(|(at, name)| Some((at, name?))).collect();
}

/// What a program calls its addresses.
pub(crate) struct Symbols {
    entry: u64,
    /// Start, size and name, by the start.
    symbols: Vec<(u64, u64, String)>,
    /// Start, size and name of the parts that are in memory.
    sections: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Reads them from the program's file; none if that is no such file.
    pub(crate) fn read(program: &[u8]) -> Option<Self> {
        let file = object::File::parse(program).ok()?;
        let named = file
            .symbols()
            .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data) && symbol.size() > 0);
        let mut symbols: Vec<_> = named
            .filter_map(|symbol| {
                let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
                Some((symbol.address(), symbol.size(), name))
            })
            .collect();
        symbols.sort();
        let sections = file
            .sections()
            .filter(|section| section.address() != 0 && section.size() > 0);
        let sections = sections
            .filter_map(|section| Some((section.address(), section.size(), section.name().ok()?.to_owned())))
            .collect();
        Some(Self {
            entry: file.entry(),
            symbols,
            sections,
        })
    }

    /// How much higher than in its file the program lies.
    fn bias(&self, entry: u64) -> u64 {
        if entry == 0 { 0 } else { entry.wrapping_sub(self.entry) }
    }

    /// The name of an address of the file, with the offset behind `+`.
    pub(crate) fn find(&self, address: u64) -> Option<String> {
        let holds = |&&(start, size, _): &&(u64, u64, String)| (start..start.saturating_add(size)).contains(&address);
        let before = self.symbols.partition_point(|symbol| symbol.0 <= address);
        let symbol = self.symbols[..before].iter().rev().take(4).find(holds);
        let (start, _, name) = symbol.or_else(|| self.sections.iter().find(holds))?;
        Some(match address - start {
            0 => name.clone(),
            offset => format!("{name}+{offset:#x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::lives::tests::recording;
    use super::*;

    #[test]
    fn a_child_runs_what_its_parent_runs() {
        let [a, b] = [*b"touch\0\0\0", [0; 8]].map(u64::from_le_bytes);
        let recording = recording(&[
            (1, Kind::TaskStart, 1, 0, 1, 0),
            (2, Kind::TaskName, 1, 0, a, b),
            (3, Kind::TaskExec, 1, 0, 5, 0x40_1000),
            (4, Kind::TaskStart, 2, 0, 2, 1),
            (5, Kind::TaskStart, 3, 0, 1, 1),
        ]);
        let mut threads = Threads::default();
        recording.events.iter().for_each(|event| threads.take(event));
        let running = |process| Running {
            program: "touch".to_owned(),
            entry: 0x40_1000,
            process,
        };
        assert_eq!(threads.get(2), Some(&running(2)));
        assert_eq!(threads.get(3), Some(&running(1)));
    }

    #[test]
    fn a_function_of_a_program_is_found_by_its_address() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::read(&own).unwrap();
        let (start, _, name) = symbols
            .symbols
            .iter()
            .find(|(_, size, name)| *size > 8 && name.contains("a_function_of_a_program_is_found"))
            .unwrap();
        assert_eq!(symbols.find(start + 4), Some(format!("{name}+0x4")));
        assert_eq!(symbols.find(1), None);
    }
}
