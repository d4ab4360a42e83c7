/* alarm, setitimer, timerfd, select, poll, memfd: what each does, without saying how long it took. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int rings;

static void ring(int signal) {
    (void)signal;
    rings++;
}

static void alarms(void) {
    struct itimerval often = {.it_interval = {0, 2000}, .it_value = {0, 2000}}, left;
    signal(SIGALRM, ring);
    setitimer(ITIMER_REAL, &often, NULL);
    while (rings < 5)
        pause();
    often.it_value.tv_usec = often.it_interval.tv_usec = 0;
    setitimer(ITIMER_REAL, &often, &left);
    printf("rang; interval was %ld us\n", (long)left.it_interval.tv_usec);
    printf("alarm: %u before\n", alarm(100));
    printf("alarm: %u before\n", alarm(0));
    printf("getitimer: %d\n", getitimer(ITIMER_REAL, &left) == 0 && left.it_value.tv_sec == 0);
    /* Without a handler an alarm ends the process. */
    pid_t child = fork();
    if (child == 0) {
        signal(SIGALRM, SIG_DFL);
        ualarm(1000, 0);
        for (;;)
            pause();
    }
    int status;
    waitpid(child, &status, 0);
    printf("child: signal %d\n", WTERMSIG(status));
}

static void timers(void) {
    struct itimerspec setting = {.it_value = {0, 3000000}};
    uint64_t count = 0;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    printf("read of a disarmed timer: %d\n", read(timer, &count, 8) == -1 && errno == EAGAIN);
    timerfd_settime(timer, 0, &setting, NULL);
    struct pollfd one = {.fd = timer, .events = POLLIN};
    int ready = poll(&one, 1, -1);
    printf("poll: %d %d\n", ready, one.revents);
    ready = (int)read(timer, &count, 8);
    printf("read: %d, count %d\n", ready, (int)count);
    setting.it_interval.tv_nsec = 1000000;
    timerfd_settime(timer, 0, &setting, NULL);
    usleep(20000);
    ready = (int)read(timer, &count, 8);
    printf("read: %d, many %d\n", ready, count > 3);
    close(timer);
    timer = timerfd_create(CLOCK_REALTIME, 0);
    timerfd_settime(timer, 0, &setting, NULL);
    ready = (int)read(timer, &count, 8);
    printf("read: %d, some %d\n", ready, count > 0);
    close(timer);
}

static void selects(void) {
    int pipes[2];
    fd_set in, out;
    struct timeval none = {0, 0}, some = {0, 2000};
    if (pipe(pipes) != 0)
        return;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(pipes[0], &in);
    FD_SET(pipes[1], &out);
    int ready = select(pipes[1] + 1, &in, &out, NULL, &none);
    printf("select: %d, in %d, out %d\n", ready, FD_ISSET(pipes[0], &in) != 0, FD_ISSET(pipes[1], &out) != 0);
    FD_ZERO(&in);
    FD_SET(pipes[0], &in);
    printf("select at its end: %d\n", select(pipes[0] + 1, &in, NULL, NULL, &some));
    if (fork() == 0) {
        usleep(2000);
        _exit(write(pipes[1], "x", 1) != 1);
    }
    FD_SET(pipes[0], &in);
    ready = select(pipes[0] + 1, &in, NULL, NULL, NULL);
    printf("select: %d, in %d\n", ready, FD_ISSET(pipes[0], &in) != 0);
    wait(NULL);
    close(pipes[1]);
    char byte;
    FD_SET(pipes[0], &in);
    ready = (int)read(pipes[0], &byte, 1);
    printf("read: %d\n", ready);
    printf("select of an end: %d\n", select(pipes[0] + 1, &in, NULL, NULL, NULL));
    /* A number below 64: Linux looks only at those that its table has room for, and how large that is, is inherited. */
    close(pipes[0]);
    ready = select(pipes[0] + 1, &in, NULL, NULL, &none);
    printf("select of what is closed: %d %d\n", ready, errno == EBADF);
}

static void memory_files(void) {
    int file = memfd_create("name", 0);
    printf("truncate: %d\n", ftruncate(file, 3 * 4096 + 5));
    char *shared = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *private = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    strcpy(shared + 4096, "written by memory");
    char buffer[32] = {0};
    int count = (int)pread(file, buffer, 17, 4096);
    printf("pread: %d %s\n", count, buffer);
    count = (int)pwrite(file, "written by call", 16, 8192);
    printf("memory: %d %s\n", count, shared + 8192);
    printf("private: %s\n", private + 4096);
    strcpy(private + 4096, "mine");
    printf("both: %s, %s\n", private + 4096, shared + 4096);
    if (fork() == 0) {
        strcpy(shared, "by the child");
        _exit(0);
    }
    wait(NULL);
    printf("parent sees: %s\n", shared);
    printf("end: %d\n", (int)lseek(file, 0, SEEK_END));
    close(file);
    printf("still: %s\n", shared);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    alarms();
    timers();
    selects();
    memory_files();
    return 0;
}
