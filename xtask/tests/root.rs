//! `run --root`: a folder of this machine as the root file system, through the real command line.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Runs the tool; its exit status, and what came out.
fn run(root: &Path, command: &[&str]) -> (i32, String, String) {
    run_with("512M", root, command)
}

/// The same with so much memory.
fn run_with(memory: &str, root: &Path, command: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["run", "--timeout", "120", "--mem", memory, "--root"])
        .arg(root)
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("these programs write text");
    let status = output.status.code().expect("the tool ends by itself");
    (status, text(output.stdout), text(output.stderr))
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder with busybox at `usr/bin/busybox` and `bin` as a link to `usr/bin`, as distributions have it.
fn small_system() -> TempDir {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    let busybox = faultline_xtask::shell::busybox(None).expect("busybox is installed, or can be fetched");
    fs::copy(busybox, root.join("usr/bin/busybox")).unwrap();
    mode(&root.join("usr/bin/busybox"), 0o755);
    // As an absolute link it leads to the folder's own file, whatever this machine has there.
    symlink("/bin/busybox", root.join("usr/bin/sh")).unwrap();
    folder
}

#[test]
fn the_machine_has_the_files_of_the_folder_as_they_are() {
    let folder = small_system();
    let root = folder.path();
    fs::create_dir_all(root.join("one/two/three")).unwrap();
    fs::create_dir(root.join("one/empty")).unwrap();
    fs::write(root.join("one/two/three/page"), vec![b'x'; 4096]).unwrap();
    fs::write(root.join("one/two/three/nothing"), "").unwrap();
    fs::write(root.join("one/two/text"), "from the folder\n").unwrap();
    symlink("two/text", root.join("one/near")).unwrap();
    symlink("/one/two/text", root.join("one/far")).unwrap();
    symlink("no/such/file", root.join("one/broken")).unwrap();
    fs::write(root.join("one/script"), "echo \"the script ran with $1\"\n").unwrap();
    mode(&root.join("one/script"), 0o700);
    fs::write(root.join("one/no-script"), "echo ran\n").unwrap();
    mode(&root.join("one/no-script"), 0o644);
    let script = "\
        cd /one && find . | sort
        cat near far two/text
        cat broken 2>/dev/null || echo broken
        readlink near; readlink far; readlink /bin
        wc -c < two/three/page; wc -c < two/three/nothing
        ./script words
        ./no-script 2>/dev/null; echo status $?
        [ -x script ] && [ ! -x no-script ] && echo 'executable as they were'
        echo changed > two/text && cat near
        exit 7\n";
    fs::write(root.join("all"), script).unwrap();
    let expected = "\
        .\n./broken\n./empty\n./far\n./near\n./no-script\n./script\n./two\n./two/text\n./two/three\n\
        ./two/three/nothing\n./two/three/page\n\
        from the folder\nfrom the folder\nfrom the folder\nbroken\ntwo/text\n/one/two/text\nusr/bin\n4096\n0\n\
        the script ran with words\nstatus 126\nexecutable as they were\nchanged\n";
    let (status, stdout, stderr) = run(root, &["/bin/sh", "/all"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (7, expected, ""));
    assert_eq!(
        fs::read_to_string(root.join("one/two/text")).unwrap(),
        "from the folder\n",
        "the machine writes to its own memory"
    );
}

#[test]
fn a_sample_task_runs_beside_the_files_of_a_folder() {
    let empty = TempDir::new().unwrap();
    let (status, stdout, _) = run(empty.path(), &["hello", "--exit", "3"]);
    assert_eq!(status, 3);
    assert!(stdout.contains("hello"), "{stdout}");
    // The place for it, bin, is a link here.
    let (status, stdout, _) = run(small_system().path(), &["hello"]);
    assert_eq!(status, 0);
    assert!(stdout.contains("hello"), "{stdout}");
}

/// The tool refuses with this status and this message, and prints nothing else.
fn refuses(root: &Path, command: &[&str], status: i32, message: &str) {
    assert_eq!(
        run(root, command),
        (status, String::new(), format!("faultline: {message}\n"))
    );
}

#[test]
fn a_program_that_is_not_there_or_cannot_run_is_named() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let shown = root.display();
    refuses(
        root,
        &["bin/none"],
        127,
        &format!("bin/none: no such file, neither here nor in {shown}"),
    );
    fs::create_dir(root.join("bin")).unwrap();
    symlink("none", root.join("bin/broken")).unwrap();
    refuses(
        root,
        &["bin/broken"],
        127,
        &format!("bin/broken: no such file, neither here nor in {shown}"),
    );
    refuses(root, &["/bin"], 126, &format!("{shown}/bin: a folder, not a program"));
    fs::write(root.join("bin/text"), "text").unwrap();
    refuses(
        root,
        &["bin/text"],
        126,
        &format!("{shown}/bin/text: nobody may execute it (its mode has no x: chmod +x)"),
    );
    mode(&root.join("bin/text"), 0o755);
    refuses(
        root,
        &["bin/text"],
        126,
        &format!("{shown}/bin/text: not an ELF file (the first four bytes aren't 7f 45 4c 46)"),
    );
}

#[test]
fn a_folder_that_cannot_be_packed_is_refused_with_the_path() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let missing = root.join("none");
    refuses(
        &missing,
        &["hello"],
        125,
        &format!("{}: no such folder", missing.display()),
    );
    fs::create_dir(root.join("run")).unwrap();
    let socket = root.join("run/socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    refuses(
        root,
        &["hello"],
        125,
        &format!(
            "{}: a socket; only files, folders and symbolic links can be packed",
            socket.display()
        ),
    );
}

#[test]
fn a_folder_that_is_too_large_is_refused_before_it_is_read() {
    let folder = small_system();
    let large = fs::File::create(folder.path().join("large")).unwrap();
    large.set_len(1 << 40).unwrap();
    // The shell's folder is packed; `run` makes a disk of it.
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["shell", "--root"])
        .arg(folder.path())
        .args(["-c", "true"])
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    let said = |text: &str| assert!(stderr.contains(text), "{stderr}");
    said("its files take 104857");
    said("MiB of the machine's memory, of which it has 512; --mem 104");
}

/// Puts a program of this machine and its libraries into a root, at the paths that they have here.
fn copy_with_libraries(program: &str, root: &Path) {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd is part of the C library");
    let text = String::from_utf8(output.stdout).unwrap();
    for path in text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .chain([program])
    {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, &to).unwrap();
        mode(&to, 0o755);
    }
}

#[test]
fn a_dynamic_program_runs_with_its_libraries_and_says_what_it_misses() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    copy_with_libraries("/bin/bash", root);
    let (status, stdout, stderr) = run(root, &["/bin/bash", "-c", "echo $((6 * 7)); exit 3"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (3, "42\n", ""));
    // A dynamic program of this machine runs with the libraries of the root.
    let (status, stdout, stderr) = run(root, &["/usr/bin/env", "-i", "A=1"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "A=1\n", ""));
    fs::remove_dir_all(root.join("lib64")).unwrap();
    let (status, stdout, stderr) = run(root, &["/bin/bash", "-c", "exit 3"]);
    assert_eq!((status, stdout.as_str()), (126, ""));
    assert!(
        stderr.contains("its PT_INTERP header asks for /lib64/ld-linux-x86-64.so.2, which the machine does not have"),
        "{stderr}"
    );
}

#[test]
fn a_large_folder_is_a_disk_below_the_root() {
    let folder = small_system();
    let root = folder.path();
    copy_with_libraries("/bin/bash", root);
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    fs::create_dir(root.join("home")).unwrap();
    fs::write(root.join("etc/there"), "as it was\n").unwrap();
    fs::write(root.join("etc/deep/there"), "deeper\n").unwrap();
    fs::write(root.join("usr/bin/text"), "text\n").unwrap();
    // Larger than the machine's memory, which it would have to fit into otherwise.
    fs::write(root.join("usr/large"), vec![b'x'; 80 << 20]).unwrap();
    let script = "\
        cd /usr/bin/.. && pwd; cd /bin && pwd -P; busybox cat text
        busybox wc -c < /usr/large
        busybox cat /etc/there /etc/deep/there; cd /etc/deep/../..; pwd
        echo new > /etc/new && busybox cat /etc/new; echo new > /home/new; busybox ls /etc /home
        (echo changed > /etc/there) 2>/dev/null || echo 'the disk stays as it is'
        (echo more > /usr/bin/more) 2>/dev/null || echo 'so do its folders'
        echo changed > /etc/other && busybox mv /etc/other /etc/there && busybox cat /etc/there
        busybox cat /mnt/etc/there; busybox rm /etc/new /etc/there; busybox ls /etc
        [ -d /proc/self ] && [ -c /dev/null ] && [ -w /tmp ] && echo 'and the rest is there'\n";
    let expected = "\
        /usr\n/usr/bin\ntext\n83886080\nas it was\ndeeper\n/\nnew\n/etc:\ndeep\nnew\nthere\n\n/home:\nnew\n\
        the disk stays as it is\nso do its folders\nchanged\nas it was\ndeep\nand the rest is there\n";
    let (status, stdout, stderr) = run_with("64M", root, &["/bin/bash", "-c", script]);
    assert_eq!((stdout.as_str(), stderr.as_str(), status), (expected, "", 0));
    // A program of this machine beside it.
    let (status, stdout, stderr) = run_with("64M", root, &["/usr/bin/env", "-i", "/bin/busybox", "echo", "found"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "found\n", ""));
}
