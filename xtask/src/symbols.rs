//! Names for the addresses of a kernel back-trace.
//!
//! [`unwind`] finds the addresses; the unstripped kernel file on the host has the line tables.

use std::path::Path;

use addr2line::Loader;

use crate::{unwind, workspace};

/// One line for each frame of the kernel that has failed, inlined frames included: `0xffff...: function at file:line`.
///
/// Addresses that the file doesn't know are kept, without a name.
#[must_use]
pub fn backtrace(log: &str, kernel: &Path) -> Vec<String> {
    let loader = Loader::new(kernel).ok();
    let addresses = unwind::frames(log, kernel).into_iter().enumerate();
    addresses
        .flat_map(|(depth, address)| frames(loader.as_ref(), address, depth > 0))
        .collect()
}

/// The lines for one address: of an instruction, or one to return to.
fn frames(loader: Option<&Loader>, address: u64, is_return: bool) -> Vec<String> {
    // A return address is that of the instruction after the call.
    let call = address.saturating_sub(u64::from(is_return));
    let outer = symbol(loader, call);
    let mut found = Vec::new();
    if let Some(mut frames) = loader.and_then(|loader| loader.find_frames(call).ok()) {
        while let Ok(Some(frame)) = frames.next() {
            let function = frame
                .function
                .as_ref()
                .and_then(|name| name.demangle().ok().map(|name| name.into_owned()));
            let place = frame.location.map_or(String::new(), |place| {
                let file = place.file.unwrap_or("?");
                let file = Path::new(file)
                    .strip_prefix(workspace::root())
                    .unwrap_or(Path::new(file))
                    .display();
                place
                    .line
                    .map_or(format!(" at {file}"), |line| format!(" at {file}:{line}"))
            });
            found.push((function, place));
        }
    }
    if found.is_empty() {
        found.push((None, String::new()));
    }
    // The last frame is that of the function itself, the others were inlined into it; its symbol has the whole path.
    let last = found.len() - 1;
    let names = found.into_iter().enumerate().map(|(index, (function, place))| {
        let name = if index == last {
            outer.clone().or(function)
        } else {
            function
        };
        format!("{address:#018x}: {}{place}", name.as_deref().unwrap_or("?"))
    });
    names.collect()
}

fn symbol(loader: Option<&Loader>, address: u64) -> Option<String> {
    let name = loader?.find_symbol(address)?;
    Some(format!("{:#}", rustc_demangle::demangle(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_this_program_is_named_with_its_file() {
        use object::{Object, ObjectSymbol};

        let own = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&own).unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let mut symbols = file.symbols();
        let function = symbols
            .find(|symbol| symbol.name().is_ok_and(|name| name.contains("known_function")))
            .unwrap();
        let log = format!("unwind: rip {:#x}\n", function.address());
        let lines = backtrace(&log, &own);
        let line = lines.last().unwrap();
        assert!(
            line.contains("known_function at ") && line.contains("symbols.rs:"),
            "{line}"
        );
        assert_eq!(known_function(), 7);
    }

    #[inline(never)]
    fn known_function() -> u32 {
        std::hint::black_box(7)
    }

    #[test]
    fn an_address_stays_when_there_is_no_file_to_look_in() {
        assert_eq!(
            backtrace("unwind: rip 0x1234\n", Path::new("/nonexistent")),
            ["0x0000000000001234: ?"]
        );
    }
}
