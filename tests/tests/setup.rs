//! The two ways to a core library for the kernel, both for real: every other test uses the one that set-up chooses, this
//! one builds it from the standard library's source.

use faultline_tests::Run;
use faultline_xtask::build;
use faultline_xtask::setup::{self, CoreLibrary, Host, System, Toolchain};

#[test]
fn a_kernel_with_its_core_library_built_from_source_boots() {
    if !Host::new().has_source() {
        eprintln!("skipped: this toolchain has no rust-src");
        return;
    }
    let linker = setup::linker(&mut Host::new()).unwrap_or_else(|missing| panic!("{missing}"));
    let toolchain = Toolchain {
        core: CoreLibrary::BuildStd,
        linker,
    };
    let artifacts = build::all(toolchain).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(Run::new("hello", &[]).with(&artifacts).boot().status(), 0);
}
