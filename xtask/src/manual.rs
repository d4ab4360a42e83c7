//! `completions` and `man`: what other programs are told of the command line, made from its definition.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::{self, Cli};

/// The name of the tool where it is installed.
const NAME: &str = "faultline";

fn command() -> Command {
    Cli::command().bin_name(NAME)
}

/// Prints completions.
///
/// # Errors
/// Passes on what standard output reports.
pub fn completions(arguments: &cli::Completions) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), NAME, &mut text);
    io::stdout().write_all(&text)?;
    Ok(0)
}

/// Prints the manual page, or writes all of them.
///
/// # Errors
/// Names the file that can't be written.
pub fn man(arguments: &cli::Man) -> anyhow::Result<u8> {
    let Some(folder) = &arguments.folder else {
        io::stdout().write_all(&page(command())?)?;
        return Ok(0);
    };
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    write(folder, NAME, command())?;
    for one in command().get_subcommands() {
        let name = format!("{NAME}-{}", one.get_name());
        // A page has the name of its command, which takes a text that lives as long as the program.
        let title: &'static str = String::leak(name.clone());
        write(
            folder,
            &name,
            one.clone().name(title).bin_name(name.replacen('-', " ", 1)),
        )?;
    }
    Ok(0)
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(text)
}

fn write(folder: &Path, name: &str, command: Command) -> anyhow::Result<()> {
    let file = folder.join(format!("{name}.1"));
    let text = page(command)?;
    fs::write(&file, text).with_context(|| format!("{} can't be written", file.display()))
}
