// Threads that wait for different things, and what the kernel says of them; then stops and continues of processes that
// wait. Without an argument only the second part, which is the same on Linux.
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int ends[2], other[2], timer;

static void *on_futex(void *x) {
    pthread_mutex_lock(&mutex);
    return x;
}
static void *on_pipe(void *x) {
    char byte;
    read(ends[0], &byte, 1);
    return x;
}
static void *on_sleep(void *x) {
    sleep(50);
    return x;
}
static void *on_files(void *x) {
    struct pollfd files[2] = {{ends[0], POLLIN}, {other[0], POLLIN}};
    poll(files, 2, -1);
    return x;
}
static void *on_child(void *x) {
    waitpid(*(pid_t *)x, 0, 0);
    return x;
}
static void *on_timer(void *x) {
    unsigned long count;
    read(timer, &count, 8);
    return x;
}

static void show(void) {
    static pid_t child;
    static void *(*const waits[])(void *) = {on_futex, on_pipe, on_sleep, on_files, on_child, on_timer};
    child = fork();
    if (!child) {
        pause();
        _exit(0);
    }
    pipe(ends);
    pipe(other);
    timer = timerfd_create(CLOCK_MONOTONIC, 0);
    pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < sizeof waits / sizeof *waits; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, waits[i], &child);
    }
    usleep(50000);
    static char text[8192];
    int file = open("/proc/faultline/waits", O_RDONLY);
    write(1, text, read(file, text, sizeof text));
    kill(child, SIGKILL);
    _exit(0);
}

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Stops the child while it waits, lets it go on, and says how it ended.
static void stop_and_go(const char *what, int (*wait)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        long start = milliseconds();
        int result = wait();
        long length = milliseconds() - start;
        printf("%s: %d after %s\n", what, result, length < 300 ? "less" : length < 500 ? "its time" : "more");
        fflush(stdout);
        _exit(0);
    }
    usleep(100000);
    kill(child, SIGSTOP);
    int status;
    waitpid(child, &status, WUNTRACED);
    usleep(100000);
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
}

static int by_nanosleep(void) {
    struct timespec length = {0, 300000000};
    return nanosleep(&length, 0) ? errno : 0;
}
static int by_poll(void) {
    return poll(0, 0, 300);
}
static int by_futex(void) {
    static int word;
    struct timespec length = {0, 300000000};
    return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &length, 0, 0) ? errno : 0;
}
static int by_select(void) {
    struct timeval length = {0, 300000};
    return select(0, 0, 0, 0, &length);
}

// A stopped reader that came first takes nothing from one that came second.
static void stopped_reader(void) {
    pid_t readers[2];
    int status;
    char byte;
    pipe(ends);
    pipe(other);
    for (int i = 0; i < 2; i++) {
        if (!(readers[i] = fork())) {
            read(ends[0], &byte, 1);
            byte = 'a' + i;
            write(other[1], &byte, 1);
            _exit(0);
        }
        usleep(20000);
    }
    kill(readers[0], SIGSTOP);
    waitpid(readers[0], &status, WUNTRACED);
    write(ends[1], "x", 1);
    read(other[0], &byte, 1);
    printf("woken: %c\n", byte);
    write(ends[1], "x", 1);
    kill(readers[0], SIGCONT);
    read(other[0], &byte, 1);
    printf("then: %c\n", byte);
    while (wait(&status) > 0);
}

int main(int count, char **arguments) {
    if (count > 1) show();
    stop_and_go("nanosleep", by_nanosleep);
    stop_and_go("poll", by_poll);
    stop_and_go("futex", by_futex);
    stop_and_go("select", by_select);
    stopped_reader();
    return 0;
}
