/* All vector registers across faults that make the kernel zero and copy pages.
 *
 * One block of assembly loads every register with a value of its own, touches every page of a range, and stores the
 * registers again, so that no compiled code comes in between. Rounds of first writes, of first reads and writes after
 * them, and of copy-on-write in a child; the argument says how many. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512 };

static int avx;

struct state {
    uint8_t vectors[16][32];
};

/* Loads the registers, writes (or reads) a byte of each page of the range, stores the registers. */
static void touch(const struct state *in, struct state *out, volatile char *first, long pages, int write)
{
    register const void *from asm("r12") = in;
    register void *to asm("r13") = out;
    register volatile char *at asm("r14") = first;
    register long left asm("r15") = pages;
    register long writes asm("rbx") = write;
#define TOUCH(move, kind, after) \
    asm volatile(".altmacro\n" \
                 ".macro get n\n " move " (\\n*32)(%%r12), %%" kind "\\n\n.endm\n" \
                 ".macro put n\n " move " %%" kind "\\n, (\\n*32)(%%r13)\n.endm\n" \
                 ".set i, 0\n.rept 16\n get %%i\n.set i, i+1\n.endr\n" \
                 "1: test %%rbx, %%rbx\n jz 2f\n movb $1, (%%r14)\n jmp 3f\n2: movb (%%r14), %%al\n" \
                 "3: add $4096, %%r14\n dec %%r15\n jnz 1b\n" \
                 ".set i, 0\n.rept 16\n put %%i\n.set i, i+1\n.endr\n" after \
                 ".purgem get\n.purgem put\n.noaltmacro\n" \
                 : "+r"(at), "+r"(left) \
                 : "r"(from), "r"(to), "r"(writes) \
                 : "rax", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
    if (avx)
        TOUCH("vmovdqu", "ymm", "vzeroupper\n");
    else
        TOUCH("movdqu", "xmm", "");
}

static int wrong;

static void check(char *range, int write, uint32_t seed)
{
    struct state in, out;
    memset(&out, 0, sizeof out);
    for (unsigned i = 0; i < sizeof in; i++)
        ((uint8_t *)&in)[i] = seed + i * 37 + i / 32;
    touch(&in, &out, range, PAGES, write);
    for (int i = 0; i < 16; i++)
        if (memcmp(in.vectors[i], out.vectors[i], avx ? 32 : 16)) {
            printf("register %d changed\n", i);
            wrong = 1;
        }
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 20;
    __builtin_cpu_init();
    avx = !!__builtin_cpu_supports("avx");
    char *range = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED)
        return 1;
    for (int round = 0; round < rounds && !wrong; round++) {
        /* Zeroed by first writes. */
        check(range, 1, round * 7);
        if (round % 8 == 0) {
            /* Copied by a child. */
            for (int page = 0; page < PAGES; page++)
                memset(range + page * PAGE, page + round, PAGE);
            pid_t child = fork();
            if (child == 0) {
                check(range, 1, round * 11);
                for (int page = 0; page < PAGES; page++)
                    for (int byte = 1; byte < PAGE; byte++)
                        if (range[page * PAGE + byte] != (char)(page + round))
                            wrong = 1;
                _exit(wrong);
            }
            int status;
            if (child < 0 || waitpid(child, &status, 0) != child || status)
                wrong = 1;
        }
        madvise(range, PAGES * PAGE, MADV_DONTNEED);
        /* Reads, then zeroed by writes. */
        check(range, 0, round * 13);
        check(range, 1, round * 17);
        for (int page = 0; page < PAGES; page++)
            for (int byte = 8; byte < PAGE; byte += 8)
                if (*(uint64_t *)(range + page * PAGE + byte)) {
                    puts("a page is not zero");
                    wrong = 1;
                }
        madvise(range, PAGES * PAGE, MADV_DONTNEED);
    }
    printf("%s\n", wrong ? "lost" : "kept");
    return wrong;
}
