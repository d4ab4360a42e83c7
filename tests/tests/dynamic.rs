//! Dynamically linked programs: one of ours that looks at everything that its dynamic linker was told, and this machine's own,
//! with their libraries in the root file system. What they print is what they print on Linux.

use std::path::Path;

use faultline_tests::{Run, dynamic_program, native_file, root_with};

/// A library that `linked` loads by itself.
const LIBM: &str = "/lib/x86_64-linux-gnu/libm.so.6";

/// Runs a program of this machine on both kernels.
fn same_on_both(file: &Path, others: &[&str], args: &[&str]) {
    let linux = native_file(file, args);
    let path = file.to_str().expect("the path is text");
    let guest = Run::within(root_with(file, others), path, args).boot();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = guest.status();
    assert_eq!(text(&guest.stdout), text(&linux.stdout), "{}", text(&guest.stderr));
    assert_eq!((text(&guest.stderr), status), (text(&linux.stderr), linux.status));
}

#[test]
fn a_dynamic_linker_finds_the_program_and_its_libraries() {
    // It also executes copies of itself whose dynamic linker is missing, or is none: those errors are compared too.
    same_on_both(&dynamic_program("linked"), &[LIBM], &[]);
}

#[test]
fn places_by_chance_suit_a_dynamic_linker() {
    let file = dynamic_program("linked");
    let expected = native_file(&file, &[]);
    for seed in [1, 2, 3] {
        let guest = Run::within(root_with(&file, &[LIBM]), file.to_str().unwrap(), &[])
            .set("seed", seed)
            .boot();
        assert_eq!(guest.status(), expected.status);
        assert_eq!(
            String::from_utf8_lossy(&guest.stdout),
            String::from_utf8_lossy(&expected.stdout)
        );
    }
}

/// `ls` and its libraries.
const LS: &[&str] = &[
    "/bin/ls",
    "/lib/x86_64-linux-gnu/libselinux.so.1",
    "/lib/x86_64-linux-gnu/libpcre2-8.so.0",
];

#[test]
fn bash_runs() {
    let script = "set -e; declare -A t=([one]=1 [two]=2); f() { local x=$1; ((x > 1)) && f $((x - 1)) || :; echo -n \"$x \"; }; \
        f 5; echo ${t[two]} ${BASH_VERSINFO[0]}; x=$(printf '%05d' 42); echo $x | { read y; echo \"read $y\"; }; \
        (exit 3) || echo \"status $?\"; [[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo ${BASH_REMATCH[2]}; \
        for w in {a..c}; do echo -n $w; done; echo; trap 'echo trapped' USR1; kill -USR1 $$; /bin/ls -l /nothing; exit 4";
    same_on_both(Path::new("/bin/bash"), LS, &["-c", script]);
}

#[test]
fn perl_runs() {
    let script = "use strict; my %h = map { $_ => $_ ** 2 } 1 .. 1000; my $s = 0; $s += $h{$_} for keys %h; print \"$s\\n\"; \
        my $t = join ',', map { sprintf '%03x', $_ } sort { $b <=> $a } 1 .. 20; $t =~ s/0(\\w)/<$1>/g; print \"$t\\n\"; \
        my $pid = open(my $from, '-|') // die; if (!$pid) { print \"from the child\\n\"; exit 3; } print while <$from>; \
        close $from; print $? >> 8, \"\\n\"; local $SIG{ALRM} = sub { die \"woken\\n\" }; eval { alarm 1; select undef, undef, undef, 9; }; \
        print $@; exit 6";
    same_on_both(
        Path::new("/usr/bin/perl"),
        &["/usr/lib/x86_64-linux-gnu/perl-base"],
        &["-e", script],
    );
}
