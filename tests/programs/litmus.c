// No access goes through a translation that a finished call has removed: threads on all CPUs write to and read a page while
// another one unmaps it, protects it, moves it, throws its content away, and forks. Says how many rounds broke the rule, of
// each kind; runs on Linux too.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define MOST 8

static _Atomic(unsigned char *) page;
static atomic_ulong written[MOST], faulted[MOST];
static atomic_int over;
static int writers;

static __thread sigjmp_buf back;
static __thread volatile int guarded;

static void on_fault(int signal) {
    if (!guarded)
        _exit(100 + signal);
    siglongjmp(back, 1);
}

// Writes ever greater numbers to a word of its own in the page; a fault is survived.
static void *write_on(void *number) {
    long own = (long)number;
    for (unsigned long value = 1; !over; value++) {
        unsigned char *at = page;
        if (!at) {
            sched_yield();
            continue;
        }
        if (sigsetjmp(back, 0)) {
            guarded = 0;
            faulted[own]++;
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGSEGV);
            sigaddset(&set, SIGBUS);
            pthread_sigmask(SIG_UNBLOCK, &set, NULL);
            continue;
        }
        guarded = 1;
        ((_Atomic unsigned long *)at)[own * 8] = value;
        guarded = 0;
        written[own] = value;
    }
    return NULL;
}

static unsigned char *fresh(void) {
    unsigned char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return at;
}

// Lets the writers have the page until each has written to it, or has been away for long.
static void let_write(unsigned char *at) {
    unsigned long before[MOST];
    for (int own = 0; own < writers; own++)
        before[own] = written[own];
    page = at;
    for (int own = 0; own < writers; own++)
        for (int tries = 0; written[own] == before[own] && tries < 20; tries++)
            sched_yield();
}

static void words(unsigned char *at, unsigned long *to) {
    for (int own = 0; own < writers; own++)
        to[own] = ((_Atomic unsigned long *)at)[own * 8];
}

static long broken(const unsigned long *one, const unsigned long *other) {
    return memcmp(one, other, sizeof(unsigned long) * writers) != 0;
}

// After mprotect has returned, the page does not change.
static long protect(void) {
    unsigned char *at = fresh();
    unsigned long first[MOST] = {0}, then[MOST] = {0};
    let_write(at);
    if (mprotect(at, PAGE, PROT_READ))
        perror("mprotect");
    words(at, first);
    for (int turn = 0; turn < 3; turn++)
        sched_yield();
    words(at, then);
    page = NULL;
    munmap(at, PAGE);
    return broken(first, then);
}

// After munmap has returned, whoever gets the place next finds zeros, and nobody else writes there before it is told.
static long unmap(void) {
    unsigned char *at = fresh();
    let_write(at);
    munmap(at, PAGE);
    // The writers still know the old address; a page there that is read-only can change only through an old translation.
    unsigned char *again = mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (again != at) {
        page = NULL;
        return 0;
    }
    unsigned long zeros[MOST] = {0}, then[MOST] = {0};
    for (int turn = 0; turn < 3; turn++)
        sched_yield();
    words(at, then);
    page = NULL;
    munmap(at, PAGE);
    return broken(zeros, then);
}

// After mremap has returned, nobody writes to the page that was moved by its old address.
static long move(void) {
    unsigned char *at = fresh(), *target = fresh();
    let_write(at);
    unsigned char *moved = mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    unsigned long first[MOST] = {0}, then[MOST] = {0};
    words(moved, first);
    for (int turn = 0; turn < 3; turn++)
        sched_yield();
    words(moved, then);
    page = NULL;
    munmap(moved, PAGE);
    return broken(first, then);
}

// After fork has returned, the child's page does not change.
static long split(void) {
    unsigned char *at = fresh();
    let_write(at);
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        unsigned long first[MOST] = {0}, then[MOST] = {0};
        words(at, first);
        for (int turn = 0; turn < 3; turn++)
            sched_yield();
        words(at, then);
        _exit(broken(first, then));
    }
    // No write of the parent is lost: what a writer says that it has written is there, or something later.
    unsigned long said[MOST];
    for (int own = 0; own < writers; own++)
        said[own] = written[own];
    unsigned long there[MOST] = {0};
    words(at, there);
    long lost = 0;
    for (int own = 0; own < writers; own++)
        lost |= there[own] < said[own] && there[own] != 0;
    waitpid(child, &status, 0);
    page = NULL;
    for (int turn = 0; turn < 2; turn++)
        sched_yield();
    munmap(at, PAGE);
    return lost || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

// After MADV_DONTNEED has returned, what was written before is gone: a word that nobody writes any more is zero.
static long discard(void) {
    unsigned char *at = fresh();
    at[PAGE - 1] = 1;
    let_write(at);
    madvise(at, PAGE, MADV_DONTNEED);
    long kept = at[PAGE - 1] != 0;
    page = NULL;
    munmap(at, PAGE);
    return kept;
}

int main(int count, char **words) {
    long rounds = count > 1 ? atol(words[1]) : 1000;
    writers = count > 2 ? atoi(words[2]) : 3;
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    pthread_t threads[MOST];
    for (long own = 0; own < writers; own++)
        pthread_create(&threads[own], NULL, write_on, (void *)own);
    struct {
        const char *name;
        long (*round)(void);
    } kinds[] = {{"protect", protect}, {"unmap", unmap}, {"move", move}, {"fork", split}, {"discard", discard}};
    long all = 0;
    for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        // A fork costs a hundred times what the others do.
        long times = kinds[kind].round == split ? rounds / 20 + 1 : rounds, bad = 0;
        for (long round = 0; round < times; round++)
            bad += kinds[kind].round();
        printf("%s: %ld broken\n", kinds[kind].name, bad);
        all += bad;
    }
    over = 1;
    for (long own = 0; own < writers; own++)
        pthread_join(threads[own], NULL);
    return all != 0;
}
