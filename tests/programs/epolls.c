// `eventfd` and `epoll`: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-60s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static struct epoll_event found[64];

static int add(int set, int file, unsigned events) {
    struct epoll_event event = {events, {.u64 = 1000 + file}};
    return epoll_ctl(set, EPOLL_CTL_ADD, file, &event);
}
static int change(int set, int file, unsigned events) {
    struct epoll_event event = {events, {.u64 = 2000 + file}};
    return epoll_ctl(set, EPOLL_CTL_MOD, file, &event);
}
static int in(int file) {
    struct pollfd poll_file = {file, POLLIN | POLLOUT};
    return poll(&poll_file, 1, 0) < 0 ? -1 : poll_file.revents;
}
static int waited(int set, int timeout) {
    int count = epoll_wait(set, found, 64, timeout);
    for (int i = 0; i < count; i++) printf("  %x %d\n", found[i].events, (int)found[i].data.u64);
    return count;
}

static void counters(void) {
    uint64_t value = 3, most = UINT64_MAX - 1, bad = UINT64_MAX;
    int counter = eventfd(5, EFD_NONBLOCK), semaphore = eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE);
    SAY(read(counter, &value, 8));
    SAY(value);
    SAY(read(counter, &value, 8));
    SAY(in(counter));
    SAY(write(counter, &bad, 8));
    SAY(write(counter, &value, 7));
    SAY(read(counter, &value, 4));
    SAY(write(counter, &most, 8));
    SAY(in(counter));
    value = 1;
    SAY(write(counter, &value, 8));
    SAY(read(semaphore, &value, 8));
    SAY(value);
    SAY(read(semaphore, &value, 8));
    SAY(read(semaphore, &value, 8));
    SAY(eventfd(0, 4));
    int meeting = eventfd(0, 0);
    if (!fork()) {
        usleep(20000);
        value = 7;
        write(meeting, &value, 8);
        _exit(0);
    }
    SAY(read(meeting, &value, 8));
    SAY(value);
    wait(0);
    close(counter);
    close(semaphore);
    close(meeting);
}

static void errors(void) {
    int set = epoll_create1(0), ends[2], file = open("/proc/self/exe", O_RDONLY);
    pipe(ends);
    SAY(epoll_create(0));
    SAY(epoll_create1(1));
    SAY(add(set, 999, EPOLLIN));
    SAY(add(ends[0], ends[1], EPOLLIN));
    SAY(add(set, set, EPOLLIN));
    SAY(add(set, file, EPOLLIN));
    SAY(change(set, ends[0], EPOLLIN));
    SAY(epoll_ctl(set, EPOLL_CTL_DEL, ends[0], 0));
    SAY(add(set, ends[0], EPOLLIN));
    SAY(add(set, ends[0], EPOLLIN));
    SAY(epoll_wait(set, found, 0, 0));
    SAY(epoll_wait(ends[0], found, 1, 0));
    SAY(epoll_ctl(set, 9, ends[0], found));
    SAY(change(set, ends[0], EPOLLIN | EPOLLEXCLUSIVE));
    SAY(add(set, ends[1], EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT));
    SAY(read(set, found, 8));
    SAY(epoll_ctl(set, EPOLL_CTL_DEL, ends[0], 0));
    SAY(waited(set, 0));
    close(file);
    close(ends[0]);
    close(ends[1]);
    close(set);
}

static void triggers(void) {
    int set = epoll_create1(EPOLL_CLOEXEC), level[2], edge[2], once[2];
    char byte;
    pipe(level);
    pipe(edge);
    pipe(once);
    SAY(add(set, level[0], EPOLLIN));
    SAY(add(set, edge[0], EPOLLIN | EPOLLET));
    SAY(add(set, once[0], EPOLLIN | EPOLLONESHOT));
    SAY(waited(set, 10));
    write(level[1], "ab", 2);
    SAY(waited(set, -1));
    SAY(waited(set, -1));
    read(level[0], &byte, 1);
    SAY(waited(set, -1));
    read(level[0], &byte, 1);
    SAY(waited(set, 0));
    write(edge[1], "ab", 2);
    SAY(waited(set, -1));
    SAY(waited(set, 0));
    write(edge[1], "c", 1);
    SAY(waited(set, -1));
    write(once[1], "ab", 2);
    SAY(waited(set, -1));
    write(once[1], "c", 1);
    SAY(waited(set, 0));
    SAY(change(set, once[0], EPOLLIN | EPOLLONESHOT));
    SAY(waited(set, 0));
    SAY(waited(set, 0));
    // A closed end, and an item whose file is closed.
    close(edge[1]);
    SAY(waited(set, 0));
    close(edge[0]);
    close(level[1]);
    SAY(waited(set, 0));
    SAY(add(set, level[0], EPOLLIN));
    close(level[0]);
    SAY(waited(set, 0));
    pipe(level);
    SAY(add(set, level[0], EPOLLIN));
    SAY(add(set, level[1], EPOLLOUT));
    SAY(waited(set, 0));
    struct epoll_event two[2];
    write(level[1], "x", 1);
    SAY(epoll_wait(set, two, 1, 0));
    SAY(epoll_wait(set, two + 1, 1, 0));
    SAY(two[0].data.u64 != two[1].data.u64);
    close(set);
    close(level[0]);
    close(level[1]);
    close(once[0]);
    close(once[1]);
}

static void nesting(void) {
    int sets[8], ends[2];
    pipe(ends);
    for (int i = 0; i < 8; i++) sets[i] = epoll_create1(0);
    SAY(add(sets[0], ends[0], EPOLLIN));
    SAY(add(sets[1], sets[0], EPOLLIN));
    SAY(add(sets[2], sets[1], EPOLLIN));
    SAY(add(sets[0], sets[2], EPOLLIN));
    SAY(add(sets[1], sets[2], EPOLLIN));
    SAY(waited(sets[2], 0));
    write(ends[1], "x", 1);
    SAY(waited(sets[2], 100) == 1);
    SAY(in(sets[1]));
    SAY(waited(sets[0], 0) == 1);
    char byte;
    read(ends[0], &byte, 1);
    SAY(in(sets[0]));
    // Deep from above and from below: refused at some depth.
    int refused = 0;
    for (int i = 2; i < 7; i++) refused += add(sets[i + 1], sets[i], EPOLLIN) != 0;
    SAY(refused > 0);
    for (int i = 0; i < 8; i++) close(sets[i]);
    for (int i = 0; i < 8; i++) sets[i] = epoll_create1(0);
    refused = 0;
    for (int i = 0; i < 7; i++) refused += add(sets[i], sets[i + 1], EPOLLIN) != 0;
    SAY(refused > 0);
    for (int i = 0; i < 8; i++) close(sets[i]);
    close(ends[0]);
    close(ends[1]);
}

static void handler(int signal) {
    (void)signal;
}

static void waits(void) {
    int set = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0), counter = eventfd(0, 0);
    struct itimerspec once = {{0, 0}, {0, 20000000}};
    uint64_t value = 1;
    SAY(add(set, timer, EPOLLIN | EPOLLET));
    SAY(add(set, counter, EPOLLIN) != 0);
    timerfd_settime(timer, 0, &once, 0);
    SAY(epoll_wait(set, found, 64, -1));
    SAY(found[0].data.u64 == 1000u + timer);
    SAY(epoll_wait(set, found, 64, 30));
    if (!fork()) {
        usleep(20000);
        write(counter, &value, 8);
        _exit(0);
    }
    SAY(epoll_wait(set, found, 64, -1));
    SAY(found[0].data.u64 == 1000u + counter);
    wait(0);
    read(counter, &value, 8);
    // A signal ends the wait, and the mask of `epoll_pwait` is only for it.
    sigset_t none, now;
    sigemptyset(&none);
    sigset_t usr1 = none;
    sigaddset(&usr1, SIGUSR1);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, 0);
    sigprocmask(SIG_BLOCK, &usr1, 0);
    kill(getpid(), SIGUSR1);
    SAY(epoll_wait(set, found, 64, 10));
    SAY(epoll_pwait(set, found, 64, -1, &none));
    sigprocmask(SIG_BLOCK, 0, &now);
    SAY(sigismember(&now, SIGUSR1));
    SAY(epoll_pwait(set, found, 64, 10, &none));
    SAY(epoll_wait(set, (void *)0x7ffffffff000, 64, 0));
    close(set);
}

// Many files, of which one has something at a time.
static void many(void) {
    int set = epoll_create1(0), files[300], right = 0;
    uint64_t value = 1;
    for (int i = 0; i < 300; i++) {
        files[i] = eventfd(0, EFD_NONBLOCK);
        add(set, files[i], EPOLLIN | (i % 2 ? EPOLLET : 0));
    }
    for (int i = 0; i < 300; i++) {
        int one = i * 7 % 300;
        write(files[one], &value, 8);
        right += epoll_wait(set, found, 64, -1) == 1 && found[0].data.u64 == 1000u + files[one];
        read(files[one], &value, 8);
    }
    SAY(right);
    for (int i = 0; i < 300; i++) write(files[i], &value, 8);
    int all = 0, count;
    char seen[400] = {0};
    while (all < 300 && (count = epoll_wait(set, found, 64, 0)) > 0) {
        for (int i = 0; i < count; i++) {
            int file = found[i].data.u64 - 1000;
            all += !seen[file]++;
            read(file, &value, 8);
        }
    }
    SAY(all);
    SAY(epoll_wait(set, found, 64, 0));
    for (int i = 0; i < 300; i++) close(files[i]);
    SAY(epoll_wait(set, found, 64, 0));
}

int main(void) {
    counters();
    errors();
    triggers();
    nesting();
    waits();
    many();
    return 0;
}
