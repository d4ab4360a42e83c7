// Small things about processes and signals, each line the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(call) do { errno = 0; long result = (long)(call); printf("%-60s %ld %s\n", #call, result, result < 0 ? strerror(errno) : ""); fflush(stdout); } while (0)

static volatile int tid, handled;
static int gate[2];

static void count(int signal) { handled += signal != 0; }

static void *waits(void *argument) {
    char byte;
    tid = syscall(SYS_gettid);
    if (read(gate[0], &byte, 1) != 1) return 0;
    return argument;
}

static void numbers_of_threads(void) {
    pthread_t thread;
    signal(SIGUSR1, count);
    if (pipe(gate)) exit(1);
    pthread_create(&thread, 0, waits, 0);
    while (!tid) usleep(1000);
    siginfo_t info = {.si_code = SI_QUEUE, .si_signo = SIGUSR1};
    info.si_pid = getpid();
    printf("threads:\n");
    SAY(kill(tid, 0));
    SAY(kill(tid, SIGUSR1));
    SAY(syscall(SYS_rt_sigqueueinfo, tid, SIGUSR1, &info));
    SAY(setpgid(tid, 0));
    SAY(getpgid(tid) == getpgid(0));
    SAY(getsid(tid) == getsid(0));
    SAY(syscall(SYS_tgkill, getpid() + 1, tid, 0));
    SAY(waitpid(tid, 0, WNOHANG));
    if (write(gate[1], "", 1) != 1) exit(1);
    pthread_join(thread, 0);
    printf("handled: %d\n", handled >= 1);
}

static void groups(char *self) {
    int ready[2], stop[2];
    char byte;
    if (pipe(ready) || pipe(stop)) exit(1);
    pid_t child = fork();
    if (!child) {
        dup2(stop[0], 0);
        dup2(ready[1], 1);
        execl("/proc/self/exe", self, "child", (char *)0);
        _exit(1);
    }
    if (read(ready[0], &byte, 1) != 1) exit(1);
    printf("groups:\n");
    SAY(setpgid(child, child));
    SAY(getpgid(child) == getpgid(0));
    if (write(stop[1], "", 1) != 1) exit(1);
    SAY(waitpid(child, 0, 0) == child);
    child = fork();
    if (!child) {
        if (read(stop[0], &byte, 1) != 1) _exit(1);
        _exit(0);
    }
    SAY(setpgid(child, 0));
    SAY(getpgid(child) == child);
    SAY(setpgid(child, 1 << 21));
    SAY(setpgid(0, -1));
    SAY(setpgid(1 << 21, 0));
    SAY(kill(-child, 0));
    if (write(stop[1], "", 1) != 1) exit(1);
    // A zombie is still in its group.
    siginfo_t info;
    SAY(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    SAY(kill(-child, 0));
    SAY(getpgid(child) == child);
    SAY(waitid(P_PGID, child, &info, WEXITED));
    SAY(kill(-child, 0));
    SAY(waitid(P_PGID, child, &info, WEXITED));
}

static void segv(int signal) {
    // The place of the stack says which one it is.
    dprintf(1, "SIGSEGV handler, signal %d\n", signal);
    _exit(7);
}

static void other(int signal) { (void)signal; }

static void last_words(const char *what, int status) {
    printf("%s: %s %d\n", what, WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    fflush(stdout);
}

static void frames(void) {
    for (int way = 0; way < 4; way++) {
        int status;
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            char *memory = mmap(0, 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            stack_t stack = {.ss_sp = memory, .ss_size = 65536};
            struct sigaction at_fault = {.sa_handler = segv}, at_hangup = {.sa_handler = other, .sa_flags = SA_ONSTACK};
            if (way == 1) at_fault.sa_flags = SA_ONSTACK;
            if (way == 2) at_fault.sa_handler = SIG_IGN;
            sigaction(SIGSEGV, &at_fault, 0);
            sigaction(SIGHUP, &at_hangup, 0);
            sigaltstack(&stack, 0);
            if (way == 3) {
                // A frame that can't be read back.
                __asm__ volatile("mov %0, %%rsp; mov $15, %%eax; syscall" ::"r"(8L << 12) : "memory");
            }
            raise(SIGHUP);
            dprintf(1, "came back\n");
            _exit(8);
        }
        waitpid(child, &status, 0);
        last_words("a frame that can't be written", status);
    }
}

static void clones(void) {
    unsigned long arguments[512 + 8] = {0};
    arguments[4] = SIGCHLD;
    printf("clone3:\n");
    for (int size = 56; size <= 4104; size += size < 136 ? 8 : size < 4088 ? 3960 : 8) {
        errno = 0;
        long child = syscall(SYS_clone3, arguments, size);
        if (!child) _exit(0);
        printf("size %d: %s\n", size, child > 0 ? "child" : strerror(errno));
        fflush(stdout);
        if (child > 0) waitpid(child, 0, 0);
    }
    arguments[500] = 1;
    SAY(syscall(SYS_clone3, arguments, 4096));
    arguments[500] = 0;
    arguments[12] = 1UL << 56;
    SAY(syscall(SYS_clone3, arguments, 104));
    arguments[12] = 0;
    arguments[4] = 65;
    SAY(syscall(SYS_clone3, arguments, 88));
    arguments[4] = SIGCHLD;
    arguments[0] = CLONE_PARENT;
    SAY(syscall(SYS_clone3, arguments, 88));
}

static void controls(void) {
    char name[16] = "unchanged";
    int value = 5;
    printf("prctl:\n");
    SAY(prctl(PR_SET_TIMERSLACK, 1000));
    SAY(prctl(PR_GET_TIMERSLACK));
    SAY(prctl(PR_SET_TIMERSLACK, 0));
    SAY(prctl(PR_GET_TIMERSLACK));
    SAY(prctl(PR_GET_CHILD_SUBREAPER, &value));
    printf("%d\n", value);
    SAY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    SAY(prctl(PR_GET_CHILD_SUBREAPER, &value));
    printf("%d\n", value);
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
    SAY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SAY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAY(prctl(PR_SET_DUMPABLE, 2));
    SAY(prctl(PR_SET_DUMPABLE, 0));
    SAY(prctl(PR_GET_DUMPABLE));
    SAY(prctl(PR_SET_DUMPABLE, 1));
    SAY(prctl(PR_GET_DUMPABLE));
    SAY(prctl(PR_SET_PDEATHSIG, 65));
    SAY(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    SAY(prctl(PR_GET_PDEATHSIG, &value));
    printf("%d\n", value);
    SAY(prctl(PR_SET_PDEATHSIG, 0));
    SAY(prctl(PR_SET_NAME, ""));
    SAY(prctl(PR_GET_NAME, name));
    printf("name '%s'\n", name);
    SAY(prctl(PR_SET_NAME, "a name that is too long"));
    SAY(prctl(PR_GET_NAME, name));
    printf("name '%s'\n", name);
    SAY(prctl(12345));
}

// An orphan of an orphan comes to the nearest ancestor that asked for it.
static void adoption(void) {
    int up[2], status;
    pid_t seen;
    if (pipe(up)) exit(1);
    if (!fork()) {
        if (!fork()) {
            if (!fork()) {
                while (getppid() != 1 && kill(getppid(), 0) == 0) {
                    pid_t parent = getppid();
                    usleep(1000);
                    if (getppid() != parent) break;
                }
                seen = getppid();
                if (write(up[1], &seen, sizeof seen) != sizeof seen) _exit(1);
                _exit(3);
            }
            usleep(10000);
            _exit(4);
        }
        wait(&status);
        _exit(5);
    }
    printf("adoption:\n");
    if (read(up[0], &seen, sizeof seen) != sizeof seen) exit(1);
    int sum = 0, children = 0;
    while (wait(&status) > 0) {
        sum += WEXITSTATUS(status);
        children++;
    }
    printf("to me: %d, children %d, statuses %d\n", seen == getpid(), children, sum);
}

static void scheduling(void) {
    struct sched_param parameters = {0};
    struct timespec slice;
    cpu_set_t set;
    int child = fork();
    if (!child)
        for (;;) pause();
    printf("scheduling:\n");
    SAY(getpriority(PRIO_PROCESS, 0));
    SAY(setpriority(PRIO_PROCESS, 0, 5));
    SAY(getpriority(PRIO_PROCESS, 0));
    SAY(setpriority(PRIO_PROCESS, child, 30));
    SAY(getpriority(PRIO_PROCESS, child));
    SAY(getpriority(PRIO_PROCESS, 1 << 21));
    SAY(getpriority(7, 0));
    SAY(setpriority(PRIO_PGRP, 1 << 21, 1));
    SAY(sched_getscheduler(0));
    SAY(sched_getscheduler(-1));
    SAY(sched_getscheduler(1 << 21));
    SAY(sched_getparam(0, &parameters));
    SAY(parameters.sched_priority);
    SAY(sched_setscheduler(0, SCHED_OTHER, &parameters));
    parameters.sched_priority = 1;
    SAY(sched_setscheduler(0, SCHED_OTHER, &parameters));
    SAY(sched_setscheduler(0, 99, &parameters));
    SAY(sched_get_priority_max(SCHED_OTHER));
    SAY(sched_get_priority_min(SCHED_FIFO));
    SAY(sched_get_priority_max(SCHED_RR));
    SAY(sched_get_priority_max(77));
    SAY(sched_rr_get_interval(0, &slice));
    CPU_ZERO(&set);
    SAY(sched_setaffinity(0, sizeof set, &set));
    CPU_SET(0, &set);
    SAY(sched_setaffinity(0, sizeof set, &set));
    SAY(sched_setaffinity(1 << 21, sizeof set, &set));
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

int main(int number, char **arguments) {
    if (number > 1) {
        char byte;
        if (write(1, "", 1) != 1 || read(0, &byte, 1) != 1) return 1;
        return 0;
    }
    numbers_of_threads();
    groups(arguments[0]);
    frames();
    clones();
    controls();
    adoption();
    scheduling();
    return 0;
}
