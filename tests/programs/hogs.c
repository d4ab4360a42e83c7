// One process takes all memory, in page tables, in an object that nobody maps, or in pages, beside six that hold little.
// When memory is short, it is the one that has to go.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define INNOCENTS 6
#define MIB (1UL << 20)

static void hog(const char *what, unsigned long size) {
    if (!strcmp(what, "tables")) {
        // Each page of zeros that is read takes a table.
        size_t length = 32UL << 40;
        volatile char *memory = mmap(0, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if ((void *)memory == MAP_FAILED) exit(3);
        for (size_t at = 0; at < length; at += 2 * MIB) memory[at];
    } else if (!strcmp(what, "object") || !strcmp(what, "shared")) {
        // Few pieces: where memory is short a mapping may be refused.
        int file = memfd_create("hog", 0);
        unsigned long piece = size / 4 & ~4095UL;
        if (file < 0 || ftruncate(file, size)) exit(3);
        // Several hold it, and one of them made it; each has its part, which is more than any innocent has.
        if (!strcmp(what, "shared") && fork() == 0)
            for (;;) pause();
        for (unsigned long at = 0; at + piece <= size; at += piece) {
            char *memory = mmap(0, piece, PROT_READ | PROT_WRITE, MAP_SHARED, file, at);
            if (memory == MAP_FAILED) exit(4);
            for (unsigned long page = 0; page < piece; page += 4096) memory[page] = 1;
            munmap(memory, piece);
        }
    } else if (!strcmp(what, "pipes")) {
        static char bytes[1 << 16];
        for (unsigned long at = 0; at < size; at += sizeof bytes) {
            int ends[2];
            if (pipe(ends) || write(ends[1], bytes, sizeof bytes) < 0) break;
        }
        // What the pipes have left.
        char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) exit(3);
        for (unsigned long at = 0; at < size; at += 4096) memory[at] = 1;
    } else {
        char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) exit(3);
        for (unsigned long at = 0; at < size; at += 4096) memory[at] = 1;
    }
    for (;;) pause();
}

int main(int count, char **arguments) {
    pid_t innocents[INNOCENTS], hogs;
    if (count < 3) return 1;
    for (int i = 0; i < INNOCENTS; i++) {
        innocents[i] = fork();
        if (!innocents[i]) {
            char *memory = malloc(MIB);
            memset(memory, 1, MIB);
            for (;;) {
                usleep(5000);
                memory[rand() % MIB]++;
            }
        }
    }
    usleep(50000);
    hogs = fork();
    if (!hogs) hog(arguments[1], strtoul(arguments[2], 0, 10) * MIB);
    int status;
    pid_t ended = wait(&status);
    printf("%s ended by signal %d\n", ended == hogs ? "the hog" : "an innocent", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    // The others live on, with memory.
    char *memory = malloc(4 * MIB);
    memset(memory, 1, 4 * MIB);
    usleep(20000);
    printf("innocents that ended: %d\n", waitpid(-1, &status, WNOHANG) > 0);
    for (int i = 0; i < INNOCENTS; i++) kill(innocents[i], SIGKILL);
    return 0;
}
