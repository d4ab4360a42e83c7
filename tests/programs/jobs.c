/* Processes that stop and go on, and what their parent learns of it. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t told, told_code, told_status, told_pid, told_uid;

static void on_child(int number, siginfo_t *info, void *context)
{
	told++;
	told_code = info->si_code;
	told_status = info->si_status;
	told_pid = info->si_pid;
	told_uid = info->si_uid;
	(void)number, (void)context;
}

static void watch_children(int flags)
{
	struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART | flags };

	sigaction(SIGCHLD, &action, NULL);
	told = told_code = told_status = told_pid = told_uid = 0;
}

static void sleep_ms(int ms)
{
	struct timespec left = { 0, ms * 1000000L };

	while (nanosleep(&left, &left))
		;
}

static char state_of(pid_t pid)
{
	char path[64], line[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int file = open(path, O_RDONLY);
	if (read(file, line, sizeof line - 1) < 0)
		return '?';
	close(file);
	return strrchr(line, ')')[2];
}

static const char *describe(int status)
{
	static char text[64];

	if (WIFSTOPPED(status))
		snprintf(text, sizeof text, "stopped by %d", WSTOPSIG(status));
	else if (WIFCONTINUED(status))
		snprintf(text, sizeof text, "continued");
	else if (WIFSIGNALED(status))
		snprintf(text, sizeof text, "killed by %d", WTERMSIG(status));
	else
		snprintf(text, sizeof text, "exited with %d", WEXITSTATUS(status));
	return text;
}

static void await(const char *what, pid_t pid, int options)
{
	int status = 0;
	pid_t found = waitpid(pid, &status, options);

	if (found == pid)
		printf("%s: %s\n", what, describe(status));
	else
		printf("%s: %d (%s)\n", what, found, found < 0 ? strerror(errno) : "nothing");
}

static int go[2];

/* A child that stops, and ends when it is told to. */
static pid_t stopper(int status)
{
	char byte;

	if (pipe(go))
		exit(1);
	pid_t child = fork();
	if (child == 0) {
		raise(SIGSTOP);
		_exit(read(go[0], &byte, 1) == 1 ? status : 1);
	}
	return child;
}

static void let_go(void)
{
	if (write(go[1], "g", 1) != 1)
		exit(1);
	close(go[0]);
	close(go[1]);
}

static void reports(void)
{
	watch_children(0);
	pid_t child = stopper(3);
	await("stop", child, WUNTRACED);
	printf("told %d: code %d status %d, of the child: %d, user: %d\n", told, told_code, told_status,
	       told_pid == child, told_uid == (int)getuid());
	printf("state %c\n", state_of(child));
	await("again", child, WUNTRACED | WNOHANG);
	kill(child, SIGCONT);
	await("continue", child, WCONTINUED);
	let_go();
	await("end", child, WUNTRACED | WCONTINUED);

	watch_children(SA_NOCLDSTOP);
	child = stopper(4);
	for (int i = 0; i < 2; i++) {
		siginfo_t info = { 0 };
		int result = waitid(P_PID, child, &info, WSTOPPED | (i == 0 ? WNOWAIT : 0));
		printf("waitid %d: code %d status %d child %d\n", result, info.si_code, info.si_status,
		       info.si_pid == child);
	}
	printf("told %d\n", told);
	kill(child, SIGCONT);
	siginfo_t info = { 0 };
	printf("waitid %d", waitid(P_PID, child, &info, WCONTINUED));
	printf(": code %d status %d\n", info.si_code, info.si_status);
	let_go();
	await("end", child, 0);
	printf("told %d: code %d\n", told, told_code);
	info.si_pid = 1;
	printf("waitid without a child: %d\n", waitid(P_PID, child, &info, WSTOPPED) == -1 && errno == ECHILD);
	signal(SIGCHLD, SIG_DFL);
}

static void signals_of_a_stopped_process(void)
{
	pid_t child = fork();
	if (child == 0)
		for (;;)
			pause();
	kill(child, SIGSTOP);
	await("stop", child, WUNTRACED);
	kill(child, SIGTERM);
	await("SIGTERM waits", child, WNOHANG);
	printf("state %c\n", state_of(child));
	kill(child, SIGCONT);
	await("and acts", child, 0);

	child = fork();
	if (child == 0)
		for (;;)
			pause();
	kill(child, SIGSTOP);
	await("stop", child, WUNTRACED);
	kill(child, SIGKILL);
	await("SIGKILL acts", child, 0);
}

static volatile sig_atomic_t continued;

static void on_continue(int number)
{
	continued += number == SIGCONT;
}

static void blocked_and_handled(void)
{
	sigset_t set, waiting;

	pid_t child = fork();
	if (child == 0) {
		sigemptyset(&set);
		sigaddset(&set, SIGTSTP);
		sigprocmask(SIG_BLOCK, &set, NULL);
		kill(getpid(), SIGTSTP);
		sigpending(&waiting);
		printf("waiting %d", sigismember(&waiting, SIGTSTP));
		kill(getpid(), SIGCONT);
		sigpending(&waiting);
		printf(", after SIGCONT %d\n", sigismember(&waiting, SIGTSTP));
		fflush(stdout);
		/* Not blocked any more: it stops when it comes through. */
		setpgid(0, 0);
		signal(SIGCONT, on_continue);
		kill(getpid(), SIGTSTP);
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		printf("handled %d\n", continued);
		fflush(stdout);
		signal(SIGTSTP, SIG_IGN);
		raise(SIGTSTP);
		_exit(0);
	}
	await("unblocked", child, WUNTRACED);
	kill(child, SIGCONT);
	await("end", child, WUNTRACED);

	/* Nobody could continue it. */
	child = fork();
	if (child == 0) {
		setsid();
		raise(SIGTSTP);
		raise(SIGTTIN);
		raise(SIGTTOU);
		_exit(7);
	}
	await("orphaned group", child, WUNTRACED);
}

static atomic_ulong *counter;

static void *count(void *unused)
{
	for (;;)
		atomic_fetch_add(counter, 1);
	return unused;
}

static void all_threads(void)
{
	pid_t child = fork();
	if (child == 0) {
		pthread_t threads[2];
		for (int i = 0; i < 2; i++)
			pthread_create(&threads[i], NULL, count, NULL);
		count(NULL);
	}
	while (atomic_load(counter) < 1000)
		sleep_ms(1);
	kill(child, SIGSTOP);
	await("stop", child, WUNTRACED);
	unsigned long before = atomic_load(counter);
	sleep_ms(30);
	printf("counted while stopped: %lu\n", atomic_load(counter) - before);
	kill(child, SIGCONT);
	while (atomic_load(counter) == before)
		sleep_ms(1);
	kill(child, SIGKILL);
	await("end", child, 0);
}

static void a_wait_goes_on(void)
{
	int to[2], from[2];
	char byte = 0;

	if (pipe(to) || pipe(from))
		exit(1);
	pid_t child = fork();
	if (child == 0) {
		if (write(from[1], "r", 1) != 1 || read(to[0], &byte, 1) != 1)
			_exit(1);
		_exit(byte);
	}
	if (read(from[0], &byte, 1) != 1)
		exit(1);
	kill(child, SIGSTOP);
	await("stop", child, WUNTRACED);
	if (write(to[1], "\x2a", 1) != 1)
		exit(1);
	await("nothing yet", child, WNOHANG);
	kill(child, SIGCONT);
	await("read goes on", child, 0);
}

static int report;

static void say(int number)
{
	char letter = number == SIGHUP ? 'h' : 'c';

	if (write(report, &letter, 1) == 1 && number == SIGHUP)
		close(report);
}

static void an_orphaned_group(void)
{
	int ends[2];
	char text[8] = "";

	if (pipe(ends))
		exit(1);
	pid_t shell = fork();
	if (shell == 0) {
		setsid();
		pid_t job = fork();
		if (job == 0) {
			setpgid(0, 0);
			report = ends[1];
			struct sigaction action = { .sa_handler = say };
			sigaddset(&action.sa_mask, SIGHUP);
			sigaddset(&action.sa_mask, SIGCONT);
			sigaction(SIGHUP, &action, NULL);
			signal(SIGCONT, SIG_DFL);
			raise(SIGSTOP);
			_exit(0);
		}
		int status;
		waitpid(job, &status, WUNTRACED);
		_exit(WIFSTOPPED(status));
	}
	close(ends[1]);
	await("shell", shell, 0);
	ssize_t length = read(ends[0], text, sizeof text);
	printf("the orphan was told: %zd %s\n", length, text);
}

/* Children that nobody has to wait for. */
static void no_zombies(void)
{
	for (int i = 0; i < 2; i++) {
		if (i == 0)
			watch_children(SA_NOCLDWAIT);
		else
			signal(SIGCHLD, SIG_IGN);
		told = 0;
		pid_t child = fork();
		if (child == 0)
			_exit(6);
		await(i ? "ignored" : "not waited for", child, 0);
		printf("told %d\n", told);
	}
	signal(SIGCHLD, SIG_DFL);
}

static char stack[64 * 1024] __attribute__((aligned(16)));

static int leave(void *unused)
{
	(void)unused;
	_exit(8);
}

/* Children whose end is told by another signal than SIGCHLD, or by none. */
static void clones(void)
{
	struct sigaction action = { .sa_sigaction = on_child, .sa_flags = SA_SIGINFO };

	sigaction(SIGUSR1, &action, NULL);
	for (int i = 0; i < 3; i++) {
		told = 0;
		pid_t child = clone(leave, stack + sizeof stack, i ? SIGUSR1 : 0, NULL);
		await("as a usual child", child, 0);
		await("as a clone", child, i == 1 ? __WALL : __WCLONE);
		printf("told %d\n", told);
	}
	pid_t child = fork();
	if (child == 0)
		_exit(9);
	await("a usual child as a clone", child, __WCLONE);
	await("and as any", child, __WALL);
}

/* A child that wants to know of its parent's end. */
static void parent_death(void)
{
	int ends[2], signal_wanted = -1;
	siginfo_t info = { 0 };
	sigset_t set;
	char text[128] = "";

	if (pipe(ends))
		exit(1);
	pid_t parent = fork();
	if (parent == 0) {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		sigprocmask(SIG_BLOCK, &set, NULL);
		if (fork() == 0) {
			pid_t its_parent = getppid();
			prctl(PR_GET_PDEATHSIG, &signal_wanted);
			prctl(PR_SET_PDEATHSIG, SIGUSR2);
			if (write(ends[1], "r", 1) != 1)
				_exit(1);
			sigwaitinfo(&set, &info);
			dprintf(ends[1], "before %d, got %d from its parent %d, code %d, which is gone %d", signal_wanted,
				info.si_signo, info.si_pid == its_parent, info.si_code, getppid() != its_parent);
			_exit(0);
		}
		_exit(read(ends[0], text, 1) != 1);
	}
	close(ends[1]);
	await("parent", parent, 0);
	size_t length = 0;
	ssize_t more;
	while ((more = read(ends[0], text + length, sizeof text - 1 - length)) > 0)
		length += more;
	printf("%s\n", text);
	printf("not a signal: %d\n", prctl(PR_SET_PDEATHSIG, 65) == -1 && errno == EINVAL);
}

int main(void)
{
	counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	reports();
	signals_of_a_stopped_process();
	blocked_and_handled();
	all_threads();
	a_wait_goes_on();
	an_orphaned_group();
	no_zombies();
	clones();
	parent_death();
	return 0;
}
