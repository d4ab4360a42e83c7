// Makes many sockets, messages or descriptors on their way.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[65536];

static int send_files(int to, const int *files, int count) {
    char control[CMSG_SPACE(253 * sizeof(int))];
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *item = CMSG_FIRSTHDR(&message);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(item), files, count * sizeof(int));
    return sendmsg(to, &message, MSG_DONTWAIT);
}

static int end_of(int line) {
    struct pollfd end = {line, POLLIN, 0};
    poll(&end, 1, 60000);
    return end.revents;
}

// Messages that nobody receives, until there is no memory for more; then one that somebody does.
static void hog(void) {
    int count = 0, sockets[1000], reason = 0;
    while (count < 998 && !reason) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) {
            reason = errno;
            break;
        }
        sockets[count++] = ends[0];
        sockets[count++] = ends[1];
        while (write(ends[0], buffer, sizeof buffer) > 0) {}
        if (errno != EAGAIN) reason = errno;
    }
    printf("full: %s\n", strerror(reason));
    for (int i = 0; i < count; i++) close(sockets[i]);
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    write(ends[0], "after", 5);
    printf("afterwards: %d\n", (int)read(ends[1], buffer, 100));
}

// Each socket waits in the inbox of the next; the first holds the end of a pipe.
static void chain(int length) {
    int line[2];
    pipe(line);
    int last = line[1];
    for (int i = 0; i < length; i++) {
        int ends[2];
        socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
        if (send_files(ends[0], &last, 1) < 0) perror("chain");
        close(last);
        close(ends[0]);
        last = ends[1];
    }
    close(last);
    printf("%d in a chain: %x\n", length, end_of(line[0]));
}

// Each of many sockets is on its way to the one before it, with the end of a pipe.
static void circle(int length) {
    int line[2], ends[400][2];
    pipe(line);
    for (int i = 0; i < length; i++) socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]);
    for (int i = 0; i < length; i++) {
        int files[] = {ends[(i + 1) % length][1], line[1]};
        if (send_files(ends[i][0], files, 2) < 0) perror("circle");
    }
    close(line[1]);
    for (int i = 0; i < length; i++) {
        close(ends[i][0]);
        close(ends[i][1]);
    }
    int other[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, other);
    close(other[0]);
    printf("%d in a circle: %x\n", length, end_of(line[0]));
}

// As many descriptors on their way as may be.
static void many(void) {
    int ends[2], files[253], sent = 0;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    for (int i = 0; i < 253; i++) files[i] = ends[0];
    while (send_files(ends[0], files, 253) > 0) sent++;
    printf("sent %d, %s\n", sent, strerror(errno));
    close(ends[1]);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    // They are dropped by somebody else.
    int again = 0;
    for (int tries = 0; again < sent && tries < 10000; tries++) {
        if (send_files(ends[0], files, 253) > 0) again++;
        else usleep(1000);
    }
    printf("all open again: %d\n", again);
}

// Clients whose server never accepts and goes.
static void backlog(int count) {
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0backlog"};
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 8;
    int server = socket(AF_UNIX, SOCK_STREAM, 0), clients[1000], wait = 0, reset = 0;
    bind(server, (void *)&name, length);
    listen(server, 5000);
    for (int i = 0; i < count; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        wait += connect(clients[i], (void *)&name, length) == 0;
        write(clients[i], buffer, 2000);
    }
    close(server);
    for (int i = 0; i < count; i++) reset += read(clients[i], buffer, 1) < 0 && errno == ECONNRESET;
    printf("%d wait, %d reset\n", wait, reset);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(arguments[1], "hog")) hog();
    if (!strcmp(arguments[1], "chain")) chain(1000);
    if (!strcmp(arguments[1], "circle")) circle(400);
    if (!strcmp(arguments[1], "many")) many();
    if (!strcmp(arguments[1], "backlog")) backlog(1000);
    return 0;
}
