// Makes something large out of files, and says what came of it.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

static void deep(int wanted, int length) {
    char name[256], path[8192];
    int depth;
    memset(name, 'n', length);
    name[length] = 0;
    mkdir("top", 0755), chdir("top");
    for (depth = 0; depth < wanted && !mkdir(name, 0755) && !chdir(name); depth++) {}
    printf("deep %d\n", depth);
    if (depth < wanted) {
        printf("mkdir: %s\n", strerror(errno));
        return;
    }
    if (syscall(SYS_getcwd, path, sizeof path) < 0) printf("getcwd: %s\n", strerror(errno));
    // The top into what is deepest in it.
    if (rename("/tmp/large/top", "top")) printf("into itself: %s\n", strerror(errno));
    mkdir("other", 0755), mkdir("other/one", 0755);
    if (rename("other/one", "one") || rmdir("one") || rmdir("other")) perror("rename");
    int up = 0;
    struct stat top, here;
    stat("/tmp/large/top", &top);
    for (stat(".", &here); here.st_ino != top.st_ino && !chdir(".."); up++) stat(".", &here);
    printf("up again: %d\n", up);
}

static void names(int wanted) {
    char name[64], buffer[4096];
    int made, listed = 0, twice = 0, missed = 0;
    mkdir("names", 0755), chdir("names");
    for (made = 0; made < wanted; made++) {
        snprintf(name, sizeof name, "a-name-of-some-length-%d", made);
        int f = open(name, O_CREAT | O_WRONLY, 0644);
        if (f < 0) break;
        close(f);
    }
    if (made < wanted) printf("create: %s\n", strerror(errno));
    // Give some room back, for the listing.
    while (made < wanted && made > 0) {
        snprintf(name, sizeof name, "a-name-of-some-length-%d", made - 1);
        unlink(name);
        if (--made % 500 == 0) break;
    }
    unsigned char *seen = calloc(made, 1);
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    unsigned long began = __rdtsc();
    for (long n; (n = syscall(SYS_getdents64, folder, buffer, sizeof buffer)) > 0;)
        for (long at = 0; at < n;) {
            struct dirent64 *entry = (void *)(buffer + at);
            at += entry->d_reclen;
            if (entry->d_name[0] == '.') continue;
            int number = atoi(entry->d_name + strlen("a-name-of-some-length-"));
            listed++;
            if (number < made && seen[number]++) twice++;
        }
    unsigned long spent = __rdtsc() - began;
    for (int i = 0; i < made; i++) missed += !seen[i];
    printf("listed %d, %d twice, %d missed\n", listed, twice, missed);
    printf("an entry: %lu\n", spent / (listed + 1));
    began = __rdtsc();
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "a-name-of-some-length-%d", made / 101 * i);
        if (access(name, F_OK)) perror(name);
    }
    printf("a look-up: %lu\n", (unsigned long)(__rdtsc() - began) / 100);
}

static void links(void) {
    char target[4096], name[16];
    struct stat st;
    mkdir("links", 0755), chdir("links"), mkdir("x", 0755), chdir("x"), symlink(".", "x"), chdir("..");
    // Each leads to the next through many parts that lead nowhere else.
    for (int i = 0; i < 39; i++) {
        int length = i == 38 ? sprintf(target, "x") : sprintf(target, "L%d", i + 1);
        while (length < 4090) length += sprintf(target + length, "/.");
        snprintf(name, sizeof name, "L%d", i);
        if (symlink(target, name)) perror("symlink");
    }
    printf("39 links of 2,047 parts: %s\n", stat("L0", &st) ? strerror(errno) : "ok");
    // A path whose end is far, behind many parts.
    for (int i = 0; i < 38; i++) {
        int length = sprintf(target, "P%d", i + 1);
        while (length < 4080) length += sprintf(target + length, "/.");
        strcpy(target + length, "/../x");
        snprintf(name, sizeof name, "P%d", i);
        if (symlink(target, name)) perror("symlink");
    }
    int length = 0;
    while (length < 4080) length += sprintf(target + length, length ? "/../x" : "x");
    symlink(target, "P38");
    printf("and one of many parts: %s\n", stat("P0", &st) ? strerror(errno) : "ok");
    symlink("L0", "M0"), symlink("M0", "M1");
    printf("40 links and one more: %s\n", stat("M1", &st) ? strerror(errno) : "ok");
}

static void maps(int wanted) {
    static char buffer[65536];
    char *m = mmap(0, wanted * 8192UL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; i < wanted; i += 2) mprotect(m + i * 4096UL, 4096, PROT_READ);
    unsigned long began = __rdtsc();
    int f = open("/proc/self/maps", O_RDONLY);
    printf("open: %lu\n", (unsigned long)__rdtsc() - began);
    long lines = 0, n, regions = 0;
    while ((n = read(f, buffer, sizeof buffer)) > 0)
        for (long i = 0; i < n; i++) lines += buffer[i] == '\n';
    close(f);
    FILE *again = fopen("/proc/self/maps", "r");
    while (fgets(buffer, sizeof buffer, again)) regions++;
    fclose(again);
    printf("regions %ld\nlines %ld\n", regions, lines);
    f = open("/proc/self/smaps", O_RDONLY);
    while ((n = read(f, buffer, sizeof buffer)) > 0) {}
    close(f);
    f = open("/proc/self/status", O_RDONLY);
    while ((n = read(f, buffer, sizeof buffer)) > 0) {}
    close(f);
    // Piece by piece: what is measured is not how long many regions take to go.
    for (int i = 0; i < wanted; i += 200) munmap(m + i * 4096UL, 200 * 4096UL);
}

static void try_arguments(const char *what, int count, int length, char **environment) {
    char *string = malloc(length + 1), **strings = calloc(count + 4, sizeof *strings);
    memset(string, 'a', length);
    string[length] = 0;
    strings[0] = "largefiles", strings[1] = "count";
    for (int i = 0; i < count; i++) strings[i + 2] = string;
    fflush(stdout);
    if (!fork()) {
        execve("/proc/self/exe", strings, environment);
        printf("%s: %s\n", what, strerror(errno));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    free(string), free(strings);
}

static void arguments(const char *self) {
    char *none[] = {0};
    struct rlimit stack = {8 << 20, 8 << 20};
    setrlimit(RLIMIT_STACK, &stack);
    try_arguments("few", 3, 10, none);
    try_arguments("a long one", 1, 131071, none);
    try_arguments("too long a one", 1, 131072, none);
    try_arguments("many", 200000, 1, none);
    try_arguments("too many", 210000, 1, none);
    try_arguments("fifteen long ones", 15, 131000, none);
    try_arguments("seventeen long ones", 17, 131000, none);
    char **environment = calloc(100001, sizeof *environment);
    for (int i = 0; i < 100000; i++) environment[i] = "A=1";
    try_arguments("a large environment", 3, 3, environment);
    try_arguments("a bad one", 3, 3, (char *[]){"A=1", (char *)8, 0});
    // A script puts its own before them.
    int f = open("script", O_CREAT | O_WRONLY, 0755);
    char line[300];
    int length = snprintf(line, sizeof line, "#!%s count\n", self);
    if (length > 250 || write(f, line, length) != length) exit(1);
    close(f);
    fflush(stdout);
    if (!fork()) {
        char *strings[] = {"given up", "kept", "kept too", 0};
        execve("script", strings, none);
        perror("script");
        _exit(0);
    }
    wait(0);
}

static void program(void) {
    char buffer[65536];
    int in = open("/proc/self/exe", O_RDONLY), out = open("copy", O_CREAT | O_WRONLY, 0755), status;
    for (long n; (n = read(in, buffer, sizeof buffer)) > 0;)
        if (write(out, buffer, n) != n) exit(1);
    if (ftruncate(out, 64L << 20) || ftruncate(out, 1L << 40)) perror("ftruncate");
    close(out);
    if (!fork()) {
        execl("copy", "copy", "run", (char *)0);
        perror("execl");
        _exit(1);
    }
    wait(&status);
    printf("status %d\n", status);
}

static void cut(void) {
    static char bytes[1 << 20];
    int f = open("cut", O_CREAT | O_RDWR, 0644), rounds = 0;
    memset(bytes, 'x', sizeof bytes);
    for (; rounds < 60; rounds++) {
        for (int i = 0; i < 48; i++)
            if (pwrite(f, bytes, 4096, i * 1048576L) != 4096) goto end;
        if (rounds % 20 == 0)
            for (int i = 0; i < 48; i++)
                if (pwrite(f, bytes, sizeof bytes, i * 1048576L) != sizeof bytes) goto end;
        if (ftruncate(f, rounds % 2) || ftruncate(f, 50L << 20)) goto end;
        for (int i = 1; i < 50; i++)
            if (pread(f, bytes, 1, i * 1048576L) != 1 || bytes[0]) goto end;
        bytes[0] = 'x';
    }
end:
    printf("written %d times 48 MiB\n", rounds);
}

static void locks(void) {
    int f = open("locks", O_CREAT | O_RDWR, 0644);
    long taken;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    // Backwards, so that no search for a place is cut short.
    for (taken = 0; taken < 3000; taken++) {
        lock.l_start = (100000 - taken) * 2;
        if (fcntl(f, F_SETLK, &lock)) break;
    }
    printf("locks %ld\n", taken);
    for (; taken < 100000; taken++) {
        lock.l_start = taken * 2 + 1000000;
        if (fcntl(f, F_SETLK, &lock)) {
            printf("then: %s\n", strerror(errno));
            break;
        }
    }
    lock.l_type = F_UNLCK, lock.l_start = lock.l_len = 0;
    printf("after: %d\n", fcntl(f, F_SETLK, &lock));
    lock.l_type = F_WRLCK;
    if (fcntl(f, F_SETLK, &lock)) perror("again");
}

static void thousand(void) {
    static char bytes[4096];
    int open_files = 0;
    for (int i = 0; i < 1000; i++, open_files++) {
        int f = memfd_create("one of a thousand", 0);
        if (f < 0) break;
        for (long page = 0; page < 20; page++)
            if (pwrite(f, bytes, 1, page * 5000 * 4096) != 1) return;
    }
    // All of them are closed when the program ends.
    printf("%d open\n", open_files);
}

static void descriptors(void) {
    int count = 3, many = 0;
    while (count < 1000 && dup(0) >= 0) count++;
    close(999);
    unsigned long began = __rdtsc();
    for (int i = 0; i < 100; i++)
        if (dup(0) == 999) many++, close(999);
    printf("a dup and a close: %lu\n", (unsigned long)(__rdtsc() - began) / 100);
    printf("%d of 100 took the only free one\n", many);
}

int main(int count, char **argv) {
    if (count > 1 && !strcmp(argv[1], "count")) {
        size_t bytes = 0;
        for (int i = 1; i < count; i++) bytes += strlen(argv[i]);
        printf("%d arguments of %zu bytes\n", count, bytes);
        return 0;
    }
    if (count > 1 && !strcmp(argv[1], "run")) {
        printf("the program runs\n");
        return 0;
    }
    char folder[] = "/tmp/large";
    if ((mkdir(folder, 0755) && errno != EEXIST) || chdir(folder)) return 1;
    setvbuf(stdout, 0, _IOLBF, 0);
    const char *what = count > 1 ? argv[1] : "";
    if (!strcmp(what, "deep")) deep(atoi(argv[2]), atoi(argv[3]));
    else if (!strcmp(what, "names")) names(atoi(argv[2]));
    else if (!strcmp(what, "links")) links();
    else if (!strcmp(what, "maps")) maps(atoi(argv[2]));
    else if (!strcmp(what, "arguments")) arguments(argv[0]);
    else if (!strcmp(what, "program")) program();
    else if (!strcmp(what, "cut")) cut();
    else if (!strcmp(what, "locks")) locks();
    else if (!strcmp(what, "descriptors")) descriptors();
    else if (!strcmp(what, "thousand")) thousand();
    else return 1;
    return 0;
}
