// Reads a disk as it is, from many threads at once, and checks each byte: `disk PATH THREADS READS`. The disk holds, at
// each place, what `expected` says.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *path;
static int reads;
static off_t size;
static int errors[256];

static unsigned char expected(uint64_t at) {
    return (at >> 9) * 31 + (at & 511) * 7 + (at >> 20);
}

static void *read_some(void *argument) {
    uint64_t seed = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 1;
    static __thread unsigned char buffer[20000];
    int file = open(path, O_RDONLY);
    if (file < 0) return perror(path), (void *)1;
    for (int i = 0; i < reads; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        off_t at = (seed >> 20) % size;
        size_t wanted = 1 + (seed >> 5) % sizeof buffer;
        if (i % 2) at &= ~4095, wanted = 4096;
        ssize_t got = pread(file, buffer, wanted, at);
        if (got < 0 && errno == EIO) {
            errors[(uintptr_t)argument]++;
            continue;
        }
        ssize_t most = wanted < size - at ? (ssize_t)wanted : (ssize_t)(size - at);
        // A read that fails behind its first page is a shorter one.
        if (got <= 0 || got > most) return printf("%zd of %zu bytes at %ld\n", got, wanted, (long)at), (void *)1;
        for (ssize_t j = 0; j < got; j++) {
            if (buffer[j] != expected(at + j)) return printf("wrong byte at %ld\n", (long)(at + j)), (void *)1;
        }
    }
    close(file);
    return 0;
}

int main(int count, char **arguments) {
    path = arguments[1];
    int threads = atoi(arguments[2]), total = 0;
    reads = atoi(arguments[3]);
    struct stat found;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &found)) return perror(path), 1;
    size = lseek(file, 0, SEEK_END);
    printf("a %s of %ld bytes\n", S_ISBLK(found.st_mode) ? "disk" : "file", (long)size);
    unsigned char byte;
    if (pread(file, &byte, 1, size) != 0) return puts("something lies behind the end"), 1;
    if (open(path, O_RDWR) >= 0 || errno != EACCES) return puts("it can be written"), 1;
    pthread_t ids[256];
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], 0, read_some, (void *)(uintptr_t)i)) return perror("pthread_create"), 1;
    }
    for (int i = 0; i < threads; i++) {
        void *failed;
        pthread_join(ids[i], &failed);
        if (failed) return 1;
        total += errors[i];
    }
    printf("%d errors\n", total);
    return 0;
}
