//! What must not compile.
#![cfg(all(not(loom), not(miri)))]

#[test]
fn misuse_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
