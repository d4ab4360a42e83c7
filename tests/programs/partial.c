// Transfers that get only a part of the way: to or from a buffer whose end is not mapped, and up to the size limit of files.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096l

static char *buffer;
static volatile int signals;

static void count(int signal) { (void)signal, signals++; }

static void say(const char *what, long at, long result) {
    if (result < 0) printf("%s at %ld: %s\n", what, at, strerror(errno));
    else printf("%s at %ld: %ld\n", what, at, result);
}

// Two pages that are there, and a hole behind them.
static void fresh(int fill) {
    munmap(buffer, 2 * PAGE);
    if (mmap(buffer, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != buffer) _exit(1);
    memset(buffer, fill, 2 * PAGE);
}

static unsigned long sum(void) {
    unsigned long sum = 0;
    for (long i = 0; i < 2 * PAGE; i++) sum = sum * 31 + (unsigned char)buffer[i];
    return sum;
}

static int file(long bytes) {
    char content[PAGE];
    int f = memfd_create("file", 0);
    for (long at = 0; at < bytes; at += PAGE) {
        for (long i = 0; i < PAGE; i++) content[i] = (at + i) * 7 + 1;
        if (pwrite(f, content, PAGE, at) != PAGE) _exit(1);
    }
    return f;
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    buffer = mmap(0, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(buffer + 2 * PAGE, 2 * PAGE);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, count);
    // Where the transfer begins in the two pages.
    static const long starts[] = {0, 1, 100, PAGE, PAGE + 5, 2 * PAGE - 1, 2 * PAGE};
    for (unsigned i = 0; i < sizeof starts / sizeof *starts; i++) {
        long at = starts[i], length = 3 * PAGE;
        int f = file(8 * PAGE), zero = open("/dev/zero", O_RDONLY), p[2];
        fresh(1);
        say("read of a file", at, read(f, buffer + at, length));
        printf("  %lx, offset %ld\n", sum(), lseek(f, 0, SEEK_CUR));
        fresh(2);
        say("pread in a page", at, pread(f, buffer + at, length, 77));
        printf("  %lx\n", sum());
        fresh(3);
        say("read of /dev/zero", at, read(zero, buffer + at, length));
        printf("  %lx\n", sum());
        if (pipe(p)) return 1;
        fresh(4);
        say("write to a pipe", at, write(p[1], buffer + at, length));
        fcntl(p[0], F_SETFL, O_NONBLOCK);
        say("what is in the pipe", at, read(p[0], (char[3 * PAGE]){0}, length));
        char full[3 * PAGE];
        memset(full, 5, sizeof full);
        if (write(p[1], full, sizeof full) != sizeof full) return 1;
        fresh(6);
        say("read of a pipe", at, read(p[0], buffer + at, length));
        fresh(7);
        int g = memfd_create("other", 0);
        say("write to a file", at, write(g, buffer + at, length));
        printf("  offset %ld, length %ld\n", lseek(g, 0, SEEK_CUR), lseek(g, 0, SEEK_END));
        say("pwrite in a page", at, pwrite(f, buffer + at, length, 77));
        struct iovec pieces[] = {{full, 10}, {buffer + at, length}, {full, 10}};
        fresh(8);
        say("writev", at, writev(g, pieces, 3));
        say("readv", at, preadv(f, pieces, 3, 0));
        printf("  %lx\n", sum());
        close(f), close(g), close(zero), close(p[0]), close(p[1]);
    }
    struct rlimit limit = {10000, RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &limit)) return 1;
    static char much[20000];
    int f = memfd_create("limited", 0);
    for (int i = 0; i < 3; i++) {
        say("write up to the limit", i, write(f, much, 6000));
        printf("  signals %d, offset %ld\n", signals, lseek(f, 0, SEEK_CUR));
    }
    say("write over the limit at once", 0, pwrite(f, much, sizeof much, 0));
    say("write behind the limit", 20000, pwrite(f, much, 1, 20000));
    say("nothing behind the limit", 20000, pwrite(f, much, 0, 20000));
    printf("  signals %d\n", signals);
    struct iovec pieces[] = {{much, 5000}, {much, 4000}, {much, 3000}};
    lseek(f, 0, SEEK_SET);
    say("writev over the limit", 0, writev(f, pieces, 3));
    printf("  signals %d\n", signals);
    say("ftruncate over the limit", 10001, ftruncate(f, 10001));
    say("ftruncate to the limit", 10000, ftruncate(f, 10000));
    say("fallocate over the limit", 10001, fallocate(f, 0, 0, 10001));
    printf("  signals %d\n", signals);
    return 0;
}
