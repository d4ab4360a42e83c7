//! Programs that nobody ported: busybox from Debian's package, C with two C libraries, Rust's standard library. What can
//! be compared with this machine's Linux is.

use std::path::Path;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Native, Run, busybox, c_program, native_file};
use faultline_xtask::root::Root;

/// Compares a run on Faultline with one on Linux.
fn same(guest: &Guest, native: &Native) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        (guest.status(), text(&guest.stdout), text(&guest.stderr)),
        (native.status, text(&native.stdout), text(&native.stderr))
    );
}

/// Runs a program file on both, and says what came out.
fn same_as_native(file: &Path) -> String {
    let native = native_file(file, &[]);
    assert_eq!(
        native.status,
        0,
        "on Linux: {}",
        String::from_utf8_lossy(&native.stderr)
    );
    same(&Run::file(file, &[]).boot(), &native);
    String::from_utf8_lossy(&native.stdout).into_owned()
}

/// Runs `busybox sh -c COMMAND` on Faultline.
fn sh(command: &str) -> Guest {
    Run::file(&busybox(), &["sh", "-c", command]).boot()
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

#[test]
fn a_script_of_pipes_loops_jobs_and_files() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/script.sh");
    let folder = tempfile::tempdir().unwrap();
    let (script_name, folder_name) = (script.to_str().unwrap(), folder.path().to_str().unwrap());
    let native = native_file(&busybox(), &["sh", script_name, folder_name]);
    assert_eq!(
        native.status,
        42,
        "on Linux: {}",
        String::from_utf8_lossy(&native.stderr)
    );
    let mut files = Root::default();
    files.add_file("script.sh", false, std::fs::read(&script).unwrap());
    let guest = Run::file(&busybox(), &["sh", "/script.sh", "/tmp"])
        .with_files(files)
        .boot();
    same(&guest, &native);
}

#[test]
fn what_was_written_to_files_is_given_back() {
    let guest = sh("dd if=/dev/zero of=/tmp/large bs=1M count=100 2>/dev/null; ls -l /tmp/large | cut -c1-10; df /tmp");
    // The files are still there when the program ends; the account says that their frames are not lost.
    let _ = guest.account();
}

#[test]
fn a_full_machine_is_an_error_and_not_the_end() {
    let guest = Run::file(
        &busybox(),
        &[
            "sh",
            "-c",
            "dd if=/dev/zero of=/tmp/large bs=64k; rm /tmp/large; echo small > /tmp/x; cat /tmp/x",
        ],
    )
    .with_mib(64)
    .boot();
    assert_eq!(output(&guest), "small\n");
    let errors = String::from_utf8_lossy(&guest.stderr).into_owned();
    assert!(errors.contains("No space left on device"), "{errors}");
}

#[test]
fn a_list_of_files_and_of_processes() {
    let guest = sh("mkdir /tmp/d; echo 12345 > /tmp/d/f; ls -l /tmp/d; sleep 1 & ps; cat /proc/self/stat | cut -c1-3");
    let text = output(&guest);
    let file = text.lines().find(|line| line.ends_with(" f")).expect("a file");
    assert!(file.starts_with("-rw-r--r--") && file.contains(" 6 "), "{text}");
    let processes: Vec<_> = text.lines().skip_while(|line| !line.contains("PID")).skip(1).collect();
    assert!(
        processes.iter().any(|line| line.trim_start().starts_with("1 ")),
        "{text}"
    );
    assert!(processes.len() >= 3, "the shell, sleep and ps: {text}");
}

#[test]
fn the_account_of_memory_is_that_of_the_frames() {
    let guest = sh("cat /proc/meminfo");
    let text = output(&guest);
    let kib = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(kib("MemTotal:"), guest.count("frames.total") * 4);
    assert!(kib("MemFree:") + kib("Mapped:") + kib("PageTables:") <= kib("MemTotal:"));
    assert!(kib("Mapped:") > 0 && kib("PageTables:") > 0, "{text}");
}

#[test]
fn a_program_copied_to_a_file_runs() {
    assert_eq!(
        output(&sh("cp /bin/busybox /tmp/echo; chmod +x /tmp/echo; /tmp/echo copied")),
        "copied\n"
    );
}

#[test]
fn a_handler_mends_the_fault_that_called_it() {
    let printed = same_as_native(&c_program("mender", Libc::Musl));
    assert_eq!(printed.lines().count(), 1);
    assert!(printed.starts_with("mended 192 pages"), "{printed}");
    same_as_native(&c_program("mender", Libc::Gnu));
}

#[test]
fn malloc_in_four_threads() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let file = c_program("allocate", libc);
        let (native, guest) = (native_file(&file, &[]), Run::file(&file, &[]).boot());
        assert_eq!((native.status, guest.status()), (0, 0));
        // Which thread is the first to print is chance.
        let lines = |bytes: &[u8]| {
            let mut lines: Vec<_> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&guest.stdout), lines(&native.stdout));
        assert_eq!(lines(&native.stdout).len(), 4);
    }
}

#[test]
fn alarms_timers_select_and_files_of_memory() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let printed = same_as_native(&c_program("clocks", libc));
        assert!(printed.lines().count() > 20, "{printed}");
    }
}

#[test]
fn threads_with_mutexes_channels_and_panics_that_are_caught() {
    let native = faultline_tests::native("channels", &[]);
    assert_eq!(native.status, 0);
    same(&Run::new("channels", &[]).boot(), &native);
}

#[test]
fn registers_are_kept_across_faults_switches_signals_and_forks() {
    for libc in [Libc::Gnu, Libc::Musl] {
        let file = c_program("registers", libc);
        let expected = "threads: 0 lost\nsignals: 0 lost, 200 handled\nprocesses: 0 lost, child 0\n";
        assert_eq!(same_as_native(&file), expected);
        // Without AVX, and where there is no more than `fxsave`.
        let guest = Run::file(&file, &[]).on_cpu("qemu64").boot();
        assert_eq!(output(&guest), expected);
    }
}

#[test]
fn faults_after_which_the_same_thread_goes_on_save_no_registers() {
    let guest = Run::file(&c_program("registers", Libc::Gnu), &["alone"]).boot();
    assert_eq!(output(&guest), "alone: 0 lost\n");
    assert!(guest.count("faults.total") >= 2000 && guest.count("syscalls") >= 4000);
    // Loaded once, when the thread starts, and never saved: nobody else wanted them.
    assert_eq!((guest.count("fpu.saves"), guest.count("fpu.loads")), (0, 1));
}

/// More than the kernel's queue between the interrupt and the terminal holds.
#[test]
fn nothing_that_is_typed_at_once_is_lost() {
    const LINE: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678\n";
    const { assert!(LINE.len() == 80) };
    // The end of what is typed is the end of input.
    let typed: &'static str = LINE.repeat(50).leak();
    let guest = Run::file(&busybox(), &["sh", "-c", "stty -echo; echo ready; uniq -c"])
        .typing(&[("ready", typed)])
        .limited(Duration::from_secs(60))
        .boot();
    let text = String::from_utf8_lossy(&guest.stdout);
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        ["ready", "50", LINE.trim()]
    );
    assert_eq!(guest.status(), 0);
}

#[test]
fn options_of_memory_calls_and_names_that_are_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    for libc in [Libc::Gnu, Libc::Musl] {
        let file = c_program("options", libc);
        let folder = folder.path().join(format!("{libc:?}"));
        std::fs::create_dir(&folder).unwrap();
        let native = native_file(&file, &[folder.to_str().unwrap()]);
        assert_eq!(native.status, 0, "{}", String::from_utf8_lossy(&native.stderr));
        same(&Run::file(&file, &["/tmp"]).boot(), &native);
        let guest = Run::file(&file, &["everything"]).boot();
        assert_eq!(output(&guest), "mlockall: ok, 1\nmunlockall: ok, locked 0\n");
    }
}

#[test]
fn a_shell_on_a_terminal() {
    const PROMPT: &str = "/ # ";
    let guest = Run::file(&busybox(), &["sh"])
        .typing(&[
            (PROMPT, "echo wro\x7fite | tr a-z A-Z\n"),
            (PROMPT, "echo started; sleep 100\n"),
            ("\nstarted\r\n", "\x03"),
            (PROMPT, "echo \"status $?\"\n"),
            (PROMPT, "sleep 50 &\n"),
            (PROMPT, "jobs\n"),
            (PROMPT, "kill %1\n"),
            (PROMPT, "echo pausing; sleep 60\n"),
            ("\npausing\r\n", "\x1a"),
            (PROMPT, "jobs\n"),
            (PROMPT, "bg\n"),
            (PROMPT, "jobs\n"),
            (PROMPT, "fg\n"),
            ("fg\r\nsleep 60\r\n", "\x03"),
            (PROMPT, "echo \"then status $?\"\n"),
            (PROMPT, "cat &\n"),
            (
                PROMPT,
                "until grep -q ') T' /proc/$!/stat; do sleep 0.1; done; echo cat waits\n",
            ),
            (PROMPT, "fg\n"),
            ("fg\r\ncat\r\n", "to the job\n"),
            ("to the job\r\nto the job\r\n", "\x04"),
            (PROMPT, "stty tostop; (echo from behind) &\n"),
            (
                PROMPT,
                "until grep -q ') T' /proc/$!/stat; do sleep 0.1; done; echo echo waits\n",
            ),
            (PROMPT, "fg; stty -tostop\n"),
            (PROMPT, "stty -a | head -n 1\n"),
            (PROMPT, "echo ready; cat\n"),
            ("\nready\r\n", "typed line\n"),
            ("typed line\r\ntyped line\r\n", "\x04"),
            (PROMPT, "exit 5\n"),
        ])
        .limited(Duration::from_secs(120))
        .boot();
    let text = String::from_utf8_lossy(&guest.stdout).replace('\r', "");
    let says = |line: &str| assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
    println!("{text}");
    assert_eq!(guest.status(), 5);
    says("WRITE");
    says("status 130");
    let lines = |word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert!(
        lines("Running") >= 2,
        "sleep in the background, and again after Ctrl-Z and bg:\n{text}"
    );
    assert!(lines("Stopped") >= 2, "when it stops, and in the list:\n{text}");
    says("then status 130");
    says("cat waits");
    let place = |line: &str| text.find(line).unwrap_or_else(|| panic!("no {line:?} in:\n{text}"));
    assert!(
        place("\necho waits\n") < place("\nfrom behind\n"),
        "output from the background waits:\n{text}"
    );
    assert_eq!(
        lines("to the job"),
        2,
        "typed, and read by the job in the foreground:\n{text}"
    );
    says("speed 38400 baud; rows 24; columns 80; line = 0;");
    assert_eq!(
        text.matches("typed line").count(),
        2,
        "once as it is typed, once from cat:\n{text}"
    );
}
