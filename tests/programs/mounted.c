// What calls say about the files below a folder, which is on a disk here and in a folder on Linux: `mounted WHAT PATH`.
//   tree: everything below, each byte by read, pread, readv, private and shared mappings
//   refuse: calls that would change it
//   names COUNT STEP: a large directory, of which each STEPth name is looked up
//   join: several processes map the same file at the same time
//   errors: a file from a disk that fails now and then
//   hang: processes that wait for a disk that never answers are killed
//   huge: both ends of a large sparse file
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t hash(uint64_t hash, const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

#define START 0xcbf29ce484222325u

static const char *word(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

static void file(const char *path, off_t size) {
    static unsigned char buffer[10007], other[5000];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return (void)printf(" open: %s\n", word(fd));
    uint64_t whole = START;
    ssize_t got;
    off_t length = 0;
    while ((got = read(fd, buffer, sizeof buffer)) > 0) whole = hash(whole, buffer, got), length += got;
    printf(" read %ld %016lx", (long)length, whole);
    // Backwards, in pieces that begin and end anywhere.
    uint64_t back = START;
    for (off_t at = size; at > 0;) {
        off_t part = at < 4999 ? at : 4999;
        at -= part;
        got = pread(fd, buffer, part, at);
        back = hash(back, buffer, got > 0 ? got : 0);
    }
    struct iovec pieces[] = {{buffer, 3}, {other, sizeof other}, {buffer + 3, 4096}};
    got = preadv(fd, pieces, 3, 1);
    back = hash(back, other, sizeof other);
    printf(" back %016lx readv %zd", back, got);
    for (int kind = 0; size > 0 && kind < 2; kind++) {
        unsigned char *map = mmap(0, size, PROT_READ | (kind ? PROT_WRITE : 0), kind ? MAP_PRIVATE : MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            printf(" map: %s", word(-1));
            continue;
        }
        // The rest of the last page is zeros.
        off_t end = (size + 4095) & ~4095;
        uint64_t mapped = hash(START, map, size), rest = 0;
        for (off_t at = size; at < end; at++) rest |= map[at];
        if (kind) map[size / 2] ^= 0xff;
        printf(" map %s%s", mapped == whole ? "same" : "differs", rest ? " and more" : "");
        munmap(map, size);
    }
    // What was written to the private mapping is nowhere.
    uint64_t again = START;
    lseek(fd, 0, SEEK_SET);
    while ((got = read(fd, buffer, 512)) > 0) again = hash(again, buffer, got);
    printf(" again %s end %ld\n", again == whole ? "same" : "differs", (long)lseek(fd, 0, SEEK_END));
    close(fd);
}

static int compare(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

static int wanted(const struct dirent *entry) { return strcmp(entry->d_name, "lost+found"); }

static void tree(int depth) {
    struct dirent **names;
    int count = scandir(".", &names, wanted, compare);
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        struct stat at;
        if (lstat(name, &at)) {
            printf("%s: %s\n", name, word(-1));
            continue;
        }
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        int kinds = names[i]->d_type == DT_UNKNOWN || names[i]->d_type == (at.st_mode >> 12 & 15);
        int inodes = names[i]->d_ino == at.st_ino;
        printf("%*s%s %o links %d time %ld %s", depth, "", name, at.st_mode, S_ISDIR(at.st_mode) ? 0 : (int)at.st_nlink,
               (long)at.st_mtime, kinds && inodes ? "listed" : "listed as another");
        if (S_ISREG(at.st_mode)) {
            printf(" size %ld access %s %s", (long)at.st_size, word(access(name, R_OK)), word(access(name, X_OK)));
            file(name, at.st_size);
        } else if (S_ISLNK(at.st_mode)) {
            char target[5000] = "";
            ssize_t length = readlink(name, target, sizeof target);
            struct stat behind;
            printf(" -> %s (%zd) %s", target, length, word(stat(name, &behind)));
            printf(" %s\n", word(open(name, O_RDONLY | O_NOFOLLOW)));
        } else if (S_ISDIR(at.st_mode)) {
            char here[5000], there[5000];
            getcwd(here, sizeof here);
            printf(" %s", word(open(name, O_WRONLY)));
            printf(" %s\n", word(chdir(name)));
            tree(depth + 1);
            if (chdir("..")) printf("no way back: %s\n", word(-1));
            getcwd(there, sizeof there);
            if (strcmp(here, there)) printf("%s became %s\n", here, there);
        } else {
            puts("");
        }
    }
}

static void say(const char *call, long result) { printf("%s: %s\n", call, word(result < 0 ? -1 : 0)); }

static void refuse(void) {
    say("write", open("file4097", O_WRONLY));
    say("both", open("file4097", O_RDWR));
    say("cut", open("file4097", O_RDONLY | O_TRUNC));
    say("create", open("new", O_CREAT | O_WRONLY, 0600));
    say("create what is there", open("file1", O_CREAT | O_RDONLY, 0600));
    say("create anew", open("file1", O_CREAT | O_EXCL | O_RDONLY, 0600));
    say("mkdir", mkdir("new", 0700));
    say("mkdir what is there", mkdir("many", 0700));
    say("unlink", unlink("file1"));
    say("rmdir", rmdir("many"));
    say("rename", rename("file1", "other"));
    say("rename from elsewhere", rename("/tmp", "tmp"));
    say("rename to elsewhere", rename("file1", "/tmp/file1"));
    say("link", link("file1", "other"));
    say("link to elsewhere", link("file1", "/tmp/other"));
    say("symlink", symlink("file1", "other"));
    say("truncate", truncate("file1", 0));
    say("chmod", chmod("file1", 0));
    say("chown", chown("file1", 0, 0));
    say("utimes", utimensat(AT_FDCWD, "file1", 0, 0));
    say("access", access("file1", W_OK));
    int fd = open("file4097", O_RDONLY);
    say("ftruncate", ftruncate(fd, 0));
    say("pwrite", pwrite(fd, "x", 1, 0));
    say("fchmod", fchmod(fd, 0));
    say("fchown", fchown(fd, 0, 0));
    say("map for writing", (long)mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == -1 ? -1 : 0);
    char *shared = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    say("make it writable", mprotect(shared, 4096, PROT_READ | PROT_WRITE));
    say("nothing there", open("many/no/such", O_RDONLY));
    say("no directory", open("file1/below", O_RDONLY));
    say("a directory wanted", open("file1", O_RDONLY | O_DIRECTORY));
    say("long name", open("x012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345"
        "6789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
        "12345678901234567890123456789012345678901234567890", O_RDONLY));
    say("circle", open("circle", O_RDONLY));
    struct statfs system;
    say("statfs", statfs(".", &system));
    printf("type %lx, names of %ld, blocks of %ld, read-only %d\n", (long)system.f_type, (long)system.f_namelen,
           (long)system.f_bsize, (int)(system.f_flags & 1));
}

static void names(int expected, int step) {
    char name[64];
    int listed = 0, there = 0;
    DIR *directory = opendir(".");
    for (struct dirent *entry; (entry = readdir(directory));) listed += entry->d_name[0] != '.';
    for (int i = 0; i < expected; i += step) {
        struct stat at;
        snprintf(name, sizeof name, "name %d of many", i);
        there += !stat(name, &at);
    }
    snprintf(name, sizeof name, "name %d of many", expected);
    printf("listed %d, found %d, one more: %s\n", listed, there, word(access(name, F_OK)));
    rewinddir(directory);
    // To a place and back to it.
    long places[100];
    char kept[100][64];
    for (int i = 0; i < 100; i++) {
        places[i] = telldir(directory);
        strcpy(kept[i], readdir(directory)->d_name);
    }
    int same = 0;
    for (int i = 99; i >= 0; i--) {
        seekdir(directory, places[i]);
        same += !strcmp(kept[i], readdir(directory)->d_name);
    }
    printf("%d of 100 again\n", same);
}

static void join(const char *path, int processes) {
    struct stat at;
    int fd = open(path, O_RDONLY), pipes[2];
    if (fd < 0 || fstat(fd, &at) || pipe(pipes)) return perror(path);
    for (int i = 0; i < processes; i++) {
        if (fork()) continue;
        char byte;
        unsigned char *map = mmap(0, at.st_size, PROT_READ, i % 2 ? MAP_SHARED : MAP_PRIVATE, fd, 0);
        // All begin when the pipe is closed.
        close(pipes[1]);
        read(pipes[0], &byte, 1);
        uint64_t sum = START;
        for (off_t page = 0; page < at.st_size; page += 4096) {
            sum = hash(sum, map + page, at.st_size - page < 4096 ? at.st_size - page : 4096);
        }
        printf("%016lx\n", sum);
        fflush(stdout);
        _exit(0);
    }
    close(pipes[1]);
    for (int i = 0; i < processes; i++) wait(0);
}

static sigjmp_buf back;

static void on_bus(int signal) { siglongjmp(back, signal); }

static void errors(const char *path) {
    static unsigned char buffer[4096];
    signal(SIGBUS, on_bus);
    struct stat at;
    int fd;
    // Looking the file up may fail as well.
    while ((fd = open(path, O_RDONLY)) < 0) {
        if (errno != EIO) return perror(path);
    }
    fstat(fd, &at);
    volatile int reads = 0, buses = 0;
    volatile uint64_t sum = START;
    // Here and there, so that not much is read ahead.
    off_t pages = (at.st_size + 4095) / 4096;
    for (volatile off_t done = 0; done < pages;) {
        off_t page = done * 263 % pages * 4096;
        if (!sigsetjmp(back, 1)) {
            if (page / 4096 % 2) {
                ssize_t got = pread(fd, buffer, 4096, page);
                if (got < 0) {
                    if (errno != EIO) return perror("pread");
                    reads++;
                    continue;
                }
                sum = hash(sum, buffer, got);
            } else {
                unsigned char *map = mmap(0, 4096, PROT_READ, page / 8192 % 2 ? MAP_SHARED : MAP_PRIVATE, fd, page);
                sum = hash(sum, map, at.st_size - page < 4096 ? at.st_size - page : 4096);
                munmap(map, 4096);
            }
            done++;
        } else {
            buses++;
        }
    }
    printf("%016lx\n", sum);
    fprintf(stderr, "EIO %d SIGBUS %d\n", reads, buses);
}

static void hang(const char *path) {
    enum { CHILDREN = 12 };
    pid_t ids[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        if ((ids[i] = fork())) continue;
        // Some wait for metadata, some for pages: by calls, by faults, and as programs that are to be started.
        int fd = open(path, O_RDONLY);
        static char buffer[4096];
        for (off_t at = i * 40960;; at = (at + 4096) % 901120) {
            if (i % 4 == 0 && pread(fd, buffer, 4096, at) <= 0) break;
            if (i % 4 == 1 && *(volatile char *)mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, at) == 1) puts("");
            if (i % 4 == 2) snprintf(buffer, sizeof buffer, "%s.d/%ld", path, (long)at), access(buffer, F_OK);
            if (i % 4 == 3) execl(path, path, NULL);
        }
        pause();
    }
    // The disk hangs by now, and so does whoever wants something of it.
    usleep(200000);
    for (int i = 0; i < CHILDREN; i++) kill(ids[i], SIGKILL);
    int killed = 0;
    for (int i = 0, status; i < CHILDREN; i++) killed += waitpid(ids[i], &status, 0) == ids[i] && WTERMSIG(status) == SIGKILL;
    printf("%d of %d killed\n", killed, CHILDREN);
}

static void huge(const char *path) {
    struct stat at;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &at)) return perror(path);
    printf("size %ld\n", (long)at.st_size);
    for (off_t place = 0; place < at.st_size;) {
        off_t data = lseek(fd, place, SEEK_DATA);
        if (data < 0) {
            printf("no more: %s\n", word(-1));
            break;
        }
        off_t hole = lseek(fd, data, SEEK_HOLE);
        unsigned char *map = mmap(0, hole - data, PROT_READ, MAP_PRIVATE, fd, data);
        printf("data %ld to %ld %016lx\n", (long)data, (long)hole, hash(START, map, hole - data));
        munmap(map, hole - data);
        place = hole;
    }
    unsigned char *all = mmap(0, at.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    uint64_t sum = START;
    for (off_t place = 0; place < at.st_size; place += at.st_size / 64 & ~4095) sum = hash(sum, all + place, 4096);
    printf("%016lx\n", hash(sum, all + at.st_size - 1, 1));
}

int main(int count, char **arguments) {
    const char *what = arguments[1], *path = arguments[2];
    if (!strcmp(what, "join")) return join(path, atoi(arguments[3])), 0;
    if (!strcmp(what, "errors")) return errors(path), 0;
    if (!strcmp(what, "hang")) return hang(path), 0;
    if (!strcmp(what, "huge")) return huge(path), 0;
    if (chdir(path)) return perror(path), 1;
    if (!strcmp(what, "tree")) tree(0);
    if (!strcmp(what, "refuse")) refuse();
    if (!strcmp(what, "names")) names(atoi(arguments[3]), atoi(arguments[4]));
    return 0;
}
