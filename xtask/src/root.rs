//! The files of a machine beside its programs: a folder of this machine, or what a command puts together.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::bundle::Bundle;

/// A file of the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { executable: bool, data: Vec<u8> },
    Link(String),
}

/// A root file system in the making: paths without a leading slash, in the order in which they are packed.
#[derive(Clone, Debug, Default)]
pub struct Root(Vec<(String, Entry)>);

impl Root {
    /// Everything in a folder, links as they are.
    ///
    /// # Errors
    /// Names the file that can't be read, or that is neither a file, a folder nor a link.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        if !folder.is_dir() {
            bail!("{}: no such folder", folder.display());
        }
        let mut root = Self::default();
        root.add_folder(folder, "")?;
        Ok(root)
    }

    /// Adds a file.
    pub fn add_file(&mut self, path: &str, executable: bool, data: Vec<u8>) {
        self.0.push((path.to_owned(), Entry::File { executable, data }));
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.0.push((path.to_owned(), Entry::Link(target.to_owned())));
    }

    /// Packs everything but the paths that `packed` has already.
    pub(crate) fn pack(&self, bundle: &mut Bundle, packed: &[&str]) -> anyhow::Result<()> {
        for (path, entry) in &self.0 {
            if packed.contains(&path.as_str()) {
                continue;
            }
            match entry {
                Entry::Directory => bundle.folder(path),
                Entry::File { executable, data } => bundle.file(path, *executable, data),
                Entry::Link(target) => bundle.link(path, target),
            }
            .with_context(|| format!("{path} can't be packed"))?;
        }
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) -> anyhow::Result<()> {
        let unreadable = || format!("{} can't be read", folder.display());
        let entries = fs::read_dir(folder).with_context(unreadable)?;
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in entries {
            files.push(entry.with_context(unreadable)?.path());
        }
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default();
            let name = name
                .to_str()
                .with_context(|| format!("{}: the name is not UTF-8", file.display()))?;
            let path = format!("{prefix}{name}");
            let about = || format!("{} can't be read", file.display());
            let kind = fs::symlink_metadata(&file).with_context(about)?;
            if kind.is_dir() {
                self.0.push((path.clone(), Entry::Directory));
                self.add_folder(&file, &format!("{path}/"))?;
            } else if kind.is_file() {
                let executable = kind.permissions().mode() & 0o111 != 0;
                self.add_file(&path, executable, fs::read(&file).with_context(about)?);
            } else if kind.is_symlink() {
                let target = fs::read_link(&file).with_context(about)?;
                self.add_link(&path, &String::from_utf8_lossy(target.as_os_str().as_bytes()));
            } else {
                bail!("{}: neither a file, a folder nor a link", file.display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/file"), "text").unwrap();
        std::os::unix::fs::symlink("b/file", folder.path().join("a")).unwrap();
        let root = Root::of_folder(folder.path()).unwrap();
        let file = Entry::File {
            executable: false,
            data: b"text".to_vec(),
        };
        let expected = [
            ("a".to_owned(), Entry::Link("b/file".to_owned())),
            ("b".to_owned(), Entry::Directory),
            ("b/file".to_owned(), file),
        ];
        assert_eq!(root.0, expected);
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let error = Root::of_folder(Path::new("/no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"));
    }
}
