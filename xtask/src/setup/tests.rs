//! Every decision of set-up, on machines that exist only here.

use super::*;

/// A machine by its properties; what set-up does to it is written down.
struct Fake {
    compiler: bool,
    target: bool,
    toolchain: Option<&'static str>,
    source: bool,
    network: bool,
    debian_package: Option<&'static str>,
    linker: Option<Linker>,
    libc: bool,
    qemu: bool,
    platform: Platform,
    root: bool,
    done: Vec<String>,
}

/// A machine that has everything.
fn complete() -> Fake {
    Fake {
        compiler: true,
        target: true,
        toolchain: Some("1.95.0-x86_64-unknown-linux-gnu"),
        source: true,
        network: true,
        debian_package: None,
        linker: Some(Linker::RustLld),
        libc: true,
        qemu: true,
        platform: Platform::Debian,
        root: true,
        done: Vec::new(),
    }
}

/// A Debian machine with rustc from a package, and nothing else.
fn debian() -> Fake {
    Fake {
        target: false,
        toolchain: None,
        source: false,
        debian_package: Some("rust-web-src"),
        linker: None,
        qemu: false,
        ..complete()
    }
}

const PREBUILT: Toolchain = Toolchain {
    core: CoreLibrary::Prebuilt,
    linker: Linker::RustLld,
};
const BUILD_STD: Toolchain = Toolchain {
    core: CoreLibrary::BuildStd,
    linker: Linker::RustLld,
};

impl Fake {
    fn fetch(&mut self, what: String) -> Result<(), String> {
        self.done.push(what);
        if self.network {
            Ok(())
        } else {
            Err("info: trying\nerror: no network\n".into())
        }
    }
}

impl System for Fake {
    fn has_compiler(&self) -> bool {
        self.compiler
    }
    fn has_target(&self) -> bool {
        self.target
    }
    fn rustup_toolchain(&self) -> Option<String> {
        self.toolchain.map(str::to_owned)
    }
    fn add_target(&mut self, toolchain: &str) -> Result<(), String> {
        self.fetch(format!("target {toolchain}")).map(|()| self.target = true)
    }
    fn has_source(&self) -> bool {
        self.source
    }
    fn add_source(&mut self, toolchain: &str) -> Result<(), String> {
        self.fetch(format!("source {toolchain}")).map(|()| self.source = true)
    }
    fn debian_source_package(&self) -> Option<String> {
        self.debian_package.map(str::to_owned)
    }
    fn linker(&self) -> Option<Linker> {
        self.linker
    }
    fn has_static_libc(&self) -> bool {
        self.libc
    }
    fn has_qemu(&self) -> bool {
        self.qemu
    }
    fn platform(&self) -> Platform {
        self.platform
    }
    fn is_root(&self) -> bool {
        self.root
    }
    fn apt_install(&mut self, package: &str) -> Result<(), String> {
        self.fetch(format!("apt {package}"))?;
        match package {
            "qemu-system-x86" => self.qemu = true,
            "libc6-dev" => self.libc = true,
            "lld" => self.linker = Some(Linker::Lld),
            _ => self.source = true,
        }
        Ok(())
    }
    fn say(&mut self, _: &str) {}
}

#[test]
fn nothing_is_installed_when_everything_is_there() {
    let mut machine = complete();
    assert_eq!(prepare(&mut machine), Ok(PREBUILT));
    assert!(machine.done.is_empty());
}

#[test]
fn rustup_adds_a_missing_target_to_the_toolchain_in_use() {
    let mut machine = Fake {
        target: false,
        ..complete()
    };
    assert_eq!(prepare(&mut machine), Ok(PREBUILT));
    assert_eq!(machine.done, ["target 1.95.0-x86_64-unknown-linux-gnu"]);
}

#[test]
fn offline_the_core_library_is_built_from_installed_source() {
    let mut machine = Fake {
        target: false,
        network: false,
        ..complete()
    };
    assert_eq!(prepare(&mut machine), Ok(BUILD_STD));
    assert_eq!(machine.done, ["target 1.95.0-x86_64-unknown-linux-gnu"]);
}

#[test]
fn offline_without_source_the_error_says_what_was_tried_and_what_to_type() {
    let mut machine = Fake {
        target: false,
        source: false,
        network: false,
        ..complete()
    };
    let error = prepare(&mut machine).unwrap_err().to_string();
    assert_eq!(
        error,
        "the core library for x86_64-unknown-none is missing\n  \
         tried: rustup target add x86_64-unknown-none --toolchain 1.95.0-x86_64-unknown-linux-gnu: error: no network\n  \
         tried: rustup component add rust-src: error: no network\n  \
         with a network: rustup target add x86_64-unknown-none --toolchain 1.95.0-x86_64-unknown-linux-gnu\n  \
         or install Rust from rustup: https://rustup.rs"
    );
}

#[test]
fn a_debian_compiler_uses_the_installed_source_package() {
    let mut machine = Fake {
        source: true,
        linker: Some(Linker::RustLld),
        qemu: true,
        ..debian()
    };
    assert_eq!(prepare(&mut machine), Ok(BUILD_STD));
    assert!(machine.done.is_empty());
}

#[test]
fn root_on_debian_gets_source_linker_and_qemu_by_apt_get() {
    let mut machine = debian();
    assert_eq!(
        prepare(&mut machine),
        Ok(Toolchain {
            linker: Linker::Lld,
            ..BUILD_STD
        })
    );
    assert_eq!(machine.done, ["apt rust-web-src", "apt lld", "apt qemu-system-x86"]);
}

#[test]
fn without_root_nothing_is_installed_and_the_commands_are_named() {
    let mut machine = Fake {
        root: false,
        ..debian()
    };
    let error = prepare(&mut machine).unwrap_err().to_string();
    assert!(
        error.contains("sudo apt-get update && sudo apt-get install rust-web-src"),
        "{error}"
    );

    let mut machine = Fake {
        root: false,
        source: true,
        ..debian()
    };
    let error = prepare(&mut machine).unwrap_err().to_string();
    assert!(
        error.contains("sudo apt-get update && sudo apt-get install lld"),
        "{error}"
    );

    let mut machine = Fake {
        root: false,
        source: true,
        linker: Some(Linker::Lld),
        ..debian()
    };
    let error = prepare(&mut machine).unwrap_err().to_string();
    let expected = "qemu-system-x86_64 is missing\n  \
                    Debian, Ubuntu: sudo apt-get update && sudo apt-get install qemu-system-x86";
    assert_eq!(error, expected);
    assert!(machine.done.is_empty());
}

#[test]
fn each_platform_is_told_its_own_command_and_an_unknown_one_all_of_them() {
    for (platform, command) in [
        (Platform::Fedora, "sudo dnf install qemu-system-x86"),
        (Platform::Arch, "sudo pacman -S qemu-system-x86"),
        (Platform::MacOs, "brew install qemu"),
    ] {
        let mut machine = Fake {
            qemu: false,
            platform,
            ..complete()
        };
        let error = qemu(&mut machine).unwrap_err();
        assert_eq!(error.remedies.len(), 1);
        assert!(error.remedies[0].contains(command), "{error}");
        assert!(machine.done.is_empty());
    }
    let mut machine = Fake {
        qemu: false,
        platform: Platform::Other,
        ..complete()
    };
    assert_eq!(qemu(&mut machine).unwrap_err().remedies.len(), 4);
}

#[test]
fn a_missing_static_c_library_is_installed_or_named() {
    let mut machine = Fake {
        libc: false,
        ..complete()
    };
    assert_eq!(prepare(&mut machine), Ok(PREBUILT));
    assert_eq!(machine.done, ["apt libc6-dev"]);
    let mut machine = Fake {
        libc: false,
        platform: Platform::Fedora,
        ..complete()
    };
    let error = prepare(&mut machine).unwrap_err().to_string();
    assert!(error.ends_with("Fedora: sudo dnf install glibc-static"), "{error}");
}

#[test]
fn a_failing_apt_get_is_quoted() {
    let mut machine = Fake {
        qemu: false,
        network: false,
        ..complete()
    };
    let error = qemu(&mut machine).unwrap_err().to_string();
    assert!(
        error.contains("tried: apt-get install qemu-system-x86: error: no network"),
        "{error}"
    );
}

#[test]
fn a_missing_compiler_is_named_first() {
    let mut system = Fake {
        compiler: false,
        target: false,
        ..complete()
    };
    let error = prepare(&mut system).unwrap_err().to_string();
    assert!(
        error.starts_with("the Rust compiler, rustc, can't be started"),
        "{error}"
    );
    assert!(error.contains("https://rustup.rs") && system.done.is_empty(), "{error}");
}
