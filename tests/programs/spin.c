// Computes for so many milliseconds.
#include <stdlib.h>
#include <time.h>

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int count, char **arguments) {
    long end = now() + (count > 1 ? atol(arguments[1]) * 1000000 : 0);
    while (now() < end) {
        for (volatile int i = 0; i < 100000; i++) {
        }
    }
    return 0;
}
