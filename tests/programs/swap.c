// Memory that is swapped out, and what there is to say about it. `swap more MIB` writes more than the machine has; `swap
// advice` moves pages out and in by advice; `swap calls PATH` is about swapon and swapoff; `swap off PATH MIB` switches swap
// off under load.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif

#define PAGE 4096ul

static void fail(const char *what, long at) {
    printf("failed: %s at %ld: %s\n", what, at, strerror(errno));
    fflush(stdout);
    _exit(1);
}

// Word `at` of a page whose content has this seed.
static uint64_t word(uint64_t seed, int at) {
    uint64_t value = (seed * 512 + at) * 0x9e3779b97f4a7c15u;
    return value ^ value >> 29;
}

static void fill(char *page, uint64_t seed) {
    for (int i = 0; i < 512; i++) ((uint64_t *)page)[i] = word(seed, i);
}

static void check(const char *page, uint64_t seed, long number) {
    for (int i = 0; i < 512; i++) {
        if (((uint64_t *)page)[i] != word(seed, i)) fail("a word is wrong", number * 512 + i);
    }
}

static char *map(unsigned long bytes, int flags) {
    char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap", bytes);
    return memory;
}

static uint64_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

// Writes more than there is, changes some at random, lets a child change some of its own, and checks everything.
static void more(long pages) {
    char *memory = map(pages * PAGE, MAP_PRIVATE);
    uint32_t *versions = calloc(pages, sizeof *versions);
    uint64_t state = 7;
    for (long i = 0; i < pages; i++) fill(memory + i * PAGE, i);
    for (long i = 0; i < pages / 2; i++) {
        long at = next(&state) % pages;
        check(memory + at * PAGE, at + ((uint64_t)versions[at] << 32), at);
        if (i % 2) fill(memory + at * PAGE, at + ((uint64_t)++versions[at] << 32));
    }
    pid_t child = fork();
    if (child < 0) fail("fork", 0);
    if (child == 0) {
        for (long i = 0; i < pages; i += 3) {
            check(memory + i * PAGE, i + ((uint64_t)versions[i] << 32), i);
            if (i % 5 == 0) fill(memory + i * PAGE, ~i), check(memory + i * PAGE, ~i, i);
        }
        _exit(0);
    }
    for (long i = 0; i < pages; i += 7) fill(memory + i * PAGE, i + ((uint64_t)++versions[i] << 32));
    int status;
    if (waitpid(child, &status, 0) < 0 || status) fail("the child", status);
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i + ((uint64_t)versions[i] << 32), i);
    printf("%ld pages are right\n", pages);
}

// The number behind a name in a file of /proc.
static long value(const char *file, const char *name) {
    char line[256];
    long found = -1;
    FILE *f = fopen(file, "r");
    if (!f) fail(file, 0);
    while (found < 0 && fgets(line, sizeof line, f)) {
        size_t length = strlen(name);
        if (!strncmp(line, name, length) && strchr(" \t:", line[length])) found = atol(line + length + strspn(line + length, ": \t"));
    }
    fclose(f);
    if (found < 0) fail(name, 0);
    return found;
}

// How many of these pages are in memory, and how many are swapped out, by the page map.
static void where(const char *what, char *memory, long pages, int print_exact) {
    unsigned char core[64];
    uint64_t words[64];
    int present = 0, swapped = 0, resident = 0;
    int f = open("/proc/self/pagemap", O_RDONLY);
    if (f < 0 || pread(f, words, pages * 8, (uintptr_t)memory / PAGE * 8) != pages * 8) fail("pagemap", 0);
    close(f);
    if (mincore(memory, pages * PAGE, core)) fail("mincore", 0);
    for (long i = 0; i < pages; i++) {
        present += words[i] >> 63;
        swapped += words[i] >> 62 & 1;
        resident += core[i] & 1;
    }
    if (present > resident) fail("a page that is present is not in core", present - resident);
    if (print_exact) printf("%s: %d present, %d swapped\n", what, present, swapped);
}

static void advice(void) {
    const long pages = 64;
    struct rusage before, after;
    char *memory = map(pages * PAGE, MAP_PRIVATE);
    for (long i = 0; i < pages; i++) fill(memory + i * PAGE, i);
    where("written", memory, pages, 1);
    long out = value("/proc/vmstat", "pswpout"), in = value("/proc/vmstat", "pswpin");
    if (madvise(memory, pages * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 0);
    where("paged out", memory, pages, 1);
    printf("VmSwap %ld kB\n", value("/proc/self/status", "VmSwap"));
    printf("Swap %ld kB\n", value("/proc/self/smaps_rollup", "Swap"));
    getrusage(RUSAGE_SELF, &before);
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i);
    getrusage(RUSAGE_SELF, &after);
    where("read", memory, pages, 1);
    printf("pages went out: %d\n", value("/proc/vmstat", "pswpout") - out >= pages);
    printf("pages came in, or were still there: %d\n", value("/proc/vmstat", "pswpin") >= in);
    // Clean, they leave again without a write.
    out = value("/proc/vmstat", "pswpout");
    if (madvise(memory, pages * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 1);
    where("paged out again", memory, pages, 1);
    printf("written again: %ld\n", value("/proc/vmstat", "pswpout") - out);
    if (madvise(memory, pages * PAGE, MADV_WILLNEED)) fail("WILLNEED", 0);
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i);
    if (madvise(memory, pages * PAGE, MADV_COLD)) fail("COLD", 0);
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i);

    // Which pages were accessed.
    int f = open("/proc/self/clear_refs", O_WRONLY);
    if (f < 0 || write(f, "7", 1) >= 0 || write(f, "1\n", 2) != 2) fail("clear_refs", 0);
    close(f);
    long referenced = value("/proc/self/smaps_rollup", "Referenced");
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i);
    printf("more is referenced: %d\n", value("/proc/self/smaps_rollup", "Referenced") >= referenced + pages * 4);

    // Locked pages stay.
    if (mlock(memory, 8 * PAGE)) fail("mlock", 0);
    printf("PAGEOUT of what is locked: %s\n", madvise(memory, 8 * PAGE, MADV_PAGEOUT) ? strerror(errno) : "done");
    where("locked", memory, 8, 1);
    munlock(memory, 8 * PAGE);
    if (madvise(memory, 8 * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 2);
    where("unlocked and paged out", memory, 8, 1);
    if (mlock(memory, 8 * PAGE)) fail("mlock", 1);
    where("locked again", memory, 8, 1);
    munlock(memory, 8 * PAGE);

    // A child has what its parent swapped out, and either's writes are its own.
    if (madvise(memory, pages * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 3);
    pid_t child = fork();
    if (child == 0) {
        for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i), fill(memory + i * PAGE, i + 1000);
        for (long i = 0; i < pages; i++) check(memory + i * PAGE, i + 1000, i);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status) fail("the child", status);
    for (long i = 0; i < pages; i++) check(memory + i * PAGE, i, i);

    // Swapped pages that nobody wants any more cost nothing to give up.
    if (madvise(memory, pages * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 4);
    if (madvise(memory, pages * PAGE, MADV_DONTNEED)) fail("DONTNEED", 0);
    for (long i = 0; i < pages; i++) {
        if (memory[i * PAGE]) fail("a page came back", i);
    }
    printf("VmSwap %ld kB\n", value("/proc/self/status", "VmSwap"));

    // Free pages are the old ones or zeros, and those that are written stay.
    for (long i = 0; i < pages; i++) fill(memory + i * PAGE, i);
    if (madvise(memory, pages * PAGE, MADV_FREE)) fail("FREE", 0);
    printf("LazyFree %ld kB\n", value("/proc/self/smaps_rollup", "LazyFree"));
    for (long i = 0; i < pages; i += 2) fill(memory + i * PAGE, i + 5);
    if (madvise(memory, pages * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", 5);
    for (long i = 0; i < pages; i++) {
        if (i % 2 == 0) check(memory + i * PAGE, i + 5, i);
        else if (*(uint64_t *)(memory + i * PAGE)) check(memory + i * PAGE, i, i);
    }
    // Shared memory can be taken away, for all to see who look anew.
    char *shared = map(8 * PAGE, MAP_SHARED);
    fill(shared, 1), fill(shared + PAGE, 2);
    if (madvise(shared, PAGE, MADV_REMOVE)) fail("REMOVE", 0);
    if (*(uint64_t *)shared) fail("a page is still there", 0);
    check(shared + PAGE, 2, 1);
    printf("REMOVE of private memory: %s\n", madvise(memory, PAGE, MADV_REMOVE) ? strerror(errno) : "done");
    printf("FREE of shared memory: %s\n", madvise(shared, PAGE, MADV_FREE) ? strerror(errno) : "done");
    munmap(shared + 4 * PAGE, PAGE);
    printf("PAGEOUT over a hole: %s\n", madvise(shared, 8 * PAGE, MADV_PAGEOUT) ? strerror(errno) : "done");
    printf("COLD, not aligned: %s\n", madvise(shared + 1, PAGE, MADV_COLD) ? strerror(errno) : "done");
    check(shared + PAGE, 2, 1);
    puts("done");
}

static const char *said(int result) {
    return result ? strerror(errno) : "done";
}

static void calls(const char *path) {
    char line[256];
    struct sysinfo info;
    printf("flags: %s\n", said(swapon(path, 1 << 20)));
    printf("nothing: %s\n", said(swapon("/no/such/file", 0)));
    printf("a device of characters: %s\n", said(swapon("/dev/null", 0)));
    printf("a folder: %s\n", said(swapon("/", 0)));
    printf("a bad address: %s\n", said(swapon((char *)1, 0)));
    printf("off, a folder: %s\n", said(swapoff("/")));
    printf("off: %s\n", said(swapoff(path)));
    printf("off again: %s\n", said(swapoff(path)));
    sysinfo(&info);
    printf("%ld and %ld bytes of swap\n", (long)info.totalswap, value("/proc/meminfo", "SwapTotal"));
    printf("on: %s\n", said(swapon(path, 0)));
    printf("on again: %s\n", said(swapon(path, 0)));
    sysinfo(&info);
    printf("%d\n", info.totalswap == 1024ul * value("/proc/meminfo", "SwapTotal") && info.totalswap > 0);
    printf("%d\n", info.freeswap == 1024ul * value("/proc/meminfo", "SwapFree"));
    FILE *f = fopen("/proc/swaps", "r");
    while (f && fgets(line, sizeof line, f)) fputs(line, stdout);
}

static char *memory;
static long count;
static volatile int over;

static void *writer(void *number) {
    uint64_t state = (uintptr_t)number, rounds = 0;
    for (; !over; rounds++) {
        long at = next(&state) % (count / 4) * 4 + (uintptr_t)number;
        uint64_t *page = (uint64_t *)(memory + at * PAGE);
        if (page[0] && (page[100] != page[0] * 3 || page[510] != page[0] + at)) fail("a page is wrong", at);
        page[0]++, page[100] = page[0] * 3, page[510] = page[0] + at;
    }
    return (void *)rounds;
}

static void off(const char *path, long mib) {
    pthread_t threads[4];
    count = mib * 256;
    memory = map(count * PAGE, MAP_PRIVATE);
    for (long i = 0; i < count; i++) ((uint64_t *)(memory + i * PAGE))[0] = 0;
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, writer, (void *)i);
    for (int i = 0; i < 5; i++) {
        usleep(50000);
        if (madvise(memory, count * PAGE, MADV_PAGEOUT)) fail("PAGEOUT", i);
        if (swapoff(path)) fail("swapoff", i);
        if (value("/proc/self/status", "VmSwap")) fail("something is still swapped out", i);
        usleep(20000);
        if (swapon(path, 0)) fail("swapon", i);
    }
    over = 1;
    for (long i = 0; i < 4; i++) pthread_join(threads[i], 0);
    for (long i = 0; i < count; i++) {
        uint64_t *page = (uint64_t *)(memory + i * PAGE);
        if (page[0] && (page[100] != page[0] * 3 || page[510] != page[0] + i)) fail("a page is wrong", i);
    }
    puts("off and on");
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    if (!strcmp(arguments[1], "more")) more(atol(arguments[2]) * 256);
    if (!strcmp(arguments[1], "advice")) advice();
    if (!strcmp(arguments[1], "calls")) calls(arguments[2]);
    if (!strcmp(arguments[1], "off")) off(arguments[2], atol(arguments[3]));
    return 0;
}
