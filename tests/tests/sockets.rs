//! Sockets, compared with this machine's Linux.

use std::path::Path;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, busybox, c_program, native_file, root_with};

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    String::from_utf8_lossy(&guest.stdout).into_owned()
}

/// Runs a program file on Faultline, instructions counted, and on Linux; the outputs are the same, line by line.
fn same_as_native(file: &Path) {
    let native = native_file(file, &[]);
    assert_eq!(
        native.status,
        0,
        "on Linux: {}",
        String::from_utf8_lossy(&native.stderr)
    );
    let linux = String::from_utf8_lossy(&native.stdout).into_owned();
    let ours = output(&Run::file(file, &[]).counted().boot());
    for (ours, linux) in ours.lines().zip(linux.lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(ours, linux);
}

#[test]
fn sockets_of_one_machine_are_as_on_linux() {
    same_as_native(&c_program("sockets", Libc::Gnu));
}

#[test]
fn tcp_and_udp_inside_the_machine_are_as_on_linux() {
    same_as_native(&c_program("networks", Libc::Gnu));
}

/// Makes something large out of sockets, counted; no poll was long, and everything is given back at the end.
fn large(kind: &str) -> String {
    const LONGEST: Duration = Duration::from_millis(2);
    let program = c_program("socketload", Libc::Gnu);
    let run = Run::file(&program, &[kind]).with_mib(64).set("slice", 1);
    let guest = run.measure_polls().boot();
    let printed = output(&guest);
    let (longest, task) = guest.longest_poll();
    assert!(longest <= LONGEST, "{kind}: a poll of {longest:?} by {task}\n{printed}");
    printed
}

#[test]
fn sockets_that_nobody_reads_fill_a_share_of_memory_and_no_more() {
    let printed = large("hog");
    assert!(
        printed.contains("full: Cannot allocate memory\nafterwards: 5\n"),
        "{printed}"
    );
}

#[test]
fn descriptors_on_their_way_are_dropped_one_by_one() {
    assert_eq!(large("chain"), "1000 in a chain: 10\n");
    assert_eq!(large("circle"), "400 in a circle: 10\n");
    assert_eq!(
        large("many"),
        "sent 16, Too many references: cannot splice\nall open again: 16\n"
    );
}

#[test]
fn connections_that_nobody_accepts_are_given_up() {
    assert_eq!(large("backlog"), "1000 wait, 1000 reset\n");
}

/// Debian's redis, over TCP and over a path. Its server and its checker are one program, which looks at its name.
#[test]
fn redis_answers_inside_the_machine() {
    const SERVER: &str = "/usr/bin/redis-check-rdb";
    const SCRIPT: &str = "redis-server --save '' --unixsocket /tmp/redis.sock --port 6379 >/tmp/log 2>&1 & \
        until redis-cli ping >/tmp/answer 2>&1 && grep -q PONG /tmp/answer; do sleep 0.1; done; \
        redis-cli set key value; redis-cli -s /tmp/redis.sock get key; redis-cli incr counter; \
        redis-cli -s /tmp/redis.sock eval \"return redis.call('get', KEYS[1])\" 1 key; \
        redis-benchmark --csv -n 1000 -c 20 -r 100 -t set,get,lpush >/tmp/rates; cut -d, -f1 /tmp/rates; \
        redis-cli dbsize; redis-cli shutdown nosave; wait; tail -n 1 /tmp/log | cut -d' ' -f7-";
    assert!(
        Path::new(SERVER).is_file(),
        "this test needs redis: apt-get install redis-tools"
    );
    let others = ["/usr/bin/redis-cli", "/usr/bin/redis-benchmark"];
    let mut root = root_with(Path::new(SERVER), &others);
    root.add_link("usr/bin/redis-server", SERVER);
    root.add_file(
        "bin/busybox",
        true,
        std::fs::read(busybox()).expect("busybox can be read"),
    );
    for applet in ["sh", "grep", "sleep", "cut", "tail"] {
        root.add_link(&format!("bin/{applet}"), "busybox");
    }
    let guest = Run::within(root, "/bin/sh", &["-c", SCRIPT]).with_mib(256).boot();
    let printed = output(&guest);
    let lines: Vec<_> = printed.lines().collect();
    let expected = [
        "OK",
        "value",
        "1",
        "value",
        "\"test\"",
        "\"SET\"",
        "\"GET\"",
        "\"LPUSH\"",
    ];
    assert_eq!(lines[..expected.len()], expected, "{printed}");
    let keys: u32 = lines[expected.len()].parse().expect("a number of keys");
    assert!((50..=103).contains(&keys), "{keys} keys");
    assert!(
        printed.ends_with("Redis is now ready to exit, bye bye...\n"),
        "{printed}"
    );
}
