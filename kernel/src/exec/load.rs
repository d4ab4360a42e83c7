//! Building the address space of a program.
//!
//! Nothing is read at load time but the headers: the parts of the file are mapped privately and come in by page faults,
//! those of whole pages straight from the archive's own frames, those on a disk by a read when they are first touched. Only
//! the page on which a segment's file part ends and its zeros begin is written here, and the first stack.
//!
//! A dynamic program names its dynamic linker (`PT_INTERP`). That is mapped beside it, at the top of the mmap area, and
//! runs first: it finds the program by the auxiliary vector, maps the libraries and goes to the program's entry point.

use core::fmt;
use core::sync::atomic::Ordering;

use faultline_ext4::InodeKind;
use faultline_fallible::{AllocError, Arc, Box, Vec, try_future, unsize};
use faultline_mm::{Backing, MapRequest, PageSource, Protection, UserCopyError, VasError};
use x86_64::VirtAddr;

use super::elf::{self, ElfError, Plan, Segment};
use super::placement::Placement;
use super::script;
use super::stack::{self, Arguments};
use crate::arch;
use crate::fs::mount::{self, Body};
use crate::fs::path::{LastLink, look_up};
use crate::fs::tree::{Content, NodeKind};
use crate::fs::{Node, RamdiskFile};
use crate::machine::{Space, memory};
use crate::process::{Started, Thread};
use crate::syscall::{Errno, information};

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
    /// There is no such dynamic linker as it asks for.
    LinkerNotFound(Errno),
    /// Its dynamic linker is not a file with execute permission.
    LinkerNotExecutable,
    /// Its dynamic linker is not a program that this kernel can run.
    LinkerElf(ElfError),
    /// Its address space can't be built.
    Space(VasError),
    /// Its first memory can't be written.
    Memory(UserCopyError),
    /// It can't be read.
    Unreadable(Errno),
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
            Self::NotFound(_) => f.write_str("there is no such file"),
            Self::NotExecutable => f.write_str("not an executable file"),
            Self::NoInterpreter => f.write_str("a script whose first line names no interpreter"),
            Self::TooManyScripts => write!(
                f,
                "a script with a chain of more than {MOST_SCRIPTS} scripts to interpret it"
            ),
            Self::Elf(error) => error.fmt(f),
            Self::LinkerNotFound(_) => f.write_str("there is no such dynamic linker as it asks for (PT_INTERP)"),
            Self::LinkerNotExecutable => f.write_str("its dynamic linker (PT_INTERP) is not an executable file"),
            Self::LinkerElf(error) => write!(f, "its dynamic linker (PT_INTERP): {error}"),
            Self::Space(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Unreadable(_) => f.write_str("the file can't be read"),
            Self::TooManyArguments => f.write_str("arguments and environment are too large"),
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
    /// What it was started as.
    pub started: Started,
}

/// Builds the space of the program that `arguments.path` names, seen from `directory` by `thread`, unless the arguments
/// and the environment take more than `room` bytes.
///
/// # Errors
/// [`ExecError`]; nothing of the new space is left then.
pub async fn load(
    directory: &Arc<Node>,
    thread: &Thread,
    mut arguments: Arguments,
    room: u64,
) -> Result<Box<Image>, ExecError> {
    let program = resolve(directory, thread, &mut arguments, room).await?;
    let process = &thread.process;
    let plan = program.plan().await.map_err(PlanError::of_program)?;
    let linker = match plan.interpreter {
        Some(path) => Some(program.linker(path, directory, thread).await?),
        None => None,
    };

    let space = Space::try_new(memory())?;
    space.init()?;
    let before = process.programs.fetch_add(1, Ordering::Relaxed);
    let placement = match thread.personality.load(Ordering::Relaxed) & information::NO_RANDOMISATION {
        0 => Placement::draw(process.pid, before),
        _ => Placement::FIXED,
    };
    space.set_stack_top(space.stack_top() - placement.stack)?;
    space.set_mmap_gap(placement.mmap)?;
    let base = choose_base(&plan, &placement);
    map_segments(&space, &program, &plan, base).await?;
    let end = base.wrapping_add(plan.end());
    space.set_heap_start(VirtAddr::new_truncate(end + placement.heap))?;
    let mut described = describe(&plan, base);
    let mut entry = described.entry;
    if let Some((linker, plan)) = linker {
        let base = gap_for(&space, &plan)?;
        map_segments(&space, &linker, &plan, base).await?;
        described.linker = base;
        entry = base.wrapping_add(plan.entry);
    }
    let stack = stack::make(&space, &arguments, &described, placement.strings).await?;
    Ok(Box::try_new(Image {
        space: Arc::try_new(space)?,
        entry,
        stack_pointer: stack.pointer,
        started: Started {
            path: Some(Arc::try_new(arguments.path)?),
            arguments: stack.arguments,
            environment: stack.environment,
            auxiliary: stack.auxiliary,
            node: Some(program.node),
        },
    })?)
}

/// Where the bytes of a program are.
enum Source {
    /// In memory.
    Memory(Content),
    /// In the mounted file system.
    Mounted(Arc<Body>),
}

/// A file that may be executed.
struct Program {
    node: Arc<Node>,
    source: Source,
}

impl Program {
    async fn find(directory: &Arc<Node>, thread: &Thread, path: &[u8]) -> Result<Self, ExecError> {
        let found = look_up(directory, path, LastLink::Follow, thread).await;
        let node = found.map_err(ExecError::NotFound)?;
        if node.permissions.load(Ordering::Relaxed) & 0o111 == 0 {
            return Err(ExecError::NotExecutable);
        }
        let source = match &node.kind {
            NodeKind::File(content) => Source::Memory(content.lock().clone()),
            NodeKind::Mounted(mounted) if mounted.kind() == InodeKind::File => {
                let opened = try_future(mount::open(mounted, false))?.await;
                Source::Mounted(opened.map_err(ExecError::Unreadable)?)
            }
            _ => return Err(ExecError::NotExecutable),
        };
        Ok(Self { node, source })
    }

    /// Copies bytes from `offset` on; says how many.
    async fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, ExecError> {
        let mut read = 0;
        match &self.source {
            Source::Memory(Content::Archive(bytes)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = bytes.get(start..).unwrap_or_default();
                read = bytes.len().min(to.len());
                to[..read].copy_from_slice(&bytes[..read]);
            }
            // Bytes of one page at a time.
            source => loop {
                let (at, to) = (offset + read as u64, &mut to[read..]);
                let part = match source {
                    Source::Memory(Content::Memory(file)) => file.read_waiting(at, to).await,
                    Source::Mounted(body) => body.read_waiting(at, to).await,
                    Source::Memory(Content::Archive(_)) => Ok(0),
                };
                match part {
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(errno) => return Err(ExecError::Unreadable(errno)),
                }
            },
        }
        Ok(read)
    }

    fn size(&self) -> u64 {
        match &self.source {
            Source::Memory(Content::Archive(bytes)) => bytes.len() as u64,
            Source::Memory(Content::Memory(file)) => file.length(),
            Source::Mounted(body) => body.inode.size,
        }
    }

    /// Where its pages from `offset` on come from.
    fn backing(&self, offset: u64) -> Result<Backing, AllocError> {
        Ok(match &self.source {
            Source::Memory(Content::Archive(bytes)) => {
                let file = Arc::try_new(RamdiskFile::new(bytes))?;
                let file = unsize!(file => dyn PageSource);
                Backing::File { file, offset }
            }
            Source::Memory(Content::Memory(file)) => Backing::Private {
                object: file.mapped_pages(),
                offset,
            },
            Source::Mounted(body) => Backing::Private {
                // It was opened, so it has one.
                object: body.opened().ok_or(AllocError)?.clone(),
                offset,
            },
        })
    }

    /// Its first bytes, filled up with NULs.
    async fn head(&self) -> Result<[u8; script::HEAD], ExecError> {
        let mut head = [0; script::HEAD];
        self.read(0, &mut head).await?;
        Ok(head)
    }

    /// Its plan. Only its headers are read.
    async fn plan(&self) -> Result<Plan, PlanError> {
        let mut head = [0; elf::HEAD];
        let read = self.read(0, &mut head).await?;
        let (head, size) = (&head[..read], self.size());
        let range = elf::table_of(head, size)?;
        let mut table = Vec::try_of(0, (range.end - range.start) as usize).map_err(ExecError::from)?;
        let read = self.read(range.start, &mut table).await?;
        // The file may have been cut off meanwhile.
        Ok(elf::plan_of(head, &table[..read], size)?)
    }

    /// The dynamic linker whose path is `size` bytes of this file at `offset`, and its plan. One that asks for a dynamic
    /// linker itself gets none, as on Linux.
    async fn linker(
        &self,
        (offset, size): (u64, usize),
        directory: &Arc<Node>,
        thread: &Thread,
    ) -> Result<(Self, Plan), ExecError> {
        let mut path = Vec::try_of(0, size)?;
        let read = self.read(offset, &mut path).await?;
        let bad = elf::ElfError::BadInterpreter {
            offset,
            size: size as u64,
        };
        let Some((0, path)) = path[..read].split_last() else {
            return Err(ExecError::Elf(bad));
        };
        // What stands behind an earlier NUL is no part of it.
        let path = path.split(|&byte| byte == 0).next().unwrap_or(path);
        let found = Self::find(directory, thread, path).await;
        let linker = found.map_err(|error| match error {
            ExecError::NotFound(errno) => ExecError::LinkerNotFound(errno),
            ExecError::NotExecutable => ExecError::LinkerNotExecutable,
            other => other,
        })?;
        let plan = linker.plan().await.map_err(PlanError::of_linker)?;
        Ok((linker, plan))
    }
}

/// Why a file has no plan.
enum PlanError {
    /// It is not a program that this kernel can run.
    Elf(ElfError),
    /// It can't be read.
    Other(ExecError),
}

impl PlanError {
    fn of_program(self) -> ExecError {
        match self {
            Self::Elf(error) => ExecError::Elf(error),
            Self::Other(error) => error,
        }
    }

    fn of_linker(self) -> ExecError {
        match self {
            Self::Elf(error) => ExecError::LinkerElf(error),
            Self::Other(error) => error,
        }
    }
}

impl From<ElfError> for PlanError {
    fn from(error: ElfError) -> Self {
        Self::Elf(error)
    }
}

impl From<ExecError> for PlanError {
    fn from(error: ExecError) -> Self {
        Self::Other(error)
    }
}

/// The program behind a path. If that is a script, its interpreter, and the arguments begin with what that one gets.
async fn resolve(
    directory: &Arc<Node>,
    thread: &Thread,
    arguments: &mut Arguments,
    room: u64,
) -> Result<Program, ExecError> {
    let mut path = arguments.path.try_clone()?;
    for _ in 0..=MOST_SCRIPTS {
        if arguments.size() > room {
            return Err(ExecError::TooManyArguments);
        }
        let program = Program::find(directory, thread, &path).await?;
        let head = program.head().await?;
        let Some(interpreter) = script::interpreter(&head).map_err(|_| ExecError::NoInterpreter)? else {
            return Ok(program);
        };
        if interpreter.path.is_empty() {
            // Linux takes it for the working directory.
            return Err(ExecError::NotExecutable);
        }
        // Argument 0 gives way to the interpreter, its argument, and the path of the script.
        let script = core::mem::replace(&mut path, Vec::try_from_slice(interpreter.path)?);
        if !arguments.script.is_empty() {
            arguments.script.remove(0);
        }
        arguments.script.try_insert(0, script)?;
        if let Some(argument) = interpreter.argument {
            arguments.script.try_insert(0, Vec::try_from_slice(argument)?)?;
        }
        arguments.script.try_insert(0, path.try_clone()?)?;
    }
    Err(ExecError::TooManyScripts)
}

/// What is added to the addresses of a plan; they may be higher than its place, so that it wraps around.
fn choose_base(plan: &Plan, placement: &Placement) -> u64 {
    if !plan.position_independent {
        return 0;
    }
    let first = plan.segments().first().map_or(0, Segment::first_page);
    placement.program.next_multiple_of(plan.alignment).wrapping_sub(first)
}

/// The base of a dynamic linker: the highest place of the mmap area into which it fits.
fn gap_for(space: &Space, plan: &Plan) -> Result<u64, ExecError> {
    if !plan.position_independent {
        return Ok(0);
    }
    let first = plan.segments().first().map_or(0, Segment::first_page);
    // Nobody else uses the space yet, so what is free now stays free.
    let size = plan.end() - first + plan.alignment - PAGE;
    let gap = space.mmap(MapRequest::anonymous(size, Protection::empty()))?;
    space.unmap(gap, size)?;
    Ok(gap.as_u64().next_multiple_of(plan.alignment).wrapping_sub(first))
}

async fn map_segments(space: &Space, program: &Program, plan: &Plan, base: u64) -> Result<(), ExecError> {
    for segment in plan.segments() {
        map_segment(space, program, segment, base).await?;
    }
    Ok(())
}

async fn map_segment(space: &Space, program: &Program, segment: &Segment, base: u64) -> Result<(), ExecError> {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, segment.read);
    protection.set(Protection::WRITE, segment.write);
    protection.set(Protection::EXECUTE, segment.execute);
    let start = base.wrapping_add(segment.first_page());
    let end = base.wrapping_add(segment.end_page());
    let file_end = base.wrapping_add(segment.address) + segment.file_size;
    let zeros = if segment.file_size == 0 {
        start
    } else {
        file_end.next_multiple_of(PAGE)
    };
    if zeros > start {
        let backing = program.backing(segment.offset & !(PAGE - 1))?;
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

fn describe(plan: &Plan, base: u64) -> stack::Program {
    let mut random = [0; 16];
    information::fill_random(&mut random);
    stack::Program {
        entry: base.wrapping_add(plan.entry),
        linker: 0,
        headers: plan.header_address.map_or(0, |address| base.wrapping_add(address)),
        header_count: plan.header_count,
        hwcap: arch::features::hardware_capabilities(),
        minimum_signal_stack: (crate::signal::frame::SIZE + 128 + 64 + arch::fpu::area_size()) as u64,
        random,
    }
}
