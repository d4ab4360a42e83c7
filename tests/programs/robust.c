/* Locks and joins that survive the threads that held or were waited for, however those ended. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_FOR_FUTEX 0

static struct {
	pthread_mutex_t locks[3];
	atomic_int word;
} *shared;

static int ready[2];

static void wait_until_ready(void)
{
	char byte;

	if (read(ready[0], &byte, 1) != 1)
		exit(1);
}

static void say_ready(void)
{
	if (write(ready[1], "r", 1) != 1)
		exit(1);
}

static void make_locks(void)
{
	pthread_mutexattr_t attributes;

	pthread_mutexattr_init(&attributes);
	if (pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) ||
	    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST))
		exit(2);
	for (int i = 0; i < 3; i++)
		pthread_mutex_init(&shared->locks[i], &attributes);
}

/* Takes each lock from whoever is gone. */
static int inherit_locks(void)
{
	int inherited = 0;

	for (int i = 0; i < 3; i++) {
		int error = pthread_mutex_lock(&shared->locks[i]);
		if (error == EOWNERDEAD) {
			inherited++;
			pthread_mutex_consistent(&shared->locks[i]);
		} else if (error)
			exit(100 + error);
		pthread_mutex_unlock(&shared->locks[i]);
	}
	return inherited;
}

static void take_locks(int count)
{
	for (int i = 0; i < count; i++)
		if (pthread_mutex_lock(&shared->locks[i]))
			_exit(1);
}

static void *hold(void *sleep_on)
{
	take_locks(2);
	say_ready();
	if (sleep_on)
		for (;;)
			pause();
	return NULL;
}

static void report(const char *what, pid_t owner)
{
	int status;

	waitpid(owner, &status, 0);
	printf("%s: owner %s %d, %d locks inherited\n", what, WIFSIGNALED(status) ? "killed by" : "exited with",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), inherit_locks());
}

static void killed(void)
{
	int status;

	pid_t owner = fork();
	if (owner == 0) {
		take_locks(3);
		say_ready();
		for (;;)
			pause();
	}
	wait_until_ready();
	/* Somebody who waits for the locks is woken with them. */
	pid_t waiter = fork();
	if (waiter == 0) {
		say_ready();
		_exit(inherit_locks());
	}
	wait_until_ready();
	struct timespec while_it_waits = { 0, 20000000 };
	nanosleep(&while_it_waits, NULL);
	kill(owner, SIGKILL);
	waitpid(waiter, &status, 0);
	printf("the waiter inherited %d\n", WEXITSTATUS(status));
	report("killed", owner);

	/* Stopped, and killed then. */
	owner = fork();
	if (owner == 0) {
		take_locks(1);
		raise(SIGSTOP);
	}
	waitpid(owner, &status, WUNTRACED);
	kill(owner, SIGKILL);
	report("killed while stopped", owner);
}

static void ended_by_another_thread(void)
{
	pid_t owner = fork();
	if (owner == 0) {
		pthread_t thread;
		pthread_create(&thread, NULL, hold, "for ever");
		wait_until_ready();
		_exit(4);
	}
	report("exit_group", owner);

	owner = fork();
	if (owner == 0) {
		pthread_t thread;
		pthread_create(&thread, NULL, hold, NULL);
		wait_until_ready();
		pthread_join(thread, NULL);
		_exit(inherit_locks());
	}
	report("end of the thread", owner);
}

static void runs_another_program(const char *self)
{
	pid_t owner = fork();
	if (owner == 0) {
		take_locks(2);
		execl(self, self, "again", NULL);
	}
	report("execve", owner);
}

static char stack[64 * 1024] __attribute__((aligned(16)));

static int wait_for_death(void *unused)
{
	say_ready();
	for (;;)
		pause();
	return unused != NULL;
}

/* A process that shares the memory has a word that says that it is there. */
static void cleared(void)
{
	int status;

	atomic_store(&shared->word, 1);
	pid_t child = clone(wait_for_death, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, NULL, NULL, NULL,
			    &shared->word);
	wait_until_ready();
	kill(child, SIGKILL);
	while (atomic_load(&shared->word) != 0)
		syscall(SYS_futex, &shared->word, WAIT_FOR_FUTEX, 1, NULL, NULL, 0);
	waitpid(child, &status, 0);
	printf("word %d, killed by %d\n", atomic_load(&shared->word), WTERMSIG(status));
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return 5;
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(ready))
		return 1;
	make_locks();
	killed();
	ended_by_another_thread();
	runs_another_program("/proc/self/exe");
	cleared();
	return 0;
}
