//! Scripts: files that name the program that is to run them.
//!
//! The rules are Linux's, to the letter. A script begins with `#!`; what follows on the first line, within the first 256
//! bytes of the file, is the path of its interpreter and, after spaces or tabs, at most one argument, spaces inside
//! included. A path that may be cut off is refused; an argument is cut off. The module is pure: bytes in, words out.

/// How much of a file is looked at.
pub const HEAD: usize = 256;

/// Where the last byte is, which is never part of a word.
const LAST: usize = HEAD - 1;

/// The first line of a script names no interpreter, or one whose path may be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLine;

/// What the first line of a script says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter<'a> {
    /// Its path.
    pub path: &'a [u8],
    /// Its argument, before the path of the script.
    pub argument: Option<&'a [u8]>,
}

/// Reads the first bytes of a file, filled up with NULs; `None` for what is no script.
///
/// # Errors
/// [`BadLine`].
pub fn interpreter(head: &[u8; HEAD]) -> Result<Option<Interpreter<'_>>, BadLine> {
    if !head.starts_with(b"#!") {
        return Ok(None);
    }
    let is_space = |at: usize| matches!(head[at], b' ' | b'\t');
    let next_word = |first: usize, last: usize| (first..=last).find(|&at| !is_space(at));
    let next_end = |first: usize, last: usize| (first..=last).find(|&at| is_space(at) || head[at] == 0);
    let text = head.iter().position(|&byte| byte == 0).unwrap_or(HEAD);
    let mut end = match head[..text].iter().position(|&byte| byte == b'\n') {
        Some(end) => end,
        None => {
            let start = next_word(2, LAST).ok_or(BadLine)?;
            next_end(start, LAST).ok_or(BadLine)?;
            LAST
        }
    };
    while is_space(end - 1) {
        end -= 1;
    }
    let start = next_word(2, end).filter(|&start| start < end).ok_or(BadLine)?;
    let space = next_end(start, end);
    let argument = space
        .filter(|&at| head[at] != 0)
        .and_then(|at| next_word(at, end))
        .map(|first| &head[first..end.max(first)]);
    Ok(Some(Interpreter {
        path: &head[start..space.unwrap_or(end)],
        argument: argument.map(|words| words.split(|&byte| byte == 0).next().unwrap_or(words)),
    }))
}
