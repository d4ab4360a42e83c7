// POSIX timers. Each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int caught, value, code, overruns, most, thread_of_signal;
static timer_t last;

static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    caught++;
    value = info->si_value.sival_int;
    code = info->si_code;
    overruns = info->si_overrun;
    if (overruns > most) most = overruns;
    thread_of_signal = syscall(SYS_gettid);
}

static void *thread(void *argument) {
    // Signals of timers that name this thread come here.
    *(volatile int *)argument = syscall(SYS_gettid);
    for (int i = 0; i < 200 && thread_of_signal != *(volatile int *)argument; i++) usleep(1000);
    return 0;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77};
    struct itimerspec once = {{0, 0}, {0, 20000000}}, again = {{0, 5000000}, {0, 5000000}}, left, none = {{0, 0}, {0, 0}};
    sigset_t set;
    timer_t timer, other;
    sigaction(SIGRTMIN, &action, 0);
    sigaction(SIGALRM, &action, 0);
    printf("create: %d\n", timer_create(CLOCK_MONOTONIC, &event, &timer));
    printf("disarmed: %d", timer_gettime(timer, &left));
    printf(", left %ld\n", left.it_value.tv_sec + left.it_value.tv_nsec);
    printf("set: %d\n", timer_settime(timer, 0, &once, 0));
    printf("armed: %d", timer_gettime(timer, &left));
    printf(", left %d\n", left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 20000000);
    while (!caught) pause();
    printf("caught %d, value %d, by a timer %d, overruns %d, told %d\n", caught, value, code == SI_TIMER, overruns, timer_getoverrun(timer));
    // While its signal is blocked, expirations are counted.
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, 0);
    caught = 0;
    timer_settime(timer, 0, &again, &left);
    printf("it was disarmed: %d\n", left.it_value.tv_nsec == 0);
    usleep(60000);
    most = 0;
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("caught %d, with overruns %d\n", caught >= 1, most >= 5 && most <= 20);
    // The signal of a timer that is disarmed does not come any more.
    sigprocmask(SIG_BLOCK, &set, 0);
    usleep(20000);
    caught = 0;
    timer_settime(timer, 0, &none, &left);
    printf("interval %ld\n", left.it_interval.tv_nsec);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("disarmed: caught %d\n", caught);
    // A time of the clock.
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("create: %d\n", timer_create(CLOCK_REALTIME, 0, &other));
    once.it_value.tv_sec = now.tv_sec - 1;
    once.it_value.tv_nsec = 0;
    caught = 0;
    timer_settime(other, TIMER_ABSTIME, &once, 0);
    usleep(20000);
    printf("past: caught %d, by a timer %d\n", caught, code == SI_TIMER);
    once.it_value.tv_sec = now.tv_sec + 100;
    timer_settime(other, TIMER_ABSTIME, &once, 0);
    timer_gettime(other, &left);
    printf("to come: %d\n", left.it_value.tv_sec >= 98 && left.it_value.tv_sec <= 100);
    printf("delete: %d", timer_delete(other));
    printf(", again %d", (int)syscall(SYS_timer_delete, 1234567));
    printf(" %s\n", strerror(errno));
    // CPU time.
    event.sigev_value.sival_int = 5;
    once.it_value.tv_sec = 0;
    once.it_value.tv_nsec = 30000000;
    printf("create: %d\n", timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &last));
    timer_settime(last, 0, &once, 0);
    caught = 0;
    usleep(60000);
    printf("after a sleep: %d", caught);
    while (!caught) continue;
    printf(", after work: %d, value %d\n", caught, value);
    // For a thread.
    pthread_t id;
    volatile int tid = 0;
    pthread_create(&id, 0, thread, (void *)&tid);
    while (!tid) usleep(1000);
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = tid;
    printf("create: %d\n", timer_create(CLOCK_MONOTONIC, &event, &other));
    timer_settime(other, 0, &once, 0);
    pthread_join(id, 0);
    printf("it came to the thread: %d\n", thread_of_signal == tid);
    event._sigev_un._tid = 1 << 21;
    int result = timer_create(CLOCK_MONOTONIC, &event, &other);
    printf("for nobody: %d %s\n", result, strerror(errno));
    event.sigev_notify = SIGEV_NONE;
    printf("without notice: %d", timer_create(CLOCK_MONOTONIC, &event, &other));
    timer_settime(other, 0, &again, 0);
    usleep(20000);
    printf(", runs %d\n", timer_gettime(other, &left) == 0 && left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 5000000);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = 99;
    result = timer_create(CLOCK_MONOTONIC, &event, &other);
    printf("no such signal: %d %s\n", result, strerror(errno));
    result = timer_create(99, 0, &other);
    printf("no such clock: %d %s\n", result, strerror(errno));
    // Neither fork nor execve takes timers along.
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        result = timer_gettime(timer, &left);
        printf("in a child: %d %s\n", result, strerror(errno));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, 0, 0);
    struct rlimit few = {8, 8};
    setrlimit(RLIMIT_SIGPENDING, &few);
    int made = 0;
    while (made < 100 && !timer_create(CLOCK_MONOTONIC, 0, &other)) made++;
    printf("no more than %s: %s\n", made < 8 ? "allowed" : "wanted", strerror(errno));
    return 0;
}
