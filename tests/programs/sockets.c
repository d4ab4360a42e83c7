// Sockets of `AF_UNIX`: each line is the same on Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-70s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static char buffer[1 << 20];
static int pipes_broken;
static void *volatile nowhere = (void *)16;

static void on_pipe(int number) {
    (void)number;
    pipes_broken++;
}

static int in(int file) {
    struct pollfd poll_file = {file, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
    return poll(&poll_file, 1, 0) < 0 ? -1 : poll_file.revents;
}

static struct sockaddr_un name_of(const char *text, socklen_t *length) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t size = strlen(text);
    memcpy(name.sun_path, text, size);
    if (text[0] == '@') name.sun_path[0] = 0;
    *length = offsetof(struct sockaddr_un, sun_path) + size + (text[0] != '@');
    return name;
}
static int bound(int file, const char *text) {
    socklen_t length;
    struct sockaddr_un name = name_of(text, &length);
    return bind(file, (void *)&name, length);
}
static int connected(int file, const char *text) {
    socklen_t length;
    struct sockaddr_un name = name_of(text, &length);
    return connect(file, (void *)&name, length);
}
static long sent_to(int file, const char *text, const char *bytes) {
    socklen_t length;
    struct sockaddr_un name = name_of(text, &length);
    return sendto(file, bytes, strlen(bytes), 0, (void *)&name, length);
}
static void told(const char *what, struct sockaddr_un *name, socklen_t length) {
    int size = (int)length - (int)offsetof(struct sockaddr_un, sun_path);
    printf("%s: %d family %d ", what, (int)length, length >= 2 ? name->sun_family : -1);
    for (int i = 0; i < size; i++) putchar(name->sun_path[i] ? name->sun_path[i] : '@');
    putchar('\n');
}
static void names(int file) {
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    memset(&name, 0, sizeof name);
    if (getsockname(file, (void *)&name, &length)) perror("getsockname");
    told("own", &name, length);
    length = sizeof name;
    memset(&name, 0, sizeof name);
    if (getpeername(file, (void *)&name, &length)) printf("peer: %s\n", strerror(errno));
    else told("peer", &name, length);
}
static int option(int file, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(file, SOL_SOCKET, name, &value, &length) ? -errno : value;
}
static int set(int file, int name, int value) { return setsockopt(file, SOL_SOCKET, name, &value, sizeof value); }

static void streams(void) {
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    SAY(in(ends[0]));
    SAY(write(ends[0], "hello", 5));
    SAY(write(ends[0], " world", 6));
    SAY(in(ends[1]));
    int left = 0;
    SAY(ioctl(ends[1], FIONREAD, &left));
    SAY(left);
    SAY(recv(ends[1], buffer, 3, MSG_PEEK));
    SAY(read(ends[1], buffer, 8));
    SAY(strncmp(buffer, "hello wo", 8));
    SAY(recv(ends[1], buffer, sizeof buffer, MSG_DONTWAIT));
    SAY(recv(ends[1], buffer, sizeof buffer, MSG_DONTWAIT));
    SAY(lseek(ends[0], 0, SEEK_CUR));
    SAY(pread(ends[0], buffer, 1, 0));
    SAY(fsync(ends[0]));
    struct stat status;
    SAY(fstat(ends[0], &status));
    SAY(status.st_mode);
    struct iovec parts[] = {{"abc", 3}, {"", 0}, {"defgh", 5}};
    SAY(writev(ends[1], parts, 3));
    char a[2], b[4];
    struct iovec into[] = {{a, 2}, {b, 4}};
    SAY(readv(ends[0], into, 2));
    printf("%.2s %.4s\n", a, b);
    SAY(send(ends[0], "x", 1, MSG_OOB | MSG_MORE) < 2);
    SAY(read(ends[0], buffer, 10) > 0);
    SAY(shutdown(ends[0], 7));
    SAY(shutdown(ends[0], SHUT_WR));
    SAY(in(ends[0]));
    SAY(write(ends[0], "x", 1));
    SAY(pipes_broken);
    SAY(send(ends[0], "x", 1, MSG_NOSIGNAL));
    SAY(pipes_broken);
    while (recv(ends[1], buffer, 10, MSG_DONTWAIT) > 0) {}
    SAY(in(ends[1]));
    SAY(read(ends[1], buffer, 10));
    SAY(write(ends[1], "back", 4));
    SAY(read(ends[0], buffer, 10));
    SAY(close(ends[0]));
    SAY(in(ends[1]));
    SAY(read(ends[1], buffer, 10));
    SAY(write(ends[1], "x", 1));
    SAY(pipes_broken);
    SAY(close(ends[1]));

    // What was not read is lost, and the other side hears of it once.
    SAY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends));
    SAY(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
    SAY(fcntl(ends[0], F_GETFD));
    SAY(read(ends[0], buffer, 1));
    SAY(write(ends[0], "unread", 6));
    SAY(close(ends[1]));
    SAY(in(ends[0]));
    SAY(option(ends[0], SO_ERROR));
    SAY(option(ends[0], SO_ERROR));
    SAY(read(ends[0], buffer, 1));
    close(ends[0]);

    // Full, and empty again.
    SAY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
    long all = 0, part, back = 0;
    memset(buffer, 'f', sizeof buffer);
    while ((part = write(ends[0], buffer, 4096)) > 0) all += part;
    SAY(part);
    SAY(all > 64 * 1024 && all < 1024 * 1024);
    SAY(in(ends[0]));
    while ((part = read(ends[1], buffer, sizeof buffer)) > 0) back += part;
    SAY(back == all);
    SAY(in(ends[0]));
    close(ends[0]);
    close(ends[1]);

    // A large transfer between two processes.
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    if (!fork()) {
        close(ends[0]);
        for (int i = 0; i < (1 << 20); i++) buffer[i] = (char)(i * 7 + (i >> 12));
        for (int turn = 0; turn < 4; turn++)
            if (write(ends[1], buffer, sizeof buffer) != sizeof buffer) _exit(1);
        _exit(0);
    }
    close(ends[1]);
    long at = 0, wrong = 0;
    static char some[50001];
    while ((part = read(ends[0], some, sizeof some)) > 0)
        for (long i = 0; i < part; i++, at++) {
            long place = at & ((1 << 20) - 1);
            wrong += some[i] != (char)(place * 7 + (place >> 12));
        }
    printf("%ld bytes, %ld wrong\n", at, wrong);
    int ended;
    wait(&ended);
    SAY(ended);
    close(ends[0]);

    // All of it, in pieces.
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    if (!fork()) {
        for (int i = 0; i < 10; i++) {
            write(ends[1], "0123456789", 10);
            usleep(2000);
        }
        _exit(0);
    }
    SAY(recv(ends[0], buffer, 100, MSG_WAITALL));
    wait(0);
    struct timeval time = {0, 30000};
    SAY(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    SAY(read(ends[0], buffer, 1));
    SAY(read(ends[0], (void *)-1, 1));
    write(ends[1], "keep", 4);
    SAY(read(ends[0], nowhere, 4));
    SAY(read(ends[0], buffer, 4));
    int file = memfd_create("file", 0);
    write(file, "from a file", 11);
    lseek(file, 0, SEEK_SET);
    SAY(sendfile(ends[1], file, 0, 100));
    SAY(read(ends[0], buffer, 100));
    close(file);
    close(ends[0]);
    close(ends[1]);
}

static void datagrams(void) {
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    SAY(write(ends[0], "one", 3));
    SAY(write(ends[0], "", 0));
    SAY(write(ends[0], "three", 5));
    SAY(in(ends[1]));
    int left = 0;
    SAY(ioctl(ends[1], FIONREAD, &left));
    SAY(left);
    SAY(recv(ends[1], buffer, 2, MSG_TRUNC));
    SAY(recv(ends[1], buffer, 100, 0));
    SAY(recv(ends[1], buffer, 100, MSG_PEEK));
    SAY(recv(ends[1], buffer, 100, 0));
    SAY(recv(ends[1], buffer, 100, MSG_DONTWAIT));
    SAY(send(ends[0], buffer, 1 << 20, 0));
    SAY(close(ends[1]));
    SAY(write(ends[0], "x", 1));
    SAY(in(ends[0]));
    close(ends[0]);

    int server = socket(AF_UNIX, SOCK_DGRAM, 0), client = socket(AF_UNIX, SOCK_DGRAM, 0);
    names(server);
    SAY(in(server));
    SAY(bound(server, "/tmp/server"));
    SAY(bound(server, "/tmp/again"));
    SAY(bound(client, "/tmp/server"));
    struct stat status;
    SAY(lstat("/tmp/server", &status));
    SAY((status.st_mode & S_IFMT) == S_IFSOCK);
    SAY(open("/tmp/server", O_RDWR));
    SAY(sent_to(client, "/tmp/server", "from nobody"));
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    SAY(recvfrom(server, buffer, 100, 0, (void *)&name, &length));
    printf("%d\n", length);
    SAY(bound(client, "@client"));
    SAY(sent_to(client, "/tmp/server", "from client"));
    length = sizeof name;
    SAY(recvfrom(server, buffer, 100, 0, (void *)&name, &length));
    told("from", &name, length);
    SAY(sendto(server, "answer", 6, 0, (void *)&name, length));
    SAY(recv(client, buffer, 100, 0));
    SAY(sent_to(client, "/tmp/nobody", "x"));
    SAY(sent_to(client, "@nobody", "x"));
    SAY(write(client, "x", 1));
    SAY(connected(client, "/tmp/server"));
    names(client);
    SAY(write(client, "connected", 9));
    SAY(recv(server, buffer, 100, 0));
    int other = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(sent_to(other, "@client", "x"));
    SAY(listen(server, 1));
    SAY(accept(server, 0, 0));
    close(server);
    SAY(write(client, "x", 1));
    SAY(sent_to(other, "/tmp/server", "x"));
    SAY(unlink("/tmp/server"));
    SAY(sent_to(other, "/tmp/server", "x"));
    close(client);
    close(other);

    // Many senders, all of whom get through.
    server = socket(AF_UNIX, SOCK_DGRAM, 0);
    bound(server, "@many");
    for (int i = 0; i < 8; i++)
        if (!fork()) {
            int own = socket(AF_UNIX, SOCK_DGRAM, 0);
            connected(own, "@many");
            for (int j = 0; j < 200; j++)
                if (write(own, buffer, 100 + i) != 100 + i) _exit(1);
            _exit(0);
        }
    int counts[8] = {0};
    for (int i = 0; i < 1600; i++) {
        long part = read(server, buffer, 1000);
        if (part >= 100 && part < 108) counts[part - 100]++;
    }
    for (int i = 0; i < 8; i++) printf("%d ", counts[i]);
    int bad = 0, ended;
    while (wait(&ended) > 0) bad += ended != 0;
    printf("%d bad\n", bad);
    close(server);
}

static void packets(void) {
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    SAY(write(ends[0], "first", 5));
    SAY(write(ends[0], "second", 6));
    SAY(read(ends[1], buffer, 2));
    SAY(read(ends[1], buffer, 100));
    SAY(shutdown(ends[0], SHUT_WR));
    SAY(read(ends[1], buffer, 100));
    SAY(in(ends[1]));
    SAY(close(ends[0]));
    SAY(in(ends[1]));
    SAY(write(ends[1], "x", 1));
    close(ends[1]);
    int server = socket(AF_UNIX, SOCK_SEQPACKET, 0), client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    SAY(read(client, buffer, 1));
    SAY(bound(server, "@packets"));
    SAY(listen(server, 3));
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connected(stream, "@packets"));
    SAY(connected(client, "@packets"));
    int accepted = accept(server, 0, 0);
    SAY(write(client, "packet", 6));
    SAY(read(accepted, buffer, 100));
    close(stream);
    close(server);
    close(client);
    SAY(read(accepted, buffer, 100));
    close(accepted);
}

static void connections(void) {
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(in(server));
    SAY(listen(server, 1));
    SAY(read(client, buffer, 1));
    SAY(write(client, "x", 1));
    SAY(connected(client, "/tmp/none"));
    SAY(bound(server, "/tmp/stream"));
    SAY(connected(client, "/tmp/stream"));
    SAY(connected(client, "/tmp"));
    SAY(accept(server, 0, 0));
    SAY(option(server, SO_ACCEPTCONN));
    SAY(listen(server, 1));
    SAY(option(server, SO_ACCEPTCONN));
    SAY(in(server));
    SAY(connected(client, "/tmp/stream"));
    SAY(connected(client, "/tmp/stream"));
    SAY(in(server));
    SAY(in(client));
    SAY(write(client, "early", 5));
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    int accepted = accept4(server, (void *)&name, &length, SOCK_CLOEXEC);
    told("accepted", &name, length);
    SAY(fcntl(accepted, F_GETFD));
    names(accepted);
    names(client);
    SAY(read(accepted, buffer, 100));
    struct ucred peer;
    length = sizeof peer;
    SAY(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    SAY(peer.pid == getpid());
    length = sizeof peer;
    SAY(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    SAY(length);
    SAY(option(client, SO_TYPE));
    SAY(option(client, SO_DOMAIN));
    SAY(option(client, SO_PROTOCOL));
    SAY(option(client, SO_REUSEADDR));
    SAY(set(client, SO_REUSEADDR, 5));
    SAY(option(client, SO_REUSEADDR));
    SAY(option(client, SO_SNDBUF));
    SAY(set(client, SO_SNDBUF, 10000));
    SAY(option(client, SO_SNDBUF));
    SAY(setsockopt(client, 6, 1, buffer, 4));
    SAY(set(client, 9999, 1));
    SAY(sendto(client, "x", 1, 0, (void *)&name, 110));
    // Without a descriptor for it a connection stays where it is.
    int waits = socket(AF_UNIX, SOCK_STREAM, 0), top = dup(0);
    close(top);
    SAY(connected(waits, "/tmp/stream"));
    struct rlimit before, fewer;
    getrlimit(RLIMIT_NOFILE, &before);
    fewer = before;
    fewer.rlim_cur = top;
    setrlimit(RLIMIT_NOFILE, &fewer);
    SAY(accept(server, 0, 0));
    setrlimit(RLIMIT_NOFILE, &before);
    int late = accept(server, 0, 0);
    SAY(write(waits, "patient", 7));
    SAY(read(late, buffer, 100));
    close(waits);
    close(late);
    // The backlog: two wait, the third finds no room.
    int more[3];
    for (int i = 0; i < 3; i++) {
        more[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        SAY(connected(more[i], "/tmp/stream"));
    }
    if (!fork()) {
        int late = socket(AF_UNIX, SOCK_STREAM, 0);
        _exit(connected(late, "/tmp/stream") ? 1 : 0);
    }
    usleep(20000);
    close(accept(server, 0, 0));
    int ended;
    wait(&ended);
    SAY(ended);
    // Those that were not accepted.
    SAY(close(server));
    SAY(in(more[1]));
    SAY(read(more[1], buffer, 1));
    SAY(read(more[1], buffer, 1));
    SAY(connected(more[2], "/tmp/stream"));
    SAY(close(accepted));
    SAY(read(client, buffer, 1));
    close(client);
    for (int i = 0; i < 3; i++) close(more[i]);
    SAY(unlink("/tmp/stream"));
    // Names without files.
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bound(server, "@a name\n"));
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bound(client, "@a name\n"));
    SAY(connected(client, "@a name\n"));
    SAY(listen(server, 0));
    SAY(connected(client, "@a name\n"));
    SAY(shutdown(server, SHUT_RD));
    SAY(in(server));
    close(server);
    close(client);
    struct sockaddr_un empty = {.sun_family = AF_UNIX};
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(server, (void *)&empty, sizeof(sa_family_t)));
    length = sizeof name;
    SAY(getsockname(server, (void *)&name, &length));
    SAY(length);
    SAY(bind(server, (void *)&empty, 1));
    empty.sun_family = AF_INET;
    SAY(bind(server, (void *)&empty, 20));
    close(server);
    SAY(socket(AF_UNIX, 77, 0));
    SAY(socket(AF_UNIX, SOCK_STREAM, 7));
    SAY(socket(999, SOCK_STREAM, 0));
    int ends[2];
    SAY(socketpair(AF_INET, SOCK_STREAM, 0, ends));
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, nowhere));
    SAY(bind(0, (void *)&empty, 20));
    SAY(listen(99, 1));
}

static long send_files(int to, const int *files, int count, int flags) {
    char control[CMSG_SPACE(16 * sizeof(int))];
    memset(control, 0, sizeof control);
    struct iovec part = {"files", 5};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *item = CMSG_FIRSTHDR(&message);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(item), files, count * sizeof(int));
    return sendmsg(to, &message, flags);
}
static int got[16], got_count, got_flags;
static long receive_files(int from, int room, int flags) {
    char control[CMSG_SPACE(16 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    char bytes[32];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    long result = recvmsg(from, &message, flags);
    got_count = 0;
    got_flags = message.msg_flags;
    if (result >= 0)
        for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
            if (item->cmsg_type == SCM_CREDENTIALS) {
                struct ucred *who = (void *)CMSG_DATA(item);
                printf("  credentials: own %d user %d group %d\n", who->pid == getpid(), who->uid, who->gid);
                continue;
            }
            int count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(got, CMSG_DATA(item), count * sizeof(int));
            got_count = count;
        }
    return result;
}

static void rights(void) {
    int ends[2], line[2];
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pipe(line);
    SAY(send_files(ends[0], line, 2, 0));
    SAY(write(ends[0], "more", 4));
    SAY(receive_files(ends[1], CMSG_SPACE(16 * sizeof(int)), MSG_CMSG_CLOEXEC));
    printf("%d files, flags %x\n", got_count, got_flags);
    SAY(fcntl(got[0], F_GETFD));
    SAY(write(got[1], "through", 7));
    SAY(read(line[0], buffer, 100));
    close(got[0]);
    close(got[1]);
    SAY(read(ends[1], buffer, 100));
    // Too little room, and none.
    SAY(send_files(ends[0], line, 2, 0));
    SAY(receive_files(ends[1], CMSG_LEN(sizeof(int)), 0));
    printf("%d files, cut %d\n", got_count, (got_flags & MSG_CTRUNC) != 0);
    close(got[0]);
    SAY(send_files(ends[0], line, 2, 0));
    SAY(receive_files(ends[1], 0, 0));
    printf("%d files, cut %d\n", got_count, (got_flags & MSG_CTRUNC) != 0);
    int bad[] = {line[0], 99};
    SAY(send_files(ends[0], bad, 2, 0));
    // What is on its way stays open.
    SAY(send_files(ends[0], line + 1, 1, 0));
    close(line[1]);
    fcntl(line[0], F_SETFL, O_NONBLOCK);
    SAY(read(line[0], buffer, 1));
    SAY(receive_files(ends[1], CMSG_SPACE(sizeof(int)), 0));
    close(got[0]);
    SAY(read(line[0], buffer, 1));
    // Credentials.
    SAY(set(ends[1], SO_PASSCRED, 1));
    SAY(write(ends[0], "who", 3));
    SAY(receive_files(ends[1], 200, 0));
    SAY(set(ends[1], SO_PASSCRED, 0));
    close(ends[0]);
    close(ends[1]);

    // A server is passed to a child, which accepts.
    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    bound(server, "@passed");
    listen(server, 5);
    SAY(send_files(ends[0], &server, 1, 0));
    close(server);
    if (!fork()) {
        close(ends[0]);
        receive_files(ends[1], CMSG_SPACE(sizeof(int)), 0);
        int accepted = accept(got[0], 0, 0);
        write(accepted, "accepted", 8);
        _exit(0);
    }
    close(ends[1]);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connected(client, "@passed"));
    SAY(read(client, buffer, 100));
    wait(0);
    close(client);
    close(ends[0]);
}

// A descriptor in a circle of sockets holds the end of a pipe; when the circle is garbage, the pipe is at its end.
static void circles(void) {
    for (int length = 1; length <= 3; length++) {
        int pairs[3][2], line[2];
        pipe(line);
        for (int i = 0; i < length; i++) socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]);
        for (int i = 0; i < length; i++) {
            int files[] = {pairs[(i + 1) % length][1], line[1]};
            send_files(pairs[i][0], files, 2, 0);
        }
        close(line[1]);
        for (int i = 0; i < length; i++) {
            close(pairs[i][0]);
            close(pairs[i][1]);
        }
        // Another socket is closed, which makes the kernel look.
        int other[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, other);
        close(other[0]);
        close(other[1]);
        struct pollfd end = {line[0], POLLIN, 0};
        int circle_found = poll(&end, 1, 2000);
        printf("circle of %d: %d %x\n", length, circle_found, end.revents);
        close(line[0]);
    }
    // A chain: each socket waits in the next.
    int line[2];
    pipe(line);
    int last = line[1];
    for (int i = 0; i < 500; i++) {
        int ends[2];
        socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
        if (send_files(ends[0], &last, 1, 0) < 0) perror("chain");
        close(last);
        close(ends[0]);
        last = ends[1];
    }
    close(last);
    struct pollfd end = {line[0], POLLIN, 0};
    int chain_found = poll(&end, 1, 5000);
    printf("chain: %d %x\n", chain_found, end.revents);
    close(line[0]);
    // A connection that was not accepted holds one that is on its way in it.
    pipe(line);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    bound(server, "@pending");
    listen(server, 5);
    connected(client, "@pending");
    int files[] = {server, line[1]};
    SAY(send_files(client, files, 2, 0));
    close(line[1]);
    close(server);
    close(client);
    end = (struct pollfd){line[0], POLLIN, 0};
    int pending_found = poll(&end, 1, 2000);
    printf("pending: %d %x\n", pending_found, end.revents);
    close(line[0]);
}

static void several(void) {
    int ends[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    struct iovec parts[3] = {{"a", 1}, {"bc", 2}, {"def", 3}};
    struct mmsghdr out[3];
    memset(out, 0, sizeof out);
    for (int i = 0; i < 3; i++) {
        out[i].msg_hdr.msg_iov = &parts[i];
        out[i].msg_hdr.msg_iovlen = 1;
    }
    SAY(sendmmsg(ends[0], out, 3, 0));
    printf("%u %u %u\n", out[0].msg_len, out[1].msg_len, out[2].msg_len);
    struct mmsghdr back[4];
    struct iovec room[4];
    memset(back, 0, sizeof back);
    for (int i = 0; i < 4; i++) {
        room[i] = (struct iovec){buffer + 10 * i, i == 1 ? 1 : 10};
        back[i].msg_hdr.msg_iov = &room[i];
        back[i].msg_hdr.msg_iovlen = 1;
    }
    SAY(recvmmsg(ends[1], back, 4, MSG_WAITFORONE, 0));
    printf("%u %u %u, cut %x\n", back[0].msg_len, back[1].msg_len, back[2].msg_len, back[1].msg_hdr.msg_flags);
    SAY(recvmmsg(ends[1], back, 4, MSG_DONTWAIT, 0));
    close(ends[0]);
    close(ends[1]);
    int set = epoll_create1(0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    struct epoll_event wanted = {EPOLLIN | EPOLLRDHUP | EPOLLET, {.u32 = 5}}, found;
    SAY(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &wanted));
    SAY(epoll_wait(set, &found, 1, 0));
    write(ends[1], "x", 1);
    SAY(epoll_wait(set, &found, 1, 1000));
    SAY(found.events);
    SAY(epoll_wait(set, &found, 1, 0));
    write(ends[1], "y", 1);
    SAY(epoll_wait(set, &found, 1, 1000));
    SAY(read(ends[0], buffer, 100));
    close(ends[1]);
    SAY(epoll_wait(set, &found, 1, 1000));
    SAY(found.events);
    close(ends[0]);
    SAY(epoll_wait(set, &found, 1, 0));
    close(set);
}

int main(void) {
    signal(SIGPIPE, on_pipe);
    setvbuf(stdout, 0, _IOLBF, 0);
    unlink("/tmp/server");
    unlink("/tmp/stream");
    unlink("/tmp/again");
    streams();
    datagrams();
    packets();
    connections();
    rights();
    circles();
    several();
    return 0;
}
