// What signals, their stacks and futexes keep or take away. Each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static volatile int depth, deepest, raised, order;

static void nested(int signal) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (depth < 3 && raised++ < 4) raise(signal);
    depth--;
}

static void deferral(void) {
    for (int flags = 0; flags < 2; flags++) {
        struct sigaction action = {.sa_handler = nested, .sa_flags = flags ? SA_NODEFER : 0};
        sigaction(SIGUSR1, &action, 0);
        deepest = raised = 0;
        raise(SIGUSR1);
        printf("%s: as deep as %d\n", flags ? "not deferred" : "deferred", deepest);
    }
}

static char alternate[65536] __attribute__((aligned(16)));

static void on_stack(int signal) {
    stack_t now;
    char here;
    (void)signal;
    sigaltstack(0, &now);
    printf("in the handler: on it %d, flags %#x, size %zu\n", &here >= alternate && &here < alternate + sizeof alternate,
           (unsigned)now.ss_flags, (size_t)now.ss_size);
    // With a stack that is disarmed a handler may set another.
    stack_t other = {.ss_sp = alternate, .ss_size = 32768};
    int result = sigaltstack(&other, 0);
    printf("set another: %d %s\n", result, result ? strerror(errno) : "");
}

static void disarming(void) {
    struct sigaction action = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR2, &action, 0);
    for (int armed = 0; armed < 2; armed++) {
        stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = armed ? 0 : (int)SS_AUTODISARM}, after;
        printf("stack: %d\n", sigaltstack(&stack, 0));
        raise(SIGUSR2);
        sigaltstack(0, &after);
        printf("afterwards: flags %#x, size %zu\n", (unsigned)after.ss_flags, (size_t)after.ss_size);
    }
    stack_t bad = {.ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = 4};
    int result = sigaltstack(&bad, 0);
    printf("unknown flag: %d %s\n", result, strerror(errno));
}

static uint32_t read_mxcsr(void) {
    uint32_t value;
    __asm__ volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static void set_frame(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    // Bits that no processor has: what comes back is what it can have, and no fault in the kernel.
    ((ucontext_t *)context)->uc_mcontext.fpregs->mxcsr = 0xffffffbf;
}

static void control_word(void) {
    struct sigaction action = {.sa_sigaction = set_frame, .sa_flags = SA_SIGINFO};
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        sigaction(SIGUSR1, &action, 0);
        raise(SIGUSR1);
        uint32_t value = read_mxcsr();
        __asm__ volatile("ldmxcsr %0" ::"m"((uint32_t){0x1f80}));
        printf("mxcsr: reserved bits %#x\n", value & 0xffff0000);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, &status, 0);
    printf("the child: %s\n", WIFEXITED(status) ? "exited" : "killed");
}

static uint32_t word;
static volatile int woken[3];
static const uint32_t bits[3] = {1, 2, 6};

static void *waits(void *argument) {
    long index = (long)argument;
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, 0, 0, bits[index]);
    woken[index] = ++order;
    return 0;
}

static void *waits_for_any(void *argument) {
    syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0);
    return argument;
}

static void bit_sets(void) {
    pthread_t threads[3], other;
    for (long i = 0; i < 3; i++) {
        pthread_create(&threads[i], 0, waits, (void *)i);
        usleep(20000);
    }
    printf("of 8: %ld\n", syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 9, 0, 0, 8));
    printf("of 4: %ld", syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 9, 0, 0, 4));
    pthread_join(threads[2], 0);
    printf(", woken %d %d %d\n", woken[0] > 0, woken[1] > 0, woken[2] > 0);
    printf("of 3, one: %ld", syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 1, 0, 0, 3));
    pthread_join(threads[0], 0);
    printf(", woken %d %d\n", woken[0] > 0, woken[1] > 0);
    pthread_create(&other, 0, waits_for_any, 0);
    usleep(20000);
    printf("of any: %ld\n", syscall(SYS_futex, &word, FUTEX_WAKE, 9, 0, 0, 0));
    pthread_join(threads[1], 0);
    pthread_join(other, 0);
    long result = syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 1, 0, 0, 0);
    printf("of none: %ld %s\n", result, strerror(errno));
}

static volatile int caught_by, stage;
static void take(int signal) { caught_by = syscall(SYS_gettid) + 0 * signal; }

// A signal of the process that only this thread does not block waits for it, and it ends.
static void *ends(void *argument) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, 0);
    stage = 1;
    while (stage < 2) usleep(1000);
    return argument;
}

static void inheritance(void) {
    struct sigaction action = {.sa_handler = take};
    sigset_t set, old;
    pthread_t thread;
    sigaction(SIGUSR1, &action, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    pthread_create(&thread, 0, ends, 0);
    while (stage < 1) usleep(1000);
    kill(getpid(), SIGUSR1);
    stage = 2;
    pthread_join(thread, 0);
    sigpending(&set);
    printf("waits for the process: %d, caught %d\n", sigismember(&set, SIGUSR1), caught_by != 0);
    pthread_sigmask(SIG_SETMASK, &old, 0);
    printf("caught by the other: %d\n", caught_by == getpid());
}

// The thread that is to take a signal ends before it does: another takes it, out of its wait.
static void *exits_at_once(void *argument) {
    kill(getpid(), SIGUSR1);
    return argument;
}

static void *sleeps(void *argument) {
    sigset_t set;
    sigemptyset(&set);
    pthread_sigmask(SIG_SETMASK, &set, 0);
    stage = 5;
    pause();
    return argument;
}

static void handing_over(void) {
    sigset_t set;
    pthread_t sleeper, other;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, 0);
    caught_by = 0;
    pthread_create(&sleeper, 0, sleeps, 0);
    while (stage < 5) usleep(1000);
    usleep(20000);
    pthread_create(&other, 0, exits_at_once, 0);
    pthread_join(other, 0);
    pthread_join(sleeper, 0);
    printf("taken by the one that slept: %d\n", caught_by != 0 && caught_by != getpid());
}

int main(int count, char **arguments) {
    // Linux ends a program that returns with a control word that no processor has; Faultline masks it.
    if (count > 1 && !strcmp(arguments[1], "control")) {
        control_word();
        return 0;
    }
    deferral();
    disarming();
    bit_sets();
    inheritance();
    handing_over();
    return 0;
}
