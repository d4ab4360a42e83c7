// `poll`, `select` and their relatives: each line is the same on Linux. With an argument: a poll that is always due, and
// others that have to get on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-48s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static long start;
static void begin(void) {
    start = milliseconds();
}
static const char *length(long from, long to) {
    long taken = milliseconds() - start;
    return taken < from ? "early" : taken < to ? "in time" : "late";
}

static void handler(int signal) {
    (void)signal;
}

static void masks(void) {
    sigset_t usr1, none, now;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    int ends[2];
    pipe(ends);
    struct timespec wait = {0, 50000000};
    begin();
    printf("ppoll %d %s\n", ppoll(0, 0, &wait, &usr1), length(50, 300));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    wait = (struct timespec){0, 50000000};
    begin();
    printf("pselect %d %s\n", pselect(ends[0] + 1, &set, 0, 0, &wait, &usr1), length(50, 300));
    // A signal that only the mask of the call lets through.
    signal(SIGUSR1, handler);
    sigprocmask(SIG_BLOCK, &usr1, 0);
    kill(getpid(), SIGUSR1);
    SAY(ppoll(0, 0, &wait, &none));
    sigprocmask(SIG_BLOCK, 0, &now);
    SAY(sigismember(&now, SIGUSR1));
    SAY(ppoll(0, 0, &wait, &usr1));
    sigprocmask(SIG_BLOCK, 0, &now);
    SAY(sigismember(&now, SIGUSR1));
    // One that comes meanwhile and has no handler does not cut the wait short.
    signal(SIGCHLD, SIG_DFL);
    if (!fork()) {
        usleep(20000);
        _exit(0);
    }
    wait = (struct timespec){0, 100000000};
    begin();
    printf("ppoll with a child's end %d %s\n", ppoll(0, 0, &wait, &usr1), length(100, 300));
    sigprocmask(SIG_UNBLOCK, &usr1, 0);
    while (wait4(-1, 0, 0, 0) > 0);
    close(ends[0]);
    close(ends[1]);
}

#define MANY 400
static int many[MANY][2];
static struct pollfd files[2 * MANY];

static void *writer(void *x) {
    usleep(30000);
    write(many[(long)x][1], "x", 1);
    return 0;
}

static void thousands(void) {
    char byte;
    pthread_t thread;
    for (int i = 0; i < MANY; i++) {
        pipe(many[i]);
        files[i] = (struct pollfd){many[i][0], POLLIN};
        files[MANY + i] = (struct pollfd){many[i][0], POLLIN};
    }
    SAY(poll(files, 2 * MANY, 0));
    begin();
    SAY(poll(files, 2 * MANY, 30));
    for (long i = 0; i < MANY; i += MANY / 4 + 7) {
        pthread_create(&thread, 0, writer, (void *)i);
        SAY(poll(files, 2 * MANY, -1));
        int first = -1;
        for (int j = 0; j < 2 * MANY && first < 0; j++) {
            if (files[j].revents) first = j;
        }
        SAY(first);
        SAY(read(many[i][0], &byte, 1));
        pthread_join(thread, 0);
    }
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    for (int i = 0; i < MANY; i++) {
        FD_SET(many[i][0], &in);
        FD_SET(many[i][1], &out);
    }
    struct timeval none = {0, 0};
    SAY(select(many[MANY - 1][1] + 1, &in, &out, 0, &none));
    SAY(FD_ISSET(many[0][0], &in));
    SAY(FD_ISSET(many[MANY - 1][1], &out) != 0);
    FD_ZERO(&in);
    FD_SET(many[MANY - 1][0], &in);
    pthread_create(&thread, 0, writer, (void *)(MANY - 1L));
    SAY(select(many[MANY - 1][0] + 1, &in, 0, 0, 0));
    pthread_join(thread, 0);
    for (int i = 0; i < MANY; i++) {
        close(many[i][0]);
        close(many[i][1]);
    }
    FD_ZERO(&in);
    FD_SET(many[0][0], &in);
    SAY(select(many[0][0] + 1, &in, 0, 0, &none));
    SAY(select(-1, &in, 0, 0, &none));
    struct pollfd odd[3] = {{-1, POLLIN}, {many[0][0], POLLIN}, {-7, -1}};
    SAY(poll(odd, 3, -1));
    SAY(odd[0].revents);
    SAY(odd[1].revents);
    struct rlimit open;
    getrlimit(RLIMIT_NOFILE, &open);
    SAY(poll(files, open.rlim_cur + 1, 0));
}

static void timers(void) {
    unsigned long count;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct pollfd file = {timer, POLLIN};
    SAY(poll(&file, 1, 10));
    SAY(read(timer, &count, 8));
    SAY(read(timer, &count, 7));
    struct itimerspec once = {{0, 0}, {0, 30000000}}, often = {{0, 20000000}, {0, 20000000}}, never = {};
    timerfd_settime(timer, 0, &once, 0);
    begin();
    SAY(poll(&file, 1, -1));
    printf("%s\n", length(30, 200));
    SAY(poll(&file, 1, -1));
    SAY(read(timer, &count, 8));
    SAY(poll(&file, 1, 10));
    timerfd_settime(timer, 0, &often, 0);
    begin();
    for (int i = 0; i < 3; i++) {
        poll(&file, 1, -1);
        read(timer, &count, 8);
    }
    printf("three times: %s\n", length(60, 300));
    fcntl(timer, F_SETFL, 0);
    begin();
    SAY(read(timer, &count, 8));
    printf("%s\n", length(10, 200));
    timerfd_settime(timer, 0, &never, 0);
    // A timer that is set while somebody waits for it.
    if (!fork()) {
        usleep(20000);
        timerfd_settime(timer, 0, &once, 0);
        _exit(0);
    }
    begin();
    SAY(poll(&file, 1, -1));
    printf("%s\n", length(50, 300));
    wait(0);
    close(timer);
}

// Poll for nothing of a timer that is always due, and read another such without end: the others get on.
static void always_due(void) {
    struct itimerspec always = {{0, 1}, {0, 1}};
    pid_t busy[2];
    for (int i = 0; i < 2; i++) {
        if (!(busy[i] = fork())) {
            int timer = timerfd_create(CLOCK_MONOTONIC, 0);
            unsigned long count;
            timerfd_settime(timer, 0, &always, 0);
            struct pollfd file = {timer, 0};
            if (i) poll(&file, 1, -1);
            for (;;) read(timer, &count, 8);
        }
    }
    for (int i = 0; i < 5; i++) usleep(10000);
    puts("the others get on");
    kill(busy[0], SIGKILL);
    kill(busy[1], SIGKILL);
    while (wait(0) > 0);
}

int main(void) {
    masks();
    thousands();
    timers();
    fflush(stdout);
    always_due();
    return 0;
}
