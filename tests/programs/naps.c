// Short sleeps. `naps alone` sleeps for a microsecond, again and again. `naps crowd THREADS` lets so many threads nap for 50
// microseconds while a process computes and the first thread sleeps longer. `naps spinner` sleeps beside a thread that
// computes.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void sleep_for(long nanoseconds) {
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    nanosleep(&time, 0);
}

static void *nap(void *unused) {
    for (;;) {
        sleep_for(50000);
    }
    return unused;
}

static void *spin(void *unused) {
    for (;;) {
    }
    return unused;
}

static void start(void *(*function)(void *)) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    if (pthread_create(&thread, &attributes, function, 0) != 0) {
        _exit(3);
    }
}

// How long a sleep of a microsecond takes, in nanoseconds.
static long mean(int rounds) {
    long begin = now();
    for (int i = 0; i < rounds; i++) {
        sleep_for(1000);
    }
    return (now() - begin) / rounds;
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "alone") == 0) {
        printf("%ld\n", mean(200));
    } else if (count > 1 && strcmp(arguments[1], "spinner") == 0) {
        start(spin);
        printf("%ld\n", mean(200));
    } else if (count > 2) {
        volatile long *work = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pid_t worker = fork();
        if (worker == 0) {
            for (;;) {
                ++*work;
            }
        }
        sleep_for(20000000);
        long before = *work;
        sleep_for(20000000);
        long alone = *work - before;
        for (int i = 0; i < atoi(arguments[2]); i++) {
            start(nap);
        }
        before = *work;
        long begin = now();
        sleep_for(100000000);
        long took = now() - begin;
        // The lateness in nanoseconds, and the worker's thousandths of what it did alone.
        printf("%ld %ld\n", took - 100000000, (*work - before) * 1000 / alone * 20000000 / took);
        kill(worker, SIGKILL);
    }
    fflush(stdout);
    _exit(0);
}
