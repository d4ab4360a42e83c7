//! Every key of the configuration, with the values that it takes. The kernel checks `boot/config` against this table; the
//! tool, which compiles this same file, checks what a person types against it and prints it (`--config help`).

#![allow(dead_code, reason = "the kernel reads names and values; the tool prints the rest")]

/// A key of `boot/config`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub values: Values,
    /// What holds where the key is absent.
    pub default: &'static str,
    /// What it does, for people.
    pub meaning: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A number up to this one.
    Number(u64),
    /// Text of the form that these words describe.
    Text(&'static str),
}

impl Values {
    /// Whether a value is one of these; of a text only its meaning can say so, which is not known here.
    #[must_use]
    pub fn take(self, value: &str) -> bool {
        match self {
            Self::Words(words) => words.contains(&value),
            Self::Number(most) => value.parse().is_ok_and(|number: u64| number <= most),
            Self::Text(_) => true,
        }
    }
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const SWITCH: Values = Values::Words(&["on", "off"]);

/// Declares the table with one key on a line or two.
macro_rules! keys {
    ($($name:literal: $values:expr, $default:literal, $meaning:literal;)*) => {
        /// The keys.
        pub const KEYS: &[Key] = &[$(Key { name: $name, values: $values, default: $default, meaning: $meaning }),*];
    };
}

keys! {
    "mode": Values::Words(&["run", "demo"]), "run",
        "run: the programs that are named; demo: the sample tasks";
    "cpus": Values::Number(8), "1",
        "CPUs that run, 1 at the least, if the machine has as many";
    "program": Values::Text("PATH"), "none",
        "a program of the ramdisk; may be given several times, and all run at the same time";
    "arg": Values::Text("TEXT"), "none",
        "one argument of the program above it, argument 0 first; \\xHH is a byte, \\\\ a backslash; may be given several times";
    "env": Values::Text("NAME=VALUE"), "none",
        "a variable of the environment of every program, written as an argument; may be given several times";
    "trace": Values::Words(&["off", "text", "binary"]), "off",
        "text: a line an event on COM1; binary: frames on a virtio serial port";
    "trace_categories": Values::Text("NAME,..."), "all but arguments",
        "the categories of events that are recorded";
    "trace_full": Values::Words(&["wait", "drop"]), "wait",
        "when the host takes a binary trace too slowly: wait for it, or drop events and count them";
    "fault": Values::Words(&["queued", "inline", "blocking"]), "queued",
        "queued: the fault service serves every fault; inline: a fault's first poll does, where it need not wait; blocking: likewise, and while one waits for a disk no other thread runs";
    "service": Values::Words(&["first", "last"]), "first",
        "first: faults are served before anything else; last: when no user thread can go on, so that faults stay in flight";
    "disk": Values::Text("virtio|model:SIZE|model:/PATH[,PARAMETER=VALUE...]"), "none",
        "a disk, /dev/vda the first, then /dev/vdb: the next virtio disk of the machine, a model in memory, or a model with a file of the ramdisk; may be given several times; ro, timeout and, for models, latency, bandwidth, depth, jitter, errors, seed and hang";
    "swap": Values::Text("virtio|model:SIZE[,PARAMETER=VALUE...]"), "none",
        "a disk, named as the others are, that is the swap area";
    "zero_pool": SWITCH, "on",
        "zero frames ahead of time while the CPU is idle";
    "run_ahead": Values::Number(64), "1",
        "pages, 1 at the least, that a first write to anonymous memory gets at most, if those before it came one page after the \
         other";
    "slice": Values::Number(100), "1",
        "milliseconds, 1 at the least, that a thread runs, its faults included, before others that have run less";
    "polls": Values::Words(&["all", "kernel"]), "all",
        "which time counts as that of a poll; kernel: not the time in user mode, for the longest poll of kernel code";
    "processes": Values::Words(&["on", "off"]), "off",
        "whether the report says what each process had in memory at the most; it is looked at every 10 ms and at its end";
    "audit": Values::Number(u64::MAX), "0",
        "milliseconds from one check of the whole kernel to the next; 0: none";
    "stall": Values::Number(4000), "10",
        "a poll that takes more milliseconds than this is reported on the log; 0: none";
    "heap": Values::Number(u32::MAX as u64), "0",
        "the most KiB that the kernel heap takes from the frame allocator; 0: no such limit";
    "heap_fail": Values::Number(u64::MAX), "0",
        "this allocation from the kernel heap fails, counted from 1 at the start of the first program; 0: none";
    "heap_fail_from": Values::Number(u64::MAX), "0",
        "this allocation from the kernel heap fails, and all after it; 0: none";
    "heap_fail_every": Values::Number(u64::MAX), "0",
        "each allocation from the kernel heap fails whose number this divides; 0: none";
    "floor": SWITCH, "off",
        "measure at the start what hardware lets the steps of a fault cost";
    "executor": Values::Number(u32::MAX as u64), "0",
        "measure at the start what the executor's steps cost, with this many tasks alive; 0: do not";
    "seed": Values::Number(u64::MAX), "0",
        "the number behind getrandom, AT_RANDOM and the places of programs in memory; 0: programs are not moved";
    "input": Values::Words(&["none", "pipe", "terminal"]), "none",
        "none: standard input is at its end; pipe: it is what the host sends; terminal: the port of standard output is one";
    "window": Values::Text("ROWSxCOLUMNS"), "24x80",
        "the size of the terminal's window";
    "console": Values::Words(&["split", "com1"]), "split",
        "split: a port for each channel, a virtio serial port for what programs write where the machine has one; com1: \
         everything on COM1";
    "selftest": Values::Words(&["panic", "overflow", "double-fault", "page-fault", "write-text", "execute-data", "traps",
        "leak-frame", "late-panic", "stall"]), "none",
        "a test of the kernel itself; all but traps are deliberate failures";
}
