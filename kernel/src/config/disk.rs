//! What a disk is told: the text behind `disk=` and `swap=` in the kernel's configuration, and behind `--disk` and
//! `--swap` on the tool's command line, which compiles this same file.
//!
//! The text is a source and parameters, with commas between them: `model:64M,latency=10us,depth=64`. The source is for the
//! caller to understand; the parameters are the same for everybody.

#![allow(dead_code, reason = "the kernel and the tool use different halves")]

use core::fmt;

/// The parameters of a disk. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Writes are refused.
    pub read_only: bool,
    /// What its file system has is seen below `/`, too.
    pub root: bool,
    /// How long a modelled disk takes for a transfer before its bytes move.
    pub latency: u64,
    /// Bytes a second of a modelled disk; 0 for no limit.
    pub bandwidth: u64,
    /// Transfers that a modelled disk serves at once.
    pub depth: u16,
    /// The latency varies by this many millionths of it, either way.
    pub jitter: u32,
    /// This many transfers of a thousand million fail.
    pub errors: u32,
    /// Where chance begins.
    pub seed: u64,
    /// This transfer never ends, nor does any after it; 0 for none.
    pub hang: u64,
    /// A disk that does not answer for so long is given up; 0 for never.
    pub timeout: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            read_only: false,
            root: false,
            latency: 10_000,
            bandwidth: 2_000_000_000,
            depth: 64,
            jitter: 0,
            errors: 0,
            seed: 1,
            hang: 0,
            timeout: 30_000_000_000,
        }
    }
}

impl Parameters {
    /// The time limit of a transfer; `u64::MAX` for none.
    pub const fn limit(&self) -> u64 {
        match self.timeout {
            0 => u64::MAX,
            limit => limit,
        }
    }
}

/// The parameters that only a modelled disk has.
pub const OF_MODELS: &[&str] = &["latency", "bandwidth", "depth", "jitter", "errors", "seed", "hang"];

/// Every parameter, for people.
pub const ALL: &str = "ro, root, latency, bandwidth, depth, jitter, errors, seed, hang and timeout";

/// Why a text is no disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterError<'a> {
    /// There is no such parameter.
    Unknown(&'a str),
    /// The parameter was given twice.
    Twice(&'a str),
    /// The parameter has no value, or one that it does not take.
    Value {
        /// The parameter.
        name: &'a str,
        /// What stands behind the `=`.
        value: &'a str,
        /// What it takes.
        takes: &'static str,
    },
}

impl fmt::Display for ParameterError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "a disk has no parameter `{name}`; there are {ALL}"),
            Self::Twice(name) => write!(f, "`{name}` is given twice"),
            Self::Value { name, value, takes } => write!(f, "`{name}` takes {takes}, not `{value}`"),
        }
    }
}

/// The source of a disk, and the text of its parameters.
#[must_use]
pub fn split(text: &str) -> (&str, &str) {
    text.split_once(',').unwrap_or((text, ""))
}

/// The parameters in a text, separated by commas.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').map_or(part, |(name, _)| name))
}

/// Reads parameters.
///
/// # Errors
/// The first parameter that cannot be used.
pub fn parse(text: &str) -> Result<Parameters, ParameterError<'_>> {
    let mut parameters = Parameters::default();
    for (index, part) in text.split(',').enumerate().filter(|(_, part)| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if text
            .split(',')
            .take(index)
            .any(|before| before.split('=').next() == Some(name))
        {
            return Err(ParameterError::Twice(name));
        }
        match part {
            "ro" => parameters.read_only = true,
            "root" => parameters.root = true,
            _ => set(&mut parameters, name, value)?,
        }
    }
    Ok(parameters)
}

fn set<'a>(parameters: &mut Parameters, name: &'a str, value: &'a str) -> Result<(), ParameterError<'a>> {
    let takes = match name {
        "latency" | "timeout" => "a time, such as 10us, 2ms or 1s",
        "bandwidth" => "bytes a second, such as 500M or 2G; 0 for no limit",
        "depth" => "a number from 1 to 1024",
        "jitter" | "errors" => "a part of 1, such as 0.1 or 1e-5",
        "seed" | "hang" => "a number",
        "ro" | "root" => "no value",
        _ => return Err(ParameterError::Unknown(name)),
    };
    let bad = ParameterError::Value { name, value, takes };
    match name {
        "latency" => parameters.latency = time(value).ok_or(bad)?,
        "timeout" => parameters.timeout = time(value).ok_or(bad)?,
        "bandwidth" => parameters.bandwidth = size(value).ok_or(bad)?,
        "depth" => {
            let depth = value.parse().ok().filter(|depth| (1..=1024).contains(depth));
            parameters.depth = depth.ok_or(bad)?;
        }
        "jitter" => parameters.jitter = part(value, 6).ok_or(bad)?,
        "errors" => parameters.errors = part(value, 9).ok_or(bad)?,
        "seed" => parameters.seed = value.parse().map_err(|_| bad)?,
        "hang" => parameters.hang = value.parse().map_err(|_| bad)?,
        _ => return Err(bad),
    }
    Ok(())
}

/// A number of bytes: digits, and K, M, G or T for a power of 1024.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        b'T' | b't' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    number(digits)?.checked_mul(1 << shift)
}

/// A length of time in nanoseconds: digits and ns, us, ms or s; 0 needs no unit.
fn time(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "" if digits == "0" => 1,
        _ => return None,
    };
    number(digits)?.checked_mul(factor)
}

fn number(digits: &str) -> Option<u64> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// A number from 0 to 1, as `0.1`, `1e-5` or `2.5e-3`, in units of ten to the power of minus `places`.
fn part(text: &str, places: i32) -> Option<u32> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || whole.len() + fraction.len() > 15 {
        return None;
    }
    let scaled = number(whole)?
        .checked_mul(10_u64.pow(fraction.len() as u32))?
        .checked_add(if fraction.is_empty() { 0 } else { number(fraction)? })?;
    let shift = exponent.checked_add(places)?.checked_sub(fraction.len() as i32)?;
    let value = match shift {
        0.. => scaled.checked_mul(10_u64.checked_pow(shift as u32)?)?,
        _ => 10_u64
            .checked_pow(shift.unsigned_abs())
            .map_or(0, |power| scaled / power),
    };
    u32::try_from(value)
        .ok()
        .filter(|&value| u64::from(value) <= 10_u64.pow(places as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_in_the_units_of_people() {
        let text = "ro,root,latency=2us,bandwidth=500M,depth=8,jitter=0.1,errors=1e-5,seed=7,hang=3,timeout=50ms";
        let expected = Parameters {
            read_only: true,
            root: true,
            latency: 2_000,
            bandwidth: 500 << 20,
            depth: 8,
            jitter: 100_000,
            errors: 10_000,
            seed: 7,
            hang: 3,
            timeout: 50_000_000,
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Parameters::default()));
        assert_eq!(names("ro,depth=8").collect::<Vec<_>>(), ["ro", "depth"]);
    }

    #[test]
    fn parts_of_one() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("0.5", 500_000_000),
            ("2.5e-3", 2_500_000),
            ("1e-9", 1),
            ("1e-10", 0),
            ("10e-1", 1_000_000_000),
        ] {
            assert_eq!(part(text, 9), Some(expected), "{text}");
        }
        for wrong in [
            "",
            ".5",
            "-1",
            "1.1",
            "2",
            "1e",
            "e-5",
            "1e99",
            "1e-99999999999",
            "1.1.1",
            "+1",
            "1e5",
        ] {
            assert_eq!(part(wrong, 9), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, said) in [
            ("latencyy=1us", "no parameter `latencyy`"),
            ("latency=1", "`latency` takes a time"),
            ("latency", "`latency` takes a time"),
            ("depth=0", "from 1 to 1024, not `0`"),
            ("depth=4,depth=5", "`depth` is given twice"),
            ("errors=2", "`errors` takes a part of 1"),
            ("bandwidth=1X", "`bandwidth` takes bytes a second"),
            ("bandwidth=99999999T", "`bandwidth` takes"),
            ("ro=yes", "`ro` takes no value"),
            ("seed=-1", "`seed` takes a number"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
