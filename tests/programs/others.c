// Users and groups as far as there is one of them, and writing back: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-70s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static void *volatile nowhere = (void *)16;
static volatile int negative = -1;

static void identity(void) {
    uid_t numbers[3] = {9, 9, 9};
    SAY(getresuid(&numbers[0], &numbers[1], &numbers[2]));
    printf("%u %u %u\n", numbers[0], numbers[1], numbers[2]);
    SAY(getresgid(&numbers[0], &numbers[1], nowhere));
    SAY(setuid(0));
    SAY(setgid(0));
    SAY(setresuid(-1, 0, -1));
    SAY(setreuid(0, -1));
    SAY(setuid(-1));
    gid_t groups[2] = {0, 0};
    SAY(setgroups(0, groups));
    SAY(getgroups(0, 0));
    SAY(getgroups(negative, groups));
    SAY(setgroups(100000, groups));
}

static void back(void) {
    int file = memfd_create("file", 0), line[2];
    pipe(line);
    SAY(sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
    SAY(sync_file_range(file, -1, 0, 0));
    SAY(sync_file_range(file, 0, 0, 8));
    SAY(sync_file_range(line[0], 0, 0, 0));
    SAY(sync_file_range(99, 0, 0, 0));
    SAY(syncfs(file));
    SAY(syncfs(99));
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    identity();
    back();
    return 0;
}
