/* Options of memory calls, and names exchanged: what comes out is the same on every Linux from 6.1 on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Not every C library has a name for these. */
#ifndef RENAME_EXCHANGE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

enum { PAGE = 4096 };

static const char *tell(long result)
{
    static char text[64];
    if (result == -1)
        snprintf(text, sizeof text, "errno %d", errno);
    else
        snprintf(text, sizeof text, "ok");
    return text;
}

/* The functions of C libraries differ in when they pass `place` on. */
static void *remap(void *memory, size_t from, size_t to, int flags, void *place)
{
    return (void *)syscall(SYS_mremap, memory, from, to, flags, place);
}

static const char *tell_address(void *result)
{
    return tell(result == MAP_FAILED ? -1 : 0);
}

static char *pages(int count, int flags)
{
    char *memory = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        exit(3);
    for (int page = 0; page < count; page++)
        memset(memory + page * PAGE, 'a' + page, 16);
    return memory;
}

/* Runs `look` in a child; prints its exit status, or the signal that ended it. */
static void in_child(const char *what, int (*look)(char *), char *memory)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(look(memory));
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s: signal %d\n", what, WTERMSIG(status));
    else
        printf("%s: %d\n", what, WEXITSTATUS(status));
}

static int first(char *memory)
{
    return memory[0];
}

static int second(char *memory)
{
    return memory[PAGE];
}

static int grandchild(char *memory)
{
    int status = 0;
    memory[0] = 'x';
    pid_t child = fork();
    if (child == 0)
        _exit(memory[0]);
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

static void forks(void)
{
    char *memory = pages(4, MAP_PRIVATE);
    printf("DONTFORK: %s\n", tell(madvise(memory, PAGE, MADV_DONTFORK)));
    in_child("its first page", first, memory);
    in_child("its second page", second, memory);
    printf("DOFORK: %s\n", tell(madvise(memory, PAGE, MADV_DOFORK)));
    in_child("its first page", first, memory);
    printf("WIPEONFORK: %s\n", tell(madvise(memory, PAGE, MADV_WIPEONFORK)));
    in_child("its first page", first, memory);
    in_child("its second page", second, memory);
    in_child("a child of the child", grandchild, memory);
    printf("the parent's: %c\n", memory[0]);
    printf("KEEPONFORK: %s\n", tell(madvise(memory, PAGE, MADV_KEEPONFORK)));
    in_child("its first page", first, memory);
    char *shared = pages(1, MAP_SHARED);
    printf("WIPEONFORK of what is shared: %s\n", tell(madvise(shared, PAGE, MADV_WIPEONFORK)));
    printf("DONTFORK of what is shared: %s\n", tell(madvise(shared, PAGE, MADV_DONTFORK)));
    in_child("what is shared", first, shared);
    munmap(memory + PAGE, PAGE);
    printf("with a hole: %s\n", tell(madvise(memory, 3 * PAGE, MADV_DONTFORK)));
    in_child("behind the hole", first, memory + 2 * PAGE);
}

static void remaps(void)
{
    char *memory = pages(4, MAP_PRIVATE);
    char *moved = remap(memory, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    printf("DONTUNMAP: %s\n", tell_address(moved));
    printf("moved %c%c, left %d %d %c\n", moved[0], moved[PAGE], memory[0], memory[PAGE], memory[2 * PAGE]);
    memory[0] = 'n';
    printf("both are memory: %c%c\n", moved[0], memory[0]);
    char *place = pages(2, MAP_PRIVATE);
    char *fixed = remap(memory + 2 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, place);
    printf("to a place: %d, %c%c, left %d\n", fixed == place, place[0], place[PAGE], memory[2 * PAGE]);
    char *hint = pages(3, MAP_PRIVATE);
    munmap(hint, 2 * PAGE);
    char *hinted = remap(place, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, hint);
    printf("to a hint: %d\n", hinted == hint);
    printf("to a hint that is taken: %d\n",
           remap(hint, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, hint + 2 * PAGE) == hint + 2 * PAGE);
    printf("to a hint that is not aligned: %s\n",
           tell_address(remap(hint, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, hint + PAGE + 1)));
    printf("to a hint in itself: %s\n",
           tell_address(remap(hint, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, hint)));
    printf("without MAYMOVE: %s\n", tell_address(remap(memory, PAGE, PAGE, MREMAP_DONTUNMAP, NULL)));
    printf("of other sizes: %s\n",
           tell_address(remap(memory, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL)));
    munmap(memory, PAGE);
    printf("of nothing: %s\n", tell_address(remap(memory, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL)));

    char *shared = pages(3, MAP_SHARED);
    char *again = remap(shared + PAGE, 0, 2 * PAGE, MREMAP_MAYMOVE, NULL);
    printf("size 0 of what is shared: %s\n", tell_address(again));
    again[0] = 'z';
    printf("seen in both: %c%c, %c\n", shared[PAGE], again[0], again[PAGE]);
    printf("size 0 in place: %s\n", tell_address(remap(shared, 0, PAGE, 0, NULL)));
    printf("size 0 of what is private: %s\n", tell_address(remap(moved, 0, PAGE, MREMAP_MAYMOVE, NULL)));
    munmap(again, PAGE);
    printf("size 0 of nothing: %s\n", tell_address(remap(again, 0, PAGE, MREMAP_MAYMOVE, NULL)));
}

static long locked(void)
{
    char text[4096];
    long kib = -1;
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length < 0 ? 0 : length] = 0;
    char *line = strstr(text, "VmLck:");
    if (line != NULL)
        sscanf(line, "VmLck: %ld", &kib);
    return kib;
}

static int locked_in_child(char *memory)
{
    (void)memory;
    return (int)locked();
}

static void report(const char *what, long result)
{
    printf("%s: %s", what, tell(result));
    printf(", locked %ld\n", locked());
}

static void locks(void)
{
    char *memory = pages(8, MAP_PRIVATE);
    report("at first", 0);
    report("mlock", mlock(memory, 3 * PAGE));
    report("not aligned", mlock(memory + 5 * PAGE + 100, 10));
    report("mlock2", mlock2(memory + 2 * PAGE, 2 * PAGE, MLOCK_ONFAULT));
    report("unknown flags", mlock2(memory, PAGE, 2));
    in_child("in a child", locked_in_child, NULL);
    report("munlock", munlock(memory + PAGE, PAGE));
    report("unmapped", munmap(memory, 2 * PAGE));
    report("over a hole", mlock(memory, 3 * PAGE));
    report("munlock all", munlock(memory + 2 * PAGE, 6 * PAGE));
    report("mlockall of nothing", mlockall(0));
    report("mlockall of unknown flags", mlockall(64));
    report("mlockall of no time", mlockall(MCL_ONFAULT));
}

/* Not within every limit of a Linux. */
static void lock_everything(void)
{
    char *memory = pages(8, MAP_PRIVATE);
    long all = mlockall(MCL_CURRENT);
    printf("mlockall: %s, %d\n", tell(all), locked() >= 8 * 4);
    report("munlockall", munlockall());
    munmap(memory, 8 * PAGE);
}

static void put(const char *name, const char *text)
{
    int file = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (file < 0 || write(file, text, strlen(text)) < 0)
        exit(4);
    close(file);
}

static const char *get(const char *name)
{
    static char text[64];
    int file = open(name, O_RDONLY);
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[length < 0 ? 0 : length] = 0;
    return text;
}

static long exchange(const char *one, const char *other, unsigned flags)
{
    return syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, flags);
}

static void names(const char *folder)
{
    struct stat status;
    if (chdir(folder) != 0)
        exit(5);
    put("one", "first");
    put("two", "second");
    mkdir("outer", 0755);
    mkdir("outer/inner", 0755);
    put("outer/inner/file", "deep");
    printf("exchange: %s\n", tell(exchange("one", "two", RENAME_EXCHANGE)));
    printf("one is %s\n", get("one"));
    printf("two is %s\n", get("two"));
    printf("a file and a folder: %s\n", tell(exchange("one", "outer/inner", RENAME_EXCHANGE)));
    printf("in the folder: %s\n", get("outer/inner"));
    printf("moved with it: %s\n", get("one/file"));
    printf("with nothing: %s\n", tell(exchange("one", "none", RENAME_EXCHANGE)));
    printf("with what holds it: %s\n", tell(exchange("outer/inner", "outer", RENAME_EXCHANGE)));
    printf("with what it holds: %s\n", tell(exchange("outer", "outer/inner", RENAME_EXCHANGE)));
    printf("two flags: %s\n", tell(exchange("one", "two", RENAME_EXCHANGE | RENAME_NOREPLACE)));
    printf("no replacing: %s\n", tell(exchange("one", "two", RENAME_NOREPLACE)));

    /* Accepted where there is nothing to do: one user, and no disk behind it. */
    int file = open("two", O_RDWR);
    printf("fsync %s", tell(fsync(file)));
    printf(", fdatasync %s", tell(fdatasync(file)));
    printf(", fadvise %d\n", posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED));
    sync();
    printf("chown %s", tell(chown("two", getuid(), getgid())));
    printf(", fchown %s", tell(fchown(file, getuid(), getgid())));
    printf(", lchown %s", tell(lchown("two", getuid(), getgid())));
    printf(", fchownat %s\n", tell(fchownat(AT_FDCWD, "two", getuid(), getgid(), 0)));
    stat("two", &status);
    printf("the owner: %d\n", status.st_uid == getuid() && status.st_gid == getgid());
    printf("chown of nothing: %s\n", tell(chown("none", getuid(), getgid())));
    close(file);
    printf("fsync when closed: %s", tell(fsync(file)));
    printf(", fdatasync: %s", tell(fdatasync(file)));
    printf(", fchown: %s", tell(fchown(file, getuid(), getgid())));
    printf(", fadvise: %d\n", posix_fadvise(file, 0, 0, POSIX_FADV_NORMAL));
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "everything") == 0) {
        lock_everything();
        return 0;
    }
    forks();
    remaps();
    locks();
    names(argc > 1 ? argv[1] : ".");
    return 0;
}
