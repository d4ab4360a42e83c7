// What a byte through a pipe, and the close of an end of it, cost beside many that wait there: as much as beside few. Then
// how many pipes there can be. Instructions have to be counted.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000 + now.tv_nsec;
}

static int to[2], from[2];

static void reader(void) {
    char byte;
    while (read(to[0], &byte, 1) == 1) write(from[1], &byte, 1);
    _exit(0);
}

// Nanoseconds of a byte there and back, and of a close of one writing end of several.
static void measure(int waiting, long *round, long *closing) {
    char byte = 0;
    pipe(to);
    pipe(from);
    for (int i = 0; i < waiting; i++) {
        if (!fork()) {
            close(to[1]);
            reader();
        }
    }
    usleep(200000);
    int spare = dup(to[1]);
    long start = now();
    for (int i = 0; i < 100; i++) {
        write(to[1], &byte, 1);
        read(from[0], &byte, 1);
    }
    *round = (now() - start) / 100;
    start = now();
    for (int i = 0; i < 100; i++) {
        close(spare);
        spare = dup(to[1]);
    }
    *closing = (now() - start) / 100;
    close(spare);
    close(to[1]);
    int ended = 0;
    while (wait(0) > 0) ended++;
    printf("%d waited, %d ended\n", waiting, ended);
    close(to[0]);
    close(from[0]);
    close(from[1]);
}

int main(void) {
    long few[2], much[2];
    measure(2, &few[0], &few[1]);
    measure(300, &much[0], &much[1]);
    fprintf(stderr, "round trip %ld and %ld ns, close %ld and %ld ns\n", few[0], much[0], few[1], much[1]);
    printf("round trips: %s\n", much[0] < 2 * few[0] ? "flat" : "dearer beside many");
    printf("closes: %s\n", much[1] < 2 * few[1] ? "flat" : "dearer beside many");
    fflush(stdout);
    int report[2], made = 0, all = 0, full = 0;
    pipe(report);
    for (int i = 0; i < 10; i++) {
        if (!fork()) {
            int ends[2];
            for (made = 0; made < 480 && !pipe(ends); made++) write(ends[1], "x", i % 2);
            if (made < 480) fprintf(stderr, "process %d, pipe %d: %s\n", i, made, strerror(errno));
            write(report[1], &made, sizeof made);
            sleep(1);
            _exit(0);
        }
    }
    for (int i = 0; i < 10; i++) {
        read(report[0], &made, sizeof made);
        all += made;
        full += made == 480;
    }
    printf("%d pipes, %d processes\n", all, full);
    while (wait(0) > 0);
    return 0;
}
