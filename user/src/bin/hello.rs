//! The smallest sample task: arguments, both outputs, the heap, floating point and the exit status.

use faultline_user::{Arguments, fail};

fn main() {
    let mut arguments = Arguments::new("hello [--exit STATUS] [WORD...]");
    let mut status = 0;
    let mut words = Vec::new();
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--exit" => status = arguments.value(),
            _ => words.push(word),
        }
    }
    println!("hello from a static Linux program");
    for (index, word) in words.iter().enumerate() {
        println!("argument {}: {word}", index + 1);
    }
    let harmonic: f64 = (1..=1000).map(|n| 1.0 / f64::from(n)).sum();
    println!("the 1000th harmonic number is {harmonic:.6}");
    if format!("{harmonic:.6}") != "7.485471" {
        fail("floating point is off");
    }
    eprintln!("and a line on standard error");
    std::process::exit(status);
}
