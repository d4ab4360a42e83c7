/* Registers of the FPU, SSE and AVX across faults, switches, signals and forks.
 *
 * Each thread and each process keeps values of its own in all vector registers, in the x87 stack and in both control
 * words, and looks whether they are still there after a page fault, after others have run, in and after a signal
 * handler, and in a child. One block of assembly does all of that, so that no compiled code comes in between. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 200, PAGE = 4096 };

static int avx;
static volatile int handled;

struct state {
    uint8_t vectors[16][32];
    uint64_t top;
    uint32_t mxcsr;
    uint16_t control;
};

/* Loads the registers, makes `call`, faults at `page`, makes `call` again, and stores the registers. */
static void hold(const struct state *in, struct state *out, volatile char *page, long call, long first, long second)
{
    register const void *from asm("r12") = in;
    register void *to asm("r13") = out;
    register volatile char *at asm("r14") = page;
    register long number asm("r15") = call;
    register long arg1 asm("rdi") = first;
    register long arg2 asm("rsi") = second;
    if (avx)
        asm volatile(".altmacro\n"
                     ".macro get n\n vmovdqu (\\n*32)(%%r12), %%ymm\\n\n.endm\n"
                     ".macro put n\n vmovdqu %%ymm\\n, (\\n*32)(%%r13)\n.endm\n"
                     ".set i, 0\n.rept 16\n get %%i\n.set i, i+1\n.endr\n"
                     "fildll 512(%%r12)\n ldmxcsr 520(%%r12)\n fldcw 524(%%r12)\n"
                     "mov %%r15, %%rax\n syscall\n movb $1, (%%r14)\n mov %%r15, %%rax\n syscall\n"
                     ".set i, 0\n.rept 16\n put %%i\n.set i, i+1\n.endr\n"
                     "fistpll 512(%%r13)\n stmxcsr 520(%%r13)\n fnstcw 524(%%r13)\n vzeroupper\n"
                     ".purgem get\n.purgem put\n.noaltmacro\n"
                     : "+r"(arg1), "+r"(arg2)
                     : "r"(from), "r"(to), "r"(at), "r"(number)
                     : "rax", "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    else
        asm volatile(".altmacro\n"
                     ".macro get n\n movdqu (\\n*32)(%%r12), %%xmm\\n\n.endm\n"
                     ".macro put n\n movdqu %%xmm\\n, (\\n*32)(%%r13)\n.endm\n"
                     ".set i, 0\n.rept 16\n get %%i\n.set i, i+1\n.endr\n"
                     "fildll 512(%%r12)\n ldmxcsr 520(%%r12)\n fldcw 524(%%r12)\n"
                     "mov %%r15, %%rax\n syscall\n movb $1, (%%r14)\n mov %%r15, %%rax\n syscall\n"
                     ".set i, 0\n.rept 16\n put %%i\n.set i, i+1\n.endr\n"
                     "fistpll 512(%%r13)\n stmxcsr 520(%%r13)\n fnstcw 524(%%r13)\n"
                     ".purgem get\n.purgem put\n.noaltmacro\n"
                     : "+r"(arg1), "+r"(arg2)
                     : "r"(from), "r"(to), "r"(at), "r"(number)
                     : "rax", "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

_Static_assert(__builtin_offsetof(struct state, top) == 512, "as the assembly has it");
_Static_assert(__builtin_offsetof(struct state, mxcsr) == 520, "as the assembly has it");
_Static_assert(__builtin_offsetof(struct state, control) == 524, "as the assembly has it");

static void fill(struct state *state, unsigned seed)
{
    memset(state, 0, sizeof *state);
    for (int n = 0; n < 16; n++)
        memset(state->vectors[n], (int)(seed * 37 + (unsigned)n + 1), avx ? 32 : 16);
    state->top = seed * 1000003;
    state->mxcsr = 0x1f80 | (seed & 3) << 13;
    state->control = (uint16_t)(0x037f | (seed & 3) << 10);
}

/* Returns how many rounds lost a register. */
static int rounds(unsigned seed, int count, long call, long first, long second)
{
    struct state in, out;
    struct state usual;
    int lost = 0;
    char *memory = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        exit(3);
    for (int round = 0; round < count; round++) {
        fill(&in, seed * 1000 + (unsigned)round);
        memset(&out, 0, sizeof out);
        hold(&in, &out, memory + (size_t)round * PAGE, call, first, second);
        lost += memcmp(&in, &out, sizeof in) != 0;
    }
    munmap(memory, (size_t)count * PAGE);
    /* Compiled code wants the control words as they were. */
    fill(&usual, 0);
    asm volatile("ldmxcsr %0\n fldcw %1" : : "m"(usual.mxcsr), "m"(usual.control));
    return lost;
}

static void *thread(void *number)
{
    return (void *)(intptr_t)rounds((unsigned)(intptr_t)number, ROUNDS, SYS_sched_yield, 0, 0);
}

/* Changes every register: the interrupted thread must not see it. */
static void handler(int signal)
{
    struct state other, back;
    char byte;
    (void)signal;
    fill(&other, 77);
    memset(&back, 0, sizeof back);
    hold(&other, &back, &byte, SYS_getpid, 0, 0);
    handled += memcmp(&other, &back, sizeof other) == 0;
}

int main(int argc, char **argv)
{
    avx = __builtin_cpu_supports("avx");
    if (argc > 1 && strcmp(argv[1], "alone") == 0) {
        printf("alone: %d lost\n", rounds(1, 2000, SYS_getpid, 0, 0));
        return 0;
    }
    pthread_t threads[THREADS];
    for (intptr_t n = 0; n < THREADS; n++)
        if (pthread_create(&threads[n], NULL, thread, (void *)(n + 1)) != 0)
            return 3;
    int lost = 0;
    for (int n = 0; n < THREADS; n++) {
        void *result;
        pthread_join(threads[n], &result);
        lost += (int)(intptr_t)result;
    }
    printf("threads: %d lost\n", lost);

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGUSR1, &action, NULL);
    lost = rounds(9, 100, SYS_kill, getpid(), SIGUSR1);
    printf("signals: %d lost, %d handled\n", lost, handled);
    fflush(stdout);

    pid_t child = fork();
    lost = rounds(child == 0 ? 5 : 6, ROUNDS, SYS_sched_yield, 0, 0);
    if (child == 0)
        _exit(lost != 0);
    int status = 0;
    waitpid(child, &status, 0);
    printf("processes: %d lost, child %d\n", lost, status);
    return 0;
}
