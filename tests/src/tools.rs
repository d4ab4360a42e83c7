//! Tools of this machine that tests need, and programs that they build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use faultline_xtask::root::Root;

/// The path of a tool.
///
/// # Panics
/// Panics with the name of the package when this machine doesn't have it: a test that can't run must not pass.
#[must_use]
pub fn tool(name: &str, package: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("this test needs {name}: apt-get install {package}"))
}

/// Debian's static busybox.
///
/// # Panics
/// As [`tool`].
#[must_use]
pub fn busybox() -> PathBuf {
    tool("busybox", "busybox-static")
}

/// Which C library a program is linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library.
    Gnu,
    /// musl.
    Musl,
}

/// Builds a static program from `tests/programs/NAME.c`.
///
/// # Panics
/// As [`tool`]; with the compiler's words if it refuses.
#[must_use]
pub fn c_program(name: &str, libc: Libc) -> PathBuf {
    build(name, libc, "-static", &[])
}

/// Builds `tests/programs/sqlite.c` with Debian's static library.
///
/// # Panics
/// As [`c_program`].
#[must_use]
pub fn sqlite() -> PathBuf {
    let header = Path::new("/usr/include/sqlite3.h");
    assert!(
        header.is_file(),
        "this test needs sqlite: apt-get install libsqlite3-dev"
    );
    build("sqlite", Libc::Gnu, "-static", &["-lsqlite3", "-lm"])
}

/// A static pandoc, which is fetched into the target directory the first time.
///
/// # Panics
/// If it can't be had.
#[must_use]
pub fn pandoc() -> PathBuf {
    let file = faultline_xtask::workspace::target_dir().join("tools/pandoc");
    if !file.is_file() {
        let fetched = Command::new(faultline_xtask::workspace::root().join(".ci/pandoc")).status();
        let is_there = fetched.is_ok_and(|status| status.success());
        assert!(
            is_there,
            "this test needs a static pandoc, and .ci/pandoc can't fetch it"
        );
    }
    file
}

/// As [`c_program`], position-independent, with the GNU C library.
///
/// # Panics
/// As [`c_program`].
#[must_use]
pub fn position_independent(name: &str) -> PathBuf {
    build(name, Libc::Gnu, "-static-pie", &[])
}

/// As [`c_program`], dynamically linked with the GNU C library of this machine.
///
/// # Panics
/// As [`c_program`].
#[must_use]
pub fn dynamic_program(name: &str) -> PathBuf {
    build(name, Libc::Gnu, "-pie", &[])
}

/// A root file system with this machine's files and folders at the paths that they have here, and with every library and
/// dynamic linker that `ldd` names for the first file.
///
/// # Panics
/// If a file can't be read, or one of its libraries is missing.
#[must_use]
pub fn root_with(program: &Path, others: &[&str]) -> Root {
    let mut root = Root::default();
    add(&mut root, program);
    let output = Command::new("ldd").arg(program).output();
    let output = output.expect("ldd is part of the C library");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && !text.contains("not found"),
        "{}: {text}",
        program.display()
    );
    // Lines are `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`.
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain(others.iter().copied()) {
        add(&mut root, Path::new(path));
    }
    root
}

fn add(root: &mut Root, path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder can be listed") {
            add(root, &entry.expect("a folder can be listed").path());
        }
        return;
    }
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let name = path.to_str().expect("the path is text").trim_start_matches('/');
    root.add_file(name, true, bytes);
}

fn build(name: &str, libc: Libc, kind: &str, libraries: &[&str]) -> PathBuf {
    let (compiler, suffix) = match libc {
        Libc::Gnu => (tool("cc", "gcc libc6-dev"), "gnu"),
        Libc::Musl => (tool("musl-gcc", "musl-tools"), "musl"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = faultline_xtask::workspace::target_dir().join("programs");
    std::fs::create_dir_all(&target).expect("the target directory can be written");
    let file = target.join(format!("{name}-{suffix}{kind}-{}", std::process::id()));
    let output = Command::new(compiler)
        .args([kind, "-O1", "-pthread", "-Wall", "-Werror", "-o"])
        .arg(&file)
        .arg(folder.join("programs").join(format!("{name}.c")))
        .args(libraries)
        .stdin(Stdio::null())
        .output()
        .expect("the compiler can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}
