// What it costs to make and join a thread, and to end a child, beside 0 and beside many sleeping threads of the process.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void *sleeper(void *argument) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return argument;
}

static void *quick(void *argument) { return argument; }

int main(int count, char **arguments) {
    int most = count > 1 ? atoi(arguments[1]) : 100, sleepers = 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    pthread_mutex_lock(&gate);
    for (int round = 0; round < 2; round++) {
        pthread_t thread;
        for (; sleepers < (round ? most : 0); sleepers++)
            if (pthread_create(&thread, &small, sleeper, 0)) return 1;
        usleep(100000);
        double begin = now();
        for (int i = 0; i < 50; i++)
            if (pthread_create(&thread, &small, quick, 0) || pthread_join(thread, 0)) return 1;
        double joined = now();
        for (int i = 0; i < 20; i++) {
            pid_t child = vfork();
            if (!child) _exit(0);
            if (waitpid(child, 0, 0) != child) return 1;
        }
        printf("beside %d: thread %.1f us, child %.1f us\n", sleepers, (joined - begin) / 50, (now() - joined) / 20);
        fflush(stdout);
    }
    _exit(0);
}
