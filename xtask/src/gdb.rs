//! `run --gdb`: QEMU waits for gdb, and gdb gets what it has to know.
//!
//! Everything goes into one folder, `target/gdb/PORT`: the program as it is packed, and `init.gdb`, which loads the
//! kernel's symbols, those of the program where the kernel will put it, and `xtask/src/gdb/faultline.py`, and then
//! connects. So the line that a person types is short, and the same after a restart.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::str::FromStr;

use anyhow::{Context, bail};
use object::{Object, ObjectKind};

use crate::build::Artifacts;
use crate::session::Task;
use crate::workspace;

/// Where the kernel puts a position-independent program if `--seed` is 0.
const POSITION_INDEPENDENT_BASE: u64 = 0x5555_5555_4000;

/// Commands and printers for gdb.
const SCRIPT: &str = "xtask/src/gdb/faultline.py";

/// Debuggers, the one that knows most of Rust first.
const DEBUGGERS: [&str; 2] = ["rust-gdb", "gdb"];

/// What `--gdb` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debugger {
    /// A person starts gdb elsewhere; QEMU listens on this port, or on one that is free if it is 0.
    Port(u16),
    /// The tool starts gdb in its own terminal.
    Run,
}

impl FromStr for Debugger {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "run" => Ok(Self::Run),
            _ => text
                .parse()
                .map(Self::Port)
                .map_err(|_| "neither a port (0 to 65535) nor `run`"),
        }
    }
}

/// What waits for gdb.
#[derive(Debug)]
pub struct Waiting {
    /// The port.
    pub port: u16,
    init: PathBuf,
}

/// Writes what gdb needs for a run of `task`, whose places are moved if `seed` is not 0.
///
/// # Errors
/// Names what can't be written, or says that a port is taken.
pub fn prepare(debugger: Debugger, artifacts: &Artifacts, task: &Task, seed: u64) -> anyhow::Result<Waiting> {
    let wanted = match debugger {
        Debugger::Port(port) => port,
        Debugger::Run => 0,
    };
    // The port is free again when the listener goes, and QEMU takes it.
    let port = TcpListener::bind(("127.0.0.1", wanted))
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("port {wanted} can't be had for gdb; --gdb=0 takes one that is free"))?
        .port();
    let folder = workspace::target_dir().join("gdb").join(port.to_string());
    let unwritable = || format!("{} can't be written", folder.display());
    fs::create_dir_all(&folder).with_context(unwritable)?;
    let name = task.name.rsplit('/').next().unwrap_or("program");
    let program = folder.join(name);
    fs::write(&program, &task.program).with_context(unwritable)?;
    let init = folder.join("init.gdb");
    let text = commands(&artifacts.kernel, &program, &task.program, port, seed);
    fs::write(&init, text).with_context(unwritable)?;
    Ok(Waiting { port, init })
}

/// What gdb does first.
fn commands(kernel: &Path, program: &Path, bytes: &[u8], port: u16, seed: u64) -> String {
    let mut text = String::from("set confirm off\nset pagination off\nset print asm-demangle on\nset language rust\n");
    let _ = writeln!(text, "file {}", quoted(kernel));
    let (base, entry) = match object::File::parse(bytes) {
        Ok(file) if file.kind() == ObjectKind::Dynamic => (POSITION_INDEPENDENT_BASE, file.entry()),
        Ok(file) => (0, file.entry()),
        Err(_) => (0, 0),
    };
    if base != 0 && seed != 0 {
        text += "echo the program is moved by --seed: its symbols are loaded for --seed 0 only\\n\n";
    } else {
        let _ = writeln!(text, "add-symbol-file {} -o {base:#x}", quoted(program));
        let _ = writeln!(text, "set $program_entry = {:#x}", base + entry);
    }
    // This command takes the rest of the line as it stands.
    let _ = writeln!(text, "source {}", workspace::root().join(SCRIPT).display());
    let _ = writeln!(text, "target remote 127.0.0.1:{port}");
    text
}

/// A path as gdb reads it in a command.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Waiting {
    /// The line that a person types.
    #[must_use]
    pub fn line(&self) -> String {
        format!("gdb -q -x {}", self.init.display())
    }

    /// Starts a debugger in this terminal. Ctrl-C is the debugger's until it ends.
    ///
    /// # Errors
    /// Says that there is none.
    pub fn start(&self) -> anyhow::Result<Debugging> {
        for name in DEBUGGERS {
            match Command::new(name).arg("-q").arg("-x").arg(&self.init).spawn() {
                Ok(child) => {
                    // SAFETY: ignoring a signal is a valid action, and the tool's own handler is put back below.
                    let before = unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
                    return Ok(Debugging { child, before });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("{name} can't be started")),
            }
        }
        bail!("no gdb is installed (Debian, Ubuntu: sudo apt-get install gdb); --gdb=PORT waits for one elsewhere")
    }
}

/// A debugger that runs; it is collected when the value goes.
#[derive(Debug)]
pub struct Debugging {
    child: Child,
    before: libc::sighandler_t,
}

impl Drop for Debugging {
    fn drop(&mut self) {
        // The machine has ended, and the debugger says so: a person reads that and leaves.
        let _ = self.child.wait();
        // SAFETY: the action is the one that was there.
        unsafe { libc::signal(libc::SIGINT, self.before) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_the_word_is_taken() {
        assert_eq!("1234".parse(), Ok(Debugger::Port(1234)));
        assert_eq!("run".parse(), Ok(Debugger::Run));
        assert!("hello".parse::<Debugger>().is_err() && "70000".parse::<Debugger>().is_err());
    }

    #[test]
    fn a_position_independent_program_is_looked_for_where_the_kernel_puts_it() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let text = commands(Path::new("/k"), Path::new("/a \"b"), &own, 7, 0);
        assert!(
            text.contains("add-symbol-file \"/a \\\"b\" -o 0x555555554000"),
            "{text}"
        );
        assert!(text.ends_with("target remote 127.0.0.1:7\n"), "{text}");
        let moved = commands(Path::new("/k"), Path::new("/a"), &own, 7, 1);
        assert!(!moved.contains("add-symbol-file"), "{moved}");
    }
}
