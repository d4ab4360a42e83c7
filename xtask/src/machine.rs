//! One run of QEMU: its command line, its serial ports and its end.
//!
//! Guarantees:
//!
//! - **Bytes.** The program's standard output and error arrive byte for byte, as they come: on virtio serial ports, or on
//!   COM2 and COM3 where the machine is to have none.
//! - **Litter.** QEMU inherits the bundle as a file without a name and each port as one end of a socket pair: nothing is
//!   created that would have to be deleted.
//! - **End.** QEMU ends at the latest at the time limit, at Ctrl-C, when the caller's thread panics, or when the
//!   caller's process dies. It is killed by its own process id and collected before [`run`] returns.
//! - **Verdict.** Only the kernel's own words through the debug-exit port count as an orderly end. A reset of the
//!   machine ends QEMU with status 0, and counts as a failure of the kernel.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use command_fds::{CommandFdExt, FdMapping};

use crate::disks::{Content, Disk};
use crate::interrupt;
use crate::ports::{Carried, Lines, Ports, Shared, TracePort, carry};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The file descriptor under which QEMU inherits the bundle; the four serial ports follow, the virtio serial ports, and the
/// disks.
const BUNDLE_FD: RawFd = 10;

/// Bytes that are on their way from a virtio serial port at most, where the system allows so many: what a program writes at
/// once should not stop it.
static ON_THE_WAY: libc::c_int = 1 << 20;

/// How often the waiting thread looks for Ctrl-C.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// How much of the kernel log is kept for the report of a failure.
const LOG_TAIL: usize = 1 << 20;

/// How QEMU executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// Translated to host code; the guest's clock follows the host's.
    #[default]
    Tcg,
    /// Translated, and counted: one tick of the time-stamp counter is one guest instruction, and runs repeat exactly,
    /// from the same date on.
    Icount,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Icount => "icount",
        })
    }
}

/// The firmware that starts the boot stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// The minimal one: boots in a twentieth of a second.
    #[default]
    Qboot,
    /// QEMU's default.
    Seabios,
}

/// What the virtual machine is made of.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Memory in MiB.
    pub memory: u64,
    /// How many processors.
    pub cpus: u8,
    /// Instruction execution.
    pub accel: Accel,
    /// Firmware.
    pub firmware: Firmware,
    /// QEMU's name of the processor model.
    pub cpu: String,
    /// The command line for a kernel that takes one, such as Linux.
    pub command_line: Option<String>,
    /// Where QEMU writes the address of every instruction that it executes.
    pub instructions: Option<PathBuf>,
    /// Whether there are virtio serial ports for what programs write, a hundred times as fast as COM2 and COM3.
    pub fast_output: bool,
    /// The TCP port of this machine on which QEMU waits for gdb before its first instruction.
    pub gdb: Option<u16>,
    /// Its disks, in the order of their names.
    pub disks: Vec<Disk>,
    /// More arguments for QEMU.
    pub more: Vec<OsString>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            memory: 512,
            cpus: 1,
            accel: Accel::default(),
            firmware: Firmware::default(),
            cpu: "max".to_owned(),
            command_line: None,
            instructions: None,
            fast_output: true,
            gdb: None,
            disks: Vec::new(),
            more: Vec::new(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel ran to its orderly end.
    Orderly,
    /// The kernel panicked or gave up.
    KernelFailed,
    /// The boot stage couldn't start the kernel.
    BootFailed,
    /// The machine reset itself: a triple fault, or something as bad.
    Reset,
    /// QEMU ended in another way.
    Qemu(ExitStatus),
    /// The time limit.
    TimedOut(Duration),
    /// Ctrl-C or another signal asked for it.
    Interrupted(i32),
    /// What came from the machine can't be kept; [`Outcome::unwritten`] says what and why.
    Unwritten,
}

impl End {
    /// The kernel's half of the convention: the value written to the debug-exit port, doubled plus one.
    fn from_status(status: ExitStatus) -> Self {
        match status.code() {
            Some(33) => Self::Orderly,
            Some(35) => Self::KernelFailed,
            Some(37) => Self::BootFailed,
            Some(0) => Self::Reset,
            _ => Self::Qemu(status),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orderly => write!(f, "the kernel ran to its end"),
            Self::KernelFailed => write!(f, "the kernel failed"),
            Self::BootFailed => write!(f, "the boot stage couldn't start the kernel"),
            Self::Reset => write!(f, "the virtual machine reset itself (a triple fault?)"),
            Self::Qemu(status) => match status.signal() {
                Some(signal) => write!(f, "{QEMU} was ended by signal {signal}"),
                None => write!(f, "{QEMU} ended with status {}", status.code().unwrap_or(-1)),
            },
            Self::TimedOut(limit) => write!(f, "still running after the time limit of {} s", limit.as_secs_f64()),
            Self::Interrupted(signal) => write!(f, "ended by signal {signal}"),
            Self::Unwritten => write!(f, "what came from the machine can't be kept"),
        }
    }
}

/// What a run leaves behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The end of the kernel log, at most 1 MiB of it.
    pub log: String,
    /// COM4: the kernel's report.
    pub report: String,
    /// What QEMU itself had to say.
    pub qemu: String,
    /// What can't be kept of what came, and why.
    pub unwritten: Option<String>,
    /// Host time from the start of QEMU to its end.
    pub wall: Duration,
}

/// QEMU's command line without the bundle and the serial ports.
fn command(hardware: &Hardware, boot: &Path) -> Command {
    let mut command = Command::new(QEMU);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-monitor",
        "none",
    ]);
    command.args([
        "-machine",
        "pc",
        "-cpu",
        &hardware.cpu,
        "-m",
        &format!("{}M", hardware.memory),
        "-smp",
        &hardware.cpus.to_string(),
    ]);
    match hardware.accel {
        Accel::Tcg => command.args(["-accel", "tcg"]),
        Accel::Icount => {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"]);
            // The same date in every run, or programs that look at it would take another number of instructions.
            command.args(["-rtc", "base=2026-01-01,clock=vm"])
        }
    };
    match hardware.firmware {
        Firmware::Qboot => command.args(["-bios", "qboot.rom"]),
        Firmware::Seabios => &mut command,
    };
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    command.arg("-kernel").arg(boot);
    if let Some(line) = &hardware.command_line {
        command.args(["-append", line]);
    }
    if let Some(file) = &hardware.instructions {
        command.args(["-singlestep", "-d", "exec,nochain", "-D"]).arg(file);
    }
    if let Some(port) = hardware.gdb {
        command.args(["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]);
        // Ctrl-C in gdb is not for the machine.
        command.process_group(0);
    }
    command.args(&hardware.more);
    command
}

/// Boots `bundle` and runs the machine to its end, at the latest until `limit`.
///
/// # Errors
/// Fails when QEMU can't be started. Whatever happens after that is told by [`Outcome::end`].
pub fn run(
    hardware: &Hardware,
    boot: &Path,
    bundle: &[u8],
    ports: Ports,
    limit: Option<Duration>,
) -> anyhow::Result<Outcome> {
    run_traced(hardware, boot, bundle, ports, None, limit)
}

/// The same with a virtio serial port for a binary trace, which the kernel looks for if its configuration asks for one.
///
/// # Errors
/// As [`run`].
pub fn run_traced(
    hardware: &Hardware,
    boot: &Path,
    bundle: &[u8],
    ports: Ports,
    trace: Option<TracePort>,
    limit: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let attached = Attached { trace, input: None };
    run_attached(hardware, boot, bundle, ports, attached, limit)
}

/// What a machine can be attached to beside its output.
#[derive(Default)]
pub struct Attached {
    /// A virtio serial port for a binary trace.
    pub trace: Option<TracePort>,
    /// What the programs read.
    pub input: Option<Input>,
}

/// What comes on COM2 for the programs.
pub struct Input {
    /// The bytes.
    pub from: Box<dyn Read + Send>,
    /// How the kernel takes them.
    pub kind: InputKind,
}

/// How the kernel takes what comes on COM2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// `input=terminal`: keys; at the end Ctrl-D is pressed.
    Keys,
    /// `input=pipe`: any bytes, with escapes for the end of input (see the kernel's `fs::input`).
    Pipe,
}

/// The same with whatever is attached.
///
/// # Errors
/// As [`run`].
pub fn run_attached(
    hardware: &Hardware,
    boot: &Path,
    bundle: &[u8],
    ports: Ports,
    attached: Attached,
    limit: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let Attached { trace, input } = attached;
    let mut command = command(hardware, boot);
    // A file without a name: nothing has to be deleted, however this ends.
    let mut archive = tempfile::tempfile().context("no temporary file for the bundle")?;
    archive
        .write_all(bundle)
        .and_then(|()| archive.rewind())
        .context("the bundle can't be written")?;
    command.arg("-initrd").arg(format!("/dev/fd/{BUNDLE_FD}"));
    let mut theirs = vec![FdMapping {
        parent_fd: OwnedFd::from(archive),
        child_fd: BUNDLE_FD,
    }];
    let mut ours = Vec::new();
    for index in 0..4 {
        let (our_end, their_end) = UnixStream::pair().context("no socket pair for a serial port")?;
        ours.push(our_end);
        let child_fd = BUNDLE_FD + 1 + index;
        command.args(["-chardev", &format!("socket,id=com{},fd={child_fd}", index + 1)]);
        command.args(["-serial", &format!("chardev:com{}", index + 1)]);
        theirs.push(FdMapping {
            parent_fd: OwnedFd::from(their_end),
            child_fd,
        });
    }
    let trace = match trace {
        Some(port) => {
            let our_end = virtio_port(&mut command, &mut theirs, "trace")?;
            port.commands.connect(&our_end).context("no way to send commands")?;
            Some((our_end, port.events))
        }
        None => None,
    };
    for (index, disk) in hardware.disks.iter().enumerate() {
        if let Content::Host { file, is_read_only } = &disk.content {
            let child_fd = BUNDLE_FD + theirs.len() as RawFd;
            let access = if *is_read_only { "on" } else { "off" };
            // Without ioeventfd a notification is served where it is executed, as for the trace.
            command.args([
                "-drive",
                &format!("if=none,id=disk{index},format=raw,file=/dev/fd/{child_fd},readonly={access}"),
                "-device",
                &format!("virtio-blk-pci,drive=disk{index},disable-legacy=on,ioeventfd=off"),
            ]);
            theirs.push(FdMapping {
                parent_fd: file.try_clone().context("no second hold of a disk's file")?.into(),
                child_fd,
            });
        }
    }
    let fast = match hardware.fast_output {
        true => Some([
            virtio_port(&mut command, &mut theirs, "output")?,
            virtio_port(&mut command, &mut theirs, "error")?,
        ]),
        false => None,
    };
    command
        .fd_mappings(theirs)
        .context("no file descriptor for a serial port")?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // A group of its own, so that Ctrl-C reaches only this process, which then ends QEMU in its own way.
    command.process_group(0);
    die_with_parent(&mut command);

    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("{QEMU} can't be started"))?;
    // The parent's copies of QEMU's ends must go, or the ports would never see the end of the stream.
    drop(command);
    let mut qemu = Running(child);

    let mut messages = qemu.0.stderr.take().expect("standard error is piped");
    let messages = thread::spawn(move || {
        let mut text = Vec::new();
        // A read that fails ends the text; there is nobody else to tell.
        let _ = messages.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (says, said) = mpsc::channel::<Carried>();
    let [com1, com2, com3, com4]: [UnixStream; 4] = ours.try_into().expect("four ports were made");
    let (listens, listening) = mpsc::channel();
    let log = Listening {
        to: Lines::new(ports.log),
        line: Vec::new(),
        said: Some(listens),
    };
    let log = carry("the log", com1, log, LOG_TAIL, says.clone());
    if let Some(input) = input {
        send(
            input,
            com2.try_clone().context("no second hold of a serial port")?,
            listening,
        );
    }
    let (stdout, stderr) = (Shared::new(ports.stdout), Shared::new(ports.stderr));
    let mut output = Vec::new();
    if let Some([fast_output, fast_error]) = fast {
        output.push(carry("standard output", fast_output, stdout.clone(), 0, says.clone()));
        output.push(carry("standard error", fast_error, stderr.clone(), 0, says.clone()));
    }
    output.push(carry("standard output", com2, stdout, 0, says.clone()));
    output.push(carry("standard error", com3, stderr, 0, says.clone()));
    let report = carry("the report", com4, io::sink(), LOG_TAIL, says.clone());
    let trace = trace.map(|(port, events)| carry("the trace", port, events, 0, says.clone()));
    drop(says);

    let (stopped, mut unwritten) = wait(&said, start, limit);
    if stopped.is_some() {
        qemu.kill();
    }
    let status = qemu.0.wait().context("QEMU can't be waited for")?;
    let text = |port: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&port.join().unwrap_or_default()).into_owned();
    let mut outcome = Outcome {
        end: stopped.unwrap_or_else(|| End::from_status(status)),
        log: text(log),
        report: text(report),
        qemu: messages.join().unwrap_or_default(),
        unwritten: None,
        wall: start.elapsed(),
    };
    for port in output.into_iter().chain(trace) {
        let _ = port.join();
    }
    // The last bytes may have come when the machine was gone already.
    let late = said
        .try_iter()
        .next()
        .map(|Carried::Unwritten(name, error)| (name, error));
    unwritten = unwritten.or(late);
    if let Some((name, error)) = unwritten {
        outcome.end = End::Unwritten;
        outcome.unwritten = Some(format!("{name} can't be written: {error}"));
    }
    Ok(outcome)
}

/// Gives the machine a virtio serial port of a name that begins with `faultline.`; returns our end of it.
fn virtio_port(command: &mut Command, theirs: &mut Vec<FdMapping>, name: &str) -> anyhow::Result<UnixStream> {
    let (our_end, their_end) = UnixStream::pair().with_context(|| format!("no socket pair for the port {name}"))?;
    // SAFETY: the option's value is an integer, whose address and size are passed. Where it fails, less is on the way.
    unsafe {
        libc::setsockopt(
            their_end.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const ON_THE_WAY).cast(),
            size_of_val(&ON_THE_WAY) as libc::socklen_t,
        );
    }
    let child_fd = BUNDLE_FD + theirs.len() as RawFd;
    command.args(["-chardev", &format!("socket,id={name},fd={child_fd}")]);
    // Without ioeventfd the device reads a buffer while the guest's notification is being executed, so that runs that count
    // instructions repeat exactly.
    let device = format!("virtio-serial-pci,id=ports-{name},disable-legacy=on,ioeventfd=off,max_ports=2");
    command.args(["-device", &device]);
    let port = format!("virtserialport,bus=ports-{name}.0,chardev={name},nr=1,name=faultline.{name}");
    command.args(["-device", &port]);
    theirs.push(FdMapping {
        parent_fd: OwnedFd::from(their_end),
        child_fd,
    });
    Ok(our_end)
}

/// Passes the log on, and says when the kernel has begun to listen to what is typed.
struct Listening<W: Write> {
    to: W,
    line: Vec<u8>,
    said: Option<mpsc::Sender<()>>,
}

impl<W: Write> Write for Listening<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const SAYS: &[u8] = b"standard input is a ";
        for &byte in bytes {
            if self.said.is_none() {
                break;
            }
            self.line.push(byte);
            if self.line.ends_with(SAYS) {
                self.said = None;
            } else if byte == b'\n' {
                self.line.clear();
            }
        }
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Copies input to a port as it comes, once the kernel listens, and says at its end that there is no more. The thread is
/// left alone when the machine ends: a read of a terminal can't be called back.
fn send(input: Input, mut port: UnixStream, listening: mpsc::Receiver<()>) {
    let Input { mut from, kind } = input;
    thread::spawn(move || {
        // The other end goes when the kernel listens, or with the machine.
        let _ = listening.recv();
        let (mut buffer, mut last) = ([0; 4096], b'\n');
        loop {
            match from.read(&mut buffer) {
                Ok(count @ 1..) => {
                    last = buffer[count - 1];
                    if port.write_all(&kind.encoded(&buffer[..count])).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    let _ = port.write_all(kind.end(last));
                    break;
                }
            }
        }
    });
}

impl InputKind {
    /// The byte that begins an escape in a pipe.
    const ESCAPE: u8 = 0x10;

    /// Bytes as they go over the line.
    fn encoded(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        if self == Self::Keys || !bytes.contains(&Self::ESCAPE) {
            return Cow::Borrowed(bytes);
        }
        let doubled = bytes.iter().flat_map(|&byte| {
            let times = if byte == Self::ESCAPE { 2 } else { 1 };
            std::iter::repeat_n(byte, times)
        });
        Cow::Owned(doubled.collect())
    }

    /// What says that there is no more, after this byte.
    fn end(self, last: u8) -> &'static [u8] {
        match (self, last) {
            (Self::Pipe, _) => &[Self::ESCAPE, b'E'],
            // The key ends the input only at the start of a line.
            (Self::Keys, b'\n') => &[4],
            (Self::Keys, _) => b"\n\x04",
        }
    }
}

/// Waits until every port is closed, which QEMU does when it ends, or until there is a reason to stop it.
fn wait(
    said: &mpsc::Receiver<Carried>,
    start: Instant,
    limit: Option<Duration>,
) -> (Option<End>, Option<(&'static str, io::Error)>) {
    loop {
        if let Some(signal) = interrupt::requested() {
            return (Some(End::Interrupted(signal)), None);
        }
        let left = limit.map_or(INTERRUPT_POLL, |limit| limit.saturating_sub(start.elapsed()));
        match said.recv_timeout(left.min(INTERRUPT_POLL)) {
            Err(RecvTimeoutError::Disconnected) => return (None, None),
            Ok(Carried::Unwritten(name, error)) => return (Some(End::Unwritten), Some((name, error))),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(limit) = limit.filter(|limit| start.elapsed() >= *limit) {
                    return (Some(End::TimedOut(limit)), None);
                }
            }
        }
    }
}

/// A QEMU that is killed and collected when its owner lets go of it.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // Fails only when QEMU has ended already.
        let _ = self.0.kill();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// Has the kernel of the host kill the child when this process dies, however that happens.
fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes one system call, whose
    // wrapper in libc takes no lock and doesn't allocate, and builds an error from errno, which doesn't allocate either.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
