//! The bundle: one `newc` archive that holds the kernel, its configuration and the root file system.
//!
//! The data of every regular file that fills a page starts on a page boundary of the archive, and QEMU puts the archive on
//! a page boundary of memory, so a page of a program can be mapped where it lies. The alignment comes from NULs that
//! lengthen the member's *name* (readers stop at the first one, as Linux does). A smaller file has no page to map: it
//! takes the room that it needs, so that a hundred thousand small files fit into a small machine.

use std::collections::HashSet;
use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// The size of a page, and the alignment of file data in the archive.
pub const PAGE: usize = 4096;

/// Length of a `newc` header without the name.
const HEADER: usize = 110;

/// An archive that is being written to memory.
pub struct Bundle {
    archive: Vec<u8>,
    directories: HashSet<String>,
    inode: u32,
}

impl Bundle {
    /// Starts an archive with the kernel as its first and the configuration as its second member.
    ///
    /// # Errors
    /// Fails when a member is too large for the format (4 GiB).
    pub fn new(kernel: &[u8], config: &str) -> io::Result<Self> {
        let mut bundle = Self {
            archive: Vec::new(),
            directories: HashSet::new(),
            inode: 1,
        };
        bundle.member("boot/kernel", 0o755, kernel)?;
        bundle.member("boot/config", 0o644, config.as_bytes())?;
        Ok(bundle)
    }

    /// Adds a file of the root file system, and its parent directories where they are new.
    ///
    /// # Errors
    /// Fails when the file is too large for the format (4 GiB).
    pub fn file(&mut self, path: &str, executable: bool, data: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.parents(path)?;
        self.member(path, if executable { 0o755 } else { 0o644 }, data)
    }

    /// Adds the content of a disk, which is no file of the root file system.
    ///
    /// # Errors
    /// Fails when it is too large for the format (4 GiB).
    pub fn image(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.member(name, 0o444, data)
    }

    /// Adds a directory, and those above it, unless they are there.
    ///
    /// # Errors
    /// Passes on what the writer reports.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        self.parents(&format!("{}/", path.trim_matches('/')))
    }

    /// Adds a symbolic link, and its parent directories where they are new.
    ///
    /// # Errors
    /// Passes on what the writer reports.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        self.parents(path)?;
        let size = u32::try_from(target.len()).map_err(|_| io::ErrorKind::InvalidFilename)?;
        let builder = Builder::new(path).ino(self.next_inode()).nlink(1).mode(0o777);
        let mut writer = builder
            .set_mode_file_type(ModeFileType::Symlink)
            .write(&mut self.archive, size);
        writer.write_all(target.as_bytes())?;
        writer.finish()?;
        Ok(())
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if !self.directories.contains(parent) {
                self.directory(parent)?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Passes on what the writer reports.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        trailer(self.archive)
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        self.directories.insert(path.to_owned());
        let builder = Builder::new(path).ino(self.next_inode()).nlink(2).mode(0o755);
        builder
            .set_mode_file_type(ModeFileType::Directory)
            .write(&mut self.archive, 0)
            .finish()?;
        Ok(())
    }

    fn member(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is larger than 4 GiB")))?;
        // The writer adds the NUL that ends the name.
        let start = self.archive.len() + HEADER + name.len() + 1;
        let padding = match data.len() {
            ..PAGE => 0,
            _ => start.next_multiple_of(PAGE) - start,
        };
        let padded = format!("{name}{}", "\0".repeat(padding));
        let builder = Builder::new(&padded).ino(self.next_inode()).nlink(1).mode(mode);
        let mut writer = builder
            .set_mode_file_type(ModeFileType::Regular)
            .write(&mut self.archive, size);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }

    fn next_inode(&mut self) -> u32 {
        self.inode += 1;
        self.inode
    }
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;
    use std::io::Read;

    use super::*;

    #[test]
    fn members_keep_order_content_and_page_alignment() {
        let mut bundle = Bundle::new(b"kernel", "mode=run\n").unwrap();
        bundle.file("/bin/one", true, &[1; 5000]).unwrap();
        bundle.file("bin/two", true, b"").unwrap();
        bundle.file("etc/deep/three", false, &[3; PAGE]).unwrap();
        let archive = bundle.finish().unwrap();

        let mut rest = io::Cursor::new(archive.as_slice());
        let mut seen = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().trim_end_matches('\0').to_owned();
            let regular = reader.entry().mode() & 0o170_000 == 0o100_000;
            let offset = reader.offset().unwrap();
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            if regular {
                assert!(
                    data.len() < PAGE || offset.is_multiple_of(PAGE as u64),
                    "{name} is not aligned"
                );
                let at = usize::try_from(offset).unwrap();
                assert_eq!(archive[at..at + data.len()], data);
            }
            seen.push((name, data.len()));
            rest = reader.finish().unwrap();
        }
        let seen: Vec<_> = seen.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        assert_eq!(
            seen,
            [
                ("boot/kernel", 6),
                ("boot/config", 9),
                ("bin", 0),
                ("bin/one", 5000),
                ("bin/two", 0),
                ("etc", 0),
                ("etc/deep", 0),
                ("etc/deep/three", PAGE)
            ]
        );
    }
}
