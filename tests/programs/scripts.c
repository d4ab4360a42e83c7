/* Makes scripts in a folder and executes them; it is their interpreter too. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int interpret(int argc, char **argv)
{
	char name[32] = "";
	int file = open("/proc/self/comm", O_RDONLY);

	if (read(file, name, sizeof name - 1) > 0)
		name[strcspn(name, "\n")] = 0;
	for (int i = 0; i < argc; i++)
		printf(" [%s]", argv[i]);
	printf(" as %s, %s\n", (char *)getauxval(AT_EXECFN), name);
	return 0;
}

static void make(const char *name, const char *text, size_t length, mode_t mode)
{
	unlink(name);
	int file = open(name, O_CREAT | O_WRONLY, 0600);
	if (write(file, text, length) != (ssize_t)length || fchmod(file, mode) || close(file))
		exit(1);
}

static void execute(const char *name)
{
	char *arguments[] = { "zero", "one", "two words", NULL }, *environment[] = { "A=b", NULL };
	int status;

	printf("%s:", name);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		execve(name, arguments, environment);
		printf(" %s\n", strerror(errno));
		fflush(stdout);
		_exit(1);
	}
	waitpid(child, &status, 0);
}

static void try(const char *line, size_t length)
{
	make("script", line, length, 0755);
	execute("./script");
}

#define TRY(line) try(line, sizeof line - 1)

int main(int argc, char **argv)
{
	char own[4096] = "", text[400];

	if (argc != 2 || !strcmp(argv[0], "./i"))
		return interpret(argc, argv);
	if (readlink("/proc/self/exe", own, sizeof own - 1) < 0 || chdir(argv[1]))
		return 1;
	unlink("i");
	if (symlink(own, "i"))
		return 1;

	TRY("#!./i\n");
	TRY("#!./i one\n");
	TRY("#! \t./i \t one and  two \t \nand more\n");
	TRY("#!./i\tone\n");
	TRY("#!./i");
	TRY("#!./i one");
	TRY("#!./i one ");
	TRY("#!./i ");
	TRY("#!./i one\0two\n");
	TRY("#!\n");
	TRY("#! \t \n");
	TRY("#!");
	TRY("#");
	TRY("");
	TRY("echo no script\n");
	TRY("#!./missing\n");
	TRY("#!./\n");
	TRY("#!./i/under\n");
	make("plain", "#!./i\n", 6, 0644);
	TRY("#!./plain\n");
	execute("./plain");
	execute("./missing");

	/* The first 256 bytes count. */
	memset(text, ' ', sizeof text);
	memcpy(text, "#!", 2);
	try(text, sizeof text);
	memset(text, 'i', sizeof text);
	memcpy(text, "#!./", 4);
	try(text, sizeof text);
	text[300] = '\n';
	try(text, sizeof text);
	memset(text, 'a', sizeof text);
	memcpy(text, "#!./i ", 6);
	try(text, sizeof text);
	text[254] = '\n';
	try(text, sizeof text);
	text[254] = 'a';
	text[255] = '\n';
	try(text, sizeof text);
	text[255] = 'a';
	text[256] = '\n';
	try(text, sizeof text);

	/* Scripts that interpret scripts, and one that interprets itself. */
	make("s1", "#!./i 1\n", 8, 0755);
	for (int i = 2; i < 8; i++) {
		char name[8], line[32];
		snprintf(name, sizeof name, "s%d", i);
		snprintf(line, sizeof line, "#!./s%d %d\n", i - 1, i);
		make(name, line, strlen(line), 0755);
		snprintf(line, sizeof line, "./%s", name);
		execute(line);
	}
	make("script", "#!./script\n", 11, 0755);
	execute("./script");
	return 0;
}
