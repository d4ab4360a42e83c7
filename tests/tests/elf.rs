//! The kernel's reader of ELF headers, included as it stands: what it accepts, what it refuses and how, and that no bytes
//! whatever make it panic.

#[path = "../../kernel/src/exec/elf.rs"]
#[allow(dead_code, reason = "the kernel uses more of it than these tests")]
mod reader;

use std::sync::LazyLock;

use faultline_tests::{Libc, Run, busybox, c_program};
use faultline_xtask::root::Root;
use proptest::prelude::*;
use reader::{ElfError, MAX_EXTENT, MAX_PATH, MAX_SEGMENTS, Plan, USER_END, plan};

const LOAD: u32 = 1;
const INTERP: u32 = 3;
const READ: u32 = 4;
const WRITE: u32 = 2;
const EXECUTE: u32 = 1;

/// A program header of a test file.
#[derive(Clone, Copy)]
struct Part {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

const TEXT: Part = Part {
    kind: LOAD,
    flags: READ | EXECUTE,
    offset: 0,
    address: 0x40_0000,
    file_size: 0x1000,
    memory_size: 0x1000,
};

const DATA: Part = Part {
    kind: LOAD,
    flags: READ | WRITE,
    offset: 0x1000,
    address: 0x40_1000,
    file_size: 0x200,
    memory_size: 0x5000,
};

/// A file of 8 KiB with these program headers.
fn file(parts: &[Part]) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &0x40_0100_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &(parts.len() as u16).to_le_bytes());
    for (index, part) in parts.iter().enumerate() {
        let at = 64 + index * 56;
        put(at, &part.kind.to_le_bytes());
        put(at + 4, &part.flags.to_le_bytes());
        let words = [
            part.offset,
            part.address,
            part.address,
            part.file_size,
            part.memory_size,
            0x1000,
        ];
        for (word, value) in words.iter().enumerate() {
            put(at + 8 + word * 8, &value.to_le_bytes());
        }
    }
    bytes
}

fn read(parts: &[Part]) -> Result<Plan, ElfError> {
    plan(&file(parts))
}

/// The error for a file with one field changed.
fn changed(offset: usize, value: &[u8]) -> ElfError {
    let mut bytes = file(&[TEXT, DATA]);
    bytes[offset..offset + value.len()].copy_from_slice(value);
    plan(&bytes).expect_err("the change makes the file unusable")
}

#[test]
fn a_program_is_planned() {
    let plan = read(&[TEXT, DATA]).unwrap();
    assert_eq!(plan.segments().len(), 2);
    assert_eq!((plan.entry, plan.position_independent), (0x40_0100, false));
    assert_eq!((plan.header_address, plan.header_count), (Some(0x40_0040), 2));
    assert_eq!(plan.end(), 0x40_6000);
    let data = plan.segments()[1];
    assert!(data.read && data.write && !data.execute);
    assert_eq!((data.file_size, data.memory_size), (0x200, 0x5000));
}

#[test]
fn foreign_files_are_named() {
    assert_eq!(plan(b""), Err(ElfError::NotElf));
    assert_eq!(plan(b"#!/bin/sh\n"), Err(ElfError::NotElf));
    assert_eq!(changed(4, &[1]), ElfError::NotSixtyFourBit);
    assert_eq!(changed(5, &[2]), ElfError::ForeignMachine(0));
    assert_eq!(changed(18, &183_u16.to_le_bytes()), ElfError::ForeignMachine(183));
    assert_eq!(changed(16, &1_u16.to_le_bytes()), ElfError::NotExecutable(1));
    let bad = |field, offset| ElfError::BadHeader { field, offset };
    assert_eq!(changed(54, &32_u16.to_le_bytes()), bad("e_phentsize", 54));
    assert_eq!(changed(32, &u64::MAX.to_le_bytes()), bad("e_phoff", 32));
    assert_eq!(changed(4, &[9]), bad("e_ident[EI_CLASS]", 4));
    assert_eq!(changed(5, &[9]), bad("e_ident[EI_DATA]", 5));
    assert_eq!(changed(6, &[9]), bad("e_ident[EI_VERSION]", 6));
    assert_eq!(
        bad("e_phoff", 32).to_string(),
        "the ELF header's e_phoff at byte 32 has a value that no program has"
    );
    assert_eq!(changed(56, &0_u16.to_le_bytes()), ElfError::NoSegments);
    assert_eq!(
        changed(24, &0x40_1000_u64.to_le_bytes()),
        ElfError::EntryOutside { entry: 0x40_1000 }
    );
}

#[test]
fn the_path_of_a_dynamic_linker_is_found_or_refused() {
    let interpreter = |offset, file_size| Part {
        kind: INTERP,
        offset,
        file_size,
        ..TEXT
    };
    let with = |part: Part| read(&[part, TEXT]);
    assert_eq!(read(&[TEXT]).unwrap().interpreter, None);
    assert_eq!(with(interpreter(0x200, 28)).unwrap().interpreter, Some((0x200, 28)));
    assert_eq!(
        with(interpreter(0x200, MAX_PATH)).unwrap().interpreter,
        Some((0x200, 4096))
    );
    for size in [0, 1, MAX_PATH + 1, u64::MAX] {
        assert_eq!(
            with(interpreter(0x200, size)),
            Err(ElfError::BadInterpreter { offset: 0x200, size })
        );
    }
    assert_eq!(
        with(interpreter(0x1ff0, 28)),
        Err(ElfError::Truncated {
            offset: 0x1ff0,
            needed: 0x200c,
            size: 0x2000
        })
    );
    assert_eq!(
        with(interpreter(u64::MAX, 2)),
        Err(ElfError::Truncated {
            offset: u64::MAX,
            needed: u64::MAX,
            size: 0x2000
        })
    );
}

#[test]
fn bad_segments_are_named() {
    let address = DATA.address;
    let with = |part: Part| read(&[TEXT, part]).expect_err("the segment is bad");
    assert_eq!(
        with(Part {
            flags: READ | WRITE | EXECUTE,
            ..DATA
        }),
        ElfError::WritableAndExecutable { address }
    );
    assert_eq!(
        with(Part {
            memory_size: 0x100,
            ..DATA
        }),
        ElfError::FileLargerThanMemory { address }
    );
    assert_eq!(
        with(Part { offset: 0x1010, ..DATA }),
        ElfError::Misaligned {
            address,
            offset: 0x1010
        }
    );
    let overlapping = Part {
        address: 0x40_0800,
        offset: 0x800,
        ..DATA
    };
    assert_eq!(with(overlapping), ElfError::Overlap { address: 0x40_0800 });
    assert_eq!(
        with(Part {
            address: 0x30_0000,
            ..DATA
        }),
        ElfError::Overlap { address: 0x30_0000 }
    );
    for memory_size in [u64::MAX, MAX_EXTENT + 1, USER_END] {
        assert_eq!(
            with(Part { memory_size, ..DATA }),
            ElfError::TooLarge {
                address,
                size: memory_size
            }
        );
    }
    let kernel = Part {
        address: 0xffff_8000_0000_0000,
        ..DATA
    };
    assert_eq!(
        with(kernel),
        ElfError::TooLarge {
            address: kernel.address,
            size: DATA.memory_size
        }
    );
    let beyond = Part {
        file_size: 0x4000,
        ..DATA
    };
    assert_eq!(
        with(beyond),
        ElfError::Truncated {
            offset: 0x1000,
            needed: 0x5000,
            size: 0x2000
        }
    );
    let many: Vec<Part> = (0..=MAX_SEGMENTS as u64)
        .map(|index| Part {
            address: TEXT.address + index * 0x1000,
            ..TEXT
        })
        .collect();
    assert_eq!(read(&many), Err(ElfError::TooManySegments(MAX_SEGMENTS + 1)));
}

#[test]
fn a_cut_file_is_truncated_wherever_it_is_cut() {
    let bytes = file(&[TEXT, DATA]);
    for length in 4..0x1200 {
        let error = plan(&bytes[..length]).expect_err("something is missing");
        assert!(matches!(error, ElfError::Truncated { .. }), "{length} bytes: {error:?}");
    }
    assert!(plan(&bytes[..0x1200]).is_ok());
}

/// What a plan promises to the loader holds for every file that is accepted, and no file makes the reader panic.
#[test]
fn mangled_headers_never_break_a_promise() {
    let mut seed = 1_u64;
    let mut chance = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut bytes = file(&[TEXT, DATA]);
        for _ in 0..=chance() % 4 {
            let at = (chance() % 176) as usize;
            bytes[at] = match chance() % 3 {
                0 => chance() as u8,
                1 => 0xff,
                _ => bytes[at] ^ (1 << (chance() % 8)),
            };
        }
        bytes.truncate((chance() % 0x4000) as usize + 64);
        let Ok(plan) = plan(&bytes) else { continue };
        accepted += 1;
        check_promises(&plan, &bytes);
    }
    assert!(accepted > 1000, "only {accepted} mangled files were accepted");
}

/// What the module says of every plan.
fn check_promises(plan: &Plan, bytes: &[u8]) {
    assert!((1..=MAX_SEGMENTS).contains(&plan.segments().len()));
    let mut end = 0;
    for segment in plan.segments() {
        assert!(segment.first_page() >= end && segment.memory_size > 0);
        assert!(!(segment.write && segment.execute));
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.offset + segment.file_size <= bytes.len() as u64);
        assert_eq!(segment.address % 4096, segment.offset % 4096);
        end = segment.end_page();
    }
    if let Some((offset, size)) = plan.interpreter {
        assert!((2..=MAX_PATH as usize).contains(&size) && offset + size as u64 <= bytes.len() as u64);
    }
    assert!(end <= USER_END.next_multiple_of(4096) && plan.alignment.is_power_of_two());
    assert!(end - plan.segments()[0].first_page() <= MAX_EXTENT + 4096);
    let holds = |segment: &reader::Segment| plan.entry.wrapping_sub(segment.address) < segment.memory_size;
    assert!(plan.segments().iter().any(|segment| segment.execute && holds(segment)));
}

/// What an error says is true of the file that it is about.
fn check_error(error: ElfError, bytes: &[u8]) {
    let size = bytes.len() as u64;
    match error {
        ElfError::Truncated {
            offset,
            needed,
            size: found,
        } => assert!(found == size && needed > size && offset <= needed, "{error:?}"),
        ElfError::BadHeader { offset, .. } => assert!(offset < 64, "{error:?}"),
        ElfError::TooManySegments(count) => assert!(count > MAX_SEGMENTS, "{error:?}"),
        ElfError::Misaligned { address, offset } => assert_ne!(address % 4096, offset % 4096),
        ElfError::ForeignMachine(machine) => assert_ne!(machine, 62),
        ElfError::NotExecutable(kind) => assert!(kind != 2 && kind != 3),
        _ => {}
    }
    assert!(!error.to_string().is_empty());
}

/// Programs as compilers make them: position-independent or not, with both C libraries, and of Rust.
fn real_programs() -> Vec<Vec<u8>> {
    let sample = faultline_tests::artifacts()
        .task("hello")
        .expect("there is such a task");
    let files = [
        busybox(),
        sample,
        c_program("mender", Libc::Gnu),
        c_program("mender", Libc::Musl),
    ];
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Numbers at which mistakes are made.
const EDGES: [u64; 16] = [
    0,
    1,
    0xfff,
    0x1000,
    0x1001,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

/// One to four changes of header and program headers: a bit, a byte, or a whole field to an edge. Now and then the file is
/// cut as well.
fn mangle(bytes: &mut Vec<u8>, headers: usize, words: &[u64]) {
    let mut words = words.iter().copied().cycle();
    let mut chance = |below: usize| words.next().unwrap_or(0) as usize % below;
    for _ in 0..=chance(4) {
        let at = chance(headers);
        match chance(4) {
            0 => bytes[at] ^= 1 << chance(8),
            1 => bytes[at] = chance(256) as u8,
            2 => {
                let at = at & !3;
                bytes[at..at + 4].copy_from_slice(&(EDGES[chance(EDGES.len())] as u32).to_le_bytes());
            }
            _ => {
                let at = (at & !7).min(headers - 8);
                bytes[at..at + 8].copy_from_slice(&EDGES[chance(EDGES.len())].to_le_bytes());
            }
        }
    }
    if chance(8) == 0 {
        bytes.truncate(chance(bytes.len()));
    }
}

/// Bytes of a real file's header and program headers.
fn headers(bytes: &[u8]) -> usize {
    64 + 56 * usize::from(u16::from_le_bytes([bytes[56], bytes[57]]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Real programs with mangled headers: each is planned as promised, or refused with an error that is true.
    #[test]
    fn mangled_programs_are_planned_as_promised_or_refused_truly(
        which in 0..4_usize,
        words in proptest::collection::vec(any::<u64>(), 24),
    ) {
        static PROGRAMS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(real_programs);
        let whole = &PROGRAMS[which];
        prop_assert!(plan(whole).is_ok());
        let mut bytes = whole.clone();
        mangle(&mut bytes, headers(whole), &words);
        match plan(&bytes) {
            Ok(plan) => check_promises(&plan, &bytes),
            Err(error) => check_error(error, &bytes),
        }
    }
}

#[test]
fn mangled_programs_do_no_harm_when_they_are_started() {
    const FILES: u64 = 300;
    let whole = std::fs::read(c_program("mender", Libc::Musl)).unwrap();
    let mut root = Root::default();
    let mut seed = 1_u64;
    for number in 0..FILES {
        let words: Vec<_> = std::iter::repeat_with(|| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed >> 20
        })
        .take(24)
        .collect();
        let mut bytes = whole.clone();
        mangle(&mut bytes, headers(&whole), &words);
        root.add_file(&format!("mangled/{number}"), true, bytes);
    }
    let script = "for f in /mangled/*; do timeout -s KILL 2 $f >/dev/null 2>&1; echo $?; done | sort | uniq -c";
    let guest = Run::file(&busybox(), &["sh", "-c", script]).with_files(root).boot();
    let text = String::from_utf8_lossy(&guest.stdout).into_owned();
    // The account of `status` says that nothing of them is left.
    assert_eq!(guest.status(), 0, "{text}");
    let count = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    assert_eq!(text.lines().filter_map(count).sum::<u64>(), FILES, "{text}");
    let ended = |status: &str| text.lines().any(|line| line.trim_end().ends_with(status));
    // 127 is what `timeout` says of a file that the kernel refuses.
    assert!(ended(" 0") && ended(" 127"), "some run, and some are refused: {text}");
}
