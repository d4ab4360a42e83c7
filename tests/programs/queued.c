/* Signals that queue, that carry a value, and that are waited for. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void send(int number, int value)
{
	if (sigqueue(getpid(), number, (union sigval){ .sival_int = value }))
		printf("sigqueue: %s\n", strerror(errno));
}

static void show(const char *how, const siginfo_t *info)
{
	printf("%s %d: code %d value %d from me %d user %d\n", how, info->si_signo - (info->si_signo >= SIGRTMIN ? SIGRTMIN : 0),
	       info->si_code, info->si_code == SI_QUEUE ? info->si_value.sival_int : -1, info->si_pid == getpid(),
	       info->si_uid == getuid());
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	show("handler", info);
	(void)number, (void)context;
}

static sigset_t all_of_them(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	for (int i = 0; i < 4; i++)
		sigaddset(&set, SIGRTMIN + i);
	return set;
}

static void *look_in_thread(void *set)
{
	const struct timespec now = { 0, 0 };

	printf("in another thread: %d\n", sigtimedwait(set, NULL, &now));
	return NULL;
}

static void nothing(int number)
{
	(void)number;
}

/* Queues until there is no room, which depends on the system's limits. */
static int fill(void)
{
	struct rlimit limit;
	unsigned long count = 0;
	sigset_t set = all_of_them();
	siginfo_t info;

	getrlimit(RLIMIT_SIGPENDING, &limit);
	while (count < 100000 && sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = count }) == 0)
		count++;
	printf("queued as many as the limit says: %d, then %s\n", count == limit.rlim_cur, strerror(errno));
	printf("kill: %d, standard: %d\n", kill(getpid(), SIGRTMIN), sigqueue(getpid(), SIGUSR1, (union sigval){ 0 }));
	for (unsigned long i = 0; i < count; i++)
		if (sigwaitinfo(&set, &info) != (i == 0 ? SIGUSR1 : SIGRTMIN))
			return 1;
	printf("last but one value %d\n", info.si_value.sival_int);
	return 0;
}

int main(int argc, char **argv)
{
	sigset_t set = all_of_them(), old;
	siginfo_t info;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigprocmask(SIG_BLOCK, &set, &old);
	if (argc > 1)
		return fill();

	/* The lowest number first; of a number the oldest first, and a standard signal once. */
	for (int i = 0; i < 3; i++)
		send(SIGRTMIN + 1, 10 + i);
	kill(getpid(), SIGUSR1);
	send(SIGRTMIN, 20);
	kill(getpid(), SIGUSR1);
	send(SIGRTMIN, 21);
	send(SIGUSR2, 30);
	kill(getpid(), SIGRTMIN);
	const struct timespec now = { 0, 0 }, soon = { 0, 20000000 }, wrong = { 0, 1000000000 };
	while (sigtimedwait(&set, &info, &now) > 0)
		show("taken", &info);
	printf("none: %d\n", errno == EAGAIN);
	printf("none in time: %d\n", sigtimedwait(&set, NULL, &soon) == -1 && errno == EAGAIN);
	printf("wrong time: %d\n", sigtimedwait(&set, NULL, &wrong) == -1 && errno == EINVAL);

	/* Handlers run when the signals are let through. */
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	sigfillset(&action.sa_mask);
	for (int i = 0; i < 4; i++)
		sigaction(SIGRTMIN + i, &action, NULL);
	for (int i = 0; i < 4; i++)
		send(SIGRTMIN + 2, 40 + i);
	sigset_t waiting;
	sigpending(&waiting);
	printf("waiting %d\n", sigismember(&waiting, SIGRTMIN + 2));
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	sigprocmask(SIG_BLOCK, &set, NULL);

	/* Ignoring drops all that wait. */
	send(SIGRTMIN + 3, 1);
	send(SIGRTMIN + 3, 2);
	signal(SIGRTMIN + 3, SIG_IGN);
	printf("after ignoring: %d\n", sigtimedwait(&set, NULL, &now));
	signal(SIGRTMIN + 3, SIG_DFL);

	/* A wait ends when a child sends, and when another signal has a handler. */
	pid_t child = fork();
	if (child == 0)
		_exit(sigqueue(getppid(), SIGRTMIN + 3, (union sigval){ .sival_int = 77 }));
	sigwaitinfo(&set, &info);
	printf("from the child: %d value %d\n", info.si_pid == child, info.si_value.sival_int);
	waitpid(child, &status, 0);
	signal(SIGALRM, nothing);
	alarm(1);
	/* musl's sigwaitinfo goes on after that. */
	printf("interrupted: %d\n", syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 8) == -1 && errno == EINTR);

	/* A child's end waits like any other signal; two come as one. */
	sigset_t chld;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	child = fork();
	if (child == 0)
		_exit(9);
	sigwaitinfo(&chld, &info);
	printf("child: code %d status %d pid %d user %d\n", info.si_code, info.si_status, info.si_pid == child,
	       info.si_uid == getuid());
	waitpid(child, &status, 0);

	/* To one thread: no other can take it. */
	siginfo_t own = { .si_code = SI_QUEUE };
	own.si_pid = getpid();
	own.si_uid = getuid();
	own.si_value.sival_int = 55;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGRTMIN, &own);
	pthread_t thread;
	pthread_create(&thread, NULL, look_in_thread, &set);
	pthread_join(thread, NULL);
	sigwaitinfo(&set, &info);
	show("in the thread", &info);

	/* Nobody may speak in the kernel's name to others. */
	child = fork();
	if (child == 0) {
		siginfo_t forged = { .si_code = SI_USER };
		_exit(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged) == -1 && errno == EPERM);
	}
	waitpid(child, &status, 0);
	printf("refused: %d\n", WEXITSTATUS(status));
	own.si_code = SI_USER;
	printf("to myself: %ld\n", syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &own));
	sigwaitinfo(&set, &info);
	show("own words", &info);
	printf("no such process: %d\n", sigqueue(0x7ffffff, SIGUSR1, (union sigval){ 0 }) == -1 && errno == ESRCH);
	printf("no such signal: %d\n", sigqueue(getpid(), 65, (union sigval){ 0 }) == -1 && errno == EINVAL);
	return 0;
}
