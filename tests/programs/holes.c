// Holes in a file that two processes have mapped, and its new end: what each of them sees then.
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096l
#define PAGES 8

static sigjmp_buf back;

static void caught(int signal) { siglongjmp(back, signal); }

static void look(const char *who, volatile char *memory) {
    printf("%s:", who);
    for (int page = 0; page < PAGES; page++) {
        int signal = sigsetjmp(back, 1);
        if (signal) printf(" signal %d", signal);
        else printf(" %d", memory[page * PAGE + 50]);
    }
    puts("");
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    signal(SIGBUS, caught);
    int file = memfd_create("file", 0), turn[2], done[2];
    if (ftruncate(file, PAGES * PAGE) || pipe(turn) || pipe(done)) return 1;
    char *shared = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *again = mmap(0, PAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
    char *private = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    for (int page = 0; page < PAGES; page++) shared[page * PAGE + 50] = page + 1;
    private[3 * PAGE + 50] = 33;
    look("shared", shared), look("again", again), look("private", private);
    pid_t child = fork();
    if (child == 0) {
        char c;
        look("child", shared), look("child's private", private);
        while (write(done[1], "", 1) == 1 && read(turn[0], &c, 1) == 1 && c) {
            look("child", shared), look("child's private", private);
        }
        _exit(0);
    }
    char c;
    for (int step = 0; step < 5; step++) {
        if (read(done[0], &c, 1) != 1) return 1;
        switch (step) {
        case 0: printf("punch: %d\n", fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, 2 * PAGE + 100)); break;
        case 1: printf("remove: %d\n", madvise(shared + 4 * PAGE, PAGE, MADV_REMOVE)); break;
        case 2: printf("shorter: %d\n", ftruncate(file, 6 * PAGE + 10)); break;
        case 3: printf("longer: %d\n", ftruncate(file, 8 * PAGE)); break;
        }
        look("shared", shared), look("again", again);
        if (step == 2 || step == 3) look("private", private);
        if (write(turn[1], step < 4 ? "x" : "", 1) != 1) return 1;
    }
    int status;
    return waitpid(child, &status, 0) != child || status;
}
