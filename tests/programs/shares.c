// Who gets how much of the CPU: `shares SPINNERS FAULTERS MILLISECONDS`. Each process runs that long; then it prints what it
// used of the CPU, in thousandths of its fair share, the spinners first.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 4) {
        return 2;
    }
    int spinners = atoi(arguments[1]), all = spinners + atoi(arguments[2]);
    long *used = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    volatile long *start = &used[511];
    for (int i = 0; i < all; i++) {
        if (fork() != 0) {
            continue;
        }
        while (*start == 0) {
            usleep(1000);
        }
        long end = *start + atol(arguments[3]) * 1000000;
        long before = now(CLOCK_PROCESS_CPUTIME_ID);
        char *page = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        while (now(CLOCK_MONOTONIC) < end) {
            for (int k = 0; k < 64; k++) {
                if (i >= spinners) {
                    page[k * 4096] = 1;
                } else {
                    for (volatile int j = 0; j < 200; j++) {
                    }
                }
            }
            if (i >= spinners) {
                madvise(page, 64 * 4096, MADV_DONTNEED);
            }
        }
        used[i] = now(CLOCK_PROCESS_CPUTIME_ID) - before;
        _exit(0);
    }
    usleep(10000);
    *start = now(CLOCK_MONOTONIC);
    while (wait(0) > 0) {
    }
    for (int i = 0; i < all; i++) {
        printf("%ld\n", used[i] * all / (atol(arguments[3]) * 1000));
    }
    return 0;
}
