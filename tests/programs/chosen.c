// Two processes take all memory: one holds 70 MiB and waits, with the adjustment that is the argument; the other takes what is
// left. Prints which of them was chosen as the victim.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void take(size_t size) {
    char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) _exit(3);
    for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
}

int main(int argc, char **argv) {
    int ready[2];
    if (argc < 2 || pipe(ready)) return 1;
    pid_t first = fork();
    if (first == 0) {
        int file = open("/proc/self/oom_score_adj", O_WRONLY);
        if (write(file, argv[1], strlen(argv[1])) < 0) _exit(4);
        take(70 << 20);
        if (write(ready[1], "x", 1) != 1) _exit(5);
        for (;;) pause();
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) return 2;
    pid_t second = fork();
    if (second == 0) {
        take(1 << 30);
        _exit(6);
    }
    int status;
    pid_t gone = wait(&status);
    printf("the %s was chosen, signal %d\n", gone == first ? "first" : "second", WTERMSIG(status));
    kill(first, SIGKILL);
    kill(second, SIGKILL);
    while (wait(NULL) > 0) {}
    return 0;
}
