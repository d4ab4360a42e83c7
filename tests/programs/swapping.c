// Memory that does not fit: every page is what was last written to it, whatever has been swapped out and in meanwhile.
//
//   swapping storm KIB PROCESSES ROUNDS PART [DEVICE]   processes that write, read, fork and advise, in a part of the
//                                                       memory that they need; DEVICE is switched off and on meanwhile
//   swapping kills KIB TIMES                            processes with 64 threads that wait for pages are killed
//   swapping errors KIB                                 a page that can't be read is SIGBUS, and only that
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS (PAGE / 8)

static uint64_t state;

static uint64_t chance(uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
}

// What a page is to hold after its last write: zeros before the first.
static uint64_t word(uint64_t owner, uint64_t page, uint32_t version, uint64_t index) {
    return version ? owner << 56 | page << 32 | version << 10 | index : 0;
}

static void fail(const char *what, uint64_t page) {
    printf("%s: page %lu, process %d: %s\n", what, page, getpid(), strerror(errno));
    fflush(stdout);
    exit(1);
}

struct area {
    uint64_t owner, pages;
    volatile uint64_t *memory;
    uint32_t *version;
};

static void *map(uint64_t bytes) {
    void *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("mmap", 0);
    return memory;
}

static struct area area(uint64_t owner, uint64_t kib) {
    return (struct area){owner, kib / 4, map(kib << 10), map(kib)};
}

static void put(struct area *area, uint64_t page) {
    uint32_t version = ++area->version[page];
    for (uint64_t i = 0; i < WORDS; i++) area->memory[page * WORDS + i] = word(area->owner, page, version, i);
}

static void check(struct area *area, uint64_t page, const char *who) {
    for (uint64_t i = 0; i < WORDS; i++)
        if (area->memory[page * WORDS + i] != word(area->owner, page, area->version[page], i)) fail(who, page);
}

static void advise(struct area *area, int advice) {
    uint64_t first = chance(area->pages), count = 1 + chance(64);
    if (first + count > area->pages) count = area->pages - first;
    if (madvise((char *)area->memory + first * PAGE, count * PAGE, advice)) fail("madvise", first);
    if (advice == MADV_DONTNEED)
        for (uint64_t page = first; page < first + count; page++) area->version[page] = 0;
}

static int wait_for(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child) fail("waitpid", 0);
    return status;
}

static void child_of(struct area *area) {
    pid_t child = fork();
    if (child < 0) fail("fork", 0);
    if (!child) {
        state += getpid();
        for (int i = 0; i < 32; i++) {
            uint64_t page = chance(area->pages);
            check(area, page, "a child");
            if (i % 4 == 0) put(area, page), check(area, page, "a child that wrote");
        }
        _exit(0);
    }
    for (int i = 0; i < 16; i++) put(area, chance(area->pages));
    if (wait_for(child)) fail("a child failed", 0);
}

static void storm_process(uint64_t owner, uint64_t kib, uint64_t rounds) {
    struct area own = area(owner, kib);
    state = owner * 977;
    for (uint64_t page = 0; page < own.pages; page++) put(&own, page);
    for (uint64_t round = 0; round < rounds; round++) {
        for (int i = 0; i < 16; i++) check(&own, chance(own.pages), "a read");
        for (int i = 0; i < 8; i++) put(&own, chance(own.pages));
        static const int advices[] = {MADV_PAGEOUT, MADV_COLD, MADV_WILLNEED, MADV_DONTNEED, MADV_PAGEOUT, MADV_NORMAL};
        advise(&own, advices[chance(6)]);
        if (round % 8 == 0) child_of(&own);
    }
    for (uint64_t page = 0; page < own.pages; page++) check(&own, page, "the end");
    _exit(0);
}

// Locks all memory but so much.
static void leave(uint64_t kib) {
    uint64_t free = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "MemFree: %lu", &free) != 1);
    if (!file || free < kib) fail("too little memory is free", free / 4);
    uint64_t bytes = (free - kib) << 10;
    if (bytes && mlock(map(bytes), bytes)) fail("mlock", bytes / PAGE);
    fclose(file);
}

static int storm(uint64_t kib, uint64_t processes, uint64_t rounds, uint64_t part, const char *device) {
    pid_t children[64];
    if (part) leave(kib / part);
    for (uint64_t i = 0; i < processes; i++) {
        children[i] = fork();
        if (children[i] < 0) fail("fork", i);
        if (!children[i]) storm_process(i + 1, kib / processes, rounds);
    }
    int off = 0;
    for (uint64_t left = processes; left && device;) {
        for (uint64_t i = 0; i < processes; i++) {
            int status;
            if (!children[i] || waitpid(children[i], &status, WNOHANG) != children[i]) continue;
            if (status) fail("a process failed", status);
            children[i] = 0;
            left--;
        }
        if (!swapoff(device)) {
            off++;
            if (swapon(device, 0)) fail("swapon", 0);
        } else if (errno != ENOMEM) fail("swapoff", 0);
        nanosleep(&(struct timespec){0, 1000000}, 0);
    }
    for (uint64_t i = 0; i < processes; i++)
        if (children[i] && wait_for(children[i])) fail("a process failed", i);
    printf(device ? "right, and off %s\n" : "right\n", off ? "at times" : "never");
    return 0;
}

static struct area waited;

static void *reader(void *number) {
    uint64_t from = (uint64_t)number;
    for (uint64_t i = 0; i < waited.pages; i++) check(&waited, (from * 131 + i * 37) % waited.pages, "a thread");
    pause();
    return 0;
}

static int kills(uint64_t kib, uint64_t times) {
    waited = area(1, kib);
    for (uint64_t page = 0; page < waited.pages; page++) put(&waited, page);
    for (uint64_t i = 0; i < times; i++) {
        // Written again, or what the last child has read would be in memory still.
        for (uint64_t page = 0; page < waited.pages; page++) put(&waited, page);
        if (madvise((void *)waited.memory, waited.pages * PAGE, MADV_PAGEOUT)) fail("madvise", 0);
        pid_t child = fork();
        if (child < 0) fail("fork", i);
        if (!child) {
            pthread_attr_t small;
            pthread_attr_init(&small);
            pthread_attr_setstacksize(&small, 32 << 10);
            for (uint64_t t = 0; t < 64; t++) {
                pthread_t thread;
                if (pthread_create(&thread, &small, reader, (void *)t)) fail("pthread_create", t);
            }
            for (;;) pause();
        }
        nanosleep(&(struct timespec){0, 500000 + chance(1000000)}, 0);
        kill(child, SIGKILL);
        int status = wait_for(child);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) fail("a child was not killed", status);
    }
    for (uint64_t page = 0; page < waited.pages; page++) check(&waited, page, "the end");
    printf("right\n");
    return 0;
}

static sigjmp_buf back;

static void refused(int signal) { siglongjmp(back, signal); }

static int errors(uint64_t kib) {
    static volatile int lost;
    struct area own = area(1, kib);
    for (uint64_t page = 0; page < own.pages; page++) put(&own, page);
    madvise((void *)own.memory, own.pages * PAGE, MADV_PAGEOUT);
    signal(SIGBUS, refused);
    for (volatile uint64_t page = 0; page < own.pages; page++) {
        if (sigsetjmp(back, 1)) lost++;
        else check(&own, page, "a page that could be read");
    }
    printf("lost %s\n", lost == 0 ? "none" : (uint64_t)lost < own.pages / 2 ? "some" : "most");
    return 0;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    uint64_t kib = strtoul(words[2], 0, 10);
    uint64_t numbers[3] = {0};
    for (int i = 0; i < 3 && i + 3 < count; i++) numbers[i] = strtoul(words[i + 3], 0, 10);
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(words[1], "storm")) return storm(kib, numbers[0], numbers[1], numbers[2], count > 6 ? words[6] : 0);
    if (!strcmp(words[1], "kills")) return kills(kib, numbers[0]);
    if (!strcmp(words[1], "errors")) return errors(kib);
    return 2;
}
