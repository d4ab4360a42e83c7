//! Set-up: the Rust target, a linker for it, a C library to link statically and QEMU, without which nothing here works.
//!
//! Every command goes through [`prepare`] first. It only looks when everything is there; it installs what is missing
//! where that is possible, and else names the command that a person has to type.
//!
//! The decisions are made here, on a [`System`] that a test can fake; `setup::host` is the machine itself.
//!
//! Core library for the kernel, in this order:
//!
//! 1. the prebuilt target, if the toolchain has it;
//! 2. `rustup target add`, if the toolchain came from rustup;
//! 3. built by cargo from the `rust-src` of the same version, if that is installed;
//! 4. `rust-src` installed through rustup or apt-get, then as 3.

mod host;

use std::fmt;

pub use host::Host;

use crate::machine::QEMU;

/// The target of the kernel and the boot stage.
pub const KERNEL_TARGET: &str = "x86_64-unknown-none";

/// The target of the sample tasks.
pub const USER_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the kernel is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Where its core library comes from.
    pub core: CoreLibrary,
    /// What links it.
    pub linker: Linker,
}

/// What links the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linker {
    /// The target's own, `rust-lld`, which rustup's toolchains have.
    RustLld,
    /// LLVM's linker from a package of the system.
    Lld,
}

/// Where the kernel's core library comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreLibrary {
    /// The toolchain's prebuilt target.
    Prebuilt,
    /// Built with the kernel from the standard library's source.
    BuildStd,
}

/// Families of systems, by the way in which they install packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Debian, Ubuntu and others with apt-get.
    Debian,
    /// Fedora and others with dnf.
    Fedora,
    /// Arch and others with pacman.
    Arch,
    /// macOS with Homebrew.
    MacOs,
    /// Anything else.
    Other,
}

/// The questions that set-up asks of a machine, and what it can do there.
pub trait System {
    /// Whether the compiler can be started.
    fn has_compiler(&self) -> bool;
    /// Whether the toolchain has the prebuilt kernel target.
    fn has_target(&self) -> bool;
    /// The name of the rustup toolchain in use, if it is one of rustup's.
    fn rustup_toolchain(&self) -> Option<String>;
    /// Adds the kernel target to the rustup toolchain.
    ///
    /// # Errors
    /// What rustup said.
    fn add_target(&mut self, toolchain: &str) -> Result<(), String>;
    /// Whether the source of the standard library, of the compiler's own version, is installed.
    fn has_source(&self) -> bool;
    /// Adds `rust-src` to the rustup toolchain.
    ///
    /// # Errors
    /// What rustup said.
    fn add_source(&mut self, toolchain: &str) -> Result<(), String>;
    /// The Debian package with the source that belongs to the compiler in use, if that came from a Debian package.
    fn debian_source_package(&self) -> Option<String>;
    /// A linker for the kernel, if there is one.
    fn linker(&self) -> Option<Linker>;
    /// Whether the C library is there in the form that static programs are linked with.
    fn has_static_libc(&self) -> bool;
    /// Whether QEMU can be started.
    fn has_qemu(&self) -> bool;
    /// The family of the system.
    fn platform(&self) -> Platform;
    /// Whether this process may install packages.
    fn is_root(&self) -> bool;
    /// Installs a Debian package, after an update of the package lists.
    ///
    /// # Errors
    /// What apt-get said.
    fn apt_install(&mut self, package: &str) -> Result<(), String>;
    /// Tells the person at the terminal what is being done.
    fn say(&mut self, what: &str);
}

/// What is missing and can't be had without help.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    /// What it is.
    what: String,
    /// What was tried, and how it failed.
    tried: Vec<String>,
    /// What a person can do.
    remedies: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for failure in &self.tried {
            write!(f, "\n  tried: {failure}")?;
        }
        for remedy in &self.remedies {
            write!(f, "\n  {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Missing {}

/// Sees to it that the kernel can be built and QEMU started.
///
/// # Errors
/// Says what is missing, what was tried and what to type.
pub fn prepare(system: &mut dyn System) -> Result<Toolchain, Missing> {
    compiler(system)?;
    let core = core_library(system)?;
    let linker = linker(system)?;
    static_libc(system)?;
    qemu(system)?;
    Ok(Toolchain { core, linker })
}

/// Finds the compiler.
///
/// # Errors
/// Says where to get it.
pub fn compiler(system: &dyn System) -> Result<(), Missing> {
    if system.has_compiler() {
        return Ok(());
    }
    Err(Missing {
        what: "the Rust compiler, rustc, can't be started".to_owned(),
        tried: Vec::new(),
        remedies: vec![
            "install Rust: https://rustup.rs".to_owned(),
            "or let the variable RUSTC name a compiler that is installed".to_owned(),
        ],
    })
}

/// Finds or makes a way to build the core library for the kernel.
///
/// # Errors
/// Says what was tried and what to type.
pub fn core_library(system: &mut dyn System) -> Result<CoreLibrary, Missing> {
    if system.has_target() {
        return Ok(CoreLibrary::Prebuilt);
    }
    let mut tried = Vec::new();
    let toolchain = system.rustup_toolchain();
    if let Some(toolchain) = &toolchain {
        system.say(&format!("adding the Rust target {KERNEL_TARGET} to {toolchain}"));
        match system.add_target(toolchain) {
            Ok(()) => return Ok(CoreLibrary::Prebuilt),
            Err(error) => tried.push(format!(
                "rustup target add {KERNEL_TARGET} --toolchain {toolchain}: {}",
                summary(&error)
            )),
        }
    }
    if system.has_source() {
        return Ok(CoreLibrary::BuildStd);
    }
    let mut remedies = Vec::new();
    if let Some(toolchain) = &toolchain {
        match system.add_source(toolchain) {
            Ok(()) if system.has_source() => return Ok(CoreLibrary::BuildStd),
            Ok(()) => tried.push("rustup component add rust-src: done, but the source isn't where it should be".into()),
            Err(error) => tried.push(format!("rustup component add rust-src: {}", summary(&error))),
        }
        remedies.push(format!(
            "with a network: rustup target add {KERNEL_TARGET} --toolchain {toolchain}"
        ));
    } else if let Some(package) = system.debian_source_package() {
        if system.is_root() {
            system.say(&format!("installing {package} with apt-get"));
            match system.apt_install(&package) {
                Ok(()) if system.has_source() => return Ok(CoreLibrary::BuildStd),
                Ok(()) => tried.push(format!(
                    "apt-get install {package}: done, but it isn't of rustc's version"
                )),
                Err(error) => tried.push(format!("apt-get install {package}: {}", summary(&error))),
            }
        }
        remedies.push(format!(
            "with a network: sudo apt-get update && sudo apt-get install {package}"
        ));
    } else {
        remedies.push(
            "install the source of the standard library (rust-src) of the same version as rustc, where \
             `rustc --print sysroot` says, in lib/rustlib/src/rust"
                .into(),
        );
    }
    remedies.push("or install Rust from rustup: https://rustup.rs".into());
    let what = format!("the core library for {KERNEL_TARGET} is missing");
    Err(Missing { what, tried, remedies })
}

/// Finds or installs a linker for the kernel.
///
/// # Errors
/// Says what was tried and what to type.
pub fn linker(system: &mut dyn System) -> Result<Linker, Missing> {
    let found = |system: &dyn System| system.linker();
    from_package(system, "a linker for the kernel (rust-lld or ld.lld)", &LLD, found)
}

/// Finds or installs the C library for the sample tasks, which are static programs.
///
/// # Errors
/// Says what was tried and what to type.
pub fn static_libc(system: &mut dyn System) -> Result<(), Missing> {
    from_package(
        system,
        "a C library to link the sample tasks with (libc.a)",
        &LIBC,
        |system| system.has_static_libc().then_some(()),
    )
}

/// Finds or installs QEMU.
///
/// # Errors
/// Says what was tried and what to type.
pub fn qemu(system: &mut dyn System) -> Result<(), Missing> {
    from_package(system, QEMU, &QEMU_PACKAGE, |system| system.has_qemu().then_some(()))
}

/// A package by the names that the families of systems give it.
struct Package {
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    /// None where there is no such package.
    mac_os: Option<&'static str>,
}

const LLD: Package = Package {
    debian: "lld",
    fedora: "lld",
    arch: "lld",
    mac_os: Some("lld"),
};

const LIBC: Package = Package {
    debian: "libc6-dev",
    fedora: "glibc-static",
    arch: "glibc",
    mac_os: None,
};

const QEMU_PACKAGE: Package = Package {
    debian: "qemu-system-x86",
    fedora: "qemu-system-x86",
    arch: "qemu-system-x86",
    mac_os: Some("qemu"),
};

/// Finds something, or installs its package and looks again.
fn from_package<T>(
    system: &mut dyn System,
    what: &str,
    package: &Package,
    find: impl Fn(&dyn System) -> Option<T>,
) -> Result<T, Missing> {
    if let Some(found) = find(system) {
        return Ok(found);
    }
    let mut tried = Vec::new();
    if system.platform() == Platform::Debian && system.is_root() {
        let name = package.debian;
        system.say(&format!("installing {name} with apt-get"));
        match system.apt_install(name) {
            Ok(()) => match find(system) {
                Some(found) => return Ok(found),
                None => tried.push(format!(
                    "apt-get install {name}: done, but {what} still can't be started"
                )),
            },
            Err(error) => tried.push(format!("apt-get install {name}: {}", summary(&error))),
        }
    }
    let commands = [
        (
            Platform::Debian,
            format!(
                "Debian, Ubuntu: sudo apt-get update && sudo apt-get install {}",
                package.debian
            ),
        ),
        (Platform::Fedora, format!("Fedora: sudo dnf install {}", package.fedora)),
        (Platform::Arch, format!("Arch: sudo pacman -S {}", package.arch)),
        (
            Platform::MacOs,
            package.mac_os.map_or_else(
                || "macOS: not to be had; use x86-64 Linux".to_owned(),
                |package| format!("macOS: brew install {package}"),
            ),
        ),
    ];
    let own: Vec<_> = commands
        .iter()
        .filter(|(platform, _)| *platform == system.platform())
        .collect();
    let shown = if own.is_empty() { commands.iter().collect() } else { own };
    let remedies = shown.into_iter().map(|(_, command)| command.clone()).collect();
    Err(Missing {
        what: format!("{what} is missing"),
        tried,
        remedies,
    })
}

/// The line of a tool's output that says what went wrong: its last one that isn't empty.
fn summary(output: &str) -> &str {
    output
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or("failed without a message")
}

#[cfg(test)]
mod tests;
