//! What the storm says on standard output while it runs: shown as a line that changes, and kept.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli;
use crate::report::grouped;

/// The fields `key=value` of a line.
pub fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ')
        .find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
}

/// Standard output of the storm; clones share it.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    text: Arc<Mutex<Text>>,
}

#[derive(Default)]
struct Text {
    /// Bytes of a line that has not ended.
    rest: Vec<u8>,
    /// Whole lines but for those about progress.
    lines: Vec<String>,
}

impl Progress {
    /// A line on the terminal, as long as the storm is to run.
    pub fn new(arguments: &cli::Storm) -> Self {
        let length = u64::try_from(arguments.seconds.as_millis()).unwrap_or(u64::MAX);
        let bar = ProgressBar::new(length);
        let style = "{spinner} {bar:20} {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.set_message(format!("booting, seed {}", arguments.seed));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self {
            bar,
            text: Arc::default(),
        }
    }

    /// Nothing on the terminal.
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            text: Arc::default(),
        }
    }

    /// Takes the line off the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// The lines so far, without those about progress.
    pub fn lines(&self) -> Vec<String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    fn show(&self, line: &str) {
        let number = |key: &str| field(line, key).map_or_else(String::new, grouped);
        let milliseconds = field(line, "ms").and_then(|text| text.parse().ok()).unwrap_or(0u64);
        self.bar.set_position(milliseconds);
        self.bar.set_message(format!(
            "{} s: {} tasks, {} rounds, {} first touches",
            milliseconds / 1000,
            number("tasks"),
            number("rounds"),
            number("touches")
        ));
    }
}

impl Write for Progress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.rest.extend_from_slice(bytes);
        while let Some(end) = text.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.starts_with("@storm progress ") {
                self.show(&line);
            } else {
                text.lines.push(line);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_whole_and_progress_is_not() {
        let mut progress = Progress::hidden();
        for part in ["@storm progress ms=5", "00 tasks=3\n@storm en", "d victims=2\n"] {
            progress.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(progress.lines(), ["@storm end victims=2"]);
        assert_eq!(field("@storm end victims=2", "victims"), Some("2"));
        assert_eq!(field("@storm end victims=2", "vic"), None);
    }
}
