/* Mends its own faults: every page of a mapping is inaccessible until the handler of SIGSEGV makes it accessible. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGES = 64, PAGE = 4096 };

static char *area;
static volatile int mended;
static volatile int wrong;

static void mend(int signal, siginfo_t *info, void *context) {
    (void)context;
    uintptr_t place = (uintptr_t)info->si_addr, base = (uintptr_t)area;
    if (signal != SIGSEGV || info->si_code != SEGV_ACCERR || place < base || place >= base + PAGES * PAGE) {
        wrong = 1;
        _Exit(3);
    }
    if (mprotect((void *)(place & ~(uintptr_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE) != 0)
        _Exit(4);
    mended++;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};
    unsigned long sum = 0;
    sigaction(SIGSEGV, &action, NULL);
    area = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 1;
    for (int round = 0; round < 3; round++) {
        for (int page = 0; page < PAGES; page++)
            area[page * PAGE + round] = (char)(page * 7 + round);
        for (int page = 0; page < PAGES; page++)
            sum = sum * 31 + (unsigned char)area[page * PAGE + round];
        if (mprotect(area, PAGES * PAGE, round == 1 ? PROT_READ : PROT_NONE) != 0)
            return 2;
    }
    printf("mended %d pages, sum %lx\n", mended, sum);
    return wrong;
}
