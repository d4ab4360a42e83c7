//! `shell`: busybox as an interactive shell, with the sample tasks beside it.
//!
//! What is typed goes to the machine byte by byte: the terminal of this process is switched to raw, so that Ctrl-C and
//! the like reach the kernel's own line discipline. Only Ctrl-] stays here, and ends the machine: where a trace is
//! recorded, the kernel is asked to end every process, so that the trace has its orderly end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};

use crate::build;
use crate::cli;
use crate::config::Config;
use crate::machine::{Accel, Attached, End, InputKind};
use crate::ports::Ports;
use crate::program;
use crate::root::Root;
use crate::session::{self, Task};
use crate::typing::{Keyboard, RawTerminal, ReturnCarriage, window};
use crate::workspace;

/// Boots with the shell and returns its exit status.
///
/// # Errors
/// Fails when the tool itself couldn't do its part.
pub fn run(arguments: &cli::Shell) -> anyhow::Result<u8> {
    let busybox = busybox(arguments.busybox.as_deref())?;
    let artifacts = session::prepare()?;
    let mut root = match &arguments.root {
        Some(folder) => Root::of_folder_for(folder, arguments.options.mem)?,
        None => Root::default(),
    };
    root.add_link("bin/sh", "busybox");
    let mut tasks = vec![Task {
        path: Some("bin/busybox".to_owned()),
        name: "/bin/busybox".to_owned(),
        program: program::read(&busybox)?,
        args: Vec::new(),
    }];
    let samples = build::task_names();
    for name in &samples {
        tasks.push(Task::sample(name, &[""; 0], &artifacts)?);
    }
    let options = &arguments.options;
    let mut config = Config::new();
    config.set("mode", "run")?;
    config.set("program", "/bin/busybox")?.set("arg", "sh")?;
    for word in &arguments.arguments {
        config.add("arg", word);
    }
    for variable in ["PATH=/bin", "HOME=/", "TERM=linux", "PS1=\\w # "] {
        config.add("env", variable.as_ref());
    }
    arguments.recording.configure(&mut config)?;
    config.set("input", "terminal")?;
    if let Some((rows, columns)) = window() {
        config.set("window", format!("{rows}x{columns}"))?;
    }
    options.configure(&mut config)?;

    let hardware = options.hardware(Accel::default())?;
    let bundle = session::pack_with(&artifacts, &config, &tasks, &root, &hardware)?;
    let mut recorder = arguments.recording.start(&tasks)?;
    options.describe(Accel::default(), &mut recorder);
    let terminal = RawTerminal::of_standard_input()?;
    let mut log = arguments.recording.log();
    let limit = options.limit();
    if terminal.is_some() {
        eprint!("{}Ctrl-] ends the machine\r\n", greeting(&samples));
        log = Box::new(ReturnCarriage(log));
    }
    let ports = Ports::of_this_process(log);
    let trace = recorder.port();
    let commands = trace.as_ref().map(|port| port.commands.clone());
    let keyboard = Keyboard::new(terminal.is_some(), commands);
    let escaped = keyboard.escaped();
    let attached = Attached {
        input: Some(keyboard.input(InputKind::Keys)),
        trace,
    };
    let ended = session::boot_attached(&artifacts, &hardware, &bundle, ports, attached, limit);
    drop(terminal);
    let ended = ended?;
    recorder.finish(ended.as_ref().map(|(_, outcome)| outcome.report.as_str()).ok())?;
    let escaped = escaped.load(Ordering::Relaxed);
    match ended {
        Err(failure) if escaped && matches!(failure.outcome.end, End::Interrupted(_)) => Ok(0),
        Ok((report, _)) => {
            let programs = report.programs()?;
            let shell = programs.first().context("the kernel's report has no program")?;
            if let Some(error) = &shell.error {
                eprintln!("faultline: {}: {error}", shell.path);
            }
            if !report.frames_hold()? {
                bail!("the kernel lost frames");
            }
            Ok(if escaped { 0 } else { shell.status })
        }
        Err(failure) => {
            eprintln!("faultline: {failure}");
            Ok(failure.status())
        }
    }
}

/// Names that busybox's shell takes for commands of its own, whatever is in PATH.
const SHADOWED: [&str; 2] = ["kill", "touch"];

/// How the sample tasks are started.
fn greeting(samples: &[String]) -> String {
    let calls: Vec<_> = samples
        .iter()
        .map(|name| match SHADOWED.contains(&name.as_str()) {
            true => format!("/bin/{name}"),
            false => name.clone(),
        })
        .collect();
    format!("sample tasks: {}\r\n", calls.join(" "))
}

/// A static busybox: the one that was named, one that is installed, or Debian's, fetched into the target directory.
///
/// # Errors
/// Says what is wrong with the one that was named, or that there is none and why none could be fetched.
pub fn busybox(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(file) = named {
        program::read(file)?;
        return Ok(file.to_owned());
    }
    let folder = workspace::target_dir().join("busybox");
    let fetched = folder.join("busybox");
    let installed = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let usable = |file: &&PathBuf| program::read(file).is_ok();
    if let Some(found) = installed.iter().chain([&fetched]).find(usable) {
        return Ok(found.clone());
    }
    fetch_busybox(&folder, ["apt-get", "dpkg"].map(Command::new))
        .context("no static busybox: apt-get install busybox-static (Debian, Ubuntu), or name one by --busybox FILE")?;
    program::read(&fetched)?;
    Ok(fetched)
}

/// Downloads Debian's package and unpacks it to `folder`/busybox; nothing is installed. The file is there whole or not at
/// all, even if several do this at once.
fn fetch_busybox(folder: &Path, [mut apt_get, mut dpkg]: [Command; 2]) -> anyhow::Result<()> {
    let unwritable = || format!("{} can't be written", folder.display());
    fs::create_dir_all(folder).with_context(unwritable)?;
    let work = tempfile::tempdir_in(folder).with_context(unwritable)?;
    eprintln!("faultline: fetching busybox-static with apt-get");
    succeed(apt_get.args(["-q", "download", "busybox-static"]).current_dir(&work))?;
    let package = fs::read_dir(&work)?
        .flatten()
        .map(|file| file.path())
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    succeed(dpkg.arg("-x").arg(package).arg(work.path()))?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| work.path().join(place));
    let found = places.iter().find(|place| place.is_file());
    let found = found.context("the package has no busybox")?;
    fs::rename(found, folder.join("busybox")).with_context(unwritable)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} can't be started"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fetches with tools that do what the scripts say, into a folder that is not there yet; what is in it then, and how it
    /// went.
    fn fetch(apt_get: &str, dpkg: &str) -> (Vec<String>, Result<String, String>) {
        let tools = [apt_get, dpkg].map(|script| {
            let mut tool = Command::new("/bin/sh");
            tool.args(["-c", script, "tool"]);
            tool
        });
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("target/busybox");
        let result = fetch_busybox(&to, tools);
        let names = fs::read_dir(&to).unwrap().flatten();
        let names = names.map(|file| file.file_name().into_string().unwrap()).collect();
        let result = result.map(|()| fs::read_to_string(to.join("busybox")).unwrap());
        (names, result.map_err(|error| format!("{error:#}")))
    }

    const DOWNLOAD: &str = r#"[ "$*" = "-q download busybox-static" ] && echo content > busybox-static_1_amd64.deb"#;

    #[test]
    fn the_package_is_unpacked_and_nothing_else_is_left() {
        for place in ["bin", "usr/bin"] {
            let unpack = format!(r#"[ "$1" = -x ] && mkdir -p "$3/{place}" && cp "$2" "$3/{place}/busybox""#);
            let (names, result) = fetch(DOWNLOAD, &unpack);
            assert_eq!(
                (names, result),
                (vec!["busybox".to_owned()], Ok("content\n".to_owned()))
            );
        }
    }

    #[test]
    fn what_went_wrong_is_told_in_the_words_of_the_tool() {
        let cases = [
            ("echo 'E: no network' >&2; exit 100", "true", "E: no network"),
            ("true", "true", "apt-get downloaded no package"),
            (DOWNLOAD, "echo 'not a package' >&2; exit 2", "not a package"),
            (DOWNLOAD, "true", "the package has no busybox"),
        ];
        for (apt_get, dpkg, reason) in cases {
            let (names, result) = fetch(apt_get, dpkg);
            let message = result.unwrap_err();
            assert!(message.contains(reason), "{message}");
            assert_eq!(names, Vec::<String>::new(), "{reason}");
        }
        let folder = tempfile::tempdir().unwrap();
        let none = folder.path().join("apt-get");
        let error = fetch_busybox(folder.path(), [&none, &none].map(Command::new)).unwrap_err();
        assert!(error.to_string().contains("can't be started"), "{error:#}");
    }
}
