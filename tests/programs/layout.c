/* Where things are in memory: prints it, makes a child that checks that it has the same, and executes itself once. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *name, uintptr_t address)
{
	printf("%s %lx\n", name, (unsigned long)address);
}

/* The start of the line of /proc/self/maps with this name. */
static uintptr_t mapped(const char *name)
{
	char line[512];
	uintptr_t found = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	while (maps && fgets(line, sizeof line, maps))
		if (strstr(line, name))
			found = strtoul(line, NULL, 16);
	fclose(maps);
	return found;
}

int main(int argc, char **argv)
{
	const unsigned char *random = (const void *)getauxval(AT_RANDOM);
	int local, status;

	/* musl's malloc has used no heap yet. */
	syscall(SYS_brk, syscall(SYS_brk, 0) + 8192);
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	show("code", (uintptr_t)&main);
	show("heap", mapped("[heap]"));
	show("mmap", (uintptr_t)page);
	show("stack", mapped("[stack]"));
	show("local", (uintptr_t)&local);
	printf("random ");
	for (int i = 0; i < 16; i++)
		printf("%02x", random[i]);
	printf("\n");
	fflush(stdout);

	/* A child has its parent's places. */
	uintptr_t heap = mapped("[heap]");
	pid_t child = fork();
	if (child == 0) {
		memset(page, 1, 4096);
		_exit(mapped("[heap]") != heap || (uintptr_t)sbrk(0) < heap);
	}
	if (waitpid(child, &status, 0) != child || status != 0)
		return 1;
	if (argc > 1) {
		execl("/proc/self/exe", argv[0], NULL);
		return 2;
	}
	return 0;
}
