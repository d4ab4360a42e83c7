//! `shell` as a person uses it: on a terminal, with sample tasks started while a trace goes to a file.

mod terminal;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use faultline_xtask::recording::Recording;
use tempfile::TempDir;
use terminal::Terminal;

const PROMPT: &str = "/ # ";

/// Waits until the screen has this line.
fn line(terminal: &mut Terminal, wanted: &str) {
    terminal.wait(wanted, |screen| screen.lines().any(|line| line == wanted));
}

/// Waits until cat runs in the foreground: it repeats what is typed when a line ends. Until then keys are the shell's.
fn in_cat(terminal: &mut Terminal) {
    line(terminal, "ready");
    terminal.press("typed\r");
    terminal.wait("what cat repeats", |screen| {
        screen.lines().filter(|line| *line == "typed").count() == 2
    });
}

#[test]
fn sample_tasks_run_in_the_shell_while_a_trace_goes_to_a_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("run.fltrace");
    let mut terminal = Terminal::open(&["shell", "--trace", file.to_str().unwrap()]);
    let screen = terminal.wait_for(PROMPT);
    let named = screen.lines().find(|line| line.starts_with("sample tasks: "));
    let samples: Vec<_> = named.expect("they are named").split_whitespace().skip(2).collect();
    assert!(
        samples.contains(&"/bin/touch") && samples.contains(&"cow"),
        "{samples:?}"
    );
    assert!(screen.contains("Ctrl-] ends the machine"), "{screen}");

    // As they are named, they are what the shell runs: no command of its own has such a name.
    let by_name: Vec<_> = samples.iter().filter(|name| !name.starts_with('/')).copied().collect();
    terminal.press(&format!("busybox --list | grep -cxE '{}'\r", by_name.join("|")));
    line(&mut terminal, "0");
    terminal.press(&format!(
        "for t in {}; do command -v $t; done | wc -l\r",
        samples.join(" ")
    ));
    line(&mut terminal, &samples.len().to_string());
    // The window is as large as this terminal, and programs may change it.
    terminal.press("stty size; stty rows 33 cols 99; stty size\r");
    line(&mut terminal, "40 130");
    line(&mut terminal, "33 99");
    terminal.press("/bin/touch --pages 3 sequential && cow --pages 6 | tail -n 1; echo \"status $?\"\r");
    line(&mut terminal, "status 0");
    // A program in the foreground that never ends is interrupted, and the shell is still there.
    terminal.press("/bin/kill --children 1000000000 & echo ready; cat\r");
    in_cat(&mut terminal);
    terminal.press("\x03");
    terminal.press("echo \"then $?\"\r");
    line(&mut terminal, "then 130");
    terminal.press("kill -9 %1; exit 5\r");
    assert_eq!(terminal.end(), 5);

    let recording = Recording::read(fs::File::open(&file).unwrap()).unwrap();
    assert!(recording.ended && recording.damage.is_none(), "{}", recording.damage);
    // The faults of the tasks have the names of their own functions and variables.
    for name in ["touch: ", "cow: ", "kill: "] {
        assert!(recording.names.values().any(|found| found.starts_with(name)), "{name}");
    }
}

#[test]
fn the_key_that_ends_the_machine_leaves_a_whole_trace() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("run.fltrace");
    let mut terminal = Terminal::open(&["shell", "--trace", file.to_str().unwrap()]);
    terminal.wait_for(PROMPT);
    terminal.press("/bin/touch --pages 3 sequential && echo \"status $?\"\r");
    line(&mut terminal, "status 0");
    terminal.press("\x1d");
    assert_eq!(terminal.end(), 0);
    let recording = Recording::read(fs::File::open(&file).unwrap()).unwrap();
    assert!(recording.ended && recording.damage.is_none(), "{}", recording.damage);
}

#[test]
fn the_key_ends_a_machine_without_a_trace_too() {
    let mut terminal = Terminal::open(&["shell"]);
    terminal.wait_for(PROMPT);
    terminal.press("\x1d");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_trace_as_text_does_not_disturb_the_terminal() {
    let mut terminal = Terminal::open(&["shell", "--trace", "text", "--trace-categories", "signal"]);
    terminal.wait_for(PROMPT);
    terminal.press("echo ready; cat\r");
    in_cat(&mut terminal);
    terminal.press("\x03");
    // Each line of the log starts at the left edge, with the time, although the terminal is in raw mode.
    terminal.wait("the signals", |screen| {
        let places: Vec<_> = screen.lines().filter_map(|line| line.find(" signal.")).collect();
        places.len() > 1 && places.iter().all(|&place| place < 40)
    });
    terminal.press("exit\r");
    assert_eq!(terminal.end(), 130);
}

#[test]
fn without_a_terminal_commands_come_from_a_pipe() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .arg("shell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello | head -n 1\nexit 4\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("hello"), "{text}");
}

#[test]
fn a_file_that_is_no_busybox_is_refused_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("busybox");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["shell", "--busybox", file.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    assert_eq!(output.status.code(), Some(125));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        message,
        format!("faultline: {}: not an ELF file (it is a script)\n", file.display())
    );
}
