//! A disk made of a folder: an ext4 file system with what is in the folder, in a temporary file without a name. `mke2fs` of
//! the host makes it, as whoever runs the tool; nothing is mounted.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

/// Where `mke2fs` may be: administrators' folders are not in everybody's path.
const TOOLS: [&str; 3] = ["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"];

/// Bytes of a block.
const BLOCK: u64 = 4096;

/// Room beside the content, in bytes: for the file system's own tables, and for what programs write.
const ROOM: u64 = 32 << 20;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The tool is not installed.
    #[error("a folder becomes a disk by mke2fs, which is not installed (e2fsprogs)")]
    NoTool,
    /// The tool refused.
    #[error("mke2fs: {0}")]
    Tool(String),
    /// The temporary file can't be made.
    #[error("no temporary file for its image: {0}")]
    Temporary(#[from] io::Error),
}

/// Makes the image.
///
/// # Errors
/// The tool is missing, or what it says; there is no room for the image.
pub fn of_folder(folder: &Path) -> Result<File, ImageError> {
    let (bytes, entries) = size_of(folder);
    let image = NamedTempFile::new()?;
    // An eighth more, for the blocks that say where the others are.
    let size = (bytes + bytes / 8 + ROOM).next_multiple_of(BLOCK);
    image.as_file().set_len(size)?;
    for tool in TOOLS {
        let made = Command::new(tool)
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-E",
                "root_owner=0:0",
            ])
            .args(["-N", &(entries + 1024).to_string(), "-d"])
            .args([folder, image.path()])
            .stdin(Stdio::null())
            .output();
        match made {
            Ok(output) if output.status.success() => return Ok(image.reopen()?),
            Ok(output) => {
                return Err(ImageError::Tool(
                    String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageError::Tool(error.to_string())),
        }
    }
    Err(ImageError::NoTool)
}

/// Bytes of a folder's content in whole blocks, and how many files and folders there are. The tool says what can't be read.
fn size_of(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut entries) = (BLOCK, 1);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(about) = entry.metadata() else { continue };
        let (more, inside) = match about.is_dir() {
            true => size_of(&entry.path()),
            false => (about.len().next_multiple_of(BLOCK), 1),
        };
        bytes += more;
        entries += inside;
    }
    (bytes, entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_image_is_an_ext4_file_system_with_room_for_the_content() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("one")).unwrap();
        fs::write(folder.path().join("one/file"), vec![7; 3 << 20]).unwrap();
        let image = match of_folder(folder.path()) {
            Err(ImageError::NoTool) => return,
            made => made.unwrap(),
        };
        let mut magic = [0; 2];
        image.read_exact_at(&mut magic, 1024 + 0x38).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        assert!(image.metadata().unwrap().len() > (3 << 20) + ROOM);
    }

    #[test]
    fn what_the_tool_says_is_passed_on() {
        let missing = Path::new("no/such/folder");
        assert!(matches!(
            of_folder(missing),
            Err(ImageError::Tool(_) | ImageError::NoTool)
        ));
    }
}
