// Memory calls with flags, limits and arguments at the edge: each line is what the kernel answered.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif

static void tell(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 && result > -4096 ? strerror(errno) : "success");
    fflush(stdout);
}
#define T(...) do { errno = 0; tell(#__VA_ARGS__, (long)(__VA_ARGS__)); } while (0)

static int resident(char *start, int pages) {
    unsigned char map[64] = {0};
    int page, count = 0;
    mincore(start, pages * PAGE, map);
    for (page = 0; page < pages; page++) count += map[page] & 1;
    return count;
}

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static char *some(int pages) {
    return mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void locks(void) {
    char *start = some(16);
    T(mlock(start, 16 * PAGE));
    printf("resident %d\n", resident(start, 16));
    long before = faults();
    memset(start, 1, 16 * PAGE);
    printf("faults %ld\n", faults() - before);
    T(msync(start, PAGE, MS_INVALIDATE));
    T(msync(start, PAGE, MS_SYNC));
    T(munlock(start, 16 * PAGE));
    T(msync(start, PAGE, MS_INVALIDATE));
    start = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    printf("MAP_LOCKED resident %d\n", resident(start, 16));
    start = some(8);
    T(mlock2(start, 8 * PAGE, MLOCK_ONFAULT));
    printf("MLOCK_ONFAULT resident %d\n", resident(start, 8));
    T(mlock2(start, 8 * PAGE, 2));
    start = mmap(0, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    T(mlock(start, 8 * PAGE));
    start = mmap(0, 8 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    T(mlock(start, 8 * PAGE));
    printf("read-only resident %d\n", resident(start, 8));
    munmap(start + 4 * PAGE, PAGE);
    T(mlock(start, 8 * PAGE));
    T(munlock(start, 8 * PAGE));
    start = some(16);
    T(mlockall(0));
    T(mlockall(MCL_ONFAULT));
    T(mlockall(8));
    T(mlockall(MCL_CURRENT));
    printf("mlockall resident %d\n", resident(start, 16));
    T(mlockall(MCL_FUTURE));
    start = some(16);
    printf("MCL_FUTURE resident %d\n", resident(start, 16));
    char *heap = sbrk(4 * PAGE);
    heap = (char *)(((long)heap + PAGE - 1) & -PAGE);
    printf("heap resident %d\n", resident(heap, 3));
    start = mremap(start, 16 * PAGE, 24 * PAGE, MREMAP_MAYMOVE);
    printf("grown resident %d\n", resident(start, 24));
    if (!fork()) {
        start = some(4);
        printf("child resident %d\n", resident(start, 4));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    T(munlockall());
    start = some(16);
    printf("after munlockall resident %d\n", resident(start, 16));
}

static void flags(void) {
    int file = open("/tmp/memcalls", O_RDWR | O_CREAT | O_TRUNC, 0600), zero = open("/dev/zero", O_RDWR), type;
    T(ftruncate(file, 8 * PAGE));
    int types[] = {0, 4, 5, 8, 15, ~0, 3, 3 | 1 << 28, 3 | 1 << 22, 3 | 1 << 21, 3 | 0x80000, 3 | 0x100000, 3 | 0x4000000};
    for (type = 0; type < (int)(sizeof types / sizeof *types); type++) {
        errno = 0;
        void *start = mmap(0, 1024, PROT_READ | PROT_WRITE, types[type], file, 0);
        printf("flags %#x: %s\n", types[type], start == MAP_FAILED ? strerror(errno) : "mapped");
    }
    T(mmap(0, PAGE, 3, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0));
    T(mmap(0, PAGE, 3, MAP_SHARED_VALIDATE | 1 << 22, zero, 0));
    char *shared = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0);
    tell("shared zeros", (long)shared);
    char *other = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0);
    shared[5] = 7;
    printf("another mapping shows %d\n", other[5]);
    if (!fork()) {
        shared[PAGE] = 9;
        _exit(0);
    }
    wait(0);
    printf("a child wrote %d\n", shared[PAGE]);
    T(mmap(0, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 1));
    T(mmap(0, PAGE, 0x103, MAP_PRIVATE | MAP_ANONYMOUS, 77, 0));
    T(mmap((void *)(1L << 48), PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    T(mmap((void *)(1L << 48), PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    int place;
    for (place = 0; place < 3; place++) {
        void *hint = place == 1 ? (void *)0x50000000 : place == 2 ? (void *)0x10000000000 : 0;
        unsigned long start =
            (unsigned long)mmap(hint, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        printf("MAP_32BIT below 2 GiB: %d, at the hint: %d\n", start < 1UL << 31, start == (unsigned long)hint);
    }
    T(mmap(0, 1L << 31, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_NORESERVE, -1, 0));
    T(mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
    T(mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26, -1, 0));
    T(mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 13 << 26, -1, 0));
    T(mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_HUGETLB, file, 0));
    char *start = some(4);
    T(mprotect(start, PAGE, PROT_GROWSDOWN | PROT_READ));
    T(mprotect(start, PAGE, PROT_GROWSUP | PROT_READ));
    T(mprotect(start, PAGE, PROT_GROWSDOWN | PROT_GROWSUP | PROT_READ));
    T(mprotect(start, PAGE, 0x100));
    char *down = mmap(0, 4 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
    T(mprotect(down + 2 * PAGE, PAGE, PROT_GROWSDOWN | PROT_READ));
    int pid = fork();
    if (!pid) {
        down[0] = 1;
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("below is read-only: %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    char *hole = some(2048);
    munmap(hole + 1200 * PAGE, PAGE);
    T(mprotect(hole, 2048 * PAGE, PROT_READ));
    T(madvise(hole, 2048 * PAGE, MADV_DONTNEED));
    T(madvise(hole, 2048 * PAGE, MADV_WILLNEED));
    T(msync(hole, 2048 * PAGE, MS_ASYNC));
    T(munmap(hole, 2048 * PAGE));
    T(munmap(hole, 2048 * PAGE));
}

static void limits(void) {
    struct rlimit limit = {64 << 20, RLIM_INFINITY};
    T(setrlimit(RLIMIT_AS, &limit));
    T(mmap(0, 1 << 30, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    T(mmap(0, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    char *start = mmap(0, 32 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tell("32 MiB", (long)start);
    T(mmap(start, 32 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    T(mremap(start, 32 << 20, 96 << 20, MREMAP_MAYMOVE));
    T(sbrk(64 << 20));
    T(munmap(start, 32 << 20));
    T(mmap(0, 32 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    limit.rlim_cur = RLIM_INFINITY;
    T(setrlimit(RLIMIT_AS, &limit));
    limit.rlim_cur = 8 << 20;
    T(setrlimit(RLIMIT_DATA, &limit));
    T(mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    start = mmap(0, 16 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tell("16 MiB that can't be written", (long)start);
    T(mprotect(start, 16 << 20, PROT_READ | PROT_WRITE));
    T(mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    T(sbrk(16 << 20));
}

// Uses so much stack, a page at a time.
static int deep(long pages) {
    volatile char page[PAGE];
    page[0] = page[PAGE - 1] = pages;
    return pages ? deep(pages - 1) + page[0] : 0;
}

static void stack(long limit, long used) {
    struct rlimit both = {limit, RLIM_INFINITY};
    int pid = fork(), status;
    if (!pid) {
        setrlimit(RLIMIT_STACK, &both);
        deep(used / PAGE);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("stack of %ld, %ld used: %d\n", limit, used, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void stacks(void) {
    stack(8 << 20, 4 << 20);
    stack(1 << 20, 4 << 20);
    stack(8 << 20, 12 << 20);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    locks();
    flags();
    stacks();
    limits();
    return 0;
}
