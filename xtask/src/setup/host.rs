//! The machine itself, as set-up sees it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{KERNEL_TARGET, Linker, Platform, System, USER_TARGET};
use crate::machine::QEMU;
use crate::workspace::{rustc, toolchain_command};

/// This machine.
#[derive(Debug)]
pub struct Host {
    sysroot: Option<PathBuf>,
    release: Option<String>,
    use_prebuilt: bool,
}

impl Host {
    /// Asks the compiler where it lives.
    ///
    /// With `FAULTLINE_CORE=build-std` in the environment the prebuilt target is left aside, so that the other way can
    /// be tried on a machine that has both.
    #[must_use]
    pub fn new() -> Self {
        let version = output(toolchain_command(rustc()).arg("-vV")).unwrap_or_default();
        Self {
            sysroot: output(toolchain_command(rustc()).args(["--print", "sysroot"])).map(|path| path.trim().into()),
            release: version
                .lines()
                .find_map(|line| line.strip_prefix("release: "))
                .map(str::to_owned),
            use_prebuilt: env::var("FAULTLINE_CORE").map_or(true, |core| core != "build-std"),
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl System for Host {
    fn has_compiler(&self) -> bool {
        self.sysroot.is_some()
    }

    fn has_target(&self) -> bool {
        let Some(sysroot) = self.sysroot.as_deref().filter(|_| self.use_prebuilt) else {
            return false;
        };
        let libraries = sysroot.join("lib/rustlib").join(KERNEL_TARGET).join("lib");
        fs::read_dir(libraries).is_ok_and(|files| {
            files.flatten().any(|file| {
                let name = file.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        })
    }

    fn rustup_toolchain(&self) -> Option<String> {
        if !self.use_prebuilt {
            return None;
        }
        // <rustup home>/toolchains/<name>
        let sysroot = self.sysroot.as_deref()?;
        let in_toolchains = sysroot.parent()?.file_name()? == "toolchains";
        let has_rustup = Command::new("rustup")
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        (in_toolchains && has_rustup).then(|| sysroot.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn add_target(&mut self, toolchain: &str) -> Result<(), String> {
        succeed(Command::new("rustup").args(["target", "add", KERNEL_TARGET, "--toolchain", toolchain]))
    }

    fn has_source(&self) -> bool {
        let Some(sysroot) = &self.sysroot else { return false };
        let source = sysroot.join("lib/rustlib/src/rust");
        if !source.join("library/core/src/lib.rs").is_file() || !source.join("library/Cargo.toml").is_file() {
            return false;
        }
        // Debian keeps it in /usr/src/rustc-VERSION, which may be of another version than the compiler.
        let home = fs::canonicalize(&source).unwrap_or(source);
        let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match (name.strip_prefix("rustc-"), &self.release) {
            (Some(version), Some(release)) => version == release,
            _ => true,
        }
    }

    fn add_source(&mut self, toolchain: &str) -> Result<(), String> {
        succeed(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", toolchain]))
    }

    fn debian_source_package(&self) -> Option<String> {
        let compiler = self.sysroot.as_deref()?.join("bin/rustc");
        let owner = output(Command::new("dpkg-query").arg("-S").arg(compiler))?;
        // `rustc-web: /usr/bin/rustc`
        match owner.split([':', ',']).next()?.trim() {
            "rustc-web" => Some("rust-web-src".to_owned()),
            "rustc" => Some("rust-src".to_owned()),
            other => other
                .strip_prefix("rustc-")
                .map(|version| format!("rust-{version}-src")),
        }
    }

    fn linker(&self) -> Option<Linker> {
        let own = self
            .sysroot
            .as_deref()
            .map(|sysroot| sysroot.join("lib/rustlib").join(USER_TARGET));
        let own = own.map_or_else(|| "rust-lld".into(), |own| own.join("bin/rust-lld"));
        let works = |linker: &Path| output(Command::new(linker).args(["-flavor", "gnu", "--version"])).is_some();
        if works(&own) || works(Path::new("rust-lld")) {
            return Some(Linker::RustLld);
        }
        output(Command::new("ld.lld").arg("--version")).map(|_| Linker::Lld)
    }

    fn has_static_libc(&self) -> bool {
        // Prints the bare name when it finds nothing.
        let found = output(Command::new("cc").arg("-print-file-name=libc.a"));
        cfg!(target_os = "linux") && found.is_some_and(|path| Path::new(path.trim()).is_absolute())
    }

    fn has_qemu(&self) -> bool {
        output(Command::new(QEMU).arg("--version")).is_some()
    }

    fn platform(&self) -> Platform {
        if cfg!(target_os = "macos") {
            return Platform::MacOs;
        }
        let found = |tool: &str| {
            env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .chain([PathBuf::from("/usr/bin")])
                .any(|folder| folder.join(tool).is_file())
        };
        [
            ("apt-get", Platform::Debian),
            ("dnf", Platform::Fedora),
            ("pacman", Platform::Arch),
        ]
        .into_iter()
        .find(|(tool, _)| found(tool))
        .map_or(Platform::Other, |(_, platform)| platform)
    }

    fn is_root(&self) -> bool {
        output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
    }

    fn apt_install(&mut self, package: &str) -> Result<(), String> {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            succeed(
                command
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .arg("-q")
                    .args(arguments),
            )
        };
        // A failed update of one list among many may still leave the package within reach.
        let update = apt(&["update"]);
        apt(&["install", "-y", "--no-install-recommends", package]).map_err(|error| match update {
            Ok(()) => error,
            Err(update) => format!("{error}\n{update}"),
        })
    }

    fn say(&mut self, what: &str) {
        eprintln!("faultline: {what}");
    }
}

/// The standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command; if it fails, its error output is the error.
fn succeed(command: &mut Command) -> Result<(), String> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
