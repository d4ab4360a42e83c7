//! `run --profile FILE.svg`: what the guest's instructions were spent on, as a flame graph.
//!
//! QEMU writes the address of every instruction that it begins into a pipe, as for `bench --profile`; here they are counted,
//! from the first instruction of the program on.
//! An address of the kernel stands on the function that it lies in, and on that the functions that the compiler has put
//! there in line; one of the program on its symbol. These are no call stacks: the kernel keeps no frame pointers.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use addr2line::Loader;
use anyhow::{Context, bail};
use inferno::flamegraph;
use object::Object;

use crate::bench::profile::{address, named_pipe};
use crate::recording::names::Symbols;
use crate::session::Task;

/// The first address of the kernel's half.
const KERNEL: u64 = 1 << 63;

/// Where the kernel puts a position-independent program if `--seed` is 0.
const POSITION_INDEPENDENT_BASE: u64 = 0x5555_5555_4000;

/// Instructions of each address.
type Counts = HashMap<u64, u64>;

/// Counts the instructions of a run.
pub struct Counter {
    path: PathBuf,
    /// Kept open until QEMU has ended, so that the reader sees no end before that.
    writer: fs::File,
    counts: JoinHandle<io::Result<Counts>>,
    _folder: tempfile::TempDir,
}

impl Counter {
    /// Makes the pipe and its reader, for a run of `task`.
    ///
    /// # Errors
    /// Fails when the pipe can't be made.
    pub fn new(task: &Task) -> anyhow::Result<Self> {
        let entry = object::File::parse(task.program.as_slice()).map_or(0, |file| file.entry());
        let first = [entry, entry.wrapping_add(POSITION_INDEPENDENT_BASE)];
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let path = folder.path().join("instructions");
        let (writer, reader) = named_pipe(&path)?;
        let counts = thread::spawn(move || count(BufReader::with_capacity(1 << 20, reader), first));
        Ok(Self {
            path,
            writer,
            counts,
            _folder: folder,
        })
    }

    /// What QEMU has to write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Draws, after QEMU has ended.
    ///
    /// # Errors
    /// Fails when nothing was counted, or a file can't be read or written.
    pub fn finish(self, kernel: &Path, task: &Task, to: &Path) -> anyhow::Result<()> {
        drop(self.writer);
        let counts = self.counts.join().map_err(|_| anyhow::anyhow!("the reader failed"))??;
        if counts.is_empty() {
            bail!("QEMU told of no instruction");
        }
        let lines = stacks(&counts, kernel, task)?;
        let total: u64 = counts.values().sum();
        let mut options = flamegraph::Options::default();
        options.title = format!(
            "{}: {} instructions",
            task.name,
            crate::report::grouped(&total.to_string())
        );
        options.count_name = "instructions".to_owned();
        let mut picture = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut picture)
            .context("the picture can't be drawn")?;
        let write = || fs::File::create(to)?.write_all(&picture);
        write().with_context(|| format!("{} can't be written", to.display()))
    }
}

/// Counts from one of the addresses in `first` on, or everything if none of them comes.
fn count(mut lines: impl BufRead, first: [u64; 2]) -> io::Result<Counts> {
    let (mut line, mut counts) = (Vec::new(), Counts::new());
    let mut has_begun = false;
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(address) = address(&line) {
            if !has_begun && first.contains(&address) {
                has_begun = true;
                counts.clear();
            }
            *counts.entry(address).or_default() += 1;
        }
        line.clear();
    }
    Ok(counts)
}

/// A line for each stack, `frame;frame count`.
fn stacks(counts: &Counts, kernel: &Path, task: &Task) -> anyhow::Result<Vec<String>> {
    let Ok(loader) = Loader::new(kernel) else {
        bail!("{} has no symbols", kernel.display())
    };
    let program = Symbols::read(&task.program);
    let name = task.name.rsplit('/').next().unwrap_or("program");
    let mut stacks = HashMap::<String, u64>::new();
    for (address, count) in counts {
        let stack = if *address >= KERNEL {
            format!("kernel;{}", in_kernel(&loader, *address))
        } else {
            let found = program.as_ref().and_then(|symbols| {
                let moved = address.checked_sub(POSITION_INDEPENDENT_BASE);
                moved
                    .and_then(|address| symbols.find(address))
                    .or_else(|| symbols.find(*address))
            });
            match found {
                Some(found) => format!(
                    "{name};{}",
                    frame(found.rsplit_once("+0x").map_or(found.as_str(), |(name, _)| name))
                ),
                None => "other programs".to_owned(),
            }
        };
        *stacks.entry(stack).or_default() += count;
    }
    let mut lines: Vec<_> = stacks
        .into_iter()
        .map(|(stack, count)| format!("{stack} {count}"))
        .collect();
    lines.sort();
    Ok(lines)
}

/// The function of an address of the kernel, then those in line.
fn in_kernel(loader: &Loader, address: u64) -> String {
    let mut names = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(found)) = frames.next() {
            let name = found.function.as_ref().and_then(|name| name.demangle().ok());
            names.push(frame(name.as_deref().unwrap_or("?")));
        }
    }
    // The last one is the function itself; its symbol has the whole path.
    if let Some(symbol) = loader.find_symbol(address) {
        let whole = frame(&format!("{:#}", rustc_demangle::demangle(symbol)));
        match names.last_mut() {
            Some(last) => *last = whole,
            None => names.push(whole),
        }
    }
    match names.is_empty() {
        true => "?".to_owned(),
        false => names.into_iter().rev().collect::<Vec<_>>().join(";"),
    }
}

/// A name as a frame of a stack.
fn frame(name: &str) -> String {
    name.replace([';', '\n'], ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_with_an_address_counts() {
        let text =
            b"Trace 0: 0x7f [0000/ffffffff80001000/00/ff] f\nnonsense\nTrace 0: 0x7f [0000/ffffffff80001000/00/ff] f\n\
            Trace 0: 0x7f [0000/0000000000401000/00/ff] g\n";
        let counts = count(text.as_slice(), [1, 2]).unwrap();
        assert_eq!((counts[&0xffff_ffff_8000_1000], counts[&0x40_1000]), (2, 1));
        assert_eq!(counts.len(), 2);
        // From the program's first instruction on.
        assert_eq!(
            count(text.as_slice(), [0x40_1000, 2]).unwrap(),
            Counts::from([(0x40_1000, 1)])
        );
    }
}
