// What processes know of each other and of their files: their memory, what they share, whose lock is in the way, times.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

#define SAY(...) do { errno = 0; long r_ = (long)(__VA_ARGS__); printf("%s: %ld %s\n", #__VA_ARGS__, r_ < 0 ? -1 : r_, r_ < 0 ? strerror(errno) : ""); } while (0)

static char *area;

static void memory(pid_t child) {
    char text[32] = "", more[8] = "";
    struct iovec own[2] = {{text, 5}, {more, 6}}, other[2] = {{area + 4094, 4}, {area + 8192, 100}};
    SAY(process_vm_readv(child, own, 2, other, 2, 0));
    printf("%s|%s\n", text, more);
    // The second page ends what is there.
    other[0] = (struct iovec){area + 12288 - 3, 100};
    own[0] = (struct iovec){text, 20};
    memset(text, 0, sizeof text);
    SAY(process_vm_readv(child, own, 1, other, 1, 0));
    printf("%s\n", text);
    SAY(process_vm_readv(child, own, 1, (struct iovec[]){{area + 12288, 4}}, 1, 0));
    SAY(process_vm_readv(child, (struct iovec[]){{(void *)16, 4}}, 1, other, 1, 0));
    SAY(process_vm_readv(child, own, 1, other, 1, 1));
    SAY(process_vm_readv(child, own, 2000, other, 1, 0));
    SAY(process_vm_readv(child, own, 1, other, 2000, 0));
    SAY(process_vm_readv(child, own, 0, other, 1, 0));
    SAY(process_vm_readv(child, own, 1, other, 0, 0));
    SAY(process_vm_readv(child, own, 1, (void *)16, 1, 0));
    SAY(process_vm_readv(child, (struct iovec[]){{text, -1}}, 1, other, 1, 0));
    SAY(process_vm_readv(0x3ffffff, own, 1, other, 1, 0));
    SAY(process_vm_readv(0x3ffffff, own, 0, other, 1, 0));
    strcpy(text, "written");
    SAY(process_vm_writev(child, (struct iovec[]){{text, 7}}, 1, (struct iovec[]){{area, 3}, {area + 4, 4}}, 2, 0));
    // What may not be written by the child is not written by others.
    SAY(process_vm_writev(child, own, 1, (struct iovec[]){{area + 8192, 4}}, 1, 0));
}

static int shares(pid_t one, pid_t other, int kind, long first, long second) {
    long result = syscall(SYS_kcmp, one, other, kind, first, second);
    return result < 0 ? -errno : result != 0;
}

static void sharing(pid_t child) {
    pid_t own = getpid();
    int copy = dup(1), file = open("/dev/null", O_RDONLY);
    for (int kind = KCMP_FILE; kind <= KCMP_FS; kind++)
        printf("kind %d: self %d, child %d\n", kind, shares(own, own, kind, 1, copy), shares(own, child, kind, 1, 1));
    printf("other file %d, no file %d, no kind %d, nobody %d\n", shares(own, own, KCMP_FILE, 1, file),
           shares(own, own, KCMP_FILE, 1, 99), shares(own, own, 99, 0, 0), shares(own, 0x3ffffff, KCMP_VM, 0, 0));
    close(copy), close(file);
    pid_t clone = syscall(SYS_clone, CLONE_FILES | CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    if (clone == 0) {
        for (;;) pause();
    }
    printf("clone: memory %d, files %d, directory %d, handlers %d\n", shares(own, clone, KCMP_VM, 0, 0),
           shares(own, clone, KCMP_FILES, 0, 0), shares(own, clone, KCMP_FS, 0, 0), shares(own, clone, KCMP_SIGHAND, 0, 0));
    kill(clone, SIGKILL);
    waitpid(clone, NULL, 0);
}

static void locks(void) {
    int file = open("file", O_RDWR | O_CREAT, 0600), ready[2];
    if (pipe(ready)) exit(1);
    pid_t holder = fork();
    if (holder == 0) {
        fcntl(file, F_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 20, .l_len = 30});
        fcntl(file, F_SETLK, &(struct flock){.l_type = F_RDLCK, .l_start = 10, .l_len = 5});
        fcntl(file, F_SETLK, &(struct flock){.l_type = F_RDLCK, .l_start = 25, .l_len = 5});
        if (write(ready[1], "x", 1) != 1) exit(1);
        for (;;) pause();
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) exit(1);
    for (int start = 0; start < 40; start += 18)
        for (int type = F_RDLCK; type <= F_WRLCK; type++) {
            struct flock asked = {.l_type = type, .l_start = start};
            fcntl(file, F_GETLK, &asked);
            printf("from %d as %d: type %d start %ld length %ld, the holder's %d\n", start, type, asked.l_type,
                   (long)asked.l_start, (long)asked.l_len, asked.l_pid == holder);
        }
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    close(file);
}

static void times(void) {
    struct stat st;
    SAY(utime("file", &(struct utimbuf){1, 1000}));
    stat("file", &st);
    printf("%ld\n", (long)st.st_mtime);
    struct timeval two[2] = {{3, 0}, {2000, 0}}, bad[2] = {{3, 0}, {4, 1000000}};
    SAY(syscall(SYS_utimes, "file", two));
    stat("file", &st);
    printf("%ld\n", (long)st.st_mtime);
    SAY(syscall(SYS_futimesat, AT_FDCWD, "file", bad));
    SAY(syscall(SYS_futimesat, AT_FDCWD, "nothing", two));
    SAY(utime("nothing", NULL));
    SAY(utimensat(AT_FDCWD, "file", (struct timespec[]){{0, 0}, {5, 1000000000}}, 0));
    int file = open("file", O_RDONLY), path = open("file", O_PATH), null = open("/dev/null", O_RDWR), set = epoll_create1(0);
    SAY(fchmodat(file, "", 0600, 0));
    SAY(faccessat(99, "", R_OK, 0));
    SAY(fsync(null));
    SAY(epoll_ctl(set, EPOLL_CTL_ADD, path, &(struct epoll_event){EPOLLIN, {0}}));
    close(file), close(path), close(null), close(set);
}

int main(void) {
    char folder[] = "/tmp/peersXXXXXX";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!mkdtemp(folder) || chdir(folder)) return 1;
    area = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(area + 3 * 4096, 4096);
    int ready[2], go[2];
    char byte;
    if (pipe(ready) || pipe(go)) return 1;
    pid_t child = fork();
    if (child == 0) {
        memset(area, 'a', 4096);
        memset(area + 4096, 'b', 4096);
        memset(area + 8192, 'c', 4096);
        mprotect(area + 8192, 4096, PROT_READ);
        if (write(ready[1], "x", 1) != 1) return 1;
        if (read(go[0], &byte, 1) != 1) return 1;
        printf("the child has %.9s\n", area);
        if (write(ready[1], "x", 1) != 1) return 1;
        for (;;) pause();
    }
    if (read(ready[0], &byte, 1) != 1) return 1;
    memory(child);
    if (write(go[1], "x", 1) != 1 || read(ready[0], &byte, 1) != 1) return 1;
    sharing(child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    locks();
    times();
    unlink("file");
    return chdir("/") || rmdir(folder);
}
