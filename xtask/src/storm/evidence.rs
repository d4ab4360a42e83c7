//! What is left of a storm that failed: a folder with all that is known of it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use super::{Boot, folder};

/// All that is known.
pub struct Evidence<'a> {
    /// The seed, by which the folder is called.
    pub seed: u64,
    /// How to repeat the storm.
    pub command: String,
    /// What is wrong.
    pub wrong: &'a [String],
    /// The boot that failed.
    pub boot: &'a Boot,
}

impl Evidence<'_> {
    /// Writes it and returns the folder.
    ///
    /// # Errors
    /// Fails when a file can't be written.
    pub fn save(&self) -> anyhow::Result<PathBuf> {
        let folder = folder().join(format!("seed-{}", self.seed));
        fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let summary = format!("{}\n\n{}\n", self.command, self.wrong.join("\n"));
        for (name, content) in [
            ("failure.txt", summary.as_str()),
            ("stderr.txt", &self.boot.stderr),
            ("kernel-log.txt", &self.boot.log),
            ("report.txt", &self.boot.report),
        ] {
            let file = folder.join(name);
            fs::write(&file, content).with_context(|| format!("{} can't be written", file.display()))?;
        }
        Ok(folder)
    }
}
