//! `run --disk`: programs of the file system on a disk, through the real command line.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::{NamedTempFile, TempDir};

/// Runs the tool; its exit status, and what came out.
fn run(disk: &str, command: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["run", "--timeout", "120", "--disk", disk])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("these programs write text");
    let status = output.status.code().expect("the tool ends by itself");
    (status, text(output.stdout), text(output.stderr))
}

/// An ext4 file system with what is in the folder.
fn image(folder: &Path) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let output = Command::new("/usr/sbin/mkfs.ext4")
        .args(["-q", "-F", "-b", "1024", "-d"])
        .arg(folder)
        .arg(file.path())
        .arg("16M")
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .expect("mkfs.ext4 is installed: apt-get install e2fsprogs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}

/// A folder with busybox at `usr/bin/busybox`, `bin` as a link to `usr/bin`, and files that are no programs.
fn small_system() -> TempDir {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    let busybox = faultline_xtask::shell::busybox(None).expect("busybox is installed, or can be fetched");
    fs::copy(busybox, root.join("usr/bin/busybox")).unwrap();
    fs::set_permissions(root.join("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/mnt/bin/busybox", root.join("bin/echo")).unwrap();
    symlink("circle", root.join("circle")).unwrap();
    symlink("/bin/busybox", root.join("out")).unwrap();
    fs::write(root.join("text"), "no program\n").unwrap();
    fs::set_permissions(root.join("text"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("unmarked"), "no program\n").unwrap();
    fs::set_permissions(root.join("unmarked"), fs::Permissions::from_mode(0o644)).unwrap();
    folder
}

#[test]
fn a_program_of_the_disk_runs_by_either_of_its_paths() {
    let image = image(small_system().path());
    let disk = image.path().to_str().unwrap();
    let shows = "readlink /proc/self/exe; cat /mnt/text; test -e /bin/busybox || echo not in the ramdisk";
    for (disk, program) in [
        (format!("{disk},ro"), "/mnt/usr/bin/busybox"),
        (disk.to_owned(), "usr/bin/busybox"),
        (format!("model:{disk},latency=100us"), "/bin/busybox"),
    ] {
        let (status, stdout, stderr) = run(&disk, &[program, "sh", "-c", shows]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{program}");
        assert_eq!(stdout, "/mnt/usr/bin/busybox\nno program\nnot in the ramdisk\n");
    }
    let (status, stdout, _) = run(disk, &["/mnt/bin/echo", "by", "links"]);
    assert_eq!((status, stdout.as_str()), (0, "by links\n"));
}

#[test]
fn what_cannot_run_is_refused_before_anything_boots() {
    let image = image(small_system().path());
    let disk = image.path().to_str().unwrap();
    for (program, status, said) in [
        ("/mnt/no/such", 127, "/mnt/no/such: no such file"),
        ("/mnt/circle", 127, "/mnt/circle: no such file"),
        ("/mnt/out", 127, "/mnt/out: no such file"),
        ("/mnt/bin", 127, "/mnt/bin: no such file"),
        ("/mnt/text/below", 127, "/mnt/text/below: no such file"),
        ("/mnt/unmarked", 126, "/mnt/unmarked: nobody may execute it"),
        ("text", 126, "/mnt/text: not an ELF file"),
        ("no-such-name", 127, "no-such-name: no such file"),
    ] {
        let (ended, _, stderr) = run(disk, &[program]);
        assert_eq!(ended, status, "{program}: {stderr}");
        assert!(stderr.contains(said), "{program}: {stderr}");
    }
}
