//! The files of a machine beside its programs: a folder of this machine, or what a command puts together.
//!
//! Links are kept as they are and lead where they lead in the machine: an absolute one starts at the folder, not at the
//! root of this machine. What is added later goes through the links that are there, and replaces what has its place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::bundle::Bundle;
use crate::session::KERNEL_MEMORY;

/// The most links that one path leads through, as in the kernel.
const MAX_LINKS: usize = 40;

/// Folders of programs and libraries, which stay on the disk.
const OF_PROGRAMS: [&str; 10] = [
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "opt",
    "boot",
    "lost+found",
];

/// Why a folder can't be a root file system.
#[derive(Debug, thiserror::Error)]
pub enum Unpackable {
    /// There is no such folder.
    #[error("{}: no such folder", .0.display())]
    NoFolder(PathBuf),
    /// A file, a folder or a link can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its files have no room in the machine.
    #[error("{}: its files take {needed} MiB of the machine's memory, of which it has {memory}; --mem {least}M is the least", folder.display())]
    TooLarge {
        /// The folder.
        folder: PathBuf,
        /// What its files take, in MiB.
        needed: u64,
        /// What the machine has, in MiB.
        memory: u64,
        /// What it should have.
        least: u64,
    },
    /// Something that an archive of files does not take.
    #[error("{}: {kind}; only files, folders and symbolic links can be packed", path.display())]
    Special {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The name of a file, or the target of a link, is not text.
    #[error("{}: {what} is not UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
    },
}

/// A file of the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { executable: bool, data: Vec<u8> },
    Link(String),
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A file.
    File {
        /// Its own path, without a leading slash and without links.
        path: String,
        /// Whether anybody may execute it.
        executable: bool,
        /// Its bytes.
        data: &'a [u8],
    },
    /// A folder.
    Folder,
    /// Nothing.
    Nothing,
}

/// A root file system in the making: paths without a leading slash. A folder is packed before what is in it.
#[derive(Clone, Debug, Default)]
pub struct Root(BTreeMap<String, Entry>);

impl Root {
    /// Everything in a folder, links as they are.
    ///
    /// # Errors
    /// Names what can't be read, or is neither a file, a folder nor a link.
    pub fn of_folder(folder: &Path) -> Result<Self, Unpackable> {
        if !folder.is_dir() {
            return Err(Unpackable::NoFolder(folder.to_owned()));
        }
        let mut root = Self::default();
        root.add_folder(folder, "")?;
        Ok(root)
    }

    /// The same, for a machine with so many MiB of memory; the files of a folder that is too large for it are not read.
    ///
    /// # Errors
    /// As [`Root::of_folder`]; [`Unpackable::TooLarge`].
    pub fn of_folder_for(folder: &Path, memory: u64) -> Result<Self, Unpackable> {
        let needed = size_of_folder(folder).div_ceil(1 << 20);
        let least = needed + KERNEL_MEMORY;
        if least > memory {
            let folder = folder.to_owned();
            return Err(Unpackable::TooLarge {
                folder,
                needed,
                memory,
                least,
            });
        }
        Self::of_folder(folder)
    }

    /// Whether a folder is rather a disk than a part of the memory of a machine with so many MiB: packed it would take more
    /// than a third.
    #[must_use]
    pub fn is_large(folder: &Path, memory: u64) -> bool {
        size_of_folder(folder) / (1 << 20) > memory / 3
    }

    /// The folders at the top of a folder that becomes a disk, without what is in them, but for those that hold nothing but
    /// programs and their libraries: in the machine they are in memory, so that programs can make files there.
    #[must_use]
    pub fn beside_disk(folder: &Path) -> Self {
        let mut root = Self::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let Ok(name) = entry.file_name().into_string()
                && is_folder
                && !OF_PROGRAMS.contains(&name.as_str())
            {
                root.0.insert(name, Entry::Directory);
            }
        }
        root
    }

    /// Adds a file.
    pub fn add_file(&mut self, path: &str, executable: bool, data: Vec<u8>) {
        self.0.insert(self.place(path), Entry::File { executable, data });
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.0.insert(self.place(path), Entry::Link(target.to_owned()));
    }

    /// What a path leads to in the machine, links followed.
    #[must_use]
    pub fn find(&self, path: &str) -> Found<'_> {
        let path = self.walk(path, true);
        match self.0.get(&path) {
            Some(Entry::File { executable, data }) => Found::File {
                path,
                executable: *executable,
                data,
            },
            Some(Entry::Directory) => Found::Folder,
            None if path.is_empty() => Found::Folder,
            // A link that is still there after all were followed leads round in a circle.
            Some(Entry::Link(_)) | None => Found::Nothing,
        }
    }

    /// Whether a path leads to a file that anybody may execute.
    #[must_use]
    pub fn has_program(&self, path: &str) -> bool {
        matches!(self.find(path), Found::File { executable: true, .. })
    }

    /// Where a file of this path has its place: the path with the links to its folder followed.
    #[must_use]
    pub fn place(&self, path: &str) -> String {
        self.walk(path, false)
    }

    /// Packs everything but the paths that `packed` has already.
    pub(crate) fn pack(&self, bundle: &mut Bundle, packed: &[String]) -> anyhow::Result<()> {
        for (path, entry) in &self.0 {
            if packed.contains(path) {
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

    fn walk(&self, path: &str, follow_last: bool) -> String {
        let mut at = String::new();
        let mut links = 0;
        // The parts to come, the next one last.
        let mut left: Vec<&str> = path.rsplit('/').collect();
        while let Some(part) = left.pop() {
            match part {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = if at.is_empty() {
                part.to_owned()
            } else {
                format!("{at}/{part}")
            };
            match self.0.get(&next) {
                Some(Entry::Link(target)) if links < MAX_LINKS && (follow_last || !left.is_empty()) => {
                    links += 1;
                    if target.starts_with('/') {
                        at.clear();
                    }
                    left.extend(target.rsplit('/'));
                }
                _ => at = next,
            }
        }
        at
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) -> Result<(), Unpackable> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |source| Unpackable::Unreadable { path, source }
        };
        for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
            let file = entry.map_err(unreadable(folder))?.path();
            let not_text = |what| Unpackable::NotText {
                path: file.clone(),
                what,
            };
            let name = file.file_name().unwrap_or_default();
            let name = name.to_str().ok_or_else(|| not_text("its name"))?;
            let path = format!("{prefix}{name}");
            let about = fs::symlink_metadata(&file).map_err(unreadable(&file))?;
            let entry = if about.is_dir() {
                self.add_folder(&file, &format!("{path}/"))?;
                Entry::Directory
            } else if about.is_file() {
                Entry::File {
                    executable: about.permissions().mode() & 0o111 != 0,
                    data: fs::read(&file).map_err(unreadable(&file))?,
                }
            } else if about.is_symlink() {
                let target = fs::read_link(&file).map_err(unreadable(&file))?;
                let target = target.into_os_string().into_string();
                Entry::Link(target.map_err(|_| not_text("the target of the link"))?)
            } else {
                let kind = special(about.file_type());
                return Err(Unpackable::Special { path: file, kind });
            };
            self.0.insert(path, entry);
        }
        Ok(())
    }
}

/// Bytes of all files of a folder. What can't be looked at counts nothing: whoever reads it says why.
fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => size_of_folder(&entry.path()),
        Ok(about) if about.is_file() => about.len(),
        _ => 0,
    };
    entries.map(size).sum()
}

fn special(kind: fs::FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "of an unknown kind"
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_folder_is_taken_whole_and_in_order() {
        let folder = folder();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/file"), "text").unwrap();
        symlink("b/file", folder.path().join("a")).unwrap();
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
        assert_eq!(root.0, BTreeMap::from(expected));
    }

    #[test]
    fn an_empty_folder_is_an_empty_root() {
        assert!(Root::of_folder(folder().path()).unwrap().0.is_empty());
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let error = Root::of_folder(Path::new("/no/such/folder")).unwrap_err();
        assert_eq!(error.to_string(), "/no/such/folder: no such folder");
    }

    #[test]
    fn what_cannot_be_packed_is_named_with_its_kind() {
        let folder = folder();
        fs::create_dir(folder.path().join("deep")).unwrap();
        let socket = folder.path().join("deep/socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = Root::of_folder(folder.path()).unwrap_err();
        assert!(matches!(error, Unpackable::Special { kind: "a socket", .. }), "{error}");
        assert!(error.to_string().starts_with(socket.to_str().unwrap()), "{error}");
        fs::remove_file(&socket).unwrap();
        let pipe = folder.path().join("pipe");
        let name = CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name is a string that ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = Root::of_folder(folder.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}: a named pipe; only files, folders and symbolic links can be packed",
                pipe.display()
            )
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = folder();
        let secret = folder.path().join("secret");
        fs::write(&secret, "text").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
        let path = folder.path().to_owned();
        // Root may read everything: this thread, and no other, becomes somebody else.
        let refused = thread::spawn(move || {
            // SAFETY: the call takes numbers only. Unlike the function of the C library it changes this thread alone.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, nobody(), -1) };
            assert_eq!(changed, 0);
            Root::of_folder(&path).unwrap_err()
        });
        let error = refused.join().unwrap();
        assert!(matches!(error, Unpackable::Unreadable { .. }), "{error}");
        assert!(error.to_string().starts_with(secret.to_str().unwrap()), "{error}");
    }

    /// A user who is not root: this one, if possible.
    fn nobody() -> libc::uid_t {
        // SAFETY: the call takes nothing and cannot fail.
        match unsafe { libc::geteuid() } {
            0 => 65_534,
            own => own,
        }
    }

    #[test]
    fn links_lead_where_they_lead_in_the_machine() {
        let mut root = Root::default();
        root.add_link("bin", "usr/bin");
        root.add_file("usr/bin/real", true, b"program".to_vec());
        root.add_link("usr/bin/near", "real");
        root.add_link("far", "/bin/../bin/./near");
        root.add_link("out", "../../../usr/bin/real");
        root.add_link("nowhere", "none");
        root.add_link("one", "two");
        root.add_link("two", "one");
        let program = Found::File {
            path: "usr/bin/real".to_owned(),
            executable: true,
            data: b"program",
        };
        for path in ["/usr/bin/real", "bin/real", "./bin/near", "far", "/out"] {
            assert_eq!(root.find(path), program, "{path}");
        }
        assert_eq!(root.find("/bin/../.."), Found::Folder);
        for path in ["nowhere", "one", "usr/bin/none", "bin/real/none"] {
            assert_eq!(root.find(path), Found::Nothing, "{path}");
        }
        assert_eq!(root.place("/bin/new"), "usr/bin/new");
        assert_eq!(root.place("far"), "far");
        // What comes later goes through the link, and replaces what is there.
        root.add_file("bin/real", false, b"other".to_vec());
        assert!(matches!(root.find("usr/bin/real"), Found::File { data: b"other", .. }));
    }
}
