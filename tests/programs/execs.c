// `execs ROUNDS SPINNERS`: starts itself anew so often, one at a time, beside so many processes that compute. Prints the mean
// time in nanoseconds.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 3) {
        return 7;
    }
    int rounds = atoi(arguments[1]), spinners = atoi(arguments[2]);
    pid_t spinning[16];
    for (int i = 0; i < spinners; i++) {
        spinning[i] = fork();
        if (spinning[i] == 0) {
            for (;;) {
            }
        }
    }
    long begin = now();
    for (int i = 0; i < rounds; i++) {
        int status;
        if (fork() == 0) {
            execl("/proc/self/exe", "execs", (char *)0);
            _exit(1);
        }
        wait(&status);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 7) {
            return 1;
        }
    }
    printf("%ld\n", (now() - begin) / rounds);
    for (int i = 0; i < spinners; i++) {
        kill(spinning[i], SIGKILL);
    }
    return 0;
}
