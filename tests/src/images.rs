//! File systems on disks, made by `mkfs.ext4` from folders.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::{NamedTempFile, TempDir};

use crate::tool;

/// A file system of `mebibytes` MiB that has what is in `folder`.
///
/// # Panics
/// As [`tool`]; with the words of `mkfs.ext4` if it refuses.
#[must_use]
pub fn image(folder: &Path, mebibytes: u64, options: &[&str]) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    let mut command = Command::new(tool("mkfs.ext4", "e2fsprogs"));
    command
        .args(["-q", "-F"])
        .args(options)
        .arg("-d")
        .arg(folder)
        .arg(file.path());
    run(command.arg(format!("{mebibytes}M")), &[0]);
    file
}

/// Gives its directories indexes, which `mkfs.ext4 -d` does not.
///
/// # Panics
/// As [`image`].
pub fn index(image: &NamedTempFile) {
    // Status 1: it has changed something.
    let mut command = Command::new(tool("e2fsck", "e2fsprogs"));
    run(command.arg("-fyD").arg(image.path()), &[0, 1]);
}

fn run(command: &mut Command, statuses: &[i32]) {
    let output = command.stdin(Stdio::null()).output().expect("it can be started");
    let ended = output.status.code().is_some_and(|code| statuses.contains(&code));
    assert!(ended, "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The bytes of a file by a number: each differs from those around it.
#[must_use]
pub fn bytes(number: usize, length: usize) -> Vec<u8> {
    let mut state = number as u64 * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

/// Writes bytes at places of a file, and leaves holes between.
///
/// # Panics
/// If the file can't be written.
pub fn sparse(path: &Path, places: &[(u64, usize)]) {
    let file = fs::File::create(path).expect("the folder can be written");
    for (number, &(at, length)) in places.iter().enumerate() {
        file.write_all_at(&bytes(number, length), at)
            .expect("the file can be written");
    }
}

/// A folder with files of every kind that can be read.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    for size in [0, 1, 4095, 4096, 4097, 300_000] {
        fs::write(at(&format!("file{size}")), bytes(size, size)).expect("a file");
    }
    fs::create_dir(at("many")).expect("a folder");
    for number in 0..40 {
        fs::write(at(&format!("many/number {number}")), bytes(number, number * 100)).expect("a file");
    }
    let deep = at(&["a folder far below"; 30].join("/"));
    fs::create_dir_all(&deep).expect("folders");
    fs::write(deep.join("bottom"), "here").expect("a file");
    let links = [
        ("short", "file4097"),
        ("up", "many/../many/number 7"),
        ("dangling", "no/such/name"),
        ("circle", "circle"),
        ("away", "/proc/self/stat"),
    ];
    for (name, target) in links {
        symlink(target, at(name)).expect("a link");
    }
    symlink("./".repeat(400) + "file1", at("long")).expect("a link");
    fs::hard_link(at("file4096"), at("again")).expect("a second name");
    fs::write(at("naïve – \u{1f600}"), "a name in UTF-8").expect("a file");
    sparse(&at("sparse"), &[(10, 10), (5 << 20, 5000), (9 << 20, 1)]);
    let holes: Vec<_> = (0..200).map(|number| (number * 8192, 3000)).collect();
    sparse(&at("holes"), &holes);
    fs::write(at("script"), "#!/mnt/busybox sh\necho a script on a disk, \"$@\"\n").expect("a file");
    fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).expect("its owner is us");
    folder
}
