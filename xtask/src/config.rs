//! The kernel's configuration: `boot/config` in the bundle, one `key=value` a line.

#[path = "../../kernel/src/config/disk.rs"]
pub mod disk;
#[path = "../../kernel/src/config/keys.rs"]
pub mod keys;

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;

use clap::ValueEnum;

/// Where the kernel's trace goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Trace {
    /// No events.
    #[default]
    Off,
    /// One line of text an event, on standard error.
    Text,
    /// Frames of events on a port of their own.
    Binary,
}

/// How a page fault is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Always through the queue to the fault service.
    #[default]
    Queued,
    /// By the first poll of its own future, through the queue only where it would have to wait.
    Inline,
    /// Likewise, and while a fault waits for a disk no other thread runs: what waiting costs without futures.
    Blocking,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    #[default]
    On,
    /// No.
    Off,
}

/// When the fault service gets its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Before anything else.
    #[default]
    First,
    /// When no user thread can go on.
    Last,
}

macro_rules! display_as_value {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.to_possible_value().expect("no value is skipped").get_name())
            }
        }
    )*};
}
display_as_value!(Trace, Fault, Switch, Service);

/// A value that the line format can't carry.
#[derive(Debug, thiserror::Error)]
#[error("{key} {value:?} has a line break, which the kernel's configuration can't carry")]
pub struct LineBreak {
    key: &'static str,
    value: String,
}

/// Why writing to a string succeeds.
const ANY_TEXT: &str = "a string takes any text";

/// The text of `boot/config`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    text: String,
}

impl Config {
    /// An empty configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Fails when the value has a line break.
    pub fn set(&mut self, key: &'static str, value: impl fmt::Display) -> Result<&mut Self, LineBreak> {
        let value = value.to_string();
        if value.contains(['\n', '\r', '\0']) {
            return Err(LineBreak { key, value });
        }
        writeln!(self.text, "{key}={value}").expect(ANY_TEXT);
        Ok(self)
    }

    /// Adds an argument or a variable: any bytes, of which those that a line can't carry, and the backslash, are escaped.
    pub fn add(&mut self, key: &'static str, value: &OsStr) -> &mut Self {
        self.text += key;
        self.text.push('=');
        for chunk in value.as_bytes().utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    '\\' => self.text += "\\\\",
                    '\0'..' ' | '\x7f' => write!(self.text, "\\x{:02x}", u32::from(letter)).expect(ANY_TEXT),
                    other => self.text.push(other),
                }
            }
            for byte in chunk.invalid() {
                write!(self.text, "\\x{byte:02x}").expect(ANY_TEXT);
            }
        }
        self.text.push('\n');
        self
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_order_and_breaks_are_refused() {
        let mut config = Config::new();
        config
            .set("mode", "run")
            .unwrap()
            .set("arg", "a=b c")
            .unwrap()
            .set("fault", Fault::Inline)
            .unwrap();
        assert_eq!(config.as_str(), "mode=run\narg=a=b c\nfault=inline\n");
        assert!(config.set("program", "a\nb").is_err());
    }

    #[test]
    fn any_bytes_are_an_argument() {
        let mut config = Config::new();
        config.add("arg", OsStr::from_bytes(b"a=b c\n\\\xff\xc3\xa4"));
        assert_eq!(config.as_str(), "arg=a=b c\\x0a\\\\\\xff\u{e4}\n");
    }
}
