//! What the kernel counts beside instructions; Linux counts nothing of it.

use std::fs;

/// The file with the kernel's counters.
const FILE: &str = "/proc/faultline/counters";

/// The names of the counters that are told, as the file has them.
const NAMES: [&str; 5] = ["cr3_loads", "invlpg", "port_accesses", "pool_hits", "faults"];

/// Values of the counters, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub struct Counters([u64; NAMES.len()]);

impl Counters {
    /// Reads the counters, if this kernel has them.
    pub fn read() -> Option<Self> {
        let text = fs::read_to_string(FILE).ok()?;
        let value = |name: &&str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(*name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Some(Self(std::array::from_fn(|index| value(&NAMES[index]))))
    }

    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index] - before.0[index]))
    }

    pub fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index] + other.0[index]))
    }

    /// The counters as fields, divided by the number of operations.
    pub fn to_fields(self, operations: f64) -> String {
        NAMES
            .iter()
            .zip(self.0)
            .map(|(name, value)| format!("\t{name}={:.3}", value as f64 / operations))
            .collect()
    }
}
