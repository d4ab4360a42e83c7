// One process takes all of the kernel heap that it can get, in the way that the first argument names; what can another
// one still do? Prints a line for each call of the other: 1 if it worked.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int blocked[2];
static char byte;

static void *reader(void *unused) {
    (void)unused;
    read(blocked[0], &byte, 1);
    return 0;
}

// Each takes memory of its kind until there is none, and says how the last try ended.
static int pipes(void) {
    int ends[2];
    while (pipe(ends) == 0) {
    }
    return errno;
}

static int regions(void) {
    size_t page = 4096, count = 60000;
    char *memory = mmap(0, count * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t i = 0; memory != MAP_FAILED && i < count; i += 2)
        if (mprotect(memory + i * page, page, PROT_READ) != 0) return errno;
    // Each copy of this process has as many.
    for (int i = 0; i < 64; i++) {
        pid_t child = fork();
        if (child < 0) return errno;
        if (child == 0)
            for (;;) pause();
    }
    return 0;
}

static int threads(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    pipe(blocked);
    int error = 0;
    for (int i = 0; i < 4000 && error == 0; i++) error = pthread_create(&thread, &attributes, reader, 0);
    return error;
}

static int files(void) {
    char name[300];
    memset(name, 'n', sizeof name);
    for (int i = 0; i < 100000; i++) {
        sprintf(name + 180, "%d", i);
        memcpy(name, "/tmp/", 5);
        int file = open(name, O_CREAT | O_WRONLY, 0600);
        if (file < 0) return errno;
        close(file);
    }
    return 0;
}

static volatile sig_atomic_t hits;
static void count_hit(int number) {
    (void)number;
    hits++;
}

static void say(const char *name, int worked) {
    char line[64];
    int length = sprintf(line, "%s %d\n", name, worked);
    if (write(1, line, length) != length) _exit(9);
}

int main(int count, char **words) {
    const char *kind = count > 1 ? words[1] : "pipes";
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    int ready[2], own[2];
    pipe(ready);
    pipe(own);
    pid_t hog = fork();
    if (hog == 0) {
        setpgid(0, 0);
        int error = strcmp(kind, "regions") == 0     ? regions()
                    : strcmp(kind, "threads") == 0   ? threads()
                    : strcmp(kind, "files") == 0     ? files()
                                                     : pipes();
        // A process without memory can still say so.
        write(ready[1], &error, sizeof error);
        for (;;) pause();
    }
    setpgid(hog, hog);
    int error = -1;
    read(ready[0], &error, sizeof error);
    int refused = error == 0 || error == ENOMEM || error == EAGAIN || error == EMFILE || error == ENFILE ||
                  error == ENOSPC;
    say("the hog is refused, or has all it wanted", refused);
    struct timespec pause_of = {0, 1000000}, now;
    int word = 0, status;
    static char page[4096];
    signal(SIGALRM, count_hit);
    say("write", write(own[1], "x", 1) == 1);
    say("read", read(own[0], page, 1) == 1);
    say("nanosleep", nanosleep(&pause_of, 0) == 0);
    say("futex", syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &pause_of, 0, 0) == -1 && errno == ETIMEDOUT);
    say("open", open("/dev/null", O_RDONLY) >= 0);
    say("mmap", mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    say("brk", sbrk(4096) != (void *)-1);
    say("signal", kill(getpid(), SIGALRM) == 0 && hits == 1);
    say("clock", clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    kill(-hog, SIGKILL);
    say("the hog ends", waitpid(hog, &status, 0) == hog && WIFSIGNALED(status));
    pid_t child = fork();
    if (child == 0) _exit(7);
    say("fork after it", child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
    return 0;
}
