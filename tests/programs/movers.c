// Named pipes, pages between pipes, signals and processes as files: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-70s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static char buffer[1 << 17];
static void *volatile nowhere = (void *)16;

static int in(int file) {
    struct pollfd poll_file = {file, POLLIN | POLLOUT, 0};
    return poll(&poll_file, 1, 0) < 0 ? -1 : poll_file.revents;
}
static int opened(const char *path, int flags) {
    int file = open(path, flags);
    return file < 0 ? -1 : 0 * file;
}

static void named(void) {
    unlink("/tmp/fifo");
    SAY(mkfifo("/tmp/fifo", 0640));
    SAY(mkfifo("/tmp/fifo", 0640));
    struct stat status;
    SAY(stat("/tmp/fifo", &status));
    SAY(status.st_mode);
    SAY(opened("/tmp/fifo", O_WRONLY | O_NONBLOCK));
    int reader = open("/tmp/fifo", O_RDONLY | O_NONBLOCK);
    SAY(in(reader));
    SAY(read(reader, buffer, 10));
    int writer = open("/tmp/fifo", O_WRONLY | O_NONBLOCK);
    SAY(read(reader, buffer, 10));
    SAY(write(writer, "named", 5));
    SAY(in(reader));
    SAY(read(reader, buffer, 10));
    SAY(close(writer));
    SAY(in(reader));
    SAY(read(reader, buffer, 10));
    SAY(lseek(reader, 0, SEEK_SET));
    close(reader);
    int both = open("/tmp/fifo", O_RDWR);
    SAY(in(both));
    SAY(write(both, "both", 4));
    SAY(in(both));
    SAY(read(both, buffer, 10));
    close(both);
    // Who opens one end waits for the other.
    if (!fork()) {
        usleep(20000);
        int end = open("/tmp/fifo", O_WRONLY);
        write(end, "from the child", 14);
        _exit(0);
    }
    reader = open("/tmp/fifo", O_RDONLY);
    SAY(read(reader, buffer, 100));
    SAY(read(reader, buffer, 100));
    wait(0);
    close(reader);
    if (!fork()) {
        reader = open("/tmp/fifo", O_RDONLY);
        _exit(read(reader, buffer, 100) == 9 ? 0 : 1);
    }
    writer = open("/tmp/fifo", O_WRONLY);
    SAY(write(writer, "to a child", 9));
    int ended;
    wait(&ended);
    SAY(ended);
    signal(SIGPIPE, SIG_IGN);
    SAY(write(writer, "x", 1));
    close(writer);
    SAY(link("/tmp/fifo", "/tmp/fifo2"));
    SAY(unlink("/tmp/fifo2"));
    SAY(unlink("/tmp/fifo"));
    SAY(mknod("/tmp/file", S_IFREG | 0600, 0));
    SAY(unlink("/tmp/file"));
    SAY(mknod("/tmp/file", 0700, 0));
    SAY(mknod("/tmp/file", S_IFIFO | 0700, 0));
    SAY(unlink("/tmp/file"));
    SAY(mknod("/tmp/file", S_IFSOCK | 0700, 0));
    SAY(unlink("/tmp/file"));
    SAY(mknod("/tmp/file", S_IFDIR, 0));
}

static void pages(void) {
    int one[2], two[2], ends[2];
    pipe(one);
    pipe(two);
    SAY(write(one[1], "hello world", 11));
    SAY(tee(one[0], two[1], 5, 0));
    SAY(read(two[0], buffer, 100));
    SAY(splice(one[0], 0, two[1], 0, 6, 0));
    SAY(read(two[0], buffer, 100));
    SAY(strncmp(buffer, "hello ", 6));
    SAY(splice(one[0], 0, two[1], 0, 100, 0));
    SAY(read(two[0], buffer, 100));
    SAY(strncmp(buffer, "world", 5));
    SAY(splice(one[0], 0, two[1], 0, 100, SPLICE_F_NONBLOCK));
    SAY(tee(one[0], two[1], 100, SPLICE_F_NONBLOCK));
    SAY(splice(one[0], 0, one[1], 0, 100, 0));
    SAY(tee(one[0], one[1], 100, 0));
    int file = memfd_create("file", 0), other = memfd_create("other", 0);
    for (int i = 0; i < 100000; i++) buffer[i] = (char)(i * 31 >> 3);
    SAY(write(file, buffer, 100000));
    SAY(splice(file, 0, other, 0, 10, 0));
    loff_t at = 10, end = 5;
    SAY(splice(file, &at, one[1], 0, 5000, 0));
    SAY(at);
    SAY(splice(one[0], 0, other, &end, 3000, 0));
    SAY(end);
    SAY(splice(one[0], 0, other, 0, 10000, 0));
    SAY(lseek(other, 0, SEEK_CUR));
    SAY(splice(one[0], &at, other, 0, 10, 0));
    SAY(splice(file, 0, one[1], 0, 10, 0));
    SAY(splice(one[1], 0, two[1], 0, 10, 0));
    SAY(splice(one[0], 0, two[0], 0, 10, 0));
    SAY(splice(one[0], 0, two[1], 0, 10, 64));
    at = 0;
    long all = 0, part;
    while ((part = splice(file, &at, one[1], 0, 65536, SPLICE_F_NONBLOCK)) > 0) all += part;
    printf("%d, %d\n", part < 0 && errno == EAGAIN, all >= 65536);
    while (all > 0 && (part = read(one[0], buffer, all)) > 0) all -= part;
    close(one[1]);
    SAY(splice(one[0], 0, two[1], 0, 10, 0));
    SAY(tee(one[0], two[1], 10, 0));
    // Sockets.
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    SAY(write(ends[0], "socket", 6));
    SAY(splice(ends[1], 0, two[1], 0, 100, 0));
    SAY(splice(two[0], 0, ends[0], 0, 100, 0));
    SAY(read(ends[1], buffer, 100));
    struct iovec parts[] = {{"user", 4}, {" memory", 7}};
    SAY(vmsplice(two[1], parts, 2, 0));
    SAY(read(two[0], buffer, 100));
    SAY(vmsplice(file, parts, 2, 0));
    SAY(write(two[1], "to memory", 9));
    struct iovec room = {buffer, 20};
    SAY(vmsplice(two[0], &room, 1, 0));
    close(two[0]);
    SAY(splice(file, &at, two[1], 0, 10, 0));
    // From file to file.
    at = 0, end = 50;
    SAY(ftruncate(other, 0));
    SAY(lseek(other, 0, SEEK_SET));
    SAY(lseek(file, 100, SEEK_SET));
    SAY(copy_file_range(file, 0, other, 0, 1000, 0));
    SAY(lseek(file, 0, SEEK_CUR));
    SAY(lseek(other, 0, SEEK_CUR));
    SAY(copy_file_range(file, &at, other, &end, 200000, 0));
    SAY(at);
    SAY(end);
    SAY(lseek(other, 0, SEEK_END));
    SAY(copy_file_range(file, &at, other, 0, 10, 0));
    at = 0, end = 5;
    SAY(copy_file_range(file, &at, file, &end, 100, 0));
    SAY(copy_file_range(file, &at, file, &end, 5, 0));
    SAY(copy_file_range(file, 0, other, 0, 10, 1));
    SAY(copy_file_range(file, 0, ends[0], 0, 10, 0));
    SAY(copy_file_range(99, 0, other, 0, 10, 0));
    // With ways.
    struct iovec into = {buffer, 10};
    SAY(lseek(file, 3, SEEK_SET));
    SAY(preadv2(file, &into, 1, 0, 0));
    SAY(preadv2(file, &into, 1, -1, 0));
    SAY(lseek(file, 0, SEEK_CUR));
    SAY(pwritev2(file, &into, 1, 7, RWF_DSYNC));
    SAY(preadv2(file, &into, 1, 0, 1 << 20));
    SAY(preadv2(ends[0], &into, 1, 0, 0));
    close(file);
    close(other);
}

static void signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, 0);
    int file = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct signalfd_siginfo found[3];
    SAY(in(file));
    SAY(read(file, found, sizeof found));
    SAY(kill(getpid(), SIGUSR1));
    SAY(in(file));
    SAY(read(file, found, 100));
    SAY(read(file, found, sizeof found));
    SAY(found[0].ssi_signo == SIGUSR1 && found[0].ssi_pid == (unsigned)getpid() && found[0].ssi_code == SI_USER);
    union sigval value = {.sival_int = 77};
    SAY(sigqueue(getpid(), SIGRTMIN, value));
    SAY(sigqueue(getpid(), SIGRTMIN, value));
    SAY(read(file, found, sizeof found));
    SAY(found[1].ssi_int);
    SAY(found[1].ssi_code);
    SAY(write(file, "x", 1));
    SAY(signalfd(0, &set, 0));
    SAY(syscall(SYS_signalfd4, -1, &set, 4, 0));
    SAY(signalfd(-1, &set, 1));
    // A wait for it, in a set of files.
    int all = epoll_create1(0);
    struct epoll_event wanted = {EPOLLIN, {.u32 = 9}};
    SAY(epoll_ctl(all, EPOLL_CTL_ADD, file, &wanted));
    SAY(epoll_wait(all, &wanted, 1, 0));
    pid_t parent = getpid();
    if (!fork()) {
        usleep(10000);
        kill(parent, SIGUSR1);
        _exit(0);
    }
    SAY(epoll_wait(all, &wanted, 1, 2000));
    SAY(read(file, found, sizeof found));
    wait(0);
    fcntl(file, F_SETFL, 0);
    if (!fork()) {
        usleep(10000);
        kill(parent, SIGUSR1);
        _exit(0);
    }
    SAY(read(file, found, sizeof found));
    wait(0);
    sigdelset(&set, SIGUSR1);
    SAY(signalfd(file, &set, 0) == file);
    kill(getpid(), SIGUSR1);
    SAY(in(file));
    close(all);
    close(file);
    signal(SIGUSR1, SIG_IGN);
}

static void processes(void) {
    int line[2];
    pipe(line);
    pid_t child = fork();
    if (!child) {
        close(line[1]);
        read(line[0], buffer, 1);
        _exit(7);
    }
    int file = syscall(SYS_pidfd_open, child, 0);
    SAY(fcntl(file, F_GETFD));
    SAY(in(file));
    SAY(read(file, buffer, 10));
    SAY(syscall(SYS_pidfd_open, 0, 0));
    SAY(syscall(SYS_pidfd_open, 999999, 0));
    SAY(syscall(SYS_pidfd_open, child, 1));
    SAY(syscall(SYS_pidfd_send_signal, file, 0, 0, 0));
    SAY(syscall(SYS_pidfd_send_signal, file, 99, 0, 0));
    SAY(syscall(SYS_pidfd_send_signal, line[0], 0, 0, 0));
    siginfo_t info = {0};
    SAY(waitid(P_PIDFD, file, &info, WEXITED | WNOHANG));
    SAY(info.si_pid);
    int copy = syscall(SYS_pidfd_getfd, file, line[0], 0);
    SAY(fcntl(copy, F_GETFD));
    SAY(syscall(SYS_pidfd_getfd, file, 99, 0));
    close(copy);
    close(line[1]);
    struct pollfd end = {file, POLLIN, 0};
    int found = poll(&end, 1, 2000);
    printf("%d %x\n", found, end.revents);
    SAY(waitid(P_PIDFD, file, &info, WEXITED));
    SAY(info.si_pid == child && info.si_status == 7);
    SAY(syscall(SYS_pidfd_send_signal, file, SIGTERM, 0, 0));
    SAY(waitid(P_PIDFD, file, &info, WEXITED));
    SAY(waitid(P_PIDFD, line[0], &info, WEXITED));
    close(file);
    // Made with the child.
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } arguments = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
    int made = -1;
    arguments.pidfd = (uintptr_t)&made;
    child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (!child) {
        pause();
        _exit(0);
    }
    SAY(made >= 0);
    SAY(fcntl(made, F_GETFD));
    SAY(syscall(SYS_pidfd_send_signal, made, SIGKILL, 0, 0));
    SAY(waitid(P_PIDFD, made, &info, WEXITED));
    SAY(info.si_status);
    close(made);
    arguments.pidfd = (uintptr_t)nowhere;
    SAY(syscall(SYS_clone3, &arguments, sizeof arguments));
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    named();
    pages();
    signals();
    processes();
    return 0;
}
