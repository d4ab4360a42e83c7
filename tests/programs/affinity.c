// The CPUs that a thread may run on: it is on them only, whoever says so and wherever it was.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static cpu_set_t all;
static atomic_int over, tid;

static int pin(pid_t whom, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(whom, sizeof set, &set);
}

static int here(void) {
    unsigned cpu = ~0u;
    syscall(SYS_getcpu, &cpu, NULL, NULL);
    return cpu;
}

static int stays_on(int cpu) {
    for (int turn = 0; turn < 200; turn++) {
        if (here() != cpu)
            return 0;
        if (turn % 20 == 0)
            usleep(100);
        else
            sched_yield();
    }
    return 1;
}

static void *compute(void *unused) {
    (void)unused;
    tid = gettid();
    while (!over)
        ;
    return NULL;
}

// The CPU that a thread of this process was on last, as /proc says.
static int cpu_of(int thread) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *at = strrchr(text, ')');
    int cpu = -1;
    // The 39th field; the one behind the bracket is the third.
    for (int field = 3; at && field <= 39; field++)
        at = strchr(at + 1, ' ');
    if (at)
        sscanf(at, "%d", &cpu);
    return cpu;
}

int main(void) {
    CPU_ZERO(&all);
    if (sched_getaffinity(0, sizeof all, &all))
        perror("sched_getaffinity");
    printf("as many as are online: %d\n", CPU_COUNT(&all) == sysconf(_SC_NPROCESSORS_ONLN));
    int good = 1, last = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) {
            good &= pin(0, cpu) == 0 && stays_on(cpu);
            last = cpu;
        }
    printf("pinned to each in turn: %d\n", good);
    // Inherited by a child, and kept by execve, which is not tried here.
    pid_t child = fork();
    if (child == 0)
        _exit(!stays_on(last));
    int status = 1;
    waitpid(child, &status, 0);
    printf("inherited: %d\n", status == 0);
    sched_setaffinity(0, sizeof all, &all);
    // One that never enters the kernel by itself is moved by another.
    pthread_t thread;
    pthread_create(&thread, NULL, compute, NULL);
    while (!tid)
        sched_yield();
    good = 1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) {
            good &= pin(tid, cpu) == 0;
            int tries = 0;
            while (cpu_of(tid) != cpu && tries++ < 20000)
                usleep(100);
            good &= cpu_of(tid) == cpu;
        }
    printf("moved by another: %d\n", good);
    over = 1;
    pthread_join(thread, NULL);
    int result = pin(0, CPU_SETSIZE - 1);
    printf("none: %d %s\n", result, strerror(errno));
    result = pin(999999, 0);
    printf("nobody: %d %s\n", result, strerror(errno));
    return 0;
}
