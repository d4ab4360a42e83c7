// Two processes write much to the console, each write by itself; a third sleeps meanwhile and is late by little.
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000 + now.tv_nsec;
}

int main(void) {
    static char text[65536];
    for (int child = 0; child < 2; child++) {
        if (!fork()) {
            memset(text, 'a' + child, sizeof text);
            for (int i = 0; i < 4; i++) write(1, text, sizeof text);
            _exit(0);
        }
    }
    long worst = 0;
    int count = 0;
    for (; waitpid(-1, 0, WNOHANG) <= 0; count++) {
        long start = now();
        usleep(10);
        long late = now() - start - 10000;
        if (late > worst) worst = late;
    }
    while (wait(0) > 0);
    fprintf(stderr, "%s after %d sleeps: %ld ns\n", worst < 1500000 ? "late by a tick at most" : "late", count, worst);
    return count < 3;
}
