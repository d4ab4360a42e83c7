// Resource limits: set, read back, inherited, kept across execve, never raised beyond the upper one.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *who, int resource) {
    struct rlimit limit;
    if (getrlimit(resource, &limit)) printf("%s: %s\n", who, strerror(errno));
    else printf("%s: %ld of %ld\n", who, (long)limit.rlim_cur, (long)limit.rlim_max);
    fflush(stdout);
}

static void set(int resource, long current, long most) {
    struct rlimit limit = {current, most};
    errno = 0;
    int result = setrlimit(resource, &limit);
    printf("set %d to %ld of %ld: %d %s\n", resource, current, most, result, strerror(errno));
}

// Gives the right to raise limits away, which the machine of the test may have or not.
static void stay_below(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data)) perror("capget");
    data[CAP_SYS_RESOURCE / 32].effective &= ~(1u << CAP_SYS_RESOURCE % 32);
    data[CAP_SYS_RESOURCE / 32].permitted &= ~(1u << CAP_SYS_RESOURCE % 32);
    if (syscall(SYS_capset, &header, data)) perror("capset");
}

int main(int count, char **arguments) {
    stay_below();
    if (count > 1) {
        show("after execve", RLIMIT_FSIZE);
        show("after execve", RLIMIT_CPU);
        return 0;
    }
    set(RLIMIT_FSIZE, 1 << 20, 2 << 20);
    show("file size", RLIMIT_FSIZE);
    set(RLIMIT_FSIZE, 3 << 20, 2 << 20);
    set(RLIMIT_FSIZE, 1 << 20, 3 << 20);
    show("file size, not raised", RLIMIT_FSIZE);
    set(RLIMIT_CPU, 1000, 2000);
    set(99, 1, 1);
    int result = syscall(SYS_setrlimit, RLIMIT_CPU, 8);
    printf("bad pointer: %d %s\n", result, strerror(errno));
    fflush(stdout);
    int pair[2];
    if (pipe(pair)) return 1;
    pid_t child = fork();
    if (!child) {
        char byte;
        if (read(pair[0], &byte, 1) != 1) return 1;
        show("child", RLIMIT_FSIZE);
        struct rlimit less = {500000, 700000};
        setrlimit(RLIMIT_FSIZE, &less);
        show("child's own", RLIMIT_FSIZE);
        show("child's, set by its parent", RLIMIT_CPU);
        execl("/proc/self/exe", arguments[0], "again", (char *)0);
        return 1;
    }
    struct rlimit before, after = {10, 20};
    result = prlimit(child, RLIMIT_CPU, &after, &before);
    printf("prlimit: %d, before %ld of %ld\n", result, (long)before.rlim_cur, (long)before.rlim_max);
    result = prlimit(0x3ffffff, RLIMIT_CPU, 0, &before);
    printf("prlimit of nobody: %d %s\n", result, strerror(errno));
    fflush(stdout);
    if (write(pair[1], "", 1) != 1) return 1;
    int status;
    waitpid(child, &status, 0);
    show("parent's", RLIMIT_FSIZE);
    show("parent's", RLIMIT_CPU);
    // Queued signals beyond the limit find no room; the limit counts for whoever gets them.
    set(RLIMIT_SIGPENDING, 3, 3);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, 0);
    int queued = 0;
    while (!sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = queued}) && queued < 100) queued++;
    printf("queued %s: %s\n", queued <= 3 ? "up to the limit" : "beyond the limit", strerror(errno));
    return 0;
}
