// Many regions and many pages: what a program can make large, and what each call does with it.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define MANY 60000UL

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static char *reserve(unsigned long size) {
    char *start = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return start;
}

// Every other page is readable: as many regions as pages. Returns how many pages were changed before an error.
static unsigned long alternate(char *start, unsigned long pages) {
    unsigned long page;
    for (page = 0; page < pages; page += 2)
        if (mprotect(start + page * PAGE, PAGE, PROT_READ)) {
            if (errno != ENOMEM) perror("mprotect"), exit(1);
            break;
        }
    return page;
}

static void expect(const char *what, int result) {
    if (result) perror(what), exit(1);
}

// Children punch holes until there is no memory for more regions, and stay.
static int holes(int count) {
    int pipes[2], child;
    expect("pipe", pipe(pipes));
    for (child = 0; child < count; child++) {
        int pid = fork();
        if (pid < 0) break;
        if (!pid) {
            char *start = reserve(2 * MANY * PAGE);
            unsigned long hole;
            for (hole = 0; hole < MANY; hole++)
                if (munmap(start + 2 * hole * PAGE, PAGE)) break;
            char result = hole == MANY || errno == ENOMEM ? 'y' : 'n';
            write(pipes[1], &result, 1);
            pause();
        }
        char result;
        if (read(pipes[0], &result, 1) != 1 || result != 'y') return 2;
    }
    puts("all have ended well");
    fflush(stdout);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0) {}
    return 0;
}

// Children share as many regions as there are.
static int forks(void) {
    unsigned long changed = alternate(reserve(MANY * PAGE), MANY);
    int children = 0, child;
    if (changed < 1000) return 2;
    for (child = 0; child < 20; child++) {
        int pid = fork();
        if (pid < 0) {
            if (errno != ENOMEM && errno != EAGAIN) return 3;
            continue;
        }
        if (!pid) {
            pause();
            _exit(0);
        }
        children++;
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0) children--;
    puts(children ? "some are missing" : "alive");
    return 0;
}

// What an mmap costs among few regions and among many, in nanoseconds.
static long cost_of_mmap(int count) {
    long began = now();
    int index;
    for (index = 0; index < count; index++)
        if (mmap(0, 2 * PAGE, index & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
            MAP_FAILED)
            perror("mmap"), exit(1);
    return (now() - began) / count;
}

static int mmaps(void) {
    // Small gaps everywhere, none of which is large enough.
    long few = cost_of_mmap(10);
    few = cost_of_mmap(10);
    cost_of_mmap(32000);
    long many = cost_of_mmap(10);
    printf("%ld %ld\n", few, many);
    return 0;
}

// Every call on very many regions.
static int calls_on_regions(void) {
    char *start = reserve(2 * MANY * PAGE);
    long began = now();
    alternate(start, MANY);
    printf("mprotect of each %ld\n", (now() - began) / 1000), began = now();
    expect("mlockall", mlockall(MCL_CURRENT | MCL_ONFAULT));
    printf("mlockall %ld\n", (now() - began) / 1000), began = now();
    int pid = fork();
    if (!pid) _exit(0);
    expect("fork", pid < 0);
    printf("fork %ld\n", (now() - began) / 1000), began = now();
    waitpid(pid, 0, 0);
    printf("its end %ld\n", (now() - began) / 1000), began = now();
    expect("munlockall", munlockall());
    printf("munlockall %ld\n", (now() - began) / 1000), began = now();
    expect("madvise", madvise(start, MANY * PAGE, MADV_DONTNEED));
    expect("madvise", madvise(start, MANY * PAGE, MADV_WILLNEED));
    expect("msync", msync(start, MANY * PAGE, MS_ASYNC));
    printf("madvise and msync %ld\n", (now() - began) / 1000), began = now();
    expect("mprotect", mprotect(start, MANY * PAGE, PROT_READ | PROT_WRITE));
    printf("mprotect of all %ld\n", (now() - began) / 1000), began = now();
    alternate(start, MANY);
    began = now();
    // A fixed mapping over half of them.
    char *fixed = mmap(start, MANY / 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    expect("mmap", fixed != start);
    printf("mmap over half %ld\n", (now() - began) / 1000), began = now();
    expect("munmap", munmap(start, MANY * PAGE));
    printf("munmap %ld\n", (now() - began) / 1000);
    alternate(start + MANY * PAGE, MANY);
    // The end takes them apart.
    return 0;
}

// Every call on very many pages.
static int calls_on_pages(unsigned long size) {
    char *start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long at, sum = 0;
    expect("mmap", start == MAP_FAILED);
    expect("mlock", mlock(start, size));
    for (at = 0; at < size; at += PAGE) start[at] = 1;
    int pid = fork();
    expect("fork", pid < 0);
    if (!pid) {
        for (at = 0; at < size; at += 64 * PAGE) start[at] = 2;
        _exit(0);
    }
    waitpid(pid, 0, 0);
    expect("mprotect", mprotect(start, size, PROT_READ));
    expect("mprotect", mprotect(start, size, PROT_READ | PROT_WRITE));
    char *moved = mremap(start, size, size + 16 * PAGE, MREMAP_MAYMOVE);
    expect("mremap", moved == MAP_FAILED);
    for (at = 0; at < size; at += PAGE) sum += moved[at];
    expect("sum", sum != size / PAGE);
    expect("munlock", munlock(moved, size));
    char *kept = mremap(moved, size, size, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    expect("mremap", kept == MAP_FAILED);
    expect("sum", moved[PAGE] != 0 || kept[PAGE] != 1);
    expect("madvise", madvise(kept, size, MADV_DONTNEED));
    expect("munmap", munmap(kept, size));
    char *end = sbrk(size);
    expect("sbrk", end == (void *)-1);
    memset(end, 1, size);
    expect("sbrk", sbrk(-size) == (void *)-1);
    start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    expect("mmap", start == MAP_FAILED);
    puts("done");
    fflush(stdout);
    return 0;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "holes")) return holes(atoi(words[2]));
    if (!strcmp(what, "forks")) return forks();
    if (!strcmp(what, "mmaps")) return mmaps();
    if (!strcmp(what, "regions")) return calls_on_regions();
    if (!strcmp(what, "pages")) return calls_on_pages(atol(words[2]) << 20);
    if (!strcmp(what, "exec")) {
        int result = calls_on_pages(atol(words[2]) << 20);
        alternate(reserve(MANY * PAGE), MANY);
        if (!result) execl("/proc/self/exe", words[0], "again", (char *)0);
        return 4;
    }
    puts("again");
    return 0;
}
