//! Every sample task on this machine's Linux and on Faultline: the same file, the same outputs, the same end.

use faultline_tests::{Guest, Run, native};

/// Compares a run on Faultline with one on Linux that ends with `status`.
fn same_as_native(run: Run, task: &str, args: &[&str], status: u8) -> Guest {
    let expected = native(task, args);
    assert_eq!(
        expected.status,
        status,
        "on Linux: {}",
        String::from_utf8_lossy(&expected.stderr)
    );
    let guest = run.boot();
    assert_eq!(
        (
            guest.status(),
            String::from_utf8_lossy(&guest.stdout),
            String::from_utf8_lossy(&guest.stderr)
        ),
        (
            status,
            String::from_utf8_lossy(&expected.stdout),
            String::from_utf8_lossy(&expected.stderr)
        )
    );
    guest
}

macro_rules! differential {
    ($($test:ident: $task:literal $args:expr => $status:expr;)*) => {$(
        #[test]
        fn $test() {
            let args: &[&str] = &$args;
            let _ = same_as_native(Run::new($task, args), $task, args, $status);
        }
    )*};
}

const SIGSEGV: u8 = 128 + 11;

differential! {
    hello: "hello" [] => 0;
    hello_with_arguments_and_a_status: "hello" ["one", "two words", "", "--exit", "42"] => 42;
    touch_64_mib: "touch" [] => 0;
    touch_random_by_another_seed: "touch" ["--mib", "4", "--seed", "99", "random"] => 0;
    touch_with_a_wrong_argument: "touch" ["--sideways"] => 2;
    cow: "cow" [] => 0;
    heap: "heap" [] => 0;
    punch: "punch" [] => 0;
    stack: "stack" [] => 0;
    stack_past_its_guard: "stack" ["--kib", "64", "--past-guard"] => SIGSEGV;
    wild: "wild" [] => 0;
    wild_null: "wild" ["null"] => SIGSEGV;
    wild_kernel: "wild" ["kernel"] => SIGSEGV;
    wild_non_canonical: "wild" ["non-canonical"] => SIGSEGV;
    wild_write_text: "wild" ["write-text"] => SIGSEGV;
    wild_execute_data: "wild" ["execute-data"] => SIGSEGV;
    wild_jump_non_canonical: "wild" ["jump-non-canonical"] => SIGSEGV;
    threads: "threads" [] => 0;
    many_threads: "threads" ["--threads", "32", "--pages", "8"] => 0;
    kill: "kill" [] => 0;
    wait_without_anything_to_wait_for: "wait" [] => 0;
}

#[test]
fn every_task_with_faults_served_inline() {
    for (task, args) in [
        ("touch", &["--mib", "4"] as &[_]),
        ("cow", &[]),
        ("punch", &[]),
        ("threads", &[]),
    ] {
        let _ = same_as_native(Run::new(task, args).inline(), task, args, 0);
    }
}

#[test]
fn without_a_pool_of_zeroed_frames() {
    let args = ["--mib", "4"];
    let _ = same_as_native(Run::new("touch", &args).set("zero_pool", "off"), "touch", &args, 0);
}

#[test]
fn instructions_are_counted_and_runs_repeat_exactly() {
    let args = ["--mib", "4", "sequential"];
    let runs = [(); 2].map(|()| same_as_native(Run::new("touch", &args).counted(), "touch", &args, 0));
    let [first, second] = runs.map(|guest| guest.report);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn on_a_processor_without_smap_and_its_kind() {
    let _ = same_as_native(Run::new("cow", &[]).on_cpu("qemu64"), "cow", &[], 0);
}

#[test]
fn on_a_small_machine() {
    let args = ["--mib", "4"];
    let _ = same_as_native(Run::new("touch", &args).with_mib(48), "touch", &args, 0);
}

#[test]
fn several_tasks_at_once() {
    let run = Run::new("touch", &["--mib", "4"])
        .and("cow", &[])
        .and("threads", &[])
        .and("hello", &["--exit", "3"]);
    assert_eq!(run.boot().statuses(), [0, 0, 0, 3]);
}

#[test]
fn an_idle_thread_costs_at_most_two_kib_of_kernel_memory() {
    let guest = Run::new("hello", &[]).boot();
    assert_eq!(guest.status(), 0);
    let bytes = guest.count("thread.bytes");
    assert!((1..=2048).contains(&bytes), "{bytes} bytes");
}

#[test]
fn a_first_write_through_the_queue_takes_at_most_1400_instructions() {
    let guest = Run::new("touch", &["--mib", "8"])
        .counted()
        .set("zero_pool", "off")
        .boot();
    assert_eq!(guest.status(), 0);
    let (faults, each) = (
        guest.count("faults.demand-zero"),
        guest.count("faults.demand-zero.tsc_each"),
    );
    assert!(faults > 6000, "{faults} faults");
    // From the trap to the resumed thread, zeroing included, on the mean: a count, so it is the same in every run.
    assert!((1..=1400).contains(&each), "{each} instructions");
}
