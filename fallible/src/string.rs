//! Text that grows only by `try_` methods, and `fmt::Write` that fails when memory is short.

use alloc::string::String as Inner;
use core::{fmt, ops::Deref};

use crate::{AllocError, Vec};

/// Text, as the standard library's `String`. Everything of a `str` is there by [`Deref`].
#[derive(Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct String(Inner);

impl String {
    /// An empty text; allocates nothing.
    pub const fn new() -> Self {
        Self(Inner::new())
    }

    /// A copy of `text`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_from_str(text: &str) -> Result<Self, AllocError> {
        let mut new = Self::new();
        new.0.try_reserve_exact(text.len())?;
        new.0.push_str(text);
        Ok(new)
    }

    /// Makes room for `additional` more bytes.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        Ok(self.0.try_reserve(additional)?)
    }

    /// Adds `text`.
    ///
    /// # Errors
    /// There is no memory; nothing has been added.
    pub fn try_push_str(&mut self, text: &str) -> Result<(), AllocError> {
        self.0.try_reserve(text.len())?;
        self.0.push_str(text);
        Ok(())
    }

    /// Adds a character.
    ///
    /// # Errors
    /// There is no memory; nothing has been added.
    pub fn try_push(&mut self, character: char) -> Result<(), AllocError> {
        self.try_push_str(character.encode_utf8(&mut [0; 4]))
    }

    /// A copy.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_clone(&self) -> Result<Self, AllocError> {
        Self::try_from_str(&self.0)
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// If that is not the end of a character.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops the text, and keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes of the text.
    pub fn into_bytes(self) -> Vec<u8> {
        Vec::of_std(self.0.into_bytes())
    }
}

impl fmt::Write for String {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.try_push_str(text).map_err(|_| fmt::Error)
    }
}

impl Deref for String {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for String {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl core::borrow::Borrow<str> for String {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for String {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Display for String {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl PartialEq<str> for String {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for String {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// What [`try_format!`](crate::try_format) calls.
///
/// # Errors
/// There is no memory, or a `Display` of an argument failed.
pub fn try_format_args(arguments: fmt::Arguments<'_>) -> Result<String, AllocError> {
    let mut text = String::new();
    fmt::write(&mut text, arguments).map_err(|_| AllocError)?;
    Ok(text)
}

/// As the standard library's `format!`, but a `Result<String, AllocError>`.
#[macro_export]
macro_rules! try_format {
    ($($arguments:tt)*) => { $crate::try_format_args(::core::format_args!($($arguments)*)) };
}
