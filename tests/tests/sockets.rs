//! Sockets, compared with this machine's Linux.

use std::path::Path;

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
