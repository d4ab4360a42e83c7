// A dynamically linked program: what its dynamic linker was told, and what that one has done. Prints the same on Linux.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

extern char _start[];
static __thread int own = 7;
static int constructed;

__attribute__((constructor)) static void construct(void) { constructed++; }

static int object(struct dl_phdr_info *info, size_t size, void *count) {
    (void)size;
    const char *name = strrchr(info->dlpi_name, '/');
    // Linux has a vDSO beside them.
    if (strncmp(info->dlpi_name, "linux-vdso", 10) != 0)
        printf("object %s\n", name ? name + 1 : info->dlpi_name);
    ++*(int *)count;
    return 0;
}

static void *thread(void *argument) {
    own += *(int *)argument;
    return (void *)(long)own;
}

// The error of an execve, in a child that is gone if there is none.
static void execute(const char *path) {
    fflush(stdout);
    if (fork() == 0) {
        execl(path, path, "child", NULL);
        printf("%s: %s\n", path, strerror(errno));
        fflush(stdout);
        _exit(1);
    }
    int status;
    wait(&status);
    printf("%s ended with %x\n", path, status);
}

// A copy of this program with some bytes changed.
static void altered(const char *path, size_t offset, const void *bytes, size_t length) {
    int from = open("/proc/self/exe", O_RDONLY), to = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0755);
    char buffer[4096];
    ssize_t got;
    while ((got = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, got) != got)
            abort();
    if (length && pwrite(to, bytes, length, offset) != (ssize_t)length)
        abort();
    close(from);
    close(to);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        printf("child, executed as %s\n", strrchr((char *)getauxval(AT_EXECFN), '/') + 1);
        return 5;
    }
    printf("constructed %d times, entry %d\n", constructed, getauxval(AT_ENTRY) == (unsigned long)_start);
    unsigned long base = getauxval(AT_BASE);
    printf("the linker is an ELF file: %d, page %lu\n", memcmp((void *)base, ELFMAG, 4) == 0, base % 4096);
    const Elf64_Phdr *headers = (void *)getauxval(AT_PHDR);
    printf("header size %lu\n", getauxval(AT_PHENT));
    const Elf64_Phdr *interpreter = NULL;
    unsigned long bias = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++) {
        if (headers[i].p_type == PT_PHDR)
            bias = (unsigned long)headers - headers[i].p_vaddr;
        if (headers[i].p_type == PT_INTERP)
            interpreter = &headers[i];
    }
    printf("asks for %s\n", (char *)(bias + interpreter->p_vaddr));
    printf("secure %lu, random %d\n", getauxval(AT_SECURE), getauxval(AT_RANDOM) != 0);
    int count = 0;
    dl_iterate_phdr(object, &count);

    void *library = dlopen("libm.so.6", RTLD_NOW);
    double (*root)(double) = library ? (double (*)(double))dlsym(library, "sqrt") : NULL;
    printf("loaded later: %f\n", root ? root(2) : -1.0);
    printf("not there: %s\n", dlopen("libnothing.so", RTLD_NOW) ? "loaded" : dlerror());

    pthread_t other;
    void *result;
    pthread_create(&other, NULL, thread, &(int){35});
    pthread_join(other, &result);
    printf("thread-local %ld and %d\n", (long)result, own);

    char folder[] = "/tmp/linked-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder))
        return 1;
    // The same, then with a linker that is not there, one that is no program, and a path that has no end.
    unsigned long at = interpreter->p_offset, size = interpreter->p_filesz;
    altered("same", 0, "", 0);
    execute("./same");
    altered("missing", at, "/lib64/ld-linux-x86-64.so.9", 27);
    execute("./missing");
    altered("folder", at, "/lib64/", 8);
    execute("./folder");
    altered("text", at, "./text-linker", 14);
    altered("text-linker", 0, "no program", 10);
    execute("./text");
    altered("short", at, "./short-linker", 15);
    altered("short-linker", 0, "", 0);
    if (truncate("short-linker", 100))
        return 1;
    execute("./short");
    altered("endless", at + size - 1, "x", 1);
    execute("./endless");
    for (const char **name = (const char *[]){"same", "missing", "folder", "text", "text-linker", "short", "short-linker",
                                              "endless", NULL};
         *name; name++)
        unlink(*name);
    return chdir("/") || rmdir(folder) ? 1 : 9;
}
