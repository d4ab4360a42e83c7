/* Which numbers, and what else, a program keeps when another thread than the first executes it. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char self[4096];

static void *execute(void *how)
{
	char number[16];

	/* Time for the first thread to end, where it does. */
	nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
	snprintf(number, sizeof number, "%d", getpid());
	printf("%s: a thread of its own %d\n", (char *)how, syscall(SYS_gettid) != getpid());
	execl(self, self, how, number, NULL);
	return NULL;
}

static int threads(void)
{
	char line[256];
	int count = 0;
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof line, status))
		sscanf(line, "Threads: %d", &count);
	return count;
}

static void *set_mask(void *unused)
{
	umask(0077);
	return unused;
}

static unsigned mode_of_new(const char *path)
{
	struct stat status = { 0 };

	unlink(path);
	close(open(path, O_CREAT | O_WRONLY, 0777));
	stat(path, &status);
	unlink(path);
	return status.st_mode & 0777;
}

static void masks(const char *folder)
{
	pthread_t thread;
	int status;

	if (chdir(folder))
		exit(1);
	umask(022);
	printf("mask %03o", umask(07026));
	printf(" %03o, file %03o", umask(026), mode_of_new("file"));
	struct stat made = { 0 };
	rmdir("made");
	mkdir("made", 0777);
	stat("made", &made);
	rmdir("made");
	printf(", directory %03o\n", made.st_mode & 0777);
	pthread_create(&thread, NULL, set_mask, NULL);
	pthread_join(thread, NULL);
	printf("set by a thread: %03o\n", mode_of_new("file"));
	pid_t child = fork();
	if (child == 0) {
		printf("of the child: %03o\n", umask(0));
		fflush(stdout);
		_exit(mode_of_new("file") != 0777);
	}
	waitpid(child, &status, 0);
	printf("child %d, and still %03o\n", WEXITSTATUS(status), mode_of_new("file"));
}

/* What /proc says that this process is called. */
static const char *called(void)
{
	static char name[32];
	FILE *file = fopen("/proc/self/comm", "r");

	name[0] = 0;
	if (!file || !fgets(name, sizeof name, file))
		exit(1);
	fclose(file);
	name[strcspn(name, "\n")] = 0;
	return name;
}

static void *look_at_name(void *unused)
{
	char name[16];

	prctl(PR_GET_NAME, name);
	printf("inherited by a thread: %s\n", name);
	prctl(PR_SET_NAME, "its own");
	prctl(PR_GET_NAME, name);
	printf("its own: %s, the process is called %s\n", name, called());
	return unused;
}

static void names(void)
{
	char name[16];
	pthread_t thread;
	int status;

	prctl(PR_SET_NAME, "a name that is much too long");
	prctl(PR_GET_NAME, name);
	printf("cut: %s, %s\n", name, called());
	pthread_create(&thread, NULL, look_at_name, NULL);
	pthread_join(thread, NULL);
	if (fork() == 0) {
		printf("of the child: %s\n", called());
		fflush(stdout);
		_exit(0);
	}
	wait(&status);
	printf("bad address: %d\n", prctl(PR_SET_NAME, 8) == -1 && errno == EFAULT);
}

int main(int argc, char **argv)
{
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
		return 1;
	if (argc == 3) {
		printf("%s: called as its file is %d\n", argv[1], !strncmp(called(), strrchr(self, '/') + 1, 15));
		printf("%s: same process %d, first thread %ld, threads %d, mask %03o\n", argv[1], getpid() == atoi(argv[2]),
		       syscall(SYS_gettid) - getpid(), threads(), umask(0));
		/* It is the first thread in every way: its end is that of the process. */
		return 30 + (int)strlen(argv[1]);
	}
	masks(argv[1]);
	names();
	for (int i = 0; i < 2; i++) {
		pid_t child = fork();
		if (child == 0) {
			pthread_t thread;
			pthread_create(&thread, NULL, execute, i ? "alone" : "with others");
			if (i)
				syscall(SYS_exit, 3);
			for (;;)
				pause();
		}
		pid_t found = waitpid(child, &status, 0);
		printf("child %d, status %x\n", found == child, status);
	}
	return 0;
}
