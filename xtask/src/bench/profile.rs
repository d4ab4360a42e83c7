//! What the instructions of one operation are spent on (`--profile`): a recording of every instruction of a run, cut
//! where the program reads the time-stamp counter.
//!
//! QEMU writes the address of each instruction before it executes it (`-singlestep -d exec,nochain`) into a pipe. What
//! lies between a reading of the counter by `rdtsc` and the next one by `rdtscp` in the program is a *window*. The windows
//! in which the kernel ran are the operation, and one of median length is shown. The instruction that faults is in it
//! twice, because it is begun twice.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use addr2line::Loader;
use anyhow::{Context, bail};
use object::{Object, ObjectSegment};

use crate::report::grouped;
use crate::workspace;

/// The first address of the kernel's half.
const KERNEL: u64 = 1 << 63;

/// What takes less than one part in so many is summed up.
const SMALLEST_SHARE: u64 = 200;

/// Windows that are longer are not looked at: nothing that is measured takes so long.
const LONGEST: usize = 1 << 24;

/// Machine code by its address, from the executable segments of an ELF file.
struct Code(Vec<(u64, Vec<u8>)>);

impl Code {
    fn of(elf: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(elf).context("not an ELF file")?;
        let segments = file
            .segments()
            .map(|segment| Ok((segment.address(), segment.data()?.to_vec())));
        Ok(Self(segments.collect::<object::Result<_>>()?))
    }

    fn at(&self, address: u64) -> &[u8] {
        let bytes = self.0.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(offset..)
        });
        bytes.unwrap_or_default()
    }

    /// The edge of a window that the instruction here is, if any.
    fn edge(&self, address: u64) -> Option<Edge> {
        match self.at(address) {
            [0x0f, 0x31, ..] => Some(Edge::Begin),
            [0x0f, 0x01, 0xf9, ..] => Some(Edge::End),
            _ => None,
        }
    }
}

/// A reading of the time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// `rdtsc`.
    Begin,
    /// `rdtscp`.
    End,
}

/// Instructions whose cost their number hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Special {
    Locked,
    LoadCr3,
    InvalidatePage,
    PortAccess,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "locked",
            Self::LoadCr3 => "mov cr3",
            Self::InvalidatePage => "invlpg",
            Self::PortAccess => "in or out",
        })
    }
}

/// What kind of special instruction these bytes begin with, if any.
fn special(code: &[u8]) -> Option<Special> {
    let is_prefix =
        |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = code.iter().take_while(|byte| is_prefix(byte)).count();
    let (prefixes, rest) = code.split_at(prefixes);
    match *rest {
        _ if prefixes.contains(&0xf0) => Some(Special::Locked),
        // An exchange with memory is locked without saying so.
        [0x86 | 0x87, modes, ..] if modes < 0xc0 => Some(Special::Locked),
        [0x0f, 0x22, register, ..] if register >> 3 & 7 == 3 => Some(Special::LoadCr3),
        [0x0f, 0x01, modes, ..] if modes < 0xc0 && modes >> 3 & 7 == 7 => Some(Special::InvalidatePage),
        [0xe4..=0xe7 | 0xec..=0xef | 0x6c..=0x6f, ..] => Some(Special::PortAccess),
        _ => None,
    }
}

/// A pipe with a name, in a folder that goes with it.
pub struct Pipe {
    path: PathBuf,
    /// Kept open until QEMU has ended, so that the reader sees no end before that.
    writer: File,
    windows: JoinHandle<io::Result<Windows>>,
    _folder: tempfile::TempDir,
}

impl Pipe {
    /// Makes it, with a reader that cuts at the readings of the counter in `program`.
    ///
    /// # Errors
    /// Fails when the pipe can't be made, or the program isn't an ELF file.
    pub fn new(program: &[u8]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let path = folder.path().join("instructions");
        let (writer, reader) = named_pipe(&path)?;
        let code = Code::of(program)?;
        let windows = thread::spawn(move || {
            let mut windows = Windows::default();
            windows.read(BufReader::with_capacity(1 << 20, reader), |address| code.edge(address))?;
            Ok(windows)
        });
        Ok(Self {
            path,
            writer,
            windows,
            _folder: folder,
        })
    }

    /// What QEMU has to write to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The profile, after QEMU has ended.
    ///
    /// # Errors
    /// Fails when nothing was measured, or the kernel's file can't be read.
    pub fn finish(self, kernel: &Path) -> anyhow::Result<Profile> {
        drop(self.writer);
        let windows = self
            .windows
            .join()
            .map_err(|_| anyhow::anyhow!("the reader failed"))??;
        let Some((runs, window)) = windows.median() else {
            bail!("the recording has no operation in which the kernel ran");
        };
        Profile::of(runs, &window, kernel)
    }
}

/// Makes a pipe with a name. The writer is to be kept open until QEMU has ended, so that the reader sees no end before.
///
/// # Errors
/// Fails when the pipe can't be made.
pub(crate) fn named_pipe(path: &Path) -> anyhow::Result<(File, File)> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name ends in a NUL and outlives the call.
    if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
        return Err(io::Error::last_os_error()).context("no pipe for the instructions");
    }
    // A reader that doesn't wait for a writer, then the writer, then a reader as any other.
    let first = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let writer = OpenOptions::new().write(true).open(path)?;
    let reader = File::open(path)?;
    drop(first);
    Ok((writer, reader))
}

/// The windows in which the kernel ran: by length, how many there are and the first of them.
#[derive(Default)]
struct Windows {
    groups: BTreeMap<usize, (u64, Vec<u64>)>,
}

impl Windows {
    /// Reads QEMU's lines: `Trace 0: 0x7f.. [cs base/address/flags/cflags] symbol`.
    fn read(&mut self, mut lines: impl BufRead, edge: impl Fn(u64) -> Option<Edge>) -> io::Result<()> {
        let (mut line, mut window) = (Vec::new(), Vec::new());
        let mut known: HashMap<u64, Option<Edge>> = HashMap::new();
        let mut is_open = false;
        while lines.read_until(b'\n', &mut line)? > 0 {
            let address = address(&line);
            line.clear();
            let Some(address) = address else { continue };
            let edge = (address < KERNEL).then(|| *known.entry(address).or_insert_with(|| edge(address)));
            match edge.flatten() {
                Some(Edge::Begin) => {
                    window.clear();
                    is_open = true;
                }
                Some(Edge::End) => {
                    if is_open {
                        self.close(&window);
                    }
                    is_open = false;
                }
                None if is_open && window.len() < LONGEST => window.push(address),
                None => {}
            }
        }
        Ok(())
    }

    /// A window of median length, and how many have that length.
    fn median(self) -> Option<(u64, Vec<u64>)> {
        let half = self.groups.values().map(|(runs, _)| runs).sum::<u64>() / 2;
        let mut before = 0;
        self.groups.into_values().find(|(runs, _)| {
            before += runs;
            before > half
        })
    }

    fn close(&mut self, window: &[u64]) {
        if window.len() < LONGEST && window.iter().any(|address| *address >= KERNEL) {
            let (runs, _) = self.groups.entry(window.len()).or_insert_with(|| (0, window.to_vec()));
            *runs += 1;
        }
    }
}

/// The address of the instruction on a line of QEMU's log.
pub(crate) fn address(line: &[u8]) -> Option<u64> {
    let bracket = line.iter().position(|byte| *byte == b'[')?;
    let mut parts = line[bracket + 1..].split(|byte| *byte == b'/');
    let address = std::str::from_utf8(parts.nth(1)?).ok()?;
    u64::from_str_radix(address, 16).ok()
}

/// The instructions of one run of the operation, by function.
pub struct Profile {
    /// Runs of the same length.
    runs: u64,
    length: usize,
    /// Files and their instructions, most first; an iteration of `rep` is one.
    files: Vec<(String, u64)>,
    /// Functions and their instructions, most first.
    functions: Vec<(String, u64)>,
    specials: BTreeMap<Special, u64>,
}

impl Profile {
    fn of(runs: u64, window: &[u64], kernel: &Path) -> anyhow::Result<Self> {
        let elf = std::fs::read(kernel).with_context(|| format!("{} can't be read", kernel.display()))?;
        let code = Code::of(&elf)?;
        let Ok(loader) = Loader::new(kernel) else {
            bail!("{} has no line tables", kernel.display())
        };
        let mut places: HashMap<u64, Place> = HashMap::new();
        let (mut files, mut functions, mut specials) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        for address in window {
            let place = places.entry(*address).or_insert_with(|| Place::of(&loader, *address));
            *files.entry(place.file.clone()).or_default() += 1;
            *functions.entry(place.to_string()).or_default() += 1;
            if let Some(special) = special(code.at(*address)).filter(|_| *address >= KERNEL) {
                *specials.entry(special).or_default() += 1;
            }
        }
        Ok(Self {
            runs,
            length: window.len(),
            files: most_first(files),
            functions: most_first(functions),
            specials,
        })
    }
}

fn most_first(counts: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    counts
}

/// Where an instruction comes from.
struct Place {
    function: String,
    file: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.function, self.file)
    }
}

impl Place {
    /// The innermost function of this project that the instruction belongs to.
    fn of(loader: &Loader, address: u64) -> Self {
        let place = |function: &str, file: &str| Self {
            function: function.to_owned(),
            file: file.to_owned(),
        };
        if address < KERNEL {
            return place("any", "the program");
        }
        if let Ok(mut frames) = loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let file = frame.location.and_then(|place| place.file).unwrap_or_default();
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
                if let (Some(name), Ok(own)) = (name, Path::new(file).strip_prefix(workspace::root())) {
                    return place(last_segment(&name), &own.display().to_string());
                }
            }
        }
        let symbol = loader.find_symbol(address).unwrap_or("?");
        place(
            &format!("{:#}", rustc_demangle::demangle(symbol)),
            "assembly and libraries",
        )
    }
}

/// The last segment of a path, without the types that it is generic over.
fn last_segment(path: &str) -> &str {
    let (mut depth, mut start, mut end) = (0u32, 0, path.len());
    for (index, character) in path.char_indices() {
        match character {
            '<' => {
                if depth == 0 && index > start {
                    end = index;
                }
                depth += 1;
            }
            '>' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && !path[index + 1..].starts_with([':', '<']) => (start, end) = (index + 1, path.len()),
            _ => {}
        }
    }
    path[start..end.max(start)].trim_end_matches(':')
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: u64| grouped(&value.to_string());
        let length = self.length as u64;
        writeln!(
            f,
            "{} instructions, as in {} runs of the operation:\n",
            number(length),
            number(self.runs)
        )?;
        for (what, rows) in [("file", &self.files), ("function", &self.functions)] {
            writeln!(f, "| instructions | share | {what} |\n|--:|--:|---|")?;
            let is_large = |count: u64| count * SMALLEST_SHARE >= length;
            for (name, count) in rows.iter().filter(|(_, count)| is_large(*count)) {
                let share = *count as f64 * 100.0 / length as f64;
                writeln!(f, "| {} | {share:.1} % | {name} |", number(*count))?;
            }
            let rest: u64 = rows
                .iter()
                .map(|(_, count)| *count)
                .filter(|count| !is_large(*count))
                .sum();
            writeln!(
                f,
                "| {} | {:.1} % | the rest |\n",
                number(rest),
                rest as f64 * 100.0 / length as f64
            )?;
        }
        for special in [
            Special::Locked,
            Special::LoadCr3,
            Special::InvalidatePage,
            Special::PortAccess,
        ] {
            writeln!(f, "- {special}: {}", self.specials.get(&special).unwrap_or(&0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_instructions_are_known_by_their_bytes() {
        for (code, expected) in [
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f][..], Some(Special::Locked)),
            (&[0x48, 0x87, 0x07], Some(Special::Locked)),
            (&[0x48, 0x87, 0xc3], None),
            (&[0x0f, 0x22, 0xd8], Some(Special::LoadCr3)),
            (&[0x0f, 0x22, 0xe0], None),
            (&[0x0f, 0x01, 0x3f], Some(Special::InvalidatePage)),
            (&[0x0f, 0x01, 0xf8], None), // swapgs
            (&[0xee], Some(Special::PortAccess)),
            (&[0xf3, 0x48, 0xab], None), // rep stosq
            (&[], None),
        ] {
            assert_eq!(special(code), expected, "{code:x?}");
        }
    }

    #[test]
    fn a_window_lies_between_the_readings_of_the_counter_that_begin_and_end_it() {
        let line = |address: u64| format!("Trace 0: 0x7f00 [0000000000000000/{address:016x}/0040c0b3/ff000201] \n");
        let (begin, end, user, kernel) = (0x1000, 0x1800, 0x2000, KERNEL + 5);
        // An operation; a pause that is none; one again; a longer one; one without the kernel.
        let addresses = [
            user, begin, user, kernel, end, kernel, kernel, end, begin, kernel, begin, user, kernel, end, user, begin,
            user, kernel, kernel, end, begin, user, end, kernel,
        ];
        let log = "a line of another kind\n".to_owned() + &addresses.map(line).concat();
        let mut windows = Windows::default();
        let edge = |address| match address {
            _ if address == begin => Some(Edge::Begin),
            _ if address == end => Some(Edge::End),
            _ => None,
        };
        windows.read(log.as_bytes(), edge).unwrap();
        let groups: Vec<_> = windows.groups.values().cloned().collect();
        assert_eq!(groups, [(2, vec![user, kernel]), (1, vec![user, kernel, kernel])]);
        assert_eq!(windows.median(), Some((2, vec![user, kernel])));
    }

    #[test]
    fn the_last_segment_of_a_path_is_its_name() {
        for (path, name) in [
            ("faultline_mm::fault::admit::poll", "poll"),
            ("faultline_mm::memory::Memory<P>::switch_to", "switch_to"),
            ("<core::option::Option<T> as a::B>::map::{{closure}}", "{{closure}}"),
            ("core::ptr::drop_in_place<alloc::boxed::Box<u8>>", "drop_in_place"),
            ("spin::Once::<T>::get", "get"),
            ("main", "main"),
        ] {
            assert_eq!(last_segment(path), name, "{path}");
        }
    }
}
