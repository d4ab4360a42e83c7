// What a process may give up and what it is asked about itself: capabilities, limits, personality, its weight as a victim.
// Run by root; the same on Linux and here.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(...) do { errno = 0; long r_ = (long)(__VA_ARGS__); printf("%s: %ld %s\n", #__VA_ARGS__, r_ < 0 ? -1 : r_, r_ < 0 ? strerror(errno) : ""); } while (0)

static struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
static struct __user_cap_data_struct data[2];

static void show(const char *when) {
    header.version = _LINUX_CAPABILITY_VERSION_3, header.pid = 0;
    SAY(syscall(SYS_capget, &header, data));
    // A container may have fewer than all; what matters is which of these are there.
    const unsigned some = 1 << CAP_SETPCAP | 1 << CAP_KILL | 1u << CAP_SETUID;
    printf("%s: effective %x permitted %x inheritable %x\n", when, data[0].effective & some, data[0].permitted & some,
           data[0].inheritable & some);
}

static void capabilities(void) {
    header.version = 0;
    SAY(syscall(SYS_capget, &header, NULL));
    printf("version %x\n", header.version);
    header.version = 5;
    SAY(syscall(SYS_capget, &header, data));
    header.pid = -1;
    SAY(syscall(SYS_capget, &header, data));
    header.pid = 0x3ffffff;
    SAY(syscall(SYS_capget, &header, data));
    header.pid = getpid();
    SAY(syscall(SYS_capget, &header, (void *)8));
    SAY(syscall(SYS_capget, (void *)8, data));
    SAY(syscall(SYS_capset, &header, (void *)8));
    header.pid = 1 << 20;
    SAY(syscall(SYS_capset, &header, data));
    header.version = _LINUX_CAPABILITY_VERSION_1, header.pid = 0;
    SAY(syscall(SYS_capget, &header, data));
    show("at first");
    SAY(prctl(PR_CAPBSET_READ, CAP_KILL));
    SAY(prctl(PR_CAPBSET_READ, 99));
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
    data[0].inheritable |= 1 << CAP_KILL;
    SAY(syscall(SYS_capset, &header, data));
    show("inheritable");
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_KILL, 0, 0));
    SAY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
    SAY(prctl(PR_CAP_AMBIENT, 77, CAP_KILL, 0, 0));
    SAY(prctl(PR_GET_SECUREBITS));
    SAY(prctl(PR_SET_KEEPCAPS, 1));
    SAY(prctl(PR_GET_KEEPCAPS));
    SAY(prctl(PR_SET_KEEPCAPS, 2));
    SAY(prctl(PR_SET_KEEPCAPS, 0));
    data[0].effective &= ~(1u << CAP_SETUID);
    SAY(syscall(SYS_capset, &header, data));
    show("less effective");
    data[0].permitted &= ~(1u << CAP_SETUID);
    SAY(syscall(SYS_capset, &header, data));
    data[0].permitted |= 1u << CAP_SETUID;
    SAY(syscall(SYS_capset, &header, data));
    show("given up");
    SAY(prctl(PR_CAPBSET_DROP, CAP_KILL));
    SAY(prctl(PR_CAPBSET_READ, CAP_KILL));
}

static void limits(void) {
    struct rlimit old, few = {1 << 20, 1 << 20};
    SAY(setrlimit(RLIMIT_CORE, &few));
    SAY(getrlimit(RLIMIT_CORE, &old));
    printf("%ld of %ld\n", (long)old.rlim_cur, (long)old.rlim_max);
    struct rlimit many = {1 << 30, 1 << 30};
    SAY(setrlimit(RLIMIT_NOFILE, &many));
    fflush(stdout);
    if (fork() == 0) {
        capabilities();
        // Without CAP_SYS_RESOURCE, which the machine of the test may have or not.
        data[0].effective = data[0].permitted = 0;
        SAY(syscall(SYS_capset, &header, data));
        few.rlim_max <<= 1;
        SAY(setrlimit(RLIMIT_CORE, &few));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

static void personalities(void) {
    struct utsname name;
    SAY(personality(0xffffffff));
    SAY(personality(ADDR_NO_RANDOMIZE | UNAME26));
    SAY(uname(&name));
    printf("2.6: %d\n", strncmp(name.release, "2.6.", 4) == 0);
    SAY(personality(0xffffffff));
    SAY(personality(0));
    uname(&name);
    printf("2.6: %d\n", strncmp(name.release, "2.6.", 4) == 0);
}

static void weigh(const char *text) {
    int f = open("/proc/self/oom_score_adj", O_RDWR);
    errno = 0;
    long written = write(f, text, strlen(text));
    char now[16] = "";
    printf("oom_score_adj %s: %ld %s", text, written, written < 0 ? strerror(errno) : "");
    pread(f, now, 15, 0);
    printf(" is %s", now);
    close(f);
}

static volatile sig_atomic_t had;
static void handler(int signal) { (void)signal; had++; }

static void others(void) {
    struct sigaction once = {.sa_handler = handler, .sa_flags = SA_RESETHAND | SA_SIGINFO | SA_RESTART}, now;
    sigaction(SIGUSR1, &once, NULL);
    raise(SIGUSR1);
    sigaction(SIGUSR1, NULL, &now);
    printf("once: %d, default %d, flags %x\n", had, now.sa_handler == SIG_DFL, now.sa_flags & ~0x04000000);
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, NULL, &timer);
    SAY(syscall(SYS_timer_settime, timer, 0, NULL, NULL));
    SAY(syscall(SYS_timer_settime, timer, 0, 8, NULL));
    timer_delete(timer);
    int f = open("/proc/sys/vm/swappiness", O_RDONLY);
    char value[16];
    long length = read(f, value, 16);
    close(f);
    f = open("/proc/sys/vm/swappiness", O_WRONLY);
    printf("the same again: %d\n", write(f, value, length) == length);
    close(f);
}

int main(void) {
    weigh("7");
    weigh("12\n");
    weigh("1001");
    weigh("-1001");
    weigh("many");
    fflush(stdout);
    if (fork() == 0) {
        weigh("200");
        return 0;
    }
    wait(NULL);
    weigh("0");
    limits();
    personalities();
    others();
    return 0;
}
