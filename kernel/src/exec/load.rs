//! Building the address space of a program.
//!
//! Nothing is read at load time but the headers: the parts of the file are mapped privately and come in by page faults,
//! those of whole pages straight from the archive's own frames. Only the page on which a segment's file part ends and
//! its zeros begin is written here, and the first stack.

use core::fmt;
use core::sync::atomic::Ordering;

use faultline_fallible::{AllocError, Arc, Box, unsize};
use faultline_mm::{Backing, PageSource, Protection, RegionFlags, UserCopyError, VasError};
use x86_64::VirtAddr;

use super::elf::{self, ElfError, Plan, Segment};
use super::placement::Placement;
use super::script;
use super::stack::{self, Arguments, MAX_BYTES};
use crate::arch;
use crate::fs::Node;
use crate::fs::memory_file::MemoryFile;
use crate::fs::path::{LastLink, look_up};
use crate::fs::proc::ProcFile;
use crate::fs::tree::{Content, NodeKind};
use crate::machine::{Space, memory};
use crate::process::Process;
use crate::syscall::{Errno, has_headroom, information, user};

/// The part of the stack that is mapped from the start; it grows by itself from there.
const FIRST_STACK: u64 = 128 * 1024;

/// How many scripts may have each other as interpreters, as on Linux.
const MOST_SCRIPTS: usize = 5;

const PAGE: u64 = 4096;

/// Why a program can't be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecError {
    /// There is no such file.
    NotFound(Errno),
    /// It is not a file with execute permission.
    NotExecutable,
    /// It is a script that names no interpreter.
    NoInterpreter,
    /// It is a script whose interpreter is a script, and so on for too long.
    TooManyScripts,
    /// It is not a program that this kernel can run.
    Elf(ElfError),
    /// Its address space can't be built.
    Space(VasError),
    /// Its first memory can't be written.
    Memory(UserCopyError),
    /// Its arguments and environment are too large.
    TooManyArguments,
    /// The kernel heap is too full.
    NoKernelMemory,
}

impl ExecError {
    /// The exit status with which a shell would report it.
    #[must_use]
    pub const fn shell_status(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            _ => 126,
        }
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(_) => f.write_str("there is no such file in the ramdisk"),
            Self::NotExecutable => f.write_str("not an executable file"),
            Self::NoInterpreter => f.write_str("a script whose first line names no interpreter"),
            Self::TooManyScripts => write!(
                f,
                "a script with a chain of more than {MOST_SCRIPTS} scripts to interpret it"
            ),
            Self::Elf(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::TooManyArguments => write!(f, "arguments and environment take more than {MAX_BYTES} bytes"),
            Self::NoKernelMemory => f.write_str("the kernel heap is full"),
        }
    }
}

impl From<AllocError> for ExecError {
    fn from(_: AllocError) -> Self {
        Self::NoKernelMemory
    }
}

impl From<VasError> for ExecError {
    fn from(error: VasError) -> Self {
        Self::Space(error)
    }
}

impl From<UserCopyError> for ExecError {
    fn from(error: UserCopyError) -> Self {
        Self::Memory(error)
    }
}

/// A program that is ready to run.
pub struct Image {
    /// Its address space.
    pub space: Arc<Space>,
    /// Its first instruction.
    pub entry: u64,
    /// Its first stack pointer.
    pub stack_pointer: u64,
    /// What it was started with.
    pub arguments: Arc<Arguments>,
    /// Its file.
    pub node: Arc<Node>,
}

/// Builds the space of the program that `arguments.path` names, seen from `directory` by `process`.
///
/// # Errors
/// [`ExecError`]; nothing of the new space is left then.
pub async fn load(directory: Arc<Node>, process: &Process, arguments: Arguments) -> Result<Box<Image>, ExecError> {
    let (program, arguments) = resolve(&directory, process, arguments)?;
    let Program { node, content } = program;
    let (plan, file): (Plan, Arc<dyn PageSource>) = match content {
        Content::Archive(file) => (
            elf::plan(file.bytes()).map_err(ExecError::Elf)?,
            unsize!(file => dyn PageSource),
        ),
        Content::Memory(file) => (plan_of(&file)?, unsize!(file => dyn PageSource)),
    };

    let space = Space::try_new(memory())?;
    space.init()?;
    let placement = Placement::draw(process.pid, process.programs.fetch_add(1, Ordering::Relaxed));
    space.set_stack_top(space.stack_top() - placement.stack)?;
    space.set_mmap_gap(placement.mmap)?;
    let base = choose_base(&plan, &placement);
    for segment in plan.segments() {
        map_segment(&space, &file, segment, base).await?;
    }
    space.set_heap_start(VirtAddr::new_truncate(base + plan.end() + placement.heap))?;
    let stack_pointer = make_stack(&space, &arguments, &describe(&plan, base), placement.strings).await?;
    Ok(Box::try_new(Image {
        space: Arc::try_new(space)?,
        entry: base + plan.entry,
        stack_pointer,
        arguments: Arc::try_new(arguments)?,
        node,
    })?)
}

/// A file that may be executed.
struct Program {
    node: Arc<Node>,
    content: Content,
}

impl Program {
    fn find(directory: &Arc<Node>, process: &Process, path: &[u8]) -> Result<Self, ExecError> {
        let found = look_up(directory, path, LastLink::Follow, process.pid);
        let mut node = found.map_err(ExecError::NotFound)?;
        if let NodeKind::Proc(ProcFile::Executable, _) = &node.kind {
            let own = process.started.lock().node.clone();
            node = own.ok_or(ExecError::NotExecutable)?;
        }
        let content = match &node.kind {
            NodeKind::File(content) => content.lock().clone(),
            _ => return Err(ExecError::NotExecutable),
        };
        if node.permissions.load(Ordering::Relaxed) & 0o111 == 0 {
            return Err(ExecError::NotExecutable);
        }
        Ok(Self { node, content })
    }

    /// Its first bytes, filled up with NULs.
    fn head(&self) -> [u8; script::HEAD] {
        let mut head = [0; script::HEAD];
        match &self.content {
            Content::Archive(file) => {
                let bytes = file.bytes();
                let length = bytes.len().min(head.len());
                head[..length].copy_from_slice(&bytes[..length]);
            }
            Content::Memory(file) => {
                // The first page holds all of it.
                let _ = file.read(0, &mut head);
            }
        }
        head
    }
}

/// The program behind a path, and the arguments that it gets: those of a script's interpreter if the path is a script's.
fn resolve(
    directory: &Arc<Node>,
    process: &Process,
    mut arguments: Arguments,
) -> Result<(Program, Arguments), ExecError> {
    let mut path = arguments.path.clone();
    for _ in 0..=MOST_SCRIPTS {
        if arguments.size() > MAX_BYTES {
            return Err(ExecError::TooManyArguments);
        }
        let program = Program::find(directory, process, &path)?;
        let head = program.head();
        let Some(interpreter) = script::interpreter(&head).map_err(|_| ExecError::NoInterpreter)? else {
            return Ok((program, arguments));
        };
        if interpreter.path.is_empty() {
            // Linux takes it for the working directory.
            return Err(ExecError::NotExecutable);
        }
        // Argument 0 gives way to the interpreter, its argument, and the path of the script.
        let script = core::mem::replace(&mut path, interpreter.path.to_vec());
        let own = [
            Some(path.clone()),
            interpreter.argument.map(<[u8]>::to_vec),
            Some(script),
        ];
        let given = 0..arguments.arguments.len().min(1);
        arguments.arguments.splice(given, own.into_iter().flatten());
    }
    Err(ExecError::TooManyScripts)
}

/// The plan of a program in frames. Its headers are read from a copy, which lasts no longer than that.
fn plan_of(file: &MemoryFile) -> Result<Plan, ExecError> {
    let length = usize::try_from(file.length()).unwrap_or(usize::MAX);
    let mut bytes = user::buffer(length).map_err(|_| ExecError::NoKernelMemory)?;
    has_headroom().map_err(|_| ExecError::NoKernelMemory)?;
    let mut at = 0;
    while at < length {
        match file.read(at as u64, &mut bytes[at..]) {
            0 => break,
            read => at += read,
        }
    }
    elf::plan(&bytes).map_err(ExecError::Elf)
}

fn choose_base(plan: &Plan, placement: &Placement) -> u64 {
    if !plan.position_independent {
        return 0;
    }
    let first = plan.segments().first().map_or(0, Segment::first_page);
    placement.program.next_multiple_of(plan.alignment) - first
}

async fn map_segment(space: &Space, file: &Arc<dyn PageSource>, segment: &Segment, base: u64) -> Result<(), ExecError> {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, segment.read);
    protection.set(Protection::WRITE, segment.write);
    protection.set(Protection::EXECUTE, segment.execute);
    let start = base + segment.first_page();
    let end = base + segment.end_page();
    let file_end = base + segment.address + segment.file_size;
    let zeros = if segment.file_size == 0 {
        start
    } else {
        file_end.next_multiple_of(PAGE)
    };
    if zeros > start {
        let backing = Backing::File {
            file: file.clone(),
            offset: segment.offset & !(PAGE - 1),
        };
        space.map_lazy(VirtAddr::new_truncate(start), zeros - start, protection, backing)?;
    }
    if end > zeros {
        space.map_lazy(
            VirtAddr::new_truncate(zeros),
            end - zeros,
            protection,
            Backing::Anonymous,
        )?;
    }
    // What follows the file part on its last page are other bytes of the file; the program wants zeros there.
    if segment.write && segment.memory_size > segment.file_size && zeros > file_end {
        const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        space
            .write_user(file_end, &ZEROS[..(zeros - file_end) as usize])
            .await?;
    }
    Ok(())
}

/// Maps and writes the first stack, whose strings end `skipped` bytes below its top; says where it begins.
async fn make_stack(
    space: &Space,
    arguments: &Arguments,
    program: &stack::Program,
    skipped: u64,
) -> Result<u64, ExecError> {
    let top = space.stack_top().as_u64();
    let first = stack::lay_out(top - skipped, arguments, program).map_err(|_| ExecError::NoKernelMemory)?;
    let size = FIRST_STACK.max((top - first.pointer).next_multiple_of(PAGE) + PAGE);
    let bottom = VirtAddr::new_truncate(top - size);
    space.map_with(
        bottom,
        size,
        Protection::READ_WRITE,
        Backing::Anonymous,
        RegionFlags::STACK,
    )?;
    space.write_user(first.pointer, &first.bytes).await?;
    Ok(first.pointer)
}

fn describe(plan: &Plan, base: u64) -> stack::Program {
    let mut random = [0; 16];
    information::fill_random(&mut random);
    stack::Program {
        entry: base + plan.entry,
        headers: plan.header_address.map_or(0, |address| base + address),
        header_count: plan.header_count,
        hwcap: arch::features::hardware_capabilities(),
        minimum_signal_stack: (crate::signal::frame::SIZE + 128 + 64 + arch::fpu::area_size()) as u64,
        random,
    }
}
