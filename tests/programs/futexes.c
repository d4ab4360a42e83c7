// Futexes: each line is the same on Linux. With an argument: what a wake costs beside many other waiters, where instructions
// are counted.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long futex(void *word, int operation, unsigned value, long timeout, void *second, unsigned third) {
    return syscall(SYS_futex, word, operation, value, timeout, second, third);
}

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-64s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static void *pages(int protection, int flags) {
    return mmap(0, 8192, protection, flags | MAP_ANONYMOUS, -1, 0);
}

static void errors(void) {
    char *shared = pages(PROT_READ | PROT_WRITE, MAP_SHARED), *none = pages(PROT_NONE, MAP_SHARED);
    char *fresh = pages(PROT_READ | PROT_WRITE, MAP_PRIVATE), *kernel = (char *)-4096L;
    munmap(shared + 4096, 4096);
    char *gone = shared + 4096;
    struct timespec odd = {0, 1000000000}, minus = {-1, 0};
    SAY(futex(gone, FUTEX_WAKE, 1, 0, 0, 0));
    SAY(futex(none, FUTEX_WAKE, 1, 0, 0, 0));
    SAY(futex(fresh, FUTEX_WAKE, 1, 0, 0, 0));
    SAY(futex(gone, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
    SAY(futex(kernel, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
    SAY(futex(shared + 2, FUTEX_WAKE, 1, 0, 0, 0));
    SAY(futex(shared, FUTEX_WAKE_BITSET, 1, 0, 0, 0));
    SAY(futex(gone, FUTEX_WAIT, 0, 0, 0, 0));
    SAY(futex(gone, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0));
    SAY(futex(shared, FUTEX_WAIT, 1, 0, 0, 0));
    SAY(futex(shared, FUTEX_WAIT_BITSET, 0, 0, 0, 0));
    SAY(futex(shared, FUTEX_WAIT, 0, (long)&odd, 0, 0));
    SAY(futex(shared, FUTEX_WAIT, 0, (long)&minus, 0, 0));
    SAY(futex(shared, FUTEX_WAIT, 0, 16, 0, 0));
    SAY(futex(shared, FUTEX_CMP_REQUEUE, 1, 1, gone, 0));
    SAY(futex(gone, FUTEX_CMP_REQUEUE, 1, 1, shared, 0));
    SAY(futex(shared, FUTEX_CMP_REQUEUE, -1, 1, shared + 64, 0));
    SAY(futex(shared, FUTEX_CMP_REQUEUE, 1, -1, shared + 64, 0));
    SAY(futex(shared, FUTEX_REQUEUE, 1, -1, shared + 64, 0));
    SAY(futex(shared, FUTEX_CMP_REQUEUE, 1, 1, shared + 66, 0));
    SAY(futex(shared, FUTEX_CMP_REQUEUE, 1, 1, shared + 64, 7));
    SAY(futex(shared, FUTEX_WAKE_OP, 1, 1, gone, 0));
    SAY(futex(gone, FUTEX_WAKE_OP, 1, 1, shared, 0));
    SAY(futex(shared, 77, 1, 0, 0, 0));
}

static int words[64];
static int ended;

static void *waiter(void *word) {
    futex(word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
    __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void spawn(int count, int *word) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, waiter, word)) exit(3);
    }
    usleep(200000);
}

static void settle(int wanted) {
    for (int i = 0; i < 1000 && __atomic_load_n(&ended, __ATOMIC_SEQ_CST) < wanted; i++) usleep(1000);
    printf("%d ended\n", ended);
}

static void wakes(void) {
    spawn(8, &words[0]);
    SAY(futex(&words[1], FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    SAY(futex(&words[0], FUTEX_WAKE_PRIVATE, -1, 0, 0, 0));
    SAY(futex(&words[0], FUTEX_WAKE_PRIVATE, 0, 0, 0, 0));
    settle(2);
    SAY(futex(&words[0], FUTEX_CMP_REQUEUE_PRIVATE, 0, 2, &words[1], 1));
    SAY(futex(&words[0], FUTEX_CMP_REQUEUE_PRIVATE, 0, 2, &words[1], 0));
    SAY(futex(&words[0], FUTEX_REQUEUE_PRIVATE, 1, 1, &words[2], 0));
    settle(3);
    SAY(futex(&words[0], FUTEX_REQUEUE_PRIVATE, 0, 1, &words[0], 0));
    SAY(futex(&words[1], FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    SAY(futex(&words[2], FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    settle(6);
    // Adds one to the second word, and wakes there if it was 0.
    int add = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
    SAY(futex(&words[0], FUTEX_WAKE_OP_PRIVATE, 1, 1, &words[3], add));
    SAY(words[3]);
    SAY(futex(&words[3], FUTEX_WAKE_OP_PRIVATE, 1, -1, &words[0], add));
    settle(8);
}

// Who waits for memory that is gone is never woken by a wake of other memory, and misses none of its own.
static void keys(void) {
    for (int i = 0; i < 32; i++) {
        int *word = pages(PROT_READ | PROT_WRITE, MAP_SHARED);
        spawn(0, 0);
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        extern void *lost(void *);
        pthread_create(&thread, &attributes, lost, word);
        usleep(5000);
        munmap(word, 8192);
    }
    int missed = 0;
    for (int i = 0; i < 32; i++) {
        int *word = pages(PROT_READ | PROT_WRITE, MAP_SHARED);
        if (!fork()) {
            struct timespec most = {1, 0};
            _exit(futex(word, FUTEX_WAIT, 0, (long)&most, 0, 0) != 0);
        }
        usleep(10000);
        int status;
        missed += futex(word, FUTEX_WAKE, 1, 0, 0, 0) != 1;
        wait(&status);
        missed += status != 0;
    }
    printf("%d missed, %d ended\n", missed, ended);
}

void *lost(void *word) {
    futex(word, FUTEX_WAIT, 0, 0, 0, 0);
    __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static long now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000 + now.tv_nsec;
}

static long cost(int *word) {
    long start = now();
    for (int i = 0; i < 100; i++) futex(word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    return (now() - start) / 100;
}

// Nanoseconds for each of so many waiters that are woken, until they have ended: who is woken may run at once.
static long wake_each(int count) {
    int wanted = ended + count;
    long start = now();
    futex(&words[8], FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
    while (__atomic_load_n(&ended, __ATOMIC_SEQ_CST) < wanted) sched_yield();
    return (now() - start) / count;
}

static void costs(void) {
    spawn(20, &words[8]);
    long few = cost(&words[0]), one = wake_each(20);
    settle(20);
    spawn(1000, &words[8]);
    long many = cost(&words[0]), one_of_many = wake_each(20);
    settle(40);
    long start = now();
    long moved = futex(&words[8], FUTEX_CMP_REQUEUE_PRIVATE, 0, 0x7fffffff, &words[9], 0);
    long moving = (now() - start) / 980;
    long woken = futex(&words[9], FUTEX_WAKE_PRIVATE, 0x7fffffff, 0, 0, 0);
    settle(1020);
    fprintf(stderr, "nobody woken %ld and %ld ns, one %ld and %ld, one moved %ld\n", few, many, one, one_of_many, moving);
    printf("moved %ld, woken %ld\n", moved, woken);
    printf("%s\n", many < 2 * few && one_of_many < 2 * one ? "flat" : "dearer beside many");
}

int main(int count, char **arguments) {
    (void)arguments;
    if (count > 1) {
        costs();
        return 0;
    }
    errors();
    wakes();
    keys();
    return 0;
}
