"""gdb commands and printers for Faultline. `run --gdb` loads this file; `help faultline` lists the commands.

What the kernel keeps is found by the names of its types and fields, in its symbols. Page tables are read as the
processor reads them, from CR3 through physical memory.
"""

import re

import gdb

ADDRESS = 0x000F_FFFF_FFFF_F000
FLAGS = [(1, "writable"), (2, "user"), (5, "accessed"), (6, "dirty"), (9, "cow"), (10, "borrowed"), (11, "busy"),
         (52, "shared"), (63, "no-execute")]


# Reading Rust values


def fields(value):
    """The fields of a struct, without those of size 0."""
    return [f for f in value.type.strip_typedefs().fields() if f.type.sizeof and not f.is_base_class]


def plain(value):
    """The number or pointer inside of atomics, cells, locks and other wrappers with one field that counts."""
    while value.type.strip_typedefs().code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        inside = fields(value)
        names = [f.name for f in inside]
        for name in ("data", "value", "v", "inner", "p", "pointer", "__0"):
            if name in names:
                value = value[name]
                break
        else:
            if not inside:
                return value
            value = value[inside[0]]
    return value


def number(value):
    return int(plain(value))


def field(value, *names):
    """Follows names of fields, through wrappers and pointers."""
    for name in names:
        while True:
            kind = value.type.strip_typedefs()
            if kind.code == gdb.TYPE_CODE_PTR:
                value = value.dereference()
                continue
            inside = {f.name: f for f in fields(value)}
            if name in inside:
                value = value[name]
                break
            wrapper = next((w for w in ("data", "value", "inner", "ptr", "pointer", "__0") if w in inside), None)
            if wrapper is None and len(inside) == 1:
                wrapper = next(iter(inside))
            if wrapper is None:
                raise gdb.GdbError(f"this kernel has no field {name} in {kind.name}")
            value = value[wrapper]
    return value


def element_type(value):
    """The type of the elements of a container."""
    kind = value.type.strip_typedefs()
    while True:
        try:
            return kind.template_argument(0)
        except (RuntimeError, gdb.error):
            inside = [f.type for f in kind.fields()]
            if len(inside) != 1:
                raise gdb.GdbError(f"{kind.name} is no container")
            kind = inside[0].strip_typedefs()


def elements(value):
    """The elements of a slice, a boxed slice or a vector."""
    names = [f.name for f in fields(value)]
    if "data_ptr" in names and "length" in names:
        start, length = value["data_ptr"], int(value["length"])
    elif "len" in names:
        rest = next(f for f in fields(value) if f.name != "len")
        start = value[rest]
        while start.type.strip_typedefs().code != gdb.TYPE_CODE_PTR:
            start = start[fields(start)[0]] if "ptr" not in [f.name for f in fields(start)] else start["ptr"]
        start = start.cast(element_type(value).pointer())
        length = number(value["len"])
    elif len(names) == 1:
        yield from elements(value[names[0]])
        return
    else:
        raise gdb.GdbError(f"{value.type} is no container")
    for index in range(length):
        yield (start + index).dereference()


def in_place(value):
    """The elements of an `ArrayVec`."""
    room = value[next(f for f in fields(value) if f.name == "xs")]
    for index in range(number(value["len"])):
        element = room[index]
        while element.type.strip_typedefs().name.startswith("core::mem::"):
            element = element[next(f for f in fields(element) if f.name in ("value", "__0"))]
        yield element


def text(value):
    """A `&str`."""
    start, length = value["data_ptr"], int(value["length"])
    if not 0 < length < 256:
        return ""
    return bytes(gdb.selected_inferior().read_memory(int(start), length)).decode(errors="replace")


def static(name):
    """A static of the kernel."""
    symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    if symbol is None:
        raise gdb.GdbError(f"there is no {name}: are the kernel's symbols loaded?")
    return symbol.value()


def pointer_in(value):
    """The first pointer inside of a value that is not null."""
    kind = value.type.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_PTR:
        return value if int(value) else None
    if kind.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        for inside in fields(value):
            found = pointer_in(value[inside])
            if found is not None:
                return found
    return None


def once(name, what):
    """What a `Once` of the kernel holds."""
    value = static(name)
    names = [f.name for f in fields(value)]
    if "status" in names and number(value["status"]) != 2:
        raise gdb.GdbError(f"the {what} does not exist yet: `faultline user` runs to the program's first instruction")
    return field(value, "data")


# Entries and page tables


def entry(bits):
    """A page-table entry in words, as mm/src/entry.rs defines it."""
    if bits == 0:
        return "empty"
    if bits & 1:
        names = [name for bit, name in FLAGS if bits >> bit & 1]
        return f"present, frame {bits & ADDRESS:#x}" + "".join(", " + name for name in names)
    if bits & 2:
        return f"in flight, slot {bits >> 8 & 0xFFFF}, use {bits >> 24}"
    return f"unknown {bits:#x}"


def physical(address):
    """Eight bytes of physical memory."""
    answer = gdb.execute(f"monitor xp /1gx {address:#x}", to_string=True)
    return int(answer.split(":")[1].strip(), 16)


def walk(address):
    """The entries of an address, from the top table down: level, bits."""
    table = int(gdb.selected_frame().read_register("cr3")) & ADDRESS
    for level in (4, 3, 2, 1):
        index = address >> (12 + 9 * (level - 1)) & 511
        bits = physical(table + 8 * index)
        yield level, bits
        if not bits & 1 or (bits & 0x80 and level in (2, 3)):
            return
        table = bits & ADDRESS


# Printers


class EntryPrinter:
    def __init__(self, value):
        self.value = value

    def to_string(self):
        return "Entry(" + entry(number(self.value)) + ")"


class RegionPrinter:
    def __init__(self, value):
        self.value = value

    def to_string(self):
        rights = number(self.value["protection"])
        shown = "".join(letter if rights >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
        backing = str(self.value["backing"].format_string(max_depth=1)).split("::")[-1].split("{")[0].strip()
        return f"{shown} to {number(self.value['end']):#x}, {backing}, flags {number(self.value['flags']):#x}"


class Lookup:
    """Chooses a printer by the name of the type."""

    def __init__(self):
        self.name, self.enabled = "faultline", True

    def __call__(self, value):
        name = value.type.strip_typedefs().name or ""
        if name == "faultline_mm::entry::Entry":
            return EntryPrinter(value)
        if name == "faultline_mm::region::Region":
            return RegionPrinter(value)
        return None


# Commands

STATES = [(1 << 20, "done"), (1 << 18, "queued"), (1 << 17, "waiting")]


class Faultline(gdb.Command):
    """Commands for Faultline: user, break NAME, tasks, slots, regions, entry ADDRESS."""

    def __init__(self):
        super().__init__("faultline", gdb.COMMAND_DATA, prefix=True)


class Tasks(gdb.Command):
    """Every task of the executor: index, state, name."""

    def __init__(self):
        super().__init__("faultline tasks", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        slab = field(once("faultline_kernel::machine::EXECUTOR", "executor"), "slab")
        chunks = list(elements(slab["chunks"]))
        length = number(slab["len"])
        per_chunk = 64
        for index in range(length):
            chunk = plain(chunks[index // per_chunk])
            slot = (chunk + index % per_chunk).dereference()
            word = number(slot["state"])
            if not word & (1 << 17 | 1 << 19 | 1 << 20):
                continue
            state = next((name for bit, name in STATES if word & bit), "held")
            print(f"{index:6} {state:8} {text(plain_text(slot['name']))}")


def plain_text(value):
    """The `&str` inside of a cell."""
    while "data_ptr" not in [f.name for f in fields(value)]:
        value = value[fields(value)[0]]
    return value


class Slots(gdb.Command):
    """The fault slots that somebody waits for or a space keeps: index, use number, fault, page and class."""

    def __init__(self):
        super().__init__("faultline slots", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        memory = once("faultline_kernel::machine::MEMORY", "memory")
        used = total = 0
        for slot in elements(field(memory, "faults", "slots")):
            total += 1
            request = field(slot, "request")
            if pointer_in(field(request, "owner")) is None:
                continue
            waited = pointer_in(field(slot, "shared", "waiters")) is not None
            used += waited
            print(f"{number(slot['index']):6} {'in flight' if waited else 'kept':9} use {number(slot['sequence'])} "
                  f"fault {number(field(request, 'fault'))} page {number(field(request, 'page')):#x} "
                  f"{str(field(request, 'class')).split('::')[-1]}")
        print(f"{used} of {total} fault slots are in flight")


class Regions(gdb.Command):
    """The regions of the address space that is loaded."""

    def __init__(self):
        super().__init__("faultline regions", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        memory = once("faultline_kernel::machine::MEMORY", "memory")
        active = field(memory, "tlb")[0]["slots"]
        space = pointer_in(field(active, "active"))
        if space is None:
            raise gdb.GdbError("no address space of a program is loaded")
        inner = field(space, "data") if "data" in [f.name for f in fields(space.dereference())] else space.dereference()
        chunks = field(inner, "inner", "regions", "chunks")
        for group in elements(chunks["groups"]):
            for chunk in in_place(pointer_in(group).dereference()["chunks"]):
                chunk = pointer_in(chunk).dereference()
                for index, region in enumerate(in_place(chunk["regions"])):
                    print(f"{int(chunk['starts'][index]):#18x} {RegionPrinter(region).to_string()}")


class EntryCommand(gdb.Command):
    """The page-table entries of an address, from the top table down: faultline entry ADDRESS."""

    def __init__(self):
        super().__init__("faultline entry", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("faultline entry ADDRESS")
        address = int(gdb.parse_and_eval(argument)) & 0xFFFF_FFFF_FFFF_FFFF
        for level, bits in walk(address):
            print(f"level {level}: {bits:#018x} {entry(bits)}")


class User(gdb.Command):
    """Runs to the first instruction of the program."""

    def __init__(self):
        super().__init__("faultline user", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        place = gdb.parse_and_eval("$program_entry")
        if place.type.code == gdb.TYPE_CODE_VOID:
            raise gdb.GdbError("where the program starts is known for --seed 0 only")
        gdb.execute(f"thbreak *{int(place):#x}")
        gdb.execute("continue")


class Break(gdb.Command):
    """Stops in the kernel's functions with this in their names: faultline break NAME."""

    def __init__(self):
        super().__init__("faultline break", gdb.COMMAND_BREAKPOINTS)

    def invoke(self, argument, from_tty):
        # gdb looks functions of `impl` blocks up under names that it does not know; the symbol table has them all.
        kernel = gdb.objfiles()[0].filename
        symbols = gdb.execute(f'maint print msymbols -objfile "{kernel}"', to_string=True)
        found = re.findall(r"^\[ *\d+\] [tT] (0x[0-9a-f]+) (\S+)", symbols, re.MULTILINE)
        places = {place for place, name in found if argument and argument in name}
        if not places:
            raise gdb.GdbError(f"no function of the kernel has {argument!r} in its name")
        if len(places) > 20:
            raise gdb.GdbError(f"{len(places)} functions have that in their names")
        for place in sorted(places):
            gdb.execute(f"break *{place}")


gdb.pretty_printers.insert(0, Lookup())
for command in (Faultline, Tasks, Slots, Regions, EntryCommand, User, Break):
    command()
print("faultline user: run to the program; faultline break NAME: stop in the kernel; faultline tasks, slots, regions, entry ADDRESS: look at the kernel")
