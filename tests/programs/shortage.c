// Makes calls of every kind that keep something in the kernel, round by round in a child of its own, and takes any
// failure for an answer: for a kernel whose allocations fail at one place in one round and at another in the next.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[65536], stack[4][16384];
static const struct timespec moment = {0, 1000};

static void handler(int number) {
    (void)number;
}

static int thread(void *unused) {
    (void)unused;
    static int word;
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &moment, 0, 0);
    return 0;
}

static void memory(void) {
    size_t page = 4096, count = 96;
    char *area = mmap(0, count * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) return;
    for (size_t i = 0; i < count; i += 2) mprotect(area + i * page, page, PROT_READ);
    for (size_t i = 0; i < count; i += 3) munmap(area + i * page, page);
    madvise(area, count * page, MADV_DONTNEED);
    mremap(area + page, page, 2 * page, MREMAP_MAYMOVE);
    void *shared = mmap(0, 64 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared != MAP_FAILED) munmap(shared, 64 * page);
    sbrk(16 * page);
    munmap(area, count * page);
}

static void files(void) {
    mkdir("/tmp/one", 0700);
    int file = open("/tmp/one/file", O_CREAT | O_RDWR, 0600);
    if (file >= 0) {
        write(file, buffer, 20000);
        struct iovec parts[3] = {{buffer, 100}, {buffer + 200, 300}, {buffer + 5000, 4097}};
        writev(file, parts, 3);
        pread(file, buffer, 10000, 5);
        void *map = mmap(0, 8192, PROT_READ, MAP_PRIVATE, file, 0);
        if (map != MAP_FAILED) munmap(map, 8192);
        ftruncate(file, 100);
        int copy = dup(file);
        dup2(copy, 200);
        close(copy);
        close(200);
        close(file);
    }
    symlink("/tmp/one/file", "/tmp/one/link");
    readlink("/tmp/one/link", buffer, 100);
    rename("/tmp/one/file", "/tmp/one/other");
    link("/tmp/one/other", "/tmp/one/second");
    int directory = open("/tmp/one", O_RDONLY | O_DIRECTORY);
    if (directory >= 0) {
        while (syscall(SYS_getdents64, directory, buffer, 200) > 0) {
        }
        close(directory);
    }
    int in = open("/proc/self/maps", O_RDONLY);
    if (in >= 0) {
        while (read(in, buffer, 1000) > 0) {
        }
        close(in);
    }
    chdir("/tmp/one");
    getcwd(buffer, 4096);
    chdir("/");
    unlink("/tmp/one/other");
    unlink("/tmp/one/second");
    unlink("/tmp/one/link");
    rmdir("/tmp/one");
    int made = memfd_create("made", 0);
    if (made >= 0) {
        ftruncate(made, 100000);
        void *map = mmap(0, 100000, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
        if (map != MAP_FAILED) {
            *(char *)map = 1;
            munmap(map, 100000);
        }
        close(made);
    }
}

static void waits(void) {
    int ends[2];
    if (pipe(ends) == 0) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        fcntl(ends[1], F_SETFL, O_NONBLOCK);
        write(ends[1], buffer, 30000);
        read(ends[0], buffer, 40000);
        struct pollfd asked[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}};
        poll(asked, 2, 0);
        asked[1].fd = -1;
        ppoll(asked, 2, &moment, 0);
        close(ends[0]);
        close(ends[1]);
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (timer >= 0) {
        struct itimerspec once = {{0, 0}, {0, 1000}};
        timerfd_settime(timer, 0, &once, 0);
        unsigned long times;
        read(timer, &times, 8);
        close(timer);
    }
    nanosleep(&moment, 0);
    for (int i = 0; i < 4; i++)
        clone(thread, stack[i] + sizeof stack[i],
              CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0);
    sched_yield();
}

static void signals(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, 0);
    kill(getpid(), SIGUSR1);
    union sigval value = {.sival_int = 1};
    action.sa_flags = SA_RESETHAND;
    sigaction(SIGRTMIN, &action, 0);
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    for (int i = 0; i < 20; i++) sigqueue(getpid(), SIGRTMIN, value);
    siginfo_t info;
    for (int i = 0; i < 20; i++) sigtimedwait(&all, &info, &moment);
    sigprocmask(SIG_SETMASK, &old, 0);
    struct itimerval soon = {{0, 0}, {0, 100}};
    signal(SIGALRM, handler);
    setitimer(ITIMER_REAL, &soon, 0);
    nanosleep(&moment, 0);
}

int main(int count, char **words) {
    if (count > 2) return 0;
    int rounds = count > 1 ? atoi(words[1]) : 10, done = 0;
    for (int round = 0; round < rounds; round++) {
        pid_t child = -1;
        for (int tries = 0; child < 0 && tries < 10000; tries++) child = fork();
        if (child == 0) {
            memory();
            files();
            waits();
            signals();
            if (round % 4 == 0) {
                static char long_word[9000];
                memset(long_word, 'w', sizeof long_word - 1);
                execl("/proc/self/exe", "shortage", "end", long_word, long_word, (char *)0);
            }
            pid_t grandchild = vfork();
            if (grandchild == 0) _exit(0);
            _exit(0);
        }
        if (child < 0) continue;
        done++;
        pid_t ended;
        while ((ended = waitpid(-1, 0, 0)) > 0 || (ended < 0 && errno != ECHILD)) {
        }
    }
    int length = sprintf(buffer, "%d rounds\n", done);
    for (int tries = 0; write(1, buffer, length) != length && tries < 10000; tries++) {
    }
    return 0;
}
