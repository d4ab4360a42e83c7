//! The `faultline` tool: `cargo run` starts it.

use std::process::ExitCode;

use clap::Parser;
use faultline_xtask::cli::{Cli, Command, Settings, options};
use faultline_xtask::machine::QEMU;
use faultline_xtask::recording::show;
use faultline_xtask::session::FAILED;
use faultline_xtask::setup::{CoreLibrary, KERNEL_TARGET, Linker};
use faultline_xtask::{bench, demo, executor, interrupt, lab, manual, run, setup, shell, sim, storm, top};

fn main() -> ExitCode {
    interrupt::end_with_reader();
    let cli = Cli::parse();
    if cli.settings().is_some_and(Settings::ask_for_help) {
        print!("{}", options::help());
        return ExitCode::SUCCESS;
    }
    let result = interrupt::install()
        .map_err(anyhow::Error::from)
        .and_then(|()| match &cli.command {
            Some(Command::Run(arguments)) => run::run(arguments),
            Some(Command::Demo(arguments)) => demo::run(arguments),
            Some(Command::Bench(arguments)) => bench::run(arguments),
            Some(Command::Executor(arguments)) => executor::run(arguments),
            Some(Command::Trace(arguments)) => show::run(arguments),
            Some(Command::Storm(arguments)) => storm::run(arguments),
            Some(Command::Lab(arguments)) => lab::run(arguments),
            Some(Command::Top(arguments)) => top::run(arguments),
            Some(Command::Shell(arguments)) => shell::run(arguments),
            Some(Command::Sim(arguments)) => sim::run(arguments),
            Some(Command::Setup) => set_up(),
            Some(Command::Completions(arguments)) => manual::completions(arguments),
            Some(Command::Man(arguments)) => manual::man(arguments),
            None => demo::run(&cli.demo),
        });
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // A build that Ctrl-C ended has nothing more to say.
            if let Some(signal) = interrupt::requested() {
                return ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILED));
            }
            eprintln!("faultline: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn set_up() -> anyhow::Result<u8> {
    let toolchain = setup::prepare(&mut setup::Host::new())?;
    let core = match toolchain.core {
        CoreLibrary::Prebuilt => format!("the Rust target {KERNEL_TARGET}"),
        CoreLibrary::BuildStd => format!("rust-src (from which the core library for {KERNEL_TARGET} is built)"),
    };
    let linker = match toolchain.linker {
        Linker::RustLld => "rust-lld",
        Linker::Lld => "ld.lld",
    };
    println!("everything is there: {core}, {linker}, {QEMU}");
    Ok(0)
}
