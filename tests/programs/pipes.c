// What pipes, vectors of buffers and their control calls do: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int ends[2];
static char bytes[1 << 20];
// Addresses that nothing is mapped at; the compiler must not know them.
static char *volatile nowhere = (char *)16, *volatile beyond = (char *)-4096L;
static volatile long negative = -1, many = 1025;

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-48s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static void fresh(int flags) {
    if (ends[1]) {
        close(ends[0]);
        close(ends[1]);
    }
    pipe2(ends, flags);
}

// Two pages of which the second is not there.
static char *half(void) {
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 4096, 4096);
    return pages;
}

static void bad_buffers(void) {
    char *page = half();
    fresh(O_NONBLOCK);
    write(ends[1], "precious", 8);
    SAY(read(ends[0], nowhere, 8));
    SAY(read(ends[0], beyond, 8));
    SAY(read(ends[0], page + 4096 - 4, 8));
    SAY(read(ends[0], bytes, 8));
    SAY(memcmp(bytes, "precious", 8));
    write(ends[1], bytes, 8192);
    SAY(read(ends[0], page, 8192));
    SAY(read(ends[0], bytes, 8192));
    // Writes: nothing of a part that can't be read, and the good parts before it.
    SAY(write(ends[1], nowhere, 8));
    SAY(write(ends[1], page + 4096 - 4, 8));
    SAY(read(ends[0], bytes, 8));
    SAY(write(ends[1], page, 8192));
    SAY(read(ends[0], bytes, 8192));
    struct iovec parts[] = {{"ab", 2}, {nowhere, 2}, {"cd", 2}};
    SAY(writev(ends[1], parts, 3));
    SAY(read(ends[0], bytes, 8));
    write(ends[1], "abcdef", 6);
    struct iovec to[] = {{bytes, 2}, {nowhere, 2}, {bytes + 2, 2}};
    SAY(readv(ends[0], to, 3));
    SAY(read(ends[0], bytes, 8));
    // Nothing to read: no buffer is looked at.
    SAY(read(ends[0], nowhere, 8));
    SAY(read(ends[0], nowhere, 0));
    SAY(write(ends[1], nowhere, 0));
    SAY(read(ends[0], bytes, negative));
    SAY(writev(ends[1], parts, many));
    SAY(writev(ends[1], parts, negative));
    struct iovec minus[] = {{bytes, 1}, {bytes, negative}};
    SAY(writev(ends[1], minus, 2));
    SAY(writev(ends[1], (struct iovec *)nowhere, 1));
    SAY(writev(ends[1], parts, 0));
    SAY(write(ends[0], "x", 1));
    SAY(read(ends[1], bytes, 1));
    SAY(pread(ends[0], bytes, 1, 0));
    SAY(pwrite(ends[1], bytes, 1, 0));
}

static void vectors(void) {
    char first[5], second[5];
    struct iovec to[] = {{first, 5}, {second, 5}};
    fresh(0);
    write(ends[1], "hello", 5);
    SAY(readv(ends[0], to, 2));
    write(ends[1], "hello", 5);
    write(ends[1], "again and more", 14);
    SAY(readv(ends[0], to, 2));
    SAY(strncmp(second, "again", 5));
    struct iovec empty[] = {{0, 0}, {first, 5}, {0, 0}, {second, 0}};
    SAY(readv(ends[0], empty, 4));
    char name[] = "/tmp/vectors-XXXXXX";
    int file = mkstemp(name);
    unlink(name);
    struct iovec from[] = {{"one", 3}, {"two", 3}};
    SAY(pwritev(file, from, 2, 2));
    SAY(preadv(file, to, 2, 1));
    SAY(memcmp(first, "\0onet", 5));
    SAY(preadv(file, to, 2, -1));
    SAY(lseek(file, 0, SEEK_CUR));
    close(file);
}

static int fill(int size) {
    int count = 0;
    while (write(ends[1], bytes, size) == size) count++;
    return count;
}

static void capacity(void) {
    static const int sizes[] = {1, 100, 1000, 1500, 3000, 4000, 4096, 5000, 8192, 10000, 65536, 65537};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fresh(O_NONBLOCK);
        int count = fill(sizes[i]), left;
        ioctl(ends[0], FIONREAD, &left);
        struct pollfd file = {ends[1], POLLOUT};
        printf("writes of %d: %d fit, %d bytes, errno %d, room %d\n", sizes[i], count, left, errno, poll(&file, 1, 0));
    }
    // All or nothing up to PIPE_BUF, a part above it.
    fresh(O_NONBLOCK);
    fill(4096);
    read(ends[0], bytes, 4000);
    SAY(write(ends[1], bytes, 4096));
    SAY(write(ends[1], bytes, 97));
    read(ends[0], bytes, 96);
    SAY(write(ends[1], bytes, 5000));
    struct iovec halves[] = {{bytes, 2048}, {bytes, 2048}};
    SAY(writev(ends[1], halves, 2));
    static const unsigned wanted[] = {0, 1, 4096, 4097, 65536, 100000, 1 << 20, (1 << 20) + 1, 1u << 31, (1u << 31) + 1, -1u};
    fresh(O_NONBLOCK);
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        // More than the usual bound takes a privilege, which a test may have or not.
        if (wanted[i] > 1 << 20 && wanted[i] <= 1u << 31) continue;
        errno = 0;
        int size = fcntl(ends[i % 2], F_SETPIPE_SZ, wanted[i]), error = errno;
        printf("F_SETPIPE_SZ %u: %d, %d, %d\n", wanted[i], size, error, fcntl(ends[0], F_GETPIPE_SZ));
    }
    printf("of 1 MiB: %d\n", fill(4096));
    SAY(fcntl(ends[0], F_SETPIPE_SZ, 4096));
    while (read(ends[0], bytes, sizeof bytes) > 0);
    write(ends[1], bytes, 4096);
    SAY(fcntl(ends[0], F_SETPIPE_SZ, 4096));
    SAY(write(ends[1], bytes, 1));
    int null = open("/dev/null", O_RDWR);
    SAY(fcntl(null, F_GETPIPE_SZ));
    SAY(fcntl(null, F_SETPIPE_SZ, 4096));
    close(null);
}

static void control(void) {
    int one = 1, none = 0, left = -1;
    fresh(0);
    SAY(ioctl(ends[0], FIONBIO, &one));
    SAY(fcntl(ends[0], F_GETFL));
    SAY(read(ends[0], bytes, 1));
    SAY(ioctl(ends[0], FIONBIO, &none));
    SAY(fcntl(ends[0], F_GETFL));
    SAY(ioctl(ends[0], FIOCLEX));
    SAY(fcntl(ends[0], F_GETFD));
    SAY(ioctl(ends[0], FIONCLEX));
    SAY(fcntl(ends[0], F_GETFD));
    SAY(ioctl(ends[0], FIOASYNC, &one));
    SAY(fcntl(ends[0], F_GETFL));
    SAY(ioctl(ends[0], FIOASYNC, &none));
    SAY(ioctl(ends[0], FIONBIO, nowhere));
    write(ends[1], bytes, 300);
    SAY(ioctl(ends[0], FIONREAD, &left));
    SAY(left);
    SAY(ioctl(ends[1], FIONREAD, &left));
    SAY(left);
    SAY(ioctl(-1, FIONBIO, &one));
    int null = open("/dev/null", O_RDWR);
    SAY(ioctl(null, FIONBIO, &one));
    SAY(ioctl(null, FIOCLEX));
    SAY(ioctl(null, FIOASYNC, &one));
    close(null);
    int full = open("/dev/full", O_RDWR);
    SAY(write(full, "x", 1));
    SAY(read(full, bytes, 10));
    close(full);
}

static void packets(void) {
    fresh(O_DIRECT | O_NONBLOCK);
    SAY(write(ends[1], "first", 5));
    SAY(write(ends[1], "second", 6));
    SAY(write(ends[1], bytes, 5000));
    SAY(read(ends[0], bytes, 100));
    SAY(read(ends[0], bytes, 3));
    SAY(read(ends[0], bytes, 10000));
    SAY(read(ends[0], bytes, 10000));
    SAY(read(ends[0], bytes, 10000));
}

static void handler(int signal) {
    (void)signal;
    static const char text[] = "SIGPIPE\n";
    write(1, text, sizeof text - 1);
}

static void broken(void) {
    struct iovec none[] = {{0, 0}};
    signal(SIGPIPE, handler);
    fflush(stdout);
    setvbuf(stdout, 0, _IONBF, 0);
    fresh(0);
    close(ends[0]);
    SAY(write(ends[1], "x", 1));
    SAY(write(ends[1], nowhere, 1));
    SAY(write(ends[1], "x", 0));
    SAY(writev(ends[1], none, 1));
    struct pollfd file = {ends[1], POLLOUT};
    SAY(poll(&file, 1, 0));
    SAY(file.revents);
    // A writer that waits for room learns that the reader is gone.
    int others[2];
    pipe(others);
    pid_t child = fork();
    if (!child) {
        close(others[1]);
        usleep(20000);
        _exit(0);
    }
    close(others[0]);
    SAY(write(others[1], bytes, 100000));
    waitpid(child, 0, 0);
    close(others[1]);
    ends[0] = ends[1];
    fresh(O_NONBLOCK);
    write(ends[1], "rest", 4);
    file = (struct pollfd){ends[0], POLLIN};
    SAY(poll(&file, 1, 0));
    SAY(file.revents);
    close(ends[1]);
    SAY(poll(&file, 1, 0));
    SAY(file.revents);
    SAY(read(ends[0], bytes, 3));
    SAY(read(ends[0], bytes, 3));
    SAY(read(ends[0], bytes, 3));
    SAY(poll(&file, 1, 0));
    SAY(file.revents);
}

// Records of four writers below PIPE_BUF are never mixed.
static void records(void) {
    fresh(0);
    fflush(stdout);
    for (int child = 0; child < 4; child++) {
        if (!fork()) {
            static char part[1500];
            memset(part, 'a' + child, sizeof part);
            struct iovec parts[] = {{part, 1500}, {part, 1500}};
            for (int i = 0; i < 40; i++) writev(ends[1], parts, 2);
            _exit(0);
        }
    }
    close(ends[1]);
    int whole = 0, mixed = 0;
    for (;;) {
        int length = 0, more;
        while (length < 3000 && (more = read(ends[0], bytes + length, 3000 - length)) > 0) length += more;
        if (length < 3000) break;
        whole++;
        for (int i = 1; i < 3000; i++) {
            if (bytes[i] != bytes[0]) {
                mixed++;
                break;
            }
        }
    }
    printf("%d records, %d mixed\n", whole, mixed);
    while (wait(0) > 0);
    ends[1] = ends[0];
}

// Every byte comes out once and in order, however the pieces are cut.
static void order(void) {
    fresh(0);
    fflush(stdout);
    unsigned sum = 0, seed = 1, at = 0;
    if (!fork()) {
        close(ends[0]);
        static unsigned char out[20000];
        for (unsigned sent = 0; sent < 1000000;) {
            seed = seed * 1103515245 + 12345;
            unsigned length = seed >> 16 & 16383;
            for (unsigned i = 0; i < length; i++) out[i] = (sent + i) * 7;
            write(ends[1], out, length);
            sent += length;
        }
        _exit(0);
    }
    close(ends[1]);
    int length, wrong = 0;
    while ((seed = seed * 1103515245 + 12345, length = read(ends[0], bytes, (seed >> 16 & 8191) + 1)) > 0) {
        for (int i = 0; i < length; i++, at++) wrong += (unsigned char)bytes[i] != (unsigned char)(at * 7);
        sum += length;
    }
    printf("%u bytes, %d wrong\n", sum, wrong);
    wait(0);
    ends[1] = ends[0];
}

int main(void) {
    bad_buffers();
    vectors();
    capacity();
    control();
    packets();
    records();
    order();
    broken();
    return 0;
}
