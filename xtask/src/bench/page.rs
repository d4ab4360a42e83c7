//! The place of a page of the documentation that has the tables.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// A page with a place for the tables.
pub struct Page<'a> {
    file: &'a Path,
    begin: String,
    end: String,
    before: String,
    after: String,
}

impl<'a> Page<'a> {
    /// Reads the page, before anything is measured. The place lies between the lines `<!-- MARK: begin -->` and
    /// `<!-- MARK: end -->`.
    ///
    /// # Errors
    /// The page can't be read, or has no such place.
    pub fn read(file: &'a Path, mark: &str) -> anyhow::Result<Self> {
        let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
        let text = fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))?;
        let (before, rest) = text
            .split_once(&begin)
            .with_context(|| format!("{} has no line `{}`", file.display(), begin.trim()))?;
        let (_, after) = rest
            .split_once(&end)
            .with_context(|| format!("{} has no line `{}` after the other", file.display(), end))?;
        Ok(Self {
            file,
            before: before.to_owned(),
            after: after.to_owned(),
            begin,
            end,
        })
    }

    /// Puts the tables there.
    ///
    /// # Errors
    /// The page can't be written.
    pub fn replace(&self, tables: &str) -> anyhow::Result<()> {
        let text = format!("{}{}{tables}{}{}", self.before, self.begin, self.end, self.after);
        fs::write(self.file, text).with_context(|| format!("{} can't be written", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_place_for_the_tables_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        fs::write(&file, "one\n<!-- bench: begin -->\nold\n<!-- bench: end -->\ntwo\n").unwrap();
        for _ in 0..2 {
            Page::read(&file, "bench").unwrap().replace("new\n").unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text, "one\n<!-- bench: begin -->\nnew\n<!-- bench: end -->\ntwo\n");
        }
        fs::write(&file, "no place").unwrap();
        assert!(Page::read(&file, "bench").is_err());
    }
}
