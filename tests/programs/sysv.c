// System V shared memory, semaphores and queues of messages: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-70s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static key_t key;

static int made(int number) { return number < 0 ? -1 : 0; }
static void *attached(int number, void *at, int flags) { return shmat(number, at, flags); }
static int failed(void *at) { return at == (void *)-1 ? -errno : 0; }

static void memory(void) {
    SAY(made(shmget(key, 5000, 0600)));
    int number = shmget(key, 5000, IPC_CREAT | 0640);
    SAY(made(number));
    SAY(shmget(key, 5000, 0) == number);
    SAY(made(shmget(key, 5000, IPC_CREAT | IPC_EXCL)));
    SAY(made(shmget(key, 6000, 0)));
    SAY(made(shmget(key, 0, 0)));
    SAY(made(shmget(IPC_PRIVATE, 0, 0600)));
    SAY(failed(attached(999999, 0, 0)));
    char *one = attached(number, 0, 0), *two = attached(number, 0, SHM_RDONLY);
    SAY(one == two);
    strcpy(one + 4096, "shared");
    SAY(strcmp(two + 4096, "shared"));
    struct shmid_ds status;
    SAY(shmctl(number, IPC_STAT, &status));
    printf("%zu bytes, %lu attached, mode %o, own %d\n", status.shm_segsz, (unsigned long)status.shm_nattch,
           status.shm_perm.mode, status.shm_cpid == getpid());
    if (!fork()) {
        shmctl(number, IPC_STAT, &status);
        printf("%lu attached\n", (unsigned long)status.shm_nattch);
        strcpy(one, "from the child");
        _exit(0);
    }
    wait(0);
    SAY(strcmp(two, "from the child"));
    SAY(failed(attached(number, one, 0)));
    SAY(failed(attached(number, (void *)(((long)one & -4096) + 4096 * 512 + 1), 0)));
    SAY(failed(attached(number, 0, SHM_REMAP)));
    SAY(shmdt(one + 1));
    SAY(shmdt(one + 4096));
    SAY(shmdt(one));
    SAY(shmdt(one));
    SAY(shmctl(number, IPC_STAT, &status));
    SAY(status.shm_nattch);
    SAY(shmctl(number, IPC_RMID, 0));
    SAY(made(shmget(key, 5000, 0)));
    SAY(strcmp(two, "from the child"));
    SAY(shmctl(number, IPC_STAT, &status));
    SAY(status.shm_perm.mode & 01000);
    SAY(shmdt(two));
    SAY(shmctl(number, IPC_STAT, &status));
    SAY(failed(attached(number, 0, 0)));
    SAY(shmctl(number, 99, &status));
    // A page that only one writes may not be written through the other.
    number = shmget(IPC_PRIVATE, 4096, 0600);
    char *all = attached(number, 0, SHM_RDONLY);
    pid_t child = fork();
    if (!child) {
        *(volatile char *)all = 1;
        _exit(0);
    }
    int ended;
    waitpid(child, &ended, 0);
    SAY(WTERMSIG(ended));
    SAY(shmctl(number, IPC_RMID, 0));
    SAY(shmdt(all));
}

static int operate(int set, int index, int by, int flags) {
    struct sembuf operation = {index, by, flags};
    return semop(set, &operation, 1);
}

static void semaphores(void) {
    SAY(made(semget(key, 3, 0)));
    SAY(made(semget(key, 0, IPC_CREAT | 0600)));
    SAY(made(semget(key, 40000, IPC_CREAT | 0600)));
    int set = semget(key, 3, IPC_CREAT | 0600);
    SAY(made(set));
    SAY(made(semget(key, 4, 0)));
    SAY(made(semget(key, 0, IPC_CREAT | IPC_EXCL)));
    SAY(semctl(set, 0, GETVAL));
    SAY(semctl(set, 0, SETVAL, 5));
    SAY(semctl(set, 0, GETVAL));
    SAY(semctl(set, 3, GETVAL));
    SAY(semctl(set, 0, SETVAL, 40000));
    SAY(semctl(set, 0, SETVAL, -1));
    SAY(semctl(set, 0, GETPID) == getpid());
    unsigned short values[3] = {1, 2, 3};
    SAY(semctl(set, 0, SETALL, values));
    memset(values, 0, sizeof values);
    SAY(semctl(set, 0, GETALL, values));
    printf("%d %d %d\n", values[0], values[1], values[2]);
    SAY(operate(set, 0, -2, IPC_NOWAIT));
    SAY(operate(set, 0, -1, IPC_NOWAIT));
    SAY(operate(set, 0, 0, IPC_NOWAIT));
    SAY(operate(set, 1, 0, IPC_NOWAIT));
    SAY(operate(set, 5, 1, 0));
    SAY(operate(set, 2, 32767, 0));
    struct sembuf several[] = {{1, -2, 0}, {2, -9, IPC_NOWAIT}};
    SAY(semop(set, several, 2));
    SAY(semctl(set, 1, GETVAL));
    several[1].sem_op = -3;
    SAY(semop(set, several, 2));
    SAY(semctl(set, 1, GETVAL));
    SAY(semop(set, several, 0));
    SAY(semop(set, several, 1000));
    struct timespec time = {0, 5000000};
    SAY(semtimedop(set, several, 1, &time));
    // Who waits is counted, and is let go.
    pid_t child = fork();
    if (!child) _exit(operate(set, 1, -1, 0) ? 1 : 0);
    while (semctl(set, 1, GETNCNT) != 1) usleep(1000);
    SAY(operate(set, 1, 1, 0));
    int ended;
    waitpid(child, &ended, 0);
    SAY(ended);
    SAY(semctl(set, 1, GETNCNT));
    operate(set, 1, 1, 0);
    child = fork();
    if (!child) _exit(operate(set, 1, 0, 0) ? 1 : 0);
    while (semctl(set, 1, GETZCNT) != 1) usleep(1000);
    SAY(operate(set, 1, -1, 0));
    waitpid(child, &ended, 0);
    SAY(ended);
    // What a process has promised is undone at its end.
    semctl(set, 0, SETVAL, 3);
    child = fork();
    if (!child) {
        operate(set, 0, -2, SEM_UNDO);
        operate(set, 1, 4, SEM_UNDO);
        operate(set, 1, -1, 0);
        _exit(0);
    }
    waitpid(child, &ended, 0);
    SAY(semctl(set, 0, GETVAL));
    SAY(semctl(set, 1, GETVAL));
    struct semid_ds status;
    SAY(semctl(set, 0, IPC_STAT, &status));
    SAY(status.sem_nsems);
    // The end of a set is the end of a wait.
    child = fork();
    if (!child) _exit(operate(set, 1, -30, 0) < 0 ? errno : 0);
    while (semctl(set, 1, GETNCNT) != 1) usleep(1000);
    SAY(semctl(set, 0, IPC_RMID));
    waitpid(child, &ended, 0);
    SAY(WEXITSTATUS(ended) == EIDRM);
    SAY(operate(set, 0, 1, 0));
    SAY(semctl(set, 0, IPC_RMID));
}

static struct {
    long kind;
    char text[10000];
} message;

static long sent(int queue, long kind, const char *text, int flags) {
    message.kind = kind;
    strcpy(message.text, text);
    return msgsnd(queue, &message, strlen(text) + 1, flags);
}
static long received(int queue, long kind, size_t room, int flags) {
    memset(&message, 0, sizeof message);
    long length = msgrcv(queue, &message, room, kind, flags);
    if (length >= 0) printf("  %ld %.20s\n", message.kind, message.text);
    return length;
}

static void queues(void) {
    SAY(made(msgget(key, 0)));
    int queue = msgget(key, IPC_CREAT | 0600);
    SAY(made(queue));
    SAY(sent(queue, 0, "x", 0));
    SAY(sent(queue, 3, "three", 0));
    SAY(sent(queue, 1, "one", 0));
    SAY(sent(queue, 2, "two", 0));
    SAY(sent(queue, 3, "three again", 0));
    struct msqid_ds status;
    SAY(msgctl(queue, IPC_STAT, &status));
    printf("%lu messages, %lu bytes of %lu, own %d\n", (unsigned long)status.msg_qnum, (unsigned long)status.__msg_cbytes,
           (unsigned long)status.msg_qbytes, status.msg_lspid == getpid());
    SAY(received(queue, 2, 3, 0));
    SAY(received(queue, 2, 2, MSG_NOERROR));
    SAY(received(queue, 2, 100, IPC_NOWAIT));
    SAY(received(queue, -2, 100, 0));
    SAY(received(queue, 3, 100, MSG_EXCEPT | IPC_NOWAIT));
    SAY(received(queue, 0, 100, 0));
    SAY(received(queue, 0, 100, 0));
    SAY(received(queue, 0, 100, IPC_NOWAIT));
    SAY(msgsnd(queue, &message, 9000, 0));
    SAY(msgsnd(queue, (void *)8, 10, 0));
    long count = 0;
    message.kind = 1;
    while (msgsnd(queue, &message, 1000, IPC_NOWAIT) == 0) count++;
    printf("%ld messages, %s\n", count, strerror(errno));
    pid_t child = fork();
    if (!child) _exit(sent(queue, 7, "waited", 0) ? 1 : 0);
    usleep(20000);
    while (count-- > 0) msgrcv(queue, &message, 2000, 1, 0);
    int ended;
    waitpid(child, &ended, 0);
    SAY(ended);
    SAY(received(queue, 7, 100, 0));
    child = fork();
    if (!child) _exit(received(queue, 9, 100, 0) == 4 ? 0 : 1);
    usleep(10000);
    SAY(sent(queue, 8, "other", 0));
    // The child says what it has received: whoever is first would speak first.
    int given = sent(queue, 9, "his", 0);
    waitpid(child, &ended, 0);
    SAY(given);
    SAY(ended);
    child = fork();
    if (!child) _exit(received(queue, 9, 100, 0) < 0 ? errno : 0);
    usleep(20000);
    SAY(msgctl(queue, IPC_RMID, 0));
    waitpid(child, &ended, 0);
    SAY(WEXITSTATUS(ended) == EIDRM);
    SAY(sent(queue, 1, "x", 0));
    SAY(made(msgget(key, 0)));
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    key = 0x5000000 + getpid();
    memory();
    semaphores();
    queues();
    return 0;
}
