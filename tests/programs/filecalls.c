// What calls on files say, line by line; the same on Linux and here.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SAY(...) do { errno = 0; long r_ = (long)(__VA_ARGS__); printf("%s: %ld %s\n", #__VA_ARGS__, r_ < 0 ? -1 : r_, r_ < 0 ? strerror(errno) : ""); } while (0)
#define SIGN(...) do { errno = 0; long r_ = (long)(__VA_ARGS__); printf("%s: %s %s\n", #__VA_ARGS__, r_ < 0 ? "-1" : "ok", r_ < 0 ? strerror(errno) : ""); } while (0)

static void attributes(void) {
    char buffer[16], name[300];
    memset(name, 'n', sizeof name);
    memcpy(name, "user.", 5);
    name[299] = 0;
    int f = open("attributes", O_RDWR | O_CREAT, 0644);
    int path = open("attributes", O_PATH);
    SAY(getxattr("nothing", "user.a", buffer, 16));
    SAY(lgetxattr("attributes", "", buffer, 16));
    SAY(lgetxattr("attributes", name, buffer, 16));
    SAY(getxattr("attributes", (char *)8, buffer, 16));
    SAY(getxattr((char *)8, "user.a", buffer, 16));
    SAY(fgetxattr(99, "user.a", buffer, 16));
    SAY(fgetxattr(path, "user.a", buffer, 16));
    SAY(setxattr("attributes", "user.a", buffer, 16, 77));
    SAY(syscall(SYS_setxattr, "attributes", "user.a", buffer, 65537, 0));
    SAY(syscall(SYS_setxattr, "attributes", "user.a", 8, 16, 0));
    SAY(setxattr("nothing", "user.a", buffer, 16, 0));
    SAY(fsetxattr(99, "user.a", buffer, 16, 0));
    SAY(flistxattr(f, NULL, 0));
    SAY(flistxattr(99, NULL, 0));
    SAY(llistxattr("nothing", NULL, 0));
    SAY(removexattr("nothing", "user.a"));
    SAY(removexattr("attributes", name));
    SAY(fremovexattr(99, "user.a"));
    close(f);
    close(path);
    unlink("attributes");
}

static void flags(void) {
    char buffer[512];
    struct stat st;
    int pipes[2];
    if (pipe(pipes)) exit(1);
    int f = open("flags", O_RDWR | O_CREAT, 0644);
    SAY(write(f, "abc", 3));
    SAY(dup3(77, 77, 0));
    SAY(dup3(f, f, O_CLOEXEC));
    SAY(dup3(f, 60, 1));
    SAY(dup2(77, 77));
    SAY(dup2(f, f) == f);
    SAY(syscall(SYS_close_range, 50, 60, 0xffffu));
    SAY(syscall(SYS_close_range, 60, 50, 0));
    SAY(syscall(SYS_faccessat2, AT_FDCWD, "flags", R_OK, -1));
    SAY(syscall(SYS_faccessat2, AT_FDCWD, "flags", -1, 0));
    SAY(syscall(SYS_faccessat2, f, "", R_OK, AT_EMPTY_PATH));
    SAY(access("flags", X_OK));
    SAY(access(".", X_OK));
    SAY(fchmodat(AT_FDCWD, "", 0644, 0));
    SAY(fstatat(AT_FDCWD, "flags", &st, 9999));
    SAY(fstatat(f, "", &st, AT_EMPTY_PATH));
    SAY(syscall(SYS_statx, AT_FDCWD, "flags", -1, 0, buffer));
    SAY(syscall(SYS_statx, AT_FDCWD, "flags", 0, 1u << 31, buffer));
    SAY(syscall(SYS_statx, AT_FDCWD, "flags", 0x6000, 0, buffer));
    SAY(fdatasync(pipes[0]));
    SAY(fsync(f));
    SAY(posix_fadvise(f, 0, 0, 77));
    SAY(posix_fadvise(f, 0, -1, 0));
    SAY(posix_fadvise(pipes[0], 0, 0, 0));
    SAY(posix_fadvise(f, 0, 0, POSIX_FADV_WILLNEED));
    SAY(fallocate(f, 0, -1, 10));
    SAY(fallocate(f, 0, 0, 0));
    SAY(fallocate(f, 0x1000, 0, 10));
    SAY(fallocate(f, FALLOC_FL_PUNCH_HOLE, 0, 10));
    SAY(fallocate(f, 0, INT64_MAX, 10));
    SAY(fallocate(pipes[1], 0, 0, 10));
    SAY(ftruncate(pipes[1], 0));
    SAY(ftruncate(f, -1));
    SAY(lseek(pipes[0], 0, SEEK_CUR));
    SAY(lseek(f, -1, SEEK_SET));
    SAY(lseek(f, 0, 99));
    SAY(linkat(AT_FDCWD, "flags", AT_FDCWD, "other", 77));
    SAY(unlinkat(AT_FDCWD, "flags", 77));
    SAY(fchownat(AT_FDCWD, "flags", 0, 0, 77));
    SAY(utimensat(AT_FDCWD, "flags", 0, 77));
    SAY(open("flags", O_RDONLY | O_DIRECTORY));
    SAY(open("flags/", O_RDONLY));
    SAY(open("flags/", O_RDWR | O_CREAT, 0644));
    SAY(open("nothing/", O_RDWR | O_CREAT, 0644));
    SAY(open(".", O_RDWR));
    SAY(open(".", O_RDWR | O_CREAT, 0644));
    int readonly = open("flags", O_RDONLY);
    SAY(ftruncate(readonly, 0));
    SAY(fallocate(readonly, 0, 0, 10));
    SAY(write(readonly, "x", 1));
    close(readonly);
    int path = open("flags", O_PATH);
    SAY(read(path, buffer, 1));
    SAY(write(path, "x", 1));
    SAY(fchmod(path, 0600));
    SAY(fchown(path, 0, 0));
    SAY(lseek(path, 0, SEEK_SET));
    SAY(ftruncate(path, 0));
    SAY(fsync(path));
    SAY(ioctl(path, 0x541b, &st));
    SAY(mmap(0, 4096, PROT_READ, MAP_PRIVATE, path, 0));
    SAY(fcntl(path, F_GETFL) & O_PATH ? 1 : 0);
    SAY(fcntl(path, F_SETFL, O_APPEND));
    SAY(fcntl(path, F_GETFD));
    SAY(fstat(path, &st));
    SAY(posix_fadvise(path, 0, 0, 0));
    SAY(flock(path, LOCK_SH));
    SAY(close(path));
    int folder = open(".", O_PATH);
    SAY(faccessat(folder, "flags", R_OK, 0));
    SAY(fchdir(folder));
    SAY(getdents64(folder, buffer, sizeof buffer));
    close(folder);
    struct pollfd wanted = {f, POLLIN | POLLOUT, 0};
    SAY(poll(&wanted, 1, 0));
    int full = open("/dev/full", O_RDWR);
    SAY(write(full, "x", 1));
    SAY(read(full, buffer, 3));
    close(full), close(f), close(pipes[0]), close(pipes[1]);
    struct statfs fs;
    SAY(statfs("/nonexistent", &fs));
    SAY(statfs("", &fs));
    SAY(fstatfs(-1, &fs));
    SAY(statfs("/", (void *)8));
    SAY(statfs("/", &fs));
    printf("/proc: %lx\n", statfs("/proc", &fs) ? 0 : (long)fs.f_type);
}

static void sparse(void) {
    char c = 1, page[4096];
    struct stat st;
    int f = memfd_create("sparse", 0);
    SAY(ftruncate(f, 1L << 40));
    SAY(lseek(f, 0, SEEK_DATA));
    SAY(lseek(f, 5, SEEK_HOLE));
    SAY(lseek(f, 1L << 40, SEEK_HOLE));
    SAY(pwrite(f, "data", 4, 1L << 30));
    SAY(pwrite(f, "more", 4, (1L << 30) + 4094));
    SAY(pwrite(f, "end", 3, (1L << 40) - 3));
    SAY(lseek(f, 0, SEEK_DATA));
    SAY(lseek(f, 1L << 30, SEEK_HOLE));
    SAY(lseek(f, (1L << 30) + 8192, SEEK_DATA));
    SAY(lseek(f, (1L << 40) - 1, SEEK_DATA));
    SAY(lseek(f, (1L << 40) - 1, SEEK_HOLE));
    SAY(lseek(f, 1L << 40, SEEK_DATA));
    SAY(lseek(f, -5, SEEK_DATA));
    fstat(f, &st);
    printf("%ld blocks of %ld bytes\n", (long)st.st_blocks, (long)st.st_size);
    SAY(pread(f, &c, 1, 1L << 35));
    printf("a hole is %d\n", c);
    char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, f, 1L << 33);
    m[1 << 19] = 7;
    SAY(pread(f, &c, 1, (1L << 33) + (1 << 19)));
    printf("a mapped byte is %d\n", c);
    SAY(lseek(f, (1L << 30) + 8192, SEEK_DATA));
    SAY(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (1L << 30) + 2, 4096));
    SAY(pread(f, page, 8, 1L << 30));
    printf("%.2s %d %d\n", page, page[2], page[3]);
    SAY(pread(f, page, 4, (1L << 30) + 4094));
    printf("%d %d %d %.1s\n", page[0], page[1], page[2], page + 3);
    SAY(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1L << 40));
    SAY(lseek(f, 0, SEEK_DATA));
    fstat(f, &st);
    printf("%ld blocks of %ld bytes\n", (long)st.st_blocks, (long)st.st_size);
    SAY(ftruncate(f, 10));
    SAY(fallocate(f, FALLOC_FL_KEEP_SIZE, 0, 16384));
    fstat(f, &st);
    printf("%ld blocks of %ld bytes\n", (long)st.st_blocks, (long)st.st_size);
    SAY(fallocate(f, 0, 4000, 10000));
    fstat(f, &st);
    printf("%ld blocks of %ld bytes\n", (long)st.st_blocks, (long)st.st_size);
    memset(page, 'x', sizeof page);
    SAY(pwrite(f, page, sizeof page, 0));
    SAY(ftruncate(f, 100));
    SAY(ftruncate(f, 4096));
    SAY(pread(f, page, sizeof page, 0));
    printf("%d %d\n", page[99], page[100]);
    SAY(pwrite(f, "x", 1, INT64_MAX));
    SAY(ftruncate(f, INT64_MAX));
    SAY(ftruncate(f, 0));
    close(f);
}

static int try_lock(int f, int command, int type, long start, long length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(f, command, &lock);
}

static void who(int f, int type, long start, long length, pid_t child) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int r = fcntl(f, F_GETLK, &lock);
    printf("F_GETLK %ld+%ld: %d type %d from %ld for %ld by %s\n", start, length, r, lock.l_type, (long)lock.l_start,
           (long)lock.l_len, lock.l_pid == child ? "the child" : lock.l_pid == -1 ? "a file" : "nobody else");
}

static void locks(void) {
    int f = open("locked", O_RDWR | O_CREAT, 0644), g = open("locked", O_RDWR), r = open("locked", O_RDONLY);
    int ready[2], go[2];
    char c;
    if (pipe(ready) || pipe(go)) exit(1);
    SAY(write(f, "0123456789", 10));
    SAY(try_lock(f, F_SETLK, F_WRLCK, 0, 1));
    SAY(try_lock(g, F_SETLK, F_WRLCK, 0, 1));
    SAY(try_lock(r, F_SETLK, F_WRLCK, 0, 1));
    SAY(try_lock(r, F_SETLK, 99, 0, 1));
    SAY(try_lock(f, F_SETLK, F_WRLCK, -1, 1));
    SAY(try_lock(f, F_SETLK, F_WRLCK, INT64_MAX, 2));
    SAY(fcntl(f, F_SETLK, 0));
    SAY(try_lock(f, F_SETLK, F_UNLCK, 0, 0));
    SAY(try_lock(ready[0], F_SETLK, F_UNLCK, 0, 0) < 1);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        int h = open("locked", O_RDWR);
        try_lock(h, F_SETLK, F_WRLCK, 10, 20);
        try_lock(h, F_SETLK, F_RDLCK, 15, 5);
        try_lock(h, F_SETLK, F_UNLCK, 25, 2);
        try_lock(h, F_SETLK, F_RDLCK, 100, 0);
        if (write(ready[1], "x", 1) != 1 || read(go[0], &c, 1) != 1) _exit(1);
        // Closing any descriptor of the file gives all locks up.
        close(open("locked", O_RDONLY));
        if (write(ready[1], "x", 1) != 1 || read(go[0], &c, 1) != 1) _exit(1);
        // Waits until the parent gives its lock up.
        if (try_lock(h, F_SETLKW, F_WRLCK, 0, 0)) _exit(2);
        printf("the child has it\n");
        fflush(stdout);
        _exit(3);
    }
    if (read(ready[0], &c, 1) != 1) exit(1);
    who(f, F_WRLCK, 0, 10, child);
    who(f, F_WRLCK, 0, 0, child);
    who(f, F_RDLCK, 15, 5, child);
    who(f, F_WRLCK, 15, 5, child);
    who(f, F_RDLCK, 22, 5, child);
    who(f, F_WRLCK, 25, 2, child);
    who(f, F_WRLCK, 1000, 1, child);
    SAY(try_lock(f, F_SETLK, F_WRLCK, 12, 1));
    SAY(try_lock(f, F_SETLK, F_RDLCK, 15, 5));
    SAY(try_lock(f, F_SETLK, F_WRLCK, 25, 2));
    SAY(try_lock(f, F_SETLK, F_UNLCK, 0, 0));
    if (write(go[1], "x", 1) != 1 || read(ready[0], &c, 1) != 1) exit(1);
    SAY(try_lock(f, F_SETLKW, F_WRLCK, 0, 0));
    if (write(go[1], "x", 1) != 1) exit(1);
    usleep(20000);
    printf("the parent gives it up\n");
    fflush(stdout);
    close(r);
    int status;
    waitpid(child, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));

    // Each waits for the other: one of them is told.
    fflush(stdout);
    SAY(try_lock(f, F_SETLK, F_WRLCK, 0, 1));
    fflush(stdout);
    child = fork();
    if (!child) {
        try_lock(f, F_SETLK, F_WRLCK, 1, 1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        int result = try_lock(f, F_SETLKW, F_WRLCK, 0, 1);
        _exit(result == 0 ? 4 : errno == EDEADLK ? 5 : 6);
    }
    if (read(ready[0], &c, 1) != 1) exit(1);
    usleep(50000);
    SAY(try_lock(f, F_SETLKW, F_WRLCK, 1, 1));
    SAY(try_lock(f, F_SETLK, F_UNLCK, 0, 0));
    waitpid(child, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));

    // Locks of open files.
    SAY(try_lock(f, F_OFD_SETLK, F_WRLCK, 0, 5));
    SAY(try_lock(g, F_OFD_SETLK, F_WRLCK, 4, 5));
    SAY(try_lock(g, F_OFD_SETLK, F_WRLCK, 5, 5));
    SAY(try_lock(f, F_SETLK, F_WRLCK, 0, 1));
    who(f, F_WRLCK, 0, 1, child);
    int copy = dup(f);
    close(f);
    SAY(try_lock(g, F_OFD_SETLK, F_WRLCK, 4, 5));
    close(copy);
    SAY(try_lock(g, F_OFD_SETLK, F_WRLCK, 4, 5));
    struct flock named = {.l_type = F_WRLCK, .l_pid = 1};
    SAY(fcntl(g, F_OFD_SETLK, &named));

    // flock, which knows of neither.
    f = open("locked", O_RDWR);
    SAY(flock(f, LOCK_EX));
    SAY(flock(g, LOCK_EX | LOCK_NB));
    SAY(flock(f, LOCK_SH));
    SAY(flock(g, LOCK_SH | LOCK_NB));
    SAY(flock(f, LOCK_EX | LOCK_NB));
    SAY(flock(g, LOCK_UN));
    SAY(flock(f, LOCK_EX | LOCK_NB));
    SAY(flock(f, LOCK_SH | LOCK_EX));
    SAY(flock(-1, LOCK_SH));
    fflush(stdout);
    if (!(child = fork())) {
        close(f);
        flock(g, LOCK_EX);
        printf("after the wait\n");
        fflush(stdout);
        _exit(0);
    }
    usleep(20000);
    printf("before\n");
    fflush(stdout);
    close(f);
    waitpid(child, &status, 0);
    close(g);
}

static void limits(void) {
    struct rlimit old, few = {20, 0};
    getrlimit(RLIMIT_NOFILE, &old);
    few.rlim_max = old.rlim_max;
    for (int i = 3; i < 64; i++) close(i);
    setrlimit(RLIMIT_NOFILE, &few);
    int last = -1, next;
    while ((next = open("flags", O_RDONLY)) >= 0) last = next;
    printf("last %d, %s\n", last, strerror(errno));
    SAY(dup(0));
    SAY(dup2(0, 20));
    SAY(fcntl(0, F_DUPFD, 20));
    SAY(fcntl(0, F_DUPFD, 5));
    int pipes[2];
    SAY(pipe(pipes));
    close(7);
    close(5);
    SAY(dup(0));
    SAY(fcntl(0, F_DUPFD, 6));
    setrlimit(RLIMIT_NOFILE, &old);
    SAY(dup(0));
    SAY(syscall(SYS_close_range, 3, ~0u, 0));

    signal(SIGXFSZ, SIG_IGN);
    struct rlimit size, small = {100, 0};
    getrlimit(RLIMIT_FSIZE, &size);
    small.rlim_max = size.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    int f = open("size", O_RDWR | O_CREAT, 0644);
    char bytes[200] = {0};
    SAY(write(f, bytes, 90));
    SAY(write(f, bytes, 90));
    SAY(write(f, bytes, 90));
    SAY(pwrite(f, bytes, 10, 99));
    SAY(pwrite(f, bytes, 10, 100));
    SAY(ftruncate(f, 101));
    SAY(ftruncate(f, 50));
    SAY(truncate("size", 101));
    SAY(fallocate(f, 0, 0, 101));
    setrlimit(RLIMIT_FSIZE, &size);
    close(f);
}

static int contains(const char *file, const char *text) {
    static char buffer[1 << 16];
    int f = open(file, O_RDONLY), length = 0, r;
    if (f < 0) return -1;
    while ((r = read(f, buffer + length, sizeof buffer - 1 - length)) > 0) length += r;
    close(f);
    buffer[length] = 0;
    return memmem(buffer, length, text, strlen(text)) != 0;
}

static int has(int f, void *start, int pages) {
    static char buffer[1 << 16];
    char wanted[40];
    int length = 0, r;
    lseek(f, 0, SEEK_SET);
    while ((r = read(f, buffer + length, sizeof buffer - 1 - length)) > 0) length += r;
    buffer[length] = 0;
    snprintf(wanted, sizeof wanted, "%lx-%lx", (long)start, (long)start + pages * 4096L);
    return strstr(buffer, wanted) != 0;
}

static void proc(char **argv) {
    int f = open("/proc/self/maps", O_RDONLY);
    char *p = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = p[8192] = 1;
    munmap(p + 4096, 4096);
    printf("two mappings: %d %d\n", has(f, p, 1), has(f, p + 8192, 1));
    mprotect(p, 4096, PROT_READ);
    munmap(p + 8192, 4096);
    printf("one mapping: %d %d\n", has(f, p, 1), has(f, p + 8192, 1));
    close(f);
    char a[4096], b[4096];
    f = open("/proc/self/maps", O_RDONLY);
    long whole = read(f, a, sizeof a), at = 0;
    lseek(f, 0, SEEK_SET);
    while (at < whole && read(f, b + at, 7 < whole - at ? 7 : whole - at) > 0) at += 7 < whole - at ? 7 : whole - at;
    printf("in small pieces the same: %d\n", memcmp(a, b, whole) == 0);
    printf("from the middle the same: %d\n", pread(f, b, 50, 60) == 50 && !memcmp(a + 60, b, 50));
    close(f);

    static volatile long word = 4711;
    long value = 0;
    f = open("/proc/self/mem", O_RDWR);
    SAY(pread(f, &value, sizeof value, (long)&word));
    printf("%ld\n", value);
    value = 4712;
    SAY(pwrite(f, &value, sizeof value, (long)&word));
    printf("%ld\n", word);
    SAY(pread(f, &value, sizeof value, 0));
    close(f);
    uint64_t entry = 0;
    p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = 1;
    f = open("/proc/self/pagemap", O_RDONLY);
    SAY(pread(f, &entry, 8, (unsigned long)p / 4096 * 8));
    printf("present %d\n", (int)(entry >> 63));
    SAY(pread(f, &entry, 8, (unsigned long)p / 4096 * 8 + 8));
    printf("present %d\n", (int)(entry >> 63));
    SAY(pread(f, &entry, 7, 0));
    close(f);

    printf("cmdline: %d\n", contains("/proc/self/cmdline", argv[0]));
    printf("environ: %d\n", contains("/proc/self/environ", "WORD=x"));
    unsigned long words[64];
    f = open("/proc/self/auxv", O_RDONLY);
    long n = read(f, words, sizeof words);
    close(f);
    for (long i = 0; i + 1 < n / 8; i += 2)
        if (words[i] == AT_ENTRY) printf("entry: %d\n", words[i + 1] == getauxval(AT_ENTRY));
    printf("smaps: %d %d\n", contains("/proc/self/smaps", "Rss:"), contains("/proc/self/smaps", "[stack]"));
    printf("limits: %d\n", contains("/proc/self/limits", "Max open files"));
    printf("io: %d\n", contains("/proc/self/io", "rchar: "));
    printf("version: %d\n", contains("/proc/version", "Linux version "));
    printf("cpuinfo: %d\n", contains("/proc/cpuinfo", "processor\t: 0\n"));
    printf("stat: %d %d\n", contains("/proc/stat", "cpu  "), contains("/proc/stat", "btime "));
    printf("vmstat: %d\n", contains("/proc/vmstat", "pgfault "));
    printf("mounts: %d\n", contains("/proc/mounts", " /proc proc "));
    printf("osrelease: %d\n", contains("/proc/sys/kernel/osrelease", "."));
    printf("ostype: %d\n", contains("/proc/sys/kernel/ostype", "Linux\n"));
    printf("online: %d\n", contains("/sys/devices/system/cpu/online", "0"));
    printf("uuid: %d\n", contains("/proc/sys/kernel/random/uuid", "-4"));
    printf("status: %d %d\n", contains("/proc/self/status", "VmRSS:"), contains("/proc/self/status", "Threads:\t1\n"));
    printf("exe: %d\n", access("/proc/self/exe", X_OK));
    printf("task: %d\n", contains("/proc/thread-self/comm", "filecalls"));

    char link[64], target[256];
    f = open("flags", O_RDONLY);
    snprintf(link, sizeof link, "/proc/self/fd/%d", f);
    memset(target, 0, sizeof target);
    if (readlink(link, target, sizeof target - 1) < 0) perror("readlink");
    printf("fd: %s\n", strrchr(target, '/'));
    int again = open(link, O_RDONLY);
    SAY(read(again, target, 3));
    snprintf(link, sizeof link, "/dev/fd/%d", f);
    SIGN(open(link, O_RDONLY));
    unlink("flags");
    snprintf(link, sizeof link, "/proc/self/fd/%d", f);
    struct stat st;
    SAY(stat(link, &st));
    int pipes[2];
    if (pipe(pipes) || write(pipes[1], "xyz", 3) != 3) exit(1);
    snprintf(link, sizeof link, "/proc/self/fd/%d", pipes[0]);
    again = open(link, O_RDONLY | O_NONBLOCK);
    SAY(read(again, target, 2));
    memset(target, 0, sizeof target);
    if (readlink(link, target, sizeof target - 1) < 0) perror("readlink");
    printf("%.6s\n", target);
    SAY(open("/proc/self/fd/77", O_RDONLY));
    SAY(readlink("/proc/self/status", target, 10));
    SAY(open("/proc/self/nothing", O_RDONLY));
    SAY(open("/proc/4000000", O_RDONLY));
    SAY(open("/proc/01", O_RDONLY));
    SAY(mkdir("/proc/x", 0755) < 0);
    SIGN(open("/dev/shm", O_RDONLY | O_DIRECTORY));
    SIGN(chdir("/proc/self/task"));
    printf("%s\n", getcwd(target, sizeof target) && strstr(target, "/task") ? "in task" : "elsewhere");
    SIGN(chdir(".."));
    SIGN(open("maps", O_RDONLY));
}

static void names(void) {
    char long_name[300];
    memset(long_name, 'n', sizeof long_name);
    long_name[256] = 0;
    SAY(mkdir("d", 0755));
    SAY(mkdir("d", 0755));
    SAY(mkdir(long_name, 0755));
    long_name[255] = 0;
    SAY(mkdir(long_name, 0755));
    SAY(rmdir(long_name));
    SAY(mkdir("d/e/", 0755));
    SAY(rmdir("d"));
    SAY(rmdir("d/."));
    SAY(rmdir("d/e/.."));
    SAY(unlink("d"));
    SAY(rename("d", "d/e/f"));
    SAY(rename("d/e", "d"));
    SAY(rename("d/e", "e"));
    SAY(mkdir("e/f", 0755));
    SAY(rename("d", "e"));
    SAY(rename("e", "d"));
    SAY(rename("nothing", "d"));
    SAY(close(open("file", O_CREAT | O_RDWR, 0600)) < 0);
    SAY(rename("file", "d"));
    SAY(rename("d", "file"));
    SAY(rename("file", "file/"));
    SAY(link("file", "second"));
    SAY(link("d", "third"));
    SAY(link("file", "d"));
    struct stat st;
    stat("file", &st);
    printf("%ld names\n", (long)st.st_nlink);
    SAY(rename("file", "second"));
    SAY(unlink("file"));
    SAY(unlink("second/"));
    SAY(symlink("d/f", "s"));
    SAY(symlink("", "t"));
    SAY(symlink("loop", "loop"));
    SAY(open("loop", O_RDONLY));
    SAY(open("loop", O_RDONLY | O_NOFOLLOW));
    SAY(open("s", O_RDONLY | O_CREAT | O_EXCL, 0600));
    SAY(mkdir("s/", 0755));
    SAY(rmdir("s"));
    SAY(chdir("s"));
    SAY(chdir(".."));
    SAY(chdir(".."));
    SAY(chmod("s", 0700));
    SAY(lstat("s", &st));
    printf("%ld bytes, mode %o\n", (long)st.st_size, st.st_mode);
    // A directory that is gone.
    mkdir("gone", 0755), chdir("gone"), rmdir("../gone");
    char buffer[4096];
    SAY(syscall(SYS_getcwd, buffer, sizeof buffer));
    SAY(mkdir("x", 0755));
    SAY(open("x", O_CREAT, 0600));
    SAY(open(".", O_RDONLY) < 0);
    SAY(chdir(".."));
    // A listing while names come and go.
    mkdir("many", 0755), chdir("many");
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        close(open(name, O_CREAT, 0600));
    }
    DIR *many = opendir(".");
    int stayed[300] = {0}, count = 0;
    for (struct dirent *entry; (entry = readdir(many)); count++) {
        char name[16];
        int number = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
        if (number < 0 || number >= 300) continue;
        stayed[number]++;
        if (number % 3 == 0) unlink(entry->d_name);
        snprintf(name, sizeof name, "%d", 300 + number);
        if (number % 3 == 1) close(open(name, O_CREAT, 0600));
    }
    int wrong = 0;
    for (int i = 0; i < 300; i++) wrong += stayed[i] != 1;
    printf("%d names were not listed once\n", wrong);
    rewinddir(many);
    readdir(many), readdir(many), readdir(many);
    long place = telldir(many);
    struct dirent *entry = readdir(many);
    char next[256];
    strcpy(next, entry->d_name);
    while (readdir(many)) {}
    seekdir(many, place);
    printf("the same place: %d\n", !strcmp(next, readdir(many)->d_name));
    closedir(many);
    chdir("..");
}

int main(int count, char **argv) {
    if (count == 0 || !argv[0][0]) {
        printf("argc %d\n", count);
        return 0;
    }
    if (!getenv("WORD")) {
        setenv("WORD", "x", 1);
        execv(argv[0], argv);
        return 1;
    }
    char folder[] = "/tmp/filecallsXXXXXX";
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!mkdtemp(folder) || chdir(folder)) return 1;
    for (int i = 3; i < 64; i++) close(i);
    umask(022);
    flags();
    attributes();
    sparse();
    locks();
    limits();
    names();
    close(open("flags", O_CREAT | O_RDWR, 0600));
    int f = open("flags", O_WRONLY);
    if (write(f, "text", 4) != 4) return 1;
    close(f);
    proc(argv);
    fflush(stdout);
    if (!fork()) {
        char *none[] = {0}, *words[] = {"WORD=x", 0};
        execve("/proc/self/exe", none, words);
        perror("execve");
        _exit(1);
    }
    wait(0);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (!access("/bin/sh", X_OK) && system(command)) return 1;
    return 0;
}
