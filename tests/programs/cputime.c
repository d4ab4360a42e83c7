// CPU time: clocks, timers, limits, what getrusage and /proc say. Each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double read_clock(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time)) return -1;
    return time.tv_sec + time.tv_nsec / 1e9;
}

// Computes for so many seconds of the thread's CPU time.
static void compute(double seconds) {
    double end = read_clock(CLOCK_THREAD_CPUTIME_ID) + seconds;
    while (read_clock(CLOCK_THREAD_CPUTIME_ID) < end)
        for (volatile int i = 0; i < 20000; i++) continue;
}

static volatile int caught;
static void count(int signal) { caught += signal != 0; }

static char letter(pid_t process) {
    char name[40], text[300] = "";
    snprintf(name, sizeof name, "/proc/%d/stat", process);
    int file = open(name, O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) < 0) return '?';
    close(file);
    return strrchr(text, ')')[2];
}

static void states(void) {
    int status;
    pid_t child = fork();
    if (!child)
        for (;;) continue;
    int running = 0;
    for (int i = 0; i < 10; i++) {
        usleep(5000);
        running += letter(child) == 'R';
    }
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    printf("computes: running %d of 10 times; stopped: %c\n", running, letter(child));
    kill(child, SIGKILL);
    siginfo_t info;
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    printf("ended: %c", letter(child));
    waitpid(child, 0, 0);
    child = fork();
    if (!child)
        for (;;) pause();
    usleep(20000);
    printf(", sleeps: %c, itself: %c\n", letter(child), letter(getpid()));
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    fflush(stdout);
}

static void *touch(void *argument) {
    char *memory = mmap(0, 400 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 400; i++) memory[i * 4096] = 1;
    compute(0.05);
    return argument;
}

static double seconds(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

static void usage(void) {
    pthread_t thread;
    struct rusage self, own, children, before;
    getrusage(RUSAGE_THREAD, &before);
    pthread_create(&thread, 0, touch, 0);
    pthread_join(thread, 0);
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_THREAD, &own);
    printf("faults of the other thread: in all %d, in this one %d\n", self.ru_minflt >= 400, own.ru_minflt >= 390);
    printf("time of the other thread: in all %d, in this one %d\n", seconds(self.ru_utime) + seconds(self.ru_stime) > 0.049,
           seconds(own.ru_utime) + seconds(own.ru_stime) - seconds(before.ru_utime) - seconds(before.ru_stime) > 0.04);
    // A call may itself wait, so the whole is asked after the part.
    getrusage(RUSAGE_SELF, &self);
    printf("waits counted %d\n", own.ru_nvcsw > 0 && self.ru_nvcsw >= own.ru_nvcsw);
    int files[2];
    static char bytes[1 << 16];
    if (pipe(files)) exit(1);
    // Where time is sampled, it takes a while to show.
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 1000; i++)
            if (write(files[1], bytes, 4096) != 4096 || read(files[0], bytes, 4096) != 4096) exit(1);
        getrusage(RUSAGE_THREAD, &own);
        if (seconds(own.ru_stime) > 0) break;
    }
    printf("system time counted %d\n", seconds(own.ru_stime) > 0);
    pid_t child = fork();
    if (!child) {
        compute(0.05);
        _exit(0);
    }
    waitpid(child, 0, 0);
    getrusage(RUSAGE_CHILDREN, &children);
    struct tms times_of_all;
    times(&times_of_all);
    printf("time of children %d, as times says it %d\n", seconds(children.ru_utime) + seconds(children.ru_stime) > 0.049,
           times_of_all.tms_cutime + times_of_all.tms_cstime >= 4);
    fflush(stdout);
}

static clockid_t of_thread;
static volatile int go_on = 1;
static void *spin(void *argument) {
    pthread_getcpuclockid(pthread_self(), &of_thread);
    while (go_on) continue;
    return argument;
}

static void clocks(void) {
    clockid_t clock, of_child;
    struct timespec time, tenth = {0, 50000000};
    printf("clock of 0: %s\n", strerror(clock_getcpuclockid(0, &clock)));
    printf("of itself: %s, ", strerror(clock_getcpuclockid(getpid(), &clock)));
    printf("read %d\n", clock_gettime(clock, &time));
    printf("of a thread: %s, ", strerror(pthread_getcpuclockid(pthread_self(), &clock)));
    printf("read %d\n", clock_gettime(clock, &time));
    printf("of nobody: %s\n", strerror(clock_getcpuclockid(1 << 21, &clock)));
    printf("resolution %d\n", clock_getres(CLOCK_PROCESS_CPUTIME_ID, &time));
    double wall = read_clock(CLOCK_MONOTONIC), before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    usleep(50000);
    double slept = read_clock(CLOCK_PROCESS_CPUTIME_ID) - before;
    printf("a sleep of %s takes %s\n", read_clock(CLOCK_MONOTONIC) - wall >= 0.05 ? "time" : "no time", slept < 0.02 ? "no CPU time" : "CPU time");
    pid_t child = fork();
    if (!child)
        for (;;) continue;
    printf("of a child: %s\n", strerror(clock_getcpuclockid(child, &of_child)));
    before = read_clock(of_child);
    printf("sleep on it: %s\n", strerror(clock_nanosleep(of_child, 0, &tenth, 0)));
    printf("it has gone on by that: %d\n", read_clock(of_child) - before >= 0.05);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    pthread_t thread;
    pthread_create(&thread, 0, spin, 0);
    while (!of_thread) usleep(1000);
    before = read_clock(of_thread);
    printf("sleep on a thread's: %s\n", strerror(clock_nanosleep(of_thread, 0, &tenth, 0)));
    printf("it has gone on by that: %d\n", read_clock(of_thread) - before >= 0.05);
    before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    printf("sleep on the process's: %s\n", strerror(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &tenth, 0)));
    printf("it has gone on by that: %d\n", read_clock(CLOCK_PROCESS_CPUTIME_ID) - before >= 0.05);
    go_on = 0;
    pthread_join(thread, 0);
    printf("sleep on an own one: %s\n", strerror(clock_nanosleep(clock, 0, &tenth, 0)));
    fflush(stdout);
}

static void timers(void) {
    struct itimerval once = {{0, 0}, {0, 30000}}, left, none = {{0, 0}, {0, 0}};
    struct { int which, signal; const char *name; } kinds[] = {{ITIMER_VIRTUAL, SIGVTALRM, "virtual"}, {ITIMER_PROF, SIGPROF, "profiling"}};
    for (int i = 0; i < 2; i++) {
        caught = 0;
        signal(kinds[i].signal, count);
        printf("%s timer: set %d", kinds[i].name, setitimer(kinds[i].which, &once, 0));
        usleep(60000);
        getitimer(kinds[i].which, &left);
        printf(", after a sleep caught %d, armed %d", caught, left.it_value.tv_usec > 0);
        for (int more = 0; more < 20 && !caught; more++) compute(0.1);
        getitimer(kinds[i].which, &left);
        printf(", after work caught %d, armed %d\n", caught, left.it_value.tv_usec > 0 || left.it_value.tv_sec > 0);
        once.it_interval.tv_usec = 10000;
        setitimer(kinds[i].which, &once, 0);
        caught = 0;
        for (int more = 0; more < 50 && caught < 5; more++) compute(0.05);
        setitimer(kinds[i].which, &none, &left);
        printf("again and again: %d, interval %ld\n", caught >= 5 && caught <= 20, (long)left.it_interval.tv_usec);
        once.it_interval.tv_usec = 0;
    }
    printf("no such timer: %d\n", setitimer(3, &once, 0));
    fflush(stdout);
}

static void limits(void) {
    int status;
    for (int hard = 0; hard < 2; hard++) {
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            struct rlimit limit = {1, hard ? 1 : 2};
            if (hard) signal(SIGXCPU, SIG_IGN);
            setrlimit(RLIMIT_CPU, &limit);
            for (;;) continue;
        }
        struct rusage used;
        wait4(child, &status, 0, &used);
        double time = seconds(used.ru_utime) + seconds(used.ru_stime);
        printf("a limit of a second: signal %d after it %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0, time > 0.5);
    }
}

int main(void) {
    states();
    usage();
    clocks();
    timers();
    limits();
    return 0;
}
