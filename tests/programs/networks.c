// TCP and UDP inside the machine: each line is the same on Linux.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call)                                                                                                          \
    do {                                                                                                                   \
        errno = 0;                                                                                                         \
        long result = (long)(call);                                                                                        \
        printf("%-70s %ld %s\n", #call, result, result < 0 ? strerror(errno) : "");                                        \
    } while (0)

static char buffer[1 << 18];

// Ports of this run: those of the last may be waiting for their time to be over.
static int first_port;
static int port(int number) { return first_port + number; }


static int in(int file) {
    struct pollfd poll_file = {file, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
    return poll(&poll_file, 1, 0) < 0 ? -1 : poll_file.revents;
}
static struct sockaddr_in at(const char *address, int port) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &name.sin_addr);
    return name;
}
static struct sockaddr_in6 at6(const char *address, int port) {
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET6, address, &name.sin6_addr);
    return name;
}
static int bound(int file, const char *address, int port) {
    struct sockaddr_in name = at(address, port);
    return bind(file, (void *)&name, sizeof name);
}
static int connected(int file, const char *address, int port) {
    struct sockaddr_in name = at(address, port);
    return connect(file, (void *)&name, sizeof name);
}
static int bound6(int file, const char *address, int port) {
    struct sockaddr_in6 name = at6(address, port);
    return bind(file, (void *)&name, sizeof name);
}
static int connected6(int file, const char *address, int port) {
    struct sockaddr_in6 name = at6(address, port);
    return connect(file, (void *)&name, sizeof name);
}
static long sent_to(int file, const char *address, int port, const char *bytes) {
    struct sockaddr_in name = at(address, port);
    return sendto(file, bytes, strlen(bytes), 0, (void *)&name, sizeof name);
}
static int port_of(int file) {
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    return getsockname(file, (void *)&name, &length) ? -1 : ntohs(name.sin6_port);
}
// Tells a name, but no number of a port that the kernel has chosen.
static void told(const char *what, void *name, socklen_t length, int port) {
    char text[64] = "";
    struct sockaddr_in *v4 = name;
    struct sockaddr_in6 *v6 = name;
    if (length >= 2 && v4->sin_family == AF_INET) inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    if (length >= 2 && v4->sin_family == AF_INET6) inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    int given = length >= 4 ? ntohs(v4->sin_port) : 0;
    printf("%s: %d bytes, %s port %s\n", what, (int)length, text, given == 0 ? "0" : given == port ? "as asked" : "some");
}
static void names(int file, int port) {
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    getsockname(file, (void *)&name, &length);
    told("own", &name, length, port);
    length = sizeof name;
    if (getpeername(file, (void *)&name, &length)) printf("peer: %s\n", strerror(errno));
    else told("peer", &name, length, port);
}
static int get(int file, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(file, level, name, &value, &length) ? -errno : value;
}
static int set(int file, int level, int name, int value) { return setsockopt(file, level, name, &value, sizeof value); }
static int socket_error(int file) { return get(file, SOL_SOCKET, SO_ERROR); }

static void tcp(void) {
    int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(in(server));
    SAY(read(client, buffer, 1));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    SAY(shutdown(client, SHUT_RDWR));
    SAY(bound(server, "10.77.0.1", port(1)));
    SAY(bound(server, "127.0.0.1", port(1)));
    SAY(bound(server, "127.0.0.1", port(2)));
    SAY(bound(client, "127.0.0.1", port(1)));
    SAY(connected(client, "127.0.0.1", port(1)));
    SAY(listen(server, 5));
    int other = socket(AF_INET, SOCK_STREAM, 0);
    SAY(bound(other, "0.0.0.0", port(1)));
    SAY(set(other, SOL_SOCKET, SO_REUSEADDR, 1));
    SAY(bound(other, "0.0.0.0", port(1)));
    SAY(bound(other, "127.0.0.2", port(1)));
    close(other);
    SAY(get(server, SOL_SOCKET, SO_ACCEPTCONN));
    SAY(in(server));
    SAY(connected(client, "127.0.0.1", port(1)));
    SAY(connected(client, "127.0.0.1", port(1)));
    SAY(in(server));
    SAY(write(client, "hello", 5));
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    int accepted = accept(server, (void *)&name, &length);
    told("accepted", &name, length, port(1));
    SAY(ntohs(name.sin_port) == port_of(client));
    names(accepted, port(1));
    names(client, port(1));
    SAY(in(client));
    SAY(in(accepted));
    SAY(read(accepted, buffer, 100));
    SAY(sendto(client, "ignored", 7, 0, (void *)&name, sizeof name));
    length = sizeof name;
    SAY(recvfrom(accepted, buffer, 100, 0, (void *)&name, &length));
    SAY(get(client, IPPROTO_TCP, TCP_NODELAY));
    SAY(set(client, IPPROTO_TCP, TCP_NODELAY, 1));
    SAY(get(client, IPPROTO_TCP, TCP_NODELAY));
    SAY(set(client, SOL_SOCKET, SO_KEEPALIVE, 1));
    SAY(set(client, IPPROTO_TCP, TCP_KEEPIDLE, 300));
    SAY(get(client, IPPROTO_TCP, TCP_KEEPIDLE));
    SAY(set(client, IPPROTO_TCP, TCP_KEEPCNT, 0));
    SAY(get(client, SOL_SOCKET, SO_PROTOCOL));
    SAY(get(client, SOL_SOCKET, SO_DOMAIN));
    SAY(get(client, IPPROTO_IPV6, IPV6_V6ONLY));
    // The end of one direction, and then of the other.
    SAY(shutdown(client, SHUT_WR));
    SAY(in(accepted));
    SAY(read(accepted, buffer, 1));
    SAY(write(accepted, "still", 5));
    SAY(read(client, buffer, 100));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    SAY(close(accepted));
    SAY(read(client, buffer, 1));
    SAY(in(client));
    SAY(close(client));

    // The peer is gone: the first write does not know, the second does.
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connected(client, "127.0.0.1", port(1)));
    close(accept(server, 0, 0));
    SAY(in(client) & (POLLIN | POLLRDHUP | POLLHUP | POLLOUT));
    SAY(write(client, "x", 1));
    usleep(1000);
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    SAY(read(client, buffer, 1));
    close(client);
    // What was not read is lost.
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connected(client, "127.0.0.1", port(1)));
    accepted = accept(server, 0, 0);
    SAY(write(client, "unread", 6));
    usleep(1000);
    close(accepted);
    usleep(1000);
    SAY(read(client, buffer, 1));
    SAY(read(client, buffer, 1));
    SAY(send(client, "x", 1, MSG_NOSIGNAL));
    close(client);

    // Without waiting.
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connected(client, "127.0.0.1", port(1)));
    struct pollfd ready = {client, POLLOUT, 0};
    SAY(poll(&ready, 1, 1000));
    SAY(socket_error(client));
    accepted = accept4(server, 0, 0, SOCK_NONBLOCK);
    SAY(read(accepted, buffer, 1));
    close(accepted);
    close(client);
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connected(client, "127.0.0.1", port(9)));
    ready.fd = client;
    SAY(poll(&ready, 1, 1000));
    SAY(socket_error(client));
    SAY(socket_error(client));
    close(client);
    fcntl(server, F_SETFL, O_NONBLOCK);
    SAY(accept(server, 0, 0));
    close(server);

    // A port of the kernel's choice.
    server = socket(AF_INET, SOCK_STREAM, 0);
    SAY(listen(server, 5));
    names(server, port(1));
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connected(client, "0.0.0.0", port_of(server)));
    names(client, port_of(server));
    close(client);
    close(server);
    SAY(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    SAY(socket(AF_INET, SOCK_SEQPACKET, 0));
}

static void *transfer(void *argument) {
    int file = *(int *)argument;
    char *bytes = malloc(100000);
    for (int i = 0; i < 100000; i++) bytes[i] = (char)(i * 13);
    for (int turn = 0; turn < 30; turn++)
        for (long done = 0; done < 100000;) {
            long part = write(file, bytes + done, 100000 - done);
            if (part <= 0) return 0;
            done += part;
        }
    shutdown(file, SHUT_WR);
    free(bytes);
    return 0;
}

static void large(void) {
    int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    bound(server, "127.0.0.1", port(10));
    listen(server, 5);
    connected(client, "127.0.0.1", port(10));
    int accepted = accept(server, 0, 0);
    pthread_t thread;
    pthread_create(&thread, 0, transfer, &client);
    long at = 0, part, wrong = 0;
    while ((part = read(accepted, buffer, 30011)) > 0)
        for (long i = 0; i < part; i++, at++) wrong += buffer[i] != (char)(at % 100000 * 13);
    printf("%ld bytes, %ld wrong\n", at, wrong);
    pthread_join(thread, 0);
    close(accepted);
    close(client);
    close(server);
}

static void version6(void) {
    int server = socket(AF_INET6, SOCK_STREAM, 0), client;
    SAY(get(server, IPPROTO_IPV6, IPV6_V6ONLY));
    SAY(bound6(server, "::", port(20)));
    SAY(listen(server, 5));
    client = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(connected6(client, "::1", port(20)));
    int accepted = accept(server, 0, 0);
    names(accepted, port(20));
    names(client, port(20));
    close(accepted);
    close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connected(client, "127.0.0.1", port(20)));
    accepted = accept(server, 0, 0);
    names(accepted, port(20));
    names(client, port(20));
    close(accepted);
    close(client);
    client = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(connected6(client, "::ffff:127.0.0.1", port(20)));
    accepted = accept(server, 0, 0);
    names(client, port(20));
    close(accepted);
    close(client);
    close(server);
    server = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(set(server, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    SAY(bound6(server, "::1", port(21)));
    SAY(listen(server, 5));
    client = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connected(client, "127.0.0.1", port(21)));
    SAY(connected6(client, "::1", port(21)));
    close(client);
    close(server);
}

static void udp(void) {
    int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
    SAY(in(server));
    SAY(bound(server, "127.0.0.1", port(30)));
    SAY(write(client, "x", 1));
    SAY(sent_to(client, "127.0.0.1", port(30), "datagram"));
    SAY(sent_to(client, "127.0.0.1", port(31), "lost"));
    SAY(sent_to(client, "127.0.0.1", 0, "x"));
    SAY(in(server));
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    SAY(recvfrom(server, buffer, 3, MSG_TRUNC, (void *)&name, &length));
    told("from", &name, length, port_of(client));
    SAY(sendto(server, "", 0, 0, (void *)&name, length));
    SAY(recv(client, buffer, 10, 0));
    SAY(sendto(client, buffer, 70000, 0, (void *)&name, length));
    SAY(connected(client, "127.0.0.1", port(30)));
    names(client, port(30));
    SAY(write(client, "to the server", 13));
    SAY(recv(server, buffer, 100, 0));
    int other = socket(AF_INET, SOCK_DGRAM, 0);
    SAY(sent_to(other, "127.0.0.1", port_of(client), "not from the server"));
    SAY(recv(client, buffer, 100, MSG_DONTWAIT));
    SAY(close(server));
    SAY(write(client, "nobody", 6));
    usleep(1000);
    SAY(in(client) & (POLLERR | POLLOUT));
    SAY(write(client, "nobody", 6));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    SAY(connect(client, &none, sizeof none));
    SAY(write(client, "x", 1));
    SAY(listen(client, 1));
    close(client);
    close(other);
}

// A server with an edge-triggered set, as event loops have it, and clients in a process of their own.
static void loop(void) {
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    set(server, SOL_SOCKET, SO_REUSEADDR, 1);
    bound(server, "127.0.0.1", port(40));
    listen(server, 511);
    if (!fork()) {
        int clients[20], bad = 0;
        for (int i = 0; i < 20; i++) {
            clients[i] = socket(AF_INET, SOCK_STREAM, 0);
            bad += connected(clients[i], "127.0.0.1", port(40)) != 0;
        }
        for (int turn = 0; turn < 10; turn++) {
            for (int i = 0; i < 20; i++) {
                int length = 1000 * (i + 1) + turn;
                memset(buffer, 'a' + i, length);
                bad += write(clients[i], &length, 4) != 4;
                bad += write(clients[i], buffer, length) != length;
            }
            for (int i = 0; i < 20; i++) {
                int length = 0;
                bad += read(clients[i], &length, 4) != 4 || length != 1000 * (i + 1) + turn;
            }
        }
        _exit(bad != 0);
    }
    int set_of_all = epoll_create1(EPOLL_CLOEXEC), open = 0, ended = 0;
    struct epoll_event event = {EPOLLIN | EPOLLET, {.fd = server}}, found[16];
    epoll_ctl(set_of_all, EPOLL_CTL_ADD, server, &event);
    static struct {
        int wanted, got;
    } state[256];
    while (ended < 20) {
        int count = epoll_wait(set_of_all, found, 16, 2000);
        if (count <= 0) {
            printf("nothing comes: %d open, %d ended\n", open, ended);
            break;
        }
        for (int i = 0; i < count; i++) {
            if (found[i].data.fd == server) {
                int accepted;
                while ((accepted = accept4(server, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.fd = accepted}};
                    epoll_ctl(set_of_all, EPOLL_CTL_ADD, accepted, &wanted);
                    open++;
                }
                continue;
            }
            int file = found[i].data.fd;
            long part;
            for (;;) {
                if (state[file].wanted == 0) {
                    part = read(file, &state[file].wanted, 4);
                    if (part <= 0) break;
                }
                part = read(file, buffer, state[file].wanted - state[file].got);
                if (part <= 0) break;
                state[file].got += part;
                if (state[file].got == state[file].wanted) {
                    write(file, &state[file].wanted, 4);
                    state[file].wanted = state[file].got = 0;
                }
            }
            if (part == 0) {
                close(file);
                ended++;
            }
        }
    }
    int status;
    wait(&status);
    printf("%d connections, %d ended, %d\n", open, ended, status);
    close(set_of_all);
    close(server);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    first_port = 10000 + getpid() % 500 * 45;
    tcp();
    large();
    version6();
    udp();
    loop();
    return 0;
}
