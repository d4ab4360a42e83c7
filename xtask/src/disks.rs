//! `--disk` and `--swap`: the machine's disks, from what a person types to what QEMU and the kernel are told.
//!
//! | typed | the disk |
//! |---|---|
//! | `--disk FILE[,ro]` | a virtio disk over the file |
//! | `--disk DIR[,ro]` | a virtio disk over a temporary ext4 file system with what is in the folder |
//! | `--root DIR`, if the folder is large | as `--disk DIR,ro,root` |
//! | `--disk model:FILE[,latency=10us,...]` | the content of the file in the machine's memory, as slow as a disk; read-only |
//! | `--swap SIZE`, `--swap FILE` | a virtio disk over a temporary file of that size, or over the file |
//! | `--swap model:SIZE[,latency=10us,...]` | memory of the machine, as slow as a disk |
//!
//! QEMU inherits files as open descriptors. A temporary file has no name: nothing is left behind, however a run ends. The
//! content of a modelled disk is a member of the bundle.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::disk::{self, ParameterError};
use crate::folder_image::{self, ImageError};
use crate::machine::Accel;

/// Disks at most: the kernel names them by letters.
pub const MOST_DISKS: usize = 26;

/// What a disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Programs find it in `/dev`.
    Disk,
    /// The kernel swaps to it, too.
    Swap,
}

impl Role {
    /// The key of the kernel's configuration, which is also the name of the option.
    const fn key(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Swap => "swap",
        }
    }
}

/// What was typed of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    role: Role,
    source: Source,
    /// The parameters, as typed.
    parameters: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    /// A temporary file of so many bytes.
    Temporary(u64),
    ModelOfFile(PathBuf),
    ModelOfSize(u64),
}

/// Why a text is no disk, or a disk can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is neither a file nor a size.
    #[error("it is empty: write a FILE, model:SIZE or model:FILE")]
    Empty,
    /// A size of 0, or one that is not whole sectors.
    #[error("{0} bytes are not a disk: its size is a multiple of 512, and not 0")]
    Size(u64),
    /// A parameter is wrong.
    #[error("{0}")]
    Parameter(String),
    /// A parameter that only a modelled disk has.
    #[error("only a modelled disk has `{0}`: write model:{1},{0}=...")]
    OnlyModel(String, String),
    /// A swap area that can't be written.
    #[error("a swap area is written to: {0}")]
    ReadOnlySwap(&'static str),
    /// The file can't be used.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// The folder can't be made a disk.
    #[error("{}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        error: ImageError,
    },
    /// The kernel has no more names.
    #[error("{0} disks are more than the {MOST_DISKS} that a machine can have")]
    TooMany(usize),
    /// The file is no disk.
    #[error("{}: {why}", path.display())]
    NoDisk {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
}

impl From<ParameterError<'_>> for DiskError {
    fn from(error: ParameterError<'_>) -> Self {
        Self::Parameter(error.to_string())
    }
}

/// Reads the value of `--disk`.
///
/// # Errors
/// What is wrong with it.
pub fn disk(text: &str) -> Result<Wanted, DiskError> {
    Wanted::parse(Role::Disk, text)
}

/// Reads the value of `--swap`.
///
/// # Errors
/// What is wrong with it.
pub fn swap(text: &str) -> Result<Wanted, DiskError> {
    Wanted::parse(Role::Swap, text)
}

impl Wanted {
    fn parse(role: Role, text: &str) -> Result<Self, DiskError> {
        let (source, parameters) = disk::split(text);
        let (is_model, what) = match source.strip_prefix("model:") {
            Some(what) => (true, what),
            None => (false, source),
        };
        let size = disk::size(what);
        let source = match (is_model, size) {
            _ if what.is_empty() => return Err(DiskError::Empty),
            (_, Some(size)) if size == 0 || size % 512 != 0 => return Err(DiskError::Size(size)),
            (true, Some(size)) => Source::ModelOfSize(size),
            (true, None) if role == Role::Swap => {
                return Err(DiskError::ReadOnlySwap(
                    "a model of a file is read-only; write model:SIZE",
                ));
            }
            (true, None) => Source::ModelOfFile(what.into()),
            (false, Some(size)) => Source::Temporary(size),
            (false, None) => Source::File(what.into()),
        };
        let read = disk::parse(parameters)?;
        if !is_model && let Some(name) = disk::names(parameters).find(|name| disk::OF_MODELS.contains(name)) {
            return Err(DiskError::OnlyModel(name.to_owned(), what.to_owned()));
        }
        if role == Role::Swap && read.read_only {
            return Err(DiskError::ReadOnlySwap("`ro` can't be said of it"));
        }
        if role == Role::Swap && read.root {
            return Err(DiskError::ReadOnlySwap("`root` can't be said of it"));
        }
        Ok(Self {
            role,
            source,
            parameters: parameters.to_owned(),
        })
    }

    /// Opens what it takes.
    ///
    /// # Errors
    /// The file that can't be used, and why.
    pub fn open(&self) -> Result<Disk, DiskError> {
        let is_read_only = disk::parse(&self.parameters)?.read_only;
        let content = match &self.source {
            Source::File(path) if self.role == Role::Disk && path.is_dir() => Content::Host {
                file: Arc::new(folder_image::of_folder(path).map_err(|error| DiskError::Folder {
                    path: path.clone(),
                    error,
                })?),
                is_read_only,
            },
            Source::File(path) => Content::Host {
                file: Arc::new(open(path, is_read_only)?),
                is_read_only,
            },
            Source::Temporary(size) => Content::Host {
                file: Arc::new(temporary(*size)?),
                is_read_only,
            },
            Source::ModelOfFile(path) => {
                let mut bytes = Vec::new();
                let read = io::Read::read_to_end(&mut open(path, true)?, &mut bytes);
                read.map_err(|error| at(path, error))?;
                Content::Bundled(bytes.into())
            }
            Source::ModelOfSize(size) => Content::Memory(*size),
        };
        Ok(Disk {
            role: self.role,
            parameters: self.parameters.clone(),
            content,
        })
    }
}

fn at(path: &Path, error: io::Error) -> DiskError {
    DiskError::File {
        path: path.to_owned(),
        error,
    }
}

fn open(path: &Path, is_read_only: bool) -> Result<File, DiskError> {
    let file = OpenOptions::new().read(true).write(!is_read_only).open(path);
    let file = file.map_err(|error| at(path, error))?;
    let found = file.metadata().map_err(|error| at(path, error))?;
    let why = if found.is_dir() {
        "it is a folder"
    } else if found.is_file() && found.len() == 0 {
        "it is empty"
    } else {
        return Ok(file);
    };
    let path = path.to_owned();
    Err(DiskError::NoDisk { path, why })
}

/// A file of zeros without a name, which takes room only where it is written.
fn temporary(size: u64) -> Result<File, DiskError> {
    let file = tempfile::tempfile().and_then(|file| file.set_len(size).map(|()| file));
    file.map_err(|error| at(&std::env::temp_dir(), error))
}

/// A disk of a machine.
#[derive(Clone)]
pub struct Disk {
    role: Role,
    parameters: String,
    /// What it holds.
    pub content: Content,
}

/// Where the content of a disk is.
#[derive(Clone)]
pub enum Content {
    /// In a file of this host, for a virtio disk.
    Host {
        /// The file.
        file: Arc<File>,
        /// Whether the machine only reads it.
        is_read_only: bool,
    },
    /// In the bundle.
    Bundled(Arc<[u8]>),
    /// In so many bytes of the machine's memory, which are zeros at the start.
    Memory(u64),
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(0, Accel::Tcg))
    }
}

impl Disk {
    /// A disk with what is in a folder, which the machine sees below its root.
    ///
    /// # Errors
    /// The folder can't be made a disk.
    pub fn of_root(folder: &Path) -> Result<Self, DiskError> {
        let file = folder_image::of_folder(folder).map_err(|error| DiskError::Folder {
            path: folder.to_owned(),
            error,
        })?;
        Ok(Self {
            role: Role::Disk,
            parameters: "ro,root".to_owned(),
            content: Content::Host {
                file: Arc::new(file),
                is_read_only: true,
            },
        })
    }

    /// Whether the machine sees what it has below its root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        disk::names(&self.parameters).any(|name| name == "root")
    }

    /// Whether it is for swap only.
    #[must_use]
    pub const fn is_swap(&self) -> bool {
        matches!(self.role, Role::Swap)
    }

    /// Fills `to` from byte `at` on.
    ///
    /// # Errors
    /// The file can't be read there, or has no such bytes.
    pub fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;

        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match &self.content {
            Content::Host { file, .. } => file.read_exact_at(to, at),
            Content::Bundled(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                to.copy_from_slice(from.and_then(|from| from.get(..to.len())).ok_or_else(beyond)?);
                Ok(())
            }
            Content::Memory(_) => Err(beyond()),
        }
    }

    /// The member of the bundle that holds the content of disk number `index`.
    #[must_use]
    pub fn member(index: usize) -> String {
        format!("boot/disk{index}")
    }

    /// The line of the kernel's configuration for disk number `index`.
    #[must_use]
    pub fn line(&self, index: usize, accel: Accel) -> String {
        let source = match &self.content {
            Content::Host { .. } => "virtio".to_owned(),
            Content::Bundled(_) => format!("model:/{}", Self::member(index)),
            Content::Memory(size) => format!("model:{size}"),
        };
        let mut line = format!("{}={source}", self.role.key());
        if !self.parameters.is_empty() {
            line = format!("{line},{}", self.parameters);
        }
        // Where the clock counts instructions it stands still for the host's disks: an idle machine would go straight to
        // the end of the time limit.
        let waits_for_host = matches!(self.content, Content::Host { .. }) && accel == Accel::Icount;
        if waits_for_host && !disk::names(&self.parameters).any(|name| name == "timeout") {
            line += ",timeout=0";
        }
        line
    }

    /// Memory of the machine that it takes, in bytes, beside the bundle.
    #[must_use]
    pub fn memory(&self) -> u64 {
        match self.content {
            Content::Memory(size) => size,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_a_line_for_the_kernel() {
        let line = |wanted: Result<Wanted, DiskError>, accel| wanted.unwrap().open().unwrap().line(3, accel);
        let file = "Cargo.toml";
        for (wanted, expected) in [
            (disk(&format!("{file},ro")), "disk=virtio,ro"),
            (disk(&format!("model:{file},depth=4")), "disk=model:/boot/disk3,depth=4"),
            (swap("64K"), "swap=virtio"),
            (swap("model:1M,latency=2us"), "swap=model:1048576,latency=2us"),
        ] {
            assert_eq!(line(wanted, Accel::Tcg), expected);
        }
        assert_eq!(line(swap("64K"), Accel::Icount), "swap=virtio,timeout=0");
        assert_eq!(line(swap("64K,timeout=1s"), Accel::Icount), "swap=virtio,timeout=1s");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (wanted, said) in [
            (disk(""), "it is empty"),
            (disk("model:"), "it is empty"),
            (swap("100"), "100 bytes are not a disk"),
            (swap("0"), "0 bytes"),
            (disk("file,rw"), "no parameter `rw`"),
            (
                disk("file,latency=1us"),
                "only a modelled disk has `latency`: write model:file",
            ),
            (disk("model:file,latency=1"), "`latency` takes a time"),
            (swap("64M,ro"), "a swap area is written to"),
            (swap("model:file"), "a model of a file is read-only"),
        ] {
            let error = wanted.unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let missing = disk("/no/such/file").unwrap().open().unwrap_err().to_string();
        assert!(missing.starts_with("/no/such/file: "), "{missing}");
        let folder = disk("model:/tmp").unwrap().open().unwrap_err().to_string();
        assert_eq!(folder, "/tmp: it is a folder");
    }
}
