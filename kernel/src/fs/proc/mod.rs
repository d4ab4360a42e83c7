//! `/proc`: what there is, and what leads where.
//!
//! The nodes of `/proc` are made when they are looked up; none is kept. The text of a file is made piece by piece when it
//! is read ([`text`]), so that opening costs nothing and no text is ever in memory as a whole.

mod machine;
mod maps;
mod process;
mod text;

use faultline_fallible::{Arc, Vec};

use super::stat::Sort;
use super::tree::{self, InTree, Listed, Node, NodeKind};
use crate::process::{Pid, Process, Thread, Tid, tree as processes};
use crate::syscall::Errno;

pub use process::pages_of;
pub use text::Text;

/// Something in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcNode {
    /// `/proc/self`: leads to the directory of whoever looks.
    OwnProcess,
    /// `/proc/thread-self`: leads to the directory of the thread that looks.
    OwnThread,
    /// `/proc/PID`.
    Process(Pid),
    /// `/proc/PID/task`.
    Tasks(Pid),
    /// `/proc/PID/task/TID`.
    Task(Pid, Tid),
    /// `/proc/PID/fd`.
    Descriptors(Pid),
    /// `/proc/PID/fd/NUMBER`: leads to what is open.
    Descriptor(Pid, u32),
    /// `/proc/PID/exe`: leads to the running program.
    Executable(Pid),
    /// `/proc/PID/cwd`: leads to the working directory.
    Directory(Pid),
    /// `/proc/PID/root`: leads to the root.
    Root(Pid),
    /// A file about a thread, or the process of which it is the first.
    OfTask(ProcFile, Pid, Tid),
    /// A file about the machine.
    File(ProcFile),
}

/// The files of `/proc`, and of `/sys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    /// `/proc/PID/maps`.
    Maps,
    /// `/proc/PID/smaps`.
    PageMaps,
    /// `/proc/PID/smaps_rollup`.
    PageMapSums,
    /// `/proc/PID/clear_refs`.
    ClearReferences,
    /// `/proc/PID/pagemap`.
    PageMap,
    /// `/proc/PID/mem`.
    Memory,
    /// `/proc/PID/status`.
    Status,
    /// `/proc/PID/stat`.
    Stat,
    /// `/proc/PID/statm`.
    MemoryStat,
    /// `/proc/PID/cmdline`.
    CommandLine,
    /// `/proc/PID/environ`.
    Environment,
    /// `/proc/PID/auxv`.
    Auxiliary,
    /// `/proc/PID/comm`.
    Command,
    /// `/proc/PID/limits`.
    Limits,
    /// `/proc/PID/io`.
    Transfers,
    /// `/proc/PID/mounts`.
    Mounts,
    /// `/proc/PID/mountinfo`.
    MountInfo,
    /// `/proc/PID/oom_score_adj`.
    VictimAdjustment,
    /// `/proc/PID/personality`.
    Personality,
    /// `/proc/PID/oom_score` and others: a constant.
    OfProcess(&'static str),
    /// `/proc/meminfo`.
    MemoryInfo,
    /// `/proc/uptime`.
    Uptime,
    /// `/proc/loadavg`.
    Load,
    /// `/proc/cpuinfo`.
    Processor,
    /// `/proc/stat`.
    Machine,
    /// `/proc/vmstat`.
    Events,
    /// `/proc/swaps`.
    Swaps,
    /// `/proc/version`.
    Version,
    /// `/proc/sys/kernel/threads-max`.
    MostThreads,
    /// The CPUs that run.
    Cpus,
    /// `/proc/sys/kernel/random/uuid`.
    Random,
    /// A setting of `/proc/sys` with one value, which may be written again.
    Setting(&'static str),
    /// A file that says always the same.
    Constant(&'static str),
    /// `/proc/faultline/counters`: what happened since the start, one `name count` a line. Not in Linux.
    Counters,
    /// `/proc/faultline/waits`: which kernel task waits for what since when, and the cycles. Not in Linux.
    Waits,
}

/// The files in the directory of each process and of each task.
const OF_TASK: &[(&[u8], ProcFile)] = &[
    (b"maps", ProcFile::Maps),
    (b"smaps", ProcFile::PageMaps),
    (b"clear_refs", ProcFile::ClearReferences),
    (b"smaps_rollup", ProcFile::PageMapSums),
    (b"pagemap", ProcFile::PageMap),
    (b"mem", ProcFile::Memory),
    (b"status", ProcFile::Status),
    (b"stat", ProcFile::Stat),
    (b"statm", ProcFile::MemoryStat),
    (b"cmdline", ProcFile::CommandLine),
    (b"environ", ProcFile::Environment),
    (b"auxv", ProcFile::Auxiliary),
    (b"comm", ProcFile::Command),
    (b"limits", ProcFile::Limits),
    (b"io", ProcFile::Transfers),
    (b"mounts", ProcFile::Mounts),
    (b"mountinfo", ProcFile::MountInfo),
    (b"oom_score", ProcFile::OfProcess("0\n")),
    (b"oom_score_adj", ProcFile::VictimAdjustment),
    (b"personality", ProcFile::Personality),
    (b"cgroup", ProcFile::OfProcess("0::/\n")),
];

/// What else is in the directory of a process and of a task.
const LINKS: [&[u8]; 4] = [b"fd", b"exe", b"cwd", b"root"];

/// The files of the machine, by their paths in `/proc`; those of `/sys` by their paths.
pub const OF_MACHINE: &[(&[u8], ProcFile)] = &[
    (b"meminfo", ProcFile::MemoryInfo),
    (b"uptime", ProcFile::Uptime),
    (b"loadavg", ProcFile::Load),
    (b"cpuinfo", ProcFile::Processor),
    (b"stat", ProcFile::Machine),
    (b"vmstat", ProcFile::Events),
    (b"version", ProcFile::Version),
    (b"filesystems", ProcFile::Constant("nodev\ttmpfs\nnodev\tproc\n")),
    (b"cmdline", ProcFile::Constant("\n")),
    (b"swaps", ProcFile::Swaps),
    (b"sys/vm/overcommit_memory", ProcFile::Setting("1\n")),
    (b"sys/vm/overcommit_ratio", ProcFile::Setting("50\n")),
    (b"sys/vm/mmap_min_addr", ProcFile::Setting("65536\n")),
    (b"sys/vm/nr_hugepages", ProcFile::Setting("0\n")),
    (b"sys/vm/swappiness", ProcFile::Setting("60\n")),
    (b"sys/vm/max_map_count", ProcFile::Setting("65530\n")),
    (b"sys/kernel/tainted", ProcFile::Constant("0\n")),
    (b"sys/kernel/domainname", ProcFile::Constant("(none)\n")),
    (b"sys/kernel/core_pattern", ProcFile::Setting("core\n")),
    (b"sys/kernel/ostype", ProcFile::Constant("Linux\n")),
    (b"sys/kernel/hostname", ProcFile::Constant("faultline\n")),
    (b"sys/kernel/osrelease", ProcFile::Constant("6.12.0\n")),
    (
        b"sys/kernel/version",
        ProcFile::Constant(concat!("Faultline ", env!("CARGO_PKG_VERSION"), "\n")),
    ),
    (b"sys/kernel/pid_max", ProcFile::Setting("4194304\n")),
    (b"sys/kernel/ngroups_max", ProcFile::Constant("65536\n")),
    (b"sys/kernel/cap_last_cap", ProcFile::Constant("40\n")),
    (b"sys/kernel/randomize_va_space", ProcFile::Setting("2\n")),
    (b"sys/kernel/threads-max", ProcFile::MostThreads),
    (b"sys/kernel/random/uuid", ProcFile::Random),
    (b"sys/fs/file-max", ProcFile::Setting("9223372036854775807\n")),
    (b"sys/fs/nr_open", ProcFile::Setting("1048576\n")),
    (b"sys/fs/pipe-max-size", ProcFile::Setting("1048576\n")),
    (b"sys/devices/system/cpu/online", ProcFile::Cpus),
    (b"sys/devices/system/cpu/possible", ProcFile::Cpus),
    (b"sys/devices/system/cpu/present", ProcFile::Cpus),
    (b"faultline/counters", ProcFile::Counters),
    (b"faultline/waits", ProcFile::Waits),
];

/// The number of the first node of the first process; those of the tree are below.
const PROCESS_INODES: u64 = 1 << 40;

/// Numbers of nodes that one task has.
const INODES_PER_TASK: u64 = 1 << 16;

/// Where processes and tasks are among the entries of their directories.
const FIRST_NUMBER: u64 = super::directory::LAST;

impl ProcNode {
    /// Whether it is a directory.
    #[must_use]
    pub const fn is_directory(self) -> bool {
        matches!(
            self,
            Self::Process(_) | Self::Tasks(_) | Self::Task(..) | Self::Descriptors(_)
        )
    }

    /// Whether it leads to something.
    #[must_use]
    pub const fn is_link(self) -> bool {
        matches!(
            self,
            Self::OwnProcess
                | Self::OwnThread
                | Self::Descriptor(..)
                | Self::Executable(_)
                | Self::Directory(_)
                | Self::Root(_)
        )
    }

    /// Calls `with` with its name; none for what has a name of the tree.
    pub fn with_name<T>(self, with: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut digits = Digits::default();
        let name = match self {
            Self::Process(number) | Self::Task(_, number) | Self::Descriptor(_, number) => digits.of(number),
            Self::Tasks(_) => b"task",
            Self::Descriptors(_) => b"fd",
            Self::Executable(_) => b"exe",
            Self::Directory(_) => b"cwd",
            Self::Root(_) => b"root",
            Self::OfTask(file, ..) => OF_TASK.iter().find(|(_, other)| *other == file)?.0,
            Self::OwnProcess | Self::OwnThread | Self::File(_) => return None,
        };
        Some(with(name))
    }

    /// Its number among all nodes.
    fn inode(self) -> u64 {
        let of = |tid: Tid, index: u64| PROCESS_INODES + u64::from(tid) * INODES_PER_TASK + index;
        match self {
            Self::Process(pid) => of(pid, 0),
            Self::Tasks(pid) => of(pid, 1),
            Self::Task(_, tid) => of(tid, 2),
            Self::Descriptors(pid) => of(pid, 3),
            Self::Executable(pid) => of(pid, 4),
            Self::Directory(pid) => of(pid, 5),
            Self::Root(pid) => of(pid, 6),
            Self::OfTask(file, pid, tid) => {
                let index = OF_TASK.iter().position(|(_, other)| *other == file).unwrap_or(0) as u64;
                of(tid, if tid == pid { 16 } else { 128 } + index)
            }
            Self::Descriptor(pid, number) => of(pid, 256 + u64::from(number)),
            Self::OwnProcess | Self::OwnThread | Self::File(_) => 0,
        }
    }

    const fn permissions(self) -> u32 {
        match self {
            Self::Process(_) | Self::Tasks(_) | Self::Task(..) => 0o555,
            Self::Descriptors(_) => 0o500,
            Self::OfTask(ProcFile::Memory, ..) => 0o600,
            Self::OfTask(ProcFile::VictimAdjustment, ..) => 0o644,
            Self::OfTask(ProcFile::ClearReferences, ..) => 0o200,
            Self::OfTask(ProcFile::PageMap | ProcFile::Environment | ProcFile::Auxiliary, ..) => 0o400,
            Self::OfTask(..) | Self::File(_) => 0o444,
            _ => 0o777,
        }
    }

    fn node(self) -> Result<Arc<Node>, Errno> {
        Ok(Node::numbered(NodeKind::Proc(self), self.permissions(), self.inode())?)
    }
}

/// The decimal digits of a number.
#[derive(Default)]
struct Digits([u8; 10]);

impl Digits {
    fn of(&mut self, mut number: u32) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.0[at..];
            }
        }
    }
}

/// The number that a name is, as `/proc` writes it.
fn number(name: &[u8]) -> Result<u32, Errno> {
    let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
    let number: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
    let is_canonical = Digits::default().of(number) == name;
    is_canonical.then_some(number).ok_or(Errno::ENOENT)
}

/// `/proc` itself, as long as there is a tree.
fn directory() -> Option<Arc<Node>> {
    tree::root().entries()?.get(b"proc")
}

/// The directory of the process, or of the thread, whose number is written as `name`.
///
/// # Errors
/// `ENOENT`, `ENOMEM`.
pub fn process_directory(name: &[u8]) -> Result<Arc<Node>, Errno> {
    let pid = number(name)?;
    processes::find_process(pid).ok_or(Errno::ENOENT)?;
    ProcNode::Process(pid).node()
}

/// The directory that something in `/proc` is in.
pub fn parent(node: ProcNode) -> Option<Arc<Node>> {
    match node {
        ProcNode::Tasks(pid) | ProcNode::Descriptors(pid) => ProcNode::Process(pid).node().ok(),
        ProcNode::Task(pid, _) => ProcNode::Tasks(pid).node().ok(),
        ProcNode::Descriptor(pid, _) => ProcNode::Descriptors(pid).node().ok(),
        ProcNode::OfTask(_, pid, tid) if tid != pid => ProcNode::Task(pid, tid).node().ok(),
        ProcNode::OfTask(_, pid, _) | ProcNode::Executable(pid) | ProcNode::Directory(pid) | ProcNode::Root(pid) => {
            ProcNode::Process(pid).node().ok()
        }
        ProcNode::OwnProcess | ProcNode::OwnThread | ProcNode::Process(_) | ProcNode::File(_) => directory(),
    }
}

/// What a name names in a directory of `/proc`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ENOMEM`.
pub fn child(node: ProcNode, name: &[u8]) -> Result<Arc<Node>, Errno> {
    match node {
        ProcNode::Process(pid) if name == b"task" => ProcNode::Tasks(living(pid)?).node(),
        ProcNode::Process(pid) => of_task(living(pid)?, pid, name),
        ProcNode::Task(pid, tid) => {
            thread(pid, tid)?;
            of_task(pid, tid, name)
        }
        ProcNode::Tasks(pid) => {
            let tid = number(name)?;
            thread(pid, tid)?;
            ProcNode::Task(pid, tid).node()
        }
        ProcNode::Descriptors(pid) => {
            let number = number(name)?;
            let files = processes::find_process(pid).ok_or(Errno::ENOENT)?.files();
            files.lock().entry(u64::from(number)).map_err(|_| Errno::ENOENT)?;
            ProcNode::Descriptor(pid, number).node()
        }
        _ => Err(Errno::ENOTDIR),
    }
}

fn living(pid: Pid) -> Result<Pid, Errno> {
    processes::find_process(pid).map(|_| pid).ok_or(Errno::ENOENT)
}

fn thread(pid: Pid, tid: Tid) -> Result<(), Errno> {
    let process = processes::find_process(pid).ok_or(Errno::ENOENT)?;
    let found = process.find_thread(|thread| thread.tid() == tid);
    found.map(|_| ()).ok_or(Errno::ENOENT)
}

fn of_task(pid: Pid, tid: Tid, name: &[u8]) -> Result<Arc<Node>, Errno> {
    match name {
        b"fd" => ProcNode::Descriptors(pid),
        b"exe" => ProcNode::Executable(pid),
        b"cwd" => ProcNode::Directory(pid),
        b"root" => ProcNode::Root(pid),
        _ => {
            let found = OF_TASK.iter().find(|(known, _)| *known == name).ok_or(Errno::ENOENT)?;
            ProcNode::OfTask(found.1, pid, tid)
        }
    }
    .node()
}

/// Where something in `/proc` leads, for `viewer`.
///
/// # Errors
/// `ENOENT` if there is no such thing any more; `ENOMEM`.
pub fn follow(node: ProcNode, viewer: &Thread) -> Result<Arc<Node>, Errno> {
    let process = |pid: Pid| processes::find_process(pid).ok_or(Errno::ENOENT);
    match node {
        ProcNode::OwnProcess => ProcNode::Process(viewer.process.pid).node(),
        ProcNode::OwnThread => ProcNode::Task(viewer.process.pid, viewer.tid()).node(),
        ProcNode::Executable(pid) => process(pid)?.started.lock().node.clone().ok_or(Errno::ENOENT),
        ProcNode::Directory(pid) => Ok(process(pid)?.directory.lock().0.clone()),
        ProcNode::Root(_) => Ok(tree::root().clone()),
        // What has no node of the tree is opened by its descriptor.
        ProcNode::Descriptor(pid, number) => {
            let file = process(pid)?.files().lock().get(u64::from(number));
            match &file.map_err(|_| Errno::ENOENT)?.node {
                Some(open) => Ok(open.clone()),
                None => node.node(),
            }
        }
        _ => Err(Errno::ENOENT),
    }
}

/// Writes where something in `/proc` leads to the end of `to`; says where it begins.
///
/// # Errors
/// `EINVAL` for what is no link, `ENOENT` if there is no such thing any more, `ENAMETOOLONG`.
pub fn read_link(node: ProcNode, viewer: &Thread, to: &mut [u8]) -> Result<usize, Errno> {
    match node {
        ProcNode::OwnProcess => put(to, to.len(), Digits::default().of(viewer.process.pid)),
        ProcNode::OwnThread => {
            let start = put(to, to.len(), Digits::default().of(viewer.tid()))?;
            let start = put(to, start, b"/task/")?;
            put(to, start, Digits::default().of(viewer.process.pid))
        }
        ProcNode::Descriptor(pid, number) => {
            let process = processes::find_process(pid).ok_or(Errno::ENOENT)?;
            let file = process.files().lock().get(u64::from(number));
            let file = file.map_err(|_| Errno::ENOENT)?;
            match &file.node {
                Some(node) => match node.path(to) {
                    Err(Errno::ENOENT) => put(to, to.len(), b"/ (deleted)"),
                    path => path,
                },
                None => put(to, to.len(), file.kind.title().as_bytes()),
            }
        }
        ProcNode::Executable(_) | ProcNode::Directory(_) | ProcNode::Root(_) => follow(node, viewer)?.path(to),
        _ => Err(Errno::EINVAL),
    }
}

/// Writes text before `end`; says where it begins.
fn put(to: &mut [u8], end: usize, text: &[u8]) -> Result<usize, Errno> {
    let begin = end.checked_sub(text.len()).ok_or(Errno::ENAMETOOLONG)?;
    to[begin..end].copy_from_slice(text);
    Ok(begin)
}

/// Calls `each` with the entries of a directory of `/proc` behind `after`. Ends when it returns false.
///
/// # Errors
/// `ENOMEM`.
pub fn list(node: ProcNode, after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), Errno> {
    match node {
        ProcNode::Process(_) | ProcNode::Task(..) => {}
        ProcNode::Tasks(pid) => return list_tasks(pid, after, each),
        ProcNode::Descriptors(pid) => {
            list_descriptors(pid, after, each);
            return Ok(());
        }
        _ => return Ok(()),
    }
    let is_process = matches!(node, ProcNode::Process(_));
    let names = OF_TASK.iter().map(|(name, _)| *name).chain(LINKS);
    for (place, name) in (8..).zip(names.chain(is_process.then_some(&b"task"[..]))) {
        if place <= after {
            continue;
        }
        let Ok(found) = child(node, name) else { continue };
        let sort = Sort::of(&found);
        if !each(Listed {
            name,
            place,
            inode: found.inode,
            sort,
        }) {
            break;
        }
    }
    Ok(())
}

/// The processes behind `after` among the entries of `/proc`.
pub fn list_processes(after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) {
    let last = after.saturating_sub(FIRST_NUMBER) as u32;
    for process in processes::Walk::above(last) {
        let (pid, mut digits) = (process.pid, Digits::default());
        let listed = Listed {
            name: digits.of(pid),
            place: FIRST_NUMBER + u64::from(pid),
            inode: ProcNode::Process(pid).inode(),
            sort: Sort::Directory,
        };
        if !each(listed) {
            return;
        }
    }
}

fn list_tasks(pid: Pid, after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) -> Result<(), Errno> {
    let Some(process) = processes::find_process(pid) else {
        return Ok(());
    };
    let last = after.saturating_sub(FIRST_NUMBER) as u32;
    // Their order in the record is not that of their numbers.
    let mut numbers = Vec::try_with_capacity(process.thread_count())?;
    process.for_each_thread_number(|tid| {
        if tid > last {
            // One that was born meanwhile may be missed.
            let _ = numbers.try_push(tid);
        }
    });
    numbers.sort_unstable();
    for &tid in &numbers {
        let mut digits = Digits::default();
        let listed = Listed {
            name: digits.of(tid),
            place: FIRST_NUMBER + u64::from(tid),
            inode: ProcNode::Task(pid, tid).inode(),
            sort: Sort::Directory,
        };
        if !each(listed) {
            break;
        }
    }
    Ok(())
}

fn list_descriptors(pid: Pid, after: u64, each: &mut dyn FnMut(Listed<'_>) -> bool) {
    let Some(process) = processes::find_process(pid) else {
        return;
    };
    let files = process.files();
    let mut next = after.saturating_sub(FIRST_NUMBER - 1) as usize;
    loop {
        let Some(number) = files.lock().next_open(next) else {
            return;
        };
        next = number + 1;
        let inode = ProcNode::Descriptor(pid, number as u32).inode();
        let place = FIRST_NUMBER + number as u64;
        if !each(Listed {
            name: Digits::default().of(number as u32),
            place,
            inode,
            sort: Sort::Link,
        }) {
            return;
        }
    }
}

/// The process that a file of `/proc` is about.
fn subject(pid: Pid) -> Result<Arc<Process>, Errno> {
    processes::find_process(pid).ok_or(Errno::ESRCH)
}
