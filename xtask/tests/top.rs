//! `top` as a person uses it: on a terminal, by its keys, with a kernel that runs underneath.

mod terminal;

use std::process::{Command, Stdio};

use terminal::Terminal;

#[test]
fn a_running_kernel_is_watched_and_a_task_killed() {
    let mut terminal = Terminal::open(&["top", "--timeout", "300", "kill", "--children", "1000000000"]);
    // The program's first task waits for children, and children fault.
    terminal.wait("the first task", |screen| {
        let first = screen
            .lines()
            .find(|line| line.contains(" kill ") && line.starts_with("│1 "));
        first.is_some_and(|line| line.contains("call") || line.contains("ready"))
    });
    let screen = terminal.wait("faults", |screen| {
        screen.contains("demand-zero")
            && screen
                .lines()
                .any(|line| line.contains("kill") && line.contains("page 0x"))
    });
    assert!(screen.contains("in flight") && screen.contains("zeroed") && screen.contains("not needed"));

    terminal.press("s");
    terminal.wait_for("tasks by faults/s");
    terminal.press("/no such task\r");
    terminal.wait_for(" 0 tasks by faults/s, with \"no such task\"");
    terminal.press("/\x1b");
    terminal.wait("all tasks", |screen| {
        !screen.contains("with \"") && !screen.contains(" 0 tasks")
    });
    terminal.press("p");
    terminal.wait_for("paused");
    terminal.press("p");
    terminal.wait("the view going on", |screen| !screen.contains("paused"));

    // By number again, so that the first row is the program; its end is the machine's.
    terminal.press("ssss");
    terminal.wait_for("tasks by task");
    terminal.press("\x1b[B");
    terminal.press("k");
    terminal.wait_for("killed process 1 kill");
    terminal.wait_for("the machine has ended");
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn leaving_ends_a_machine_that_runs() {
    let mut terminal = Terminal::open(&["top", "--timeout", "300", "kill", "--children", "1000000000"]);
    terminal.wait_for("demand-zero");
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn without_a_terminal_it_refuses_politely() {
    let output = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .arg("top")
        .stdin(Stdio::null())
        .output()
        .expect("the tool starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("top draws on a terminal") && message.contains("--report"),
        "{message}"
    );
}
