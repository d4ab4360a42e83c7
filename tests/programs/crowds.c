// Many processes at once: groups, sessions, orphans, signals at a parent's end, and waits for one or any of them.
// `crowds N` says what became of all; `crowds N times` says how long what took, which only Faultline can say in
// instructions; `crowds N all` sends a signal to every process there is, which is for a machine of its own.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int count;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static pid_t born(void) {
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        exit(1);
    }
    return child;
}

// Waits for all children; says how many ended by which signal or exit status.
static void reap(const char *what) {
    int signals[65] = {0}, exits = 0, status;
    while (wait(&status) > 0) {
        if (WIFSIGNALED(status)) signals[WTERMSIG(status)]++;
        else exits++;
    }
    printf("%s:", what);
    for (int number = 0; number < 65; number++)
        if (signals[number]) printf(" %d by signal %d", signals[number], number);
    printf(" %d by exit, then %s\n", exits, strerror(errno));
    fflush(stdout);
}

// A session leader ends; its children, each a group of its own, are stopped.
static void orphaned_groups(void) {
    if (!born()) {
        setsid();
        for (int i = 0; i < count; i++) {
            pid_t child = born();
            if (!child) {
                setpgid(0, 0);
                // Orphaned before it stops, it would not be told.
                raise(SIGSTOP);
                for (;;) pause();
            }
            int status;
            if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status)) _exit(1);
        }
        _exit(0);
    }
    reap("orphaned groups");
}

// One group of all children, half of them stopped, which the end of their parent orphans.
static void orphaned_group(void) {
    if (!born()) {
        setsid();
        pid_t group = 0;
        for (int i = 0; i < count; i++) {
            pid_t child = born();
            if (!child) {
                if (i % 2) raise(SIGSTOP);
                for (;;) pause();
            }
            if (setpgid(child, group)) _exit(2);
            if (!group) group = child;
            if (i % 2) waitpid(child, 0, WUNTRACED);
        }
        _exit(0);
    }
    reap("an orphaned group");
}

static void parents_end(void) {
    int ready[2];
    if (pipe(ready)) exit(1);
    if (!born()) {
        for (int i = 0; i < count; i++) {
            if (!born()) {
                prctl(PR_SET_PDEATHSIG, SIGUSR1);
                if (write(ready[1], "", 1) != 1) _exit(1);
                for (;;) pause();
            }
        }
        char byte;
        for (int i = 0; i < count; i++)
            if (read(ready[0], &byte, 1) != 1) _exit(1);
        _exit(0);
    }
    close(ready[0]);
    close(ready[1]);
    reap("a parent's end");
}

static void signalled_group(void) {
    pid_t group = 0, child = 0;
    for (int i = 0; i < count; i++) {
        child = born();
        if (!child)
            for (;;) pause();
        setpgid(child, group);
        if (!group) group = child;
    }
    printf("nobody's group: %d", kill(-(1 << 22) + 7, SIGTERM));
    printf(" %s\n", strerror(errno));
    kill(-group, SIGTERM);
    int ended = 0;
    while (waitpid(-group, 0, 0) > 0) ended++;
    printf("a signalled group: %d, then %s\n", ended, strerror(errno));
    errno = 0;
    int result = kill(-group, 0);
    printf("the group afterwards: %d %s\n", result, strerror(errno));
    fflush(stdout);
}

// Grandchildren are adopted by the nearest ancestor that asked for them, as zombies or living.
static void adoption(void) {
    if (!born()) {
        for (int i = 0; i < count; i++) {
            if (!born()) _exit(i % 2);
        }
        usleep(1000);
        _exit(0);
    }
    reap("adopted");
}

// A chain of parents, whose ends come from the second to last up.
static void chain(void) {
    int depth = count, up[2];
    if (pipe(up)) exit(1);
    if (!born()) {
        while (depth-- > 1)
            if (born()) {
                // Ends when its child has.
                wait(0);
                _exit(0);
            }
        _exit(0);
    }
    reap("a chain");
}

static void named(int times) {
    pid_t *children = calloc(count, sizeof *children);
    double begin, cost[3];
    for (int i = 0; i < count; i++) {
        children[i] = born();
        if (!children[i])
            for (;;) pause();
    }
    begin = now();
    for (int i = 0; i < 20; i++) {
        pid_t child = vfork();
        if (!child) _exit(0);
        if (waitpid(child, 0, 0) != child) exit(1);
    }
    cost[0] = (now() - begin) / 20;
    // From both ends, so that no order helps.
    begin = now();
    for (int i = 0; i < count / 2; i++) {
        pid_t child = children[i % 2 ? i : count - 1 - i];
        siginfo_t info = {0};
        kill(child, SIGKILL);
        if (waitid(P_PID, child, &info, WEXITED) || info.si_pid != child) exit(1);
    }
    cost[1] = (now() - begin) / (count / 2);
    begin = now();
    for (int i = 0; i < count; i++)
        if (i < count / 2 ? i % 2 == 0 : 1) kill(children[i], SIGKILL);
    int ended = 0;
    while (wait(0) > 0) ended++;
    cost[2] = (now() - begin) / (ended ? ended : 1);
    if (times) printf("beside %d children: fork and wait %.1f us, named %.1f us, any %.1f us\n", count, cost[0], cost[1], cost[2]);
    else printf("named: the rest %s\n", ended >= count - count / 2 ? "was there" : "was lost");
    fflush(stdout);
    free(children);
}

static void all(void) {
    for (int i = 0; i < count; i++)
        if (!born()) {
            if (i % 2) setpgid(0, 0);
            for (;;) pause();
        }
    kill(-1, SIGTERM);
    reap("all");
}

int main(int arguments, char **argument) {
    count = arguments > 1 ? atoi(argument[1]) : 20;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (arguments > 2 && !strcmp(argument[2], "times")) {
        named(1);
        return 0;
    }
    if (arguments > 2 && !strcmp(argument[2], "all")) {
        all();
        // Whoever is left when the first program ends is killed.
        for (int i = 0; i < count; i++)
            if (!born())
                for (;;) pause();
        return 0;
    }
    orphaned_groups();
    orphaned_group();
    parents_end();
    signalled_group();
    adoption();
    chain();
    named(0);
    return 0;
}
