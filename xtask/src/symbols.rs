//! Names for the addresses of a kernel back-trace.
//!
//! The kernel prints each return address on its log as `backtrace: 0x...`; the unstripped kernel file on the host has
//! the line tables.

use std::path::Path;

use addr2line::Loader;

use crate::workspace;

/// One line for each frame of the back-traces in `log`, inlined frames included: `0xffff...: function at file:line`.
///
/// Addresses that the file doesn't know are kept, without a name.
#[must_use]
pub fn backtrace(log: &str, kernel: &Path) -> Vec<String> {
    let loader = Loader::new(kernel).ok();
    log.lines()
        .flat_map(addresses)
        .flat_map(|address| frames(loader.as_ref(), address))
        .collect()
}

/// The addresses on a line of the kernel log that belongs to a back-trace.
fn addresses(line: &str) -> Vec<u64> {
    let Some((_, rest)) = line.split_once("backtrace:") else {
        return Vec::new();
    };
    rest.split_whitespace()
        .filter_map(|word| u64::from_str_radix(word.trim_end_matches([',', ':']).strip_prefix("0x")?, 16).ok())
        .collect()
}

fn frames(loader: Option<&Loader>, address: u64) -> Vec<String> {
    // A return address is that of the instruction after the call.
    let call = address.saturating_sub(1);
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
    fn addresses_are_found_only_on_back_trace_lines() {
        assert_eq!(
            addresses("[ERROR] backtrace: 0xffffffff80101234"),
            [0xffff_ffff_8010_1234]
        );
        assert_eq!(addresses("backtrace: 0x10 0x20"), [0x10, 0x20]);
        assert!(addresses("the address 0x10").is_empty());
    }

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
        // As if it had called something: the address after its first byte.
        let log = format!("[ERROR] backtrace: {:#x}\n", function.address() + 1);
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
            backtrace("backtrace: 0x1234\n", Path::new("/nonexistent")),
            ["0x0000000000001234: ?"]
        );
    }
}
