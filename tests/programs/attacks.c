// Programs that try to have the machine for themselves. Each is started as a child that attacks until it is killed,
// while the parent sleeps a millisecond at a time, faults on pages of its own, and says how late it was woken at worst.
//
//     attacks LIMIT_US MILLISECONDS [NAME...]
//
// prints one line for each attack: "NAME ok", or how late the parent was beyond the limit.
#define _GNU_SOURCE
// What the calls return is of no interest to who attacks.
#pragma GCC diagnostic ignored "-Wunused-result"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void nap(long nanoseconds)
{
	struct timespec t = { 0, nanoseconds };
	nanosleep(&t, NULL);
}

static void *pages(size_t size, int flags)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

// Makes `count` regions that cannot merge, as far as there is memory.
static char *stripes(long count)
{
	char *at = pages(count * PAGE, 0);
	for (long i = 0; at && i < count; i += 2)
		if (mprotect(at + i * PAGE, PAGE, PROT_READ))
			break;
	return at;
}

static void *thread_spin(void *unused)
{
	for (volatile long i = 0;; i++)
		(void)i;
	return unused;
}

static void *thread_nap(void *unused)
{
	for (;;)
		nap((long)unused);
	return unused;
}

static void *thread_pause(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int threads(int count, void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 32 * 1024);
	int made = 0;
	for (pthread_t thread; made < count; made++)
		if (pthread_create(&thread, &attributes, run, argument))
			break;
	return made;
}

static void forks(int count, void (*run)(void))
{
	for (int i = 0; i < count; i++)
		if (fork() == 0) {
			run();
			_exit(0);
		}
}

// --- the processor ---

static void spin(void) { thread_spin(NULL); }
static void spinners(void) { forks(20, spin); spin(); }
static void spin_threads(void) { threads(200, thread_spin, NULL); spin(); }
static void call_loop(void) { for (;;) syscall(SYS_getppid); }
static void yield_loop(void) { for (;;) sched_yield(); }
static void yielders(void) { forks(20, yield_loop); yield_loop(); }
static void nappers(void) { threads(200, thread_nap, (void *)50000l); for (;;) nap(50000); }
static void nappers_zero(void) { threads(50, thread_nap, NULL); for (;;) nap(0); }
static void nappers_short(void) { threads(200, thread_nap, (void *)1000l); for (;;) nap(1000); }

static void past_sleeps(void)
{
	struct timespec t = { 0, 1 };
	for (;;)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void fault_loop(void)
{
	char *at = pages(1024 * PAGE, 0);
	for (;;) {
		for (long i = 0; i < 1024; i++)
			at[i * PAGE] = 1;
		madvise(at, 1024 * PAGE, MADV_DONTNEED);
	}
}

static void faulters(void) { forks(20, fault_loop); fault_loop(); }

static void huge_loop(void)
{
	size_t size = 16ul << 20;
	char *at = pages(size, 0);
	madvise(at, size, MADV_HUGEPAGE);
	for (;;) {
		for (size_t i = 0; i < size; i += 2ul << 20)
			at[i] = 1;
		madvise(at, size, MADV_DONTNEED);
	}
}

static void segv(int signal)
{
	(void)signal;
}

static void segv_loop(void)
{
	signal(SIGSEGV, segv);
	*(volatile char *)8 = 1;
}

static void kill_self_loop(void)
{
	signal(SIGUSR1, segv);
	for (;;)
		kill(getpid(), SIGUSR1);
}

static void interval_timer(void)
{
	signal(SIGALRM, segv);
	struct itimerval every = { { 0, 1 }, { 0, 1 } };
	setitimer(ITIMER_REAL, &every, NULL);
	for (;;)
		pause();
}

static void fork_loop(void)
{
	for (;;) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		if (child > 0)
			waitpid(child, NULL, 0);
	}
}

static void vfork_loop(void)
{
	for (;;) {
		pid_t child = vfork();
		if (child == 0)
			_exit(0);
		if (child > 0)
			waitpid(child, NULL, 0);
	}
}

static void zombies(void)
{
	for (;;)
		if (fork() == 0)
			_exit(0);
}

static void fork_bomb(void)
{
	for (;;)
		fork();
}

static void *thread_end(void *unused) { return unused; }

static void thread_loop(void)
{
	threads(300, thread_pause, NULL);
	for (;;) {
		pthread_t thread;
		if (!pthread_create(&thread, NULL, thread_end, NULL))
			pthread_join(thread, NULL);
	}
}

static void groups(void)
{
	for (int i = 0; i < 2000; i++) {
		pid_t child = fork();
		if (child == 0) {
			setpgid(0, 0);
			pause();
		}
		if (child < 0)
			break;
	}
	for (;;)
		kill(-1, SIGCONT);
}

// --- memory ---

static void many_regions(void)
{
	for (;;) {
		char *at = stripes(60000);
		if (at)
			munmap(at, 60000 * PAGE);
	}
}

static void many_regions_fork(void)
{
	stripes(60000);
	fork_loop();
}

static void many_regions_locked(void)
{
	stripes(60000);
	for (;;) {
		mlockall(MCL_CURRENT | 4 /* MCL_ONFAULT */);
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
		munlockall();
	}
}

static void many_regions_protect(void)
{
	char *at = stripes(60000);
	for (;;) {
		mprotect(at, 60000 * PAGE, PROT_READ);
		for (long i = 0; i < 60000; i += 2)
			mprotect(at + i * PAGE, PAGE, PROT_NONE);
	}
}

static void many_regions_advise(void)
{
	char *at = stripes(60000);
	for (;;) {
		madvise(at, 60000 * PAGE, MADV_DONTNEED);
		madvise(at, 60000 * PAGE, MADV_DONTFORK);
		madvise(at, 60000 * PAGE, MADV_DOFORK);
		msync(at, 60000 * PAGE, MS_ASYNC);
		static unsigned char vector[60000];
		mincore(at, 60000 * PAGE, vector);
	}
}

static void many_regions_exec(void)
{
	stripes(60000);
	execl("/proc/self/exe", "attacks", "again", "many_regions_exec", NULL);
}

static void many_regions_exit(void)
{
	for (;;) {
		pid_t child = fork();
		if (child == 0) {
			stripes(30000);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
}

static void maps_reader(void)
{
	stripes(60000);
	static char buffer[65536];
	for (;;) {
		int file = open("/proc/self/maps", O_RDONLY);
		while (read(file, buffer, sizeof buffer) > 0)
			;
		close(file);
		file = open("/proc/self/smaps", O_RDONLY);
		while (file >= 0 && read(file, buffer, sizeof buffer) > 0)
			;
		close(file);
		pread(open("/proc/self/statm", O_RDONLY), buffer, 100, 0);
		for (int i = 3; i < 20; i++)
			close(i);
	}
}

static void wide_calls(void)
{
	size_t size = 1ul << 40;
	char *at = pages(size, 0);
	for (size_t i = 0; at && i < size; i += size / 512)
		at[i] = 1;
	for (;;) {
		madvise(at, size, MADV_DONTNEED);
		mprotect(at, size, PROT_READ);
		mprotect(at, size, PROT_READ | PROT_WRITE);
		msync(at, size, MS_ASYNC);
		mlock2(at, size, 1 /* MLOCK_ONFAULT */);
		munlock(at, size);
		char *moved = mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at + 2 * size);
		if (moved != MAP_FAILED)
			at = moved;
	}
}

static void touched_unmap(void)
{
	size_t size = 128ul << 20;
	for (;;) {
		char *at = pages(size, 0);
		for (size_t i = 0; i < size; i += PAGE)
			at[i] = 1;
		munmap(at, size);
	}
}

static void touched_move(void)
{
	size_t size = 64ul << 20;
	char *at = pages(size, 0), *other = pages(size, 0);
	for (size_t i = 0; i < size; i += PAGE)
		at[i] = 1;
	for (;;) {
		mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, other);
		mremap(other, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	}
}

static void touched_lock(void)
{
	size_t size = 64ul << 20;
	for (;;) {
		char *at = pages(size, 0);
		mlock(at, size);
		munmap(at, size);
		at = pages(size, MAP_POPULATE);
		munmap(at, size);
	}
}

static void touched_fork(void)
{
	size_t size = 256ul << 20;
	char *at = pages(size, 0);
	for (size_t i = 0; i < size; i += PAGE)
		at[i] = 1;
	fork_loop();
}

static void brk_loop(void)
{
	for (;;) {
		char *at = sbrk(64 << 20);
		for (long i = 0; i < 64 << 20; i += PAGE)
			at[i] = 1;
		sbrk(-(64 << 20));
	}
}

static void hog(void)
{
	for (;;) {
		char *at = pages(64 << 20, 0);
		for (long i = 0; at && i < 64 << 20; i += PAGE)
			at[i] = 1;
		if (!at)
			nap(1000000);
	}
}

static void table_hog(void)
{
	for (;;) {
		char *at = pages(64ul << 30, 0);
		for (size_t i = 0; at && i < 64ul << 30; i += 2ul << 20)
			at[i] = 1;
	}
}

static void memfd_hog(void)
{
	static char block[1 << 20];
	for (;;) {
		int file = memfd_create("hog", 0);
		if (file < 0 || write(file, block, sizeof block) < 0)
			nap(1000000);
	}
}

// --- files ---

static int zero, null;

static void long_reads(void)
{
	char *at = pages(64 << 20, 0);
	for (;;) {
		if (read(zero, at, 64 << 20) < 0 || write(null, at, 64 << 20) < 0)
			_exit(1);
		int random = open("/dev/urandom", O_RDONLY);
		if (read(random, at, 64 << 20) < 0)
			_exit(1);
		close(random);
		syscall(SYS_getrandom, at, 64 << 20, 0);
	}
}

static void long_vectors(void)
{
	char *at = pages(1 << 20, MAP_POPULATE);
	struct iovec vector[1024];
	for (int i = 0; i < 1024; i++)
		vector[i] = (struct iovec){ at, 1 << 20 };
	for (;;)
		if (readv(zero, vector, 1024) < 0 || writev(null, vector, 1024) < 0)
			_exit(1);
}

static void empty_vectors(void)
{
	struct iovec vector[1024];
	memset(vector, 0, sizeof vector);
	for (;;)
		if (readv(zero, vector, 1024) < 0 || writev(null, vector, 1024) < 0)
			_exit(1);
}

static void sparse_file(void)
{
	int file = memfd_create("sparse", 0);
	char *at = pages(64 << 20, 0);
	for (;;) {
		ftruncate(file, 1ll << 40);
		for (long long i = 0; i < 100; i++)
			pwrite(file, "x", 1, i << 33);
		lseek(file, 0, SEEK_END);
		for (off_t data = 0; (data = lseek(file, data, SEEK_DATA)) >= 0;)
			data = lseek(file, data, SEEK_HOLE);
		pread(file, at, 64 << 20, 0);
		sendfile(null, file, NULL, 1 << 30);
		fallocate(file, 3 /* PUNCH_HOLE | KEEP_SIZE */, 0, 1ll << 40);
		ftruncate(file, 0);
	}
}

static void grown_file(void)
{
	for (;;) {
		int file = open("/tmp/grown", O_RDWR | O_CREAT | O_TRUNC, 0600);
		fallocate(file, 0, 0, 64 << 20);
		ftruncate(file, 0);
		fallocate(file, 0, 0, 64 << 20);
		close(file);
		unlink("/tmp/grown");
	}
}

static void pipe_hog(void)
{
	static char block[65536];
	for (;;) {
		int ends[2];
		if (pipe(ends)) {
			nap(1000000);
			continue;
		}
		fcntl(ends[1], F_SETFL, O_NONBLOCK);
		while (write(ends[1], block, sizeof block) > 0)
			;
	}
}

static void pipe_family(void)
{
	forks(20, pipe_hog);
	pipe_hog();
}

static void pipe_loop(void)
{
	static char block[65536];
	int ends[2];
	if (pipe(ends))
		_exit(1);
	for (;;)
		if (write(ends[1], block, sizeof block) < 0 || read(ends[0], block, sizeof block) < 0)
			_exit(1);
}

static int herd_end;
static void *thread_read(void *unused)
{
	char byte;
	for (;;)
		read(herd_end, &byte, 1);
	return unused;
}

static void herd(void)
{
	int ends[2];
	pipe(ends);
	herd_end = ends[0];
	threads(1000, thread_read, NULL);
	for (;;)
		write(ends[1], "x", 1);
}

static void poll_always_due(void)
{
	int timer = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec every = { { 0, 1 }, { 0, 1 } };
	timerfd_settime(timer, 0, &every, NULL);
	struct pollfd wanted[2] = { { timer, POLLOUT, 0 }, { null, 0, 0 } };
	for (;;)
		poll(wanted, 2, -1);
}

static void poll_many(void)
{
	static struct pollfd wanted[1000];
	for (int i = 0; i < 1000; i++) {
		int timer = timerfd_create(CLOCK_MONOTONIC, 0);
		struct itimerspec every = { { 0, 1000 }, { 0, 1000 } };
		timerfd_settime(timer, 0, &every, NULL);
		wanted[i] = (struct pollfd){ timer, POLLIN, 0 };
	}
	for (;;) {
		poll(wanted, 1000, -1);
		fd_set set;
		FD_ZERO(&set);
		for (int i = 0; i < 1000; i++)
			if (wanted[i].fd >= 0)
				FD_SET(wanted[i].fd, &set);
		select(1024, &set, NULL, NULL, NULL);
	}
}

static void timers(void)
{
	for (int i = 0; i < 1000; i++) {
		timer_t timer;
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
		signal(SIGRTMIN, segv);
		struct itimerspec every = { { 0, 1000 }, { 0, 1000 } };
		if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
			break;
	}
	for (;;)
		pause();
}

static void names(void)
{
	char name[300];
	memset(name, 'n', sizeof name);
	memcpy(name, "/tmp/", 5);
	for (long i = 0;; i++) {
		sprintf(name + 200, "%ld", i);
		int file = open(name, O_CREAT | O_RDWR, 0600);
		if (file >= 0)
			close(file);
		else
			nap(1000000);
	}
}

static void links(void)
{
	static char target[4096];
	memset(target, 't', 4095);
	char name[64];
	for (long i = 0;; i++) {
		sprintf(name, "/tmp/l%ld", i);
		if (symlink(target, name))
			nap(1000000);
	}
}

static void deep(void)
{
	mkdir("/tmp/deep", 0700);
	chdir("/tmp/deep");
	static char path[4096];
	for (long i = 0;; i++) {
		if (mkdir("d", 0700) || chdir("d"))
			nap(1000000);
		getcwd(path, sizeof path);
	}
}

static void deep_tree_given_up(void)
{
	for (;;) {
		pid_t child = fork();
		if (child == 0) {
			char name[64];
			sprintf(name, "/tmp/t%d", getpid());
			mkdir(name, 0700);
			chdir(name);
			for (long i = 0; i < 3000; i++)
				if (mkdir("d", 0700) || chdir("d"))
					break;
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
}

static void list_large(void)
{
	mkdir("/tmp/large", 0700);
	char name[64];
	for (long i = 0; i < 20000; i++) {
		sprintf(name, "/tmp/large/%ld", i);
		int file = open(name, O_CREAT | O_RDWR, 0600);
		if (file < 0)
			break;
		close(file);
	}
	for (;;) {
		DIR *folder = opendir("/tmp/large");
		while (folder && readdir(folder))
			;
		if (folder)
			closedir(folder);
	}
}

static void arguments(void)
{
	static char *list[20001];
	static char text[100];
	memset(text, 'a', sizeof text - 1);
	for (int i = 0; i < 20000; i++)
		list[i] = text;
	list[0] = "attacks", list[1] = "again", list[2] = "arguments";
	execv("/proc/self/exe", list);
	for (;;)
		execv("/no/such/file", list);
}

static void descriptors(void)
{
	for (;;) {
		int file = dup(zero);
		if (file < 0) {
			pid_t child = fork();
			if (child == 0)
				_exit(0);
			waitpid(child, NULL, 0);
			syscall(SYS_close_range, 10, ~0u, 0);
		}
	}
}

static void locks(void)
{
	int file = open("/tmp/locks", O_CREAT | O_RDWR, 0600);
	for (;;)
		for (long i = 0; i < 20000; i++) {
			struct flock lock = { .l_type = F_WRLCK, .l_start = i * 2, .l_len = 1 };
			if (fcntl(file, F_SETLK, &lock))
				nap(1000000);
		}
}

// --- futexes and signals ---

static int word;
static void *thread_futex(void *unused)
{
	for (;;)
		syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
	return unused;
}

static void futexes(void)
{
	threads(1000, thread_futex, NULL);
	static int other;
	for (;;) {
		syscall(SYS_futex, &word, FUTEX_REQUEUE, 0, INT32_MAX, &other, 0);
		syscall(SYS_futex, &other, FUTEX_REQUEUE, 0, INT32_MAX, &word, 0);
		syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
	}
}

static void robust_circle(void)
{
	static struct { void *next; long offset; void *pending; } head;
	head.next = &head.offset;
	head.offset = (long)&head.offset;
	for (;;) {
		pid_t child = fork();
		if (child == 0) {
			syscall(SYS_set_robust_list, &head, 24);
			syscall(SYS_exit, 0);
		}
		waitpid(child, NULL, 0);
	}
}

static void queued_signals(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (;;) {
		union sigval value = { 0 };
		if (sigqueue(getpid(), SIGRTMIN, value))
			nap(1000000);
	}
}

static void signal_ping_pong(void)
{
	signal(SIGUSR1, segv);
	pid_t parent = getpid(), child = fork();
	for (;;)
		kill(child ? child : parent, SIGUSR1);
}

static void stop_and_go(void)
{
	pid_t child = fork();
	if (child == 0)
		spin_threads();
	for (;;) {
		kill(child, SIGSTOP);
		kill(child, SIGCONT);
	}
}

static void console(void)
{
	static char block[65536];
	memset(block, '\n', sizeof block);
	for (;;)
		write(2, block, sizeof block);
}

#define ATTACK(name) { #name, name }
static const struct { const char *name; void (*run)(void); } ATTACKS[] = {
	ATTACK(spin), ATTACK(spinners), ATTACK(spin_threads), ATTACK(call_loop), ATTACK(yield_loop), ATTACK(yielders),
	ATTACK(nappers), ATTACK(nappers_zero), ATTACK(nappers_short), ATTACK(past_sleeps), ATTACK(fault_loop),
	ATTACK(faulters), ATTACK(huge_loop), ATTACK(segv_loop), ATTACK(kill_self_loop), ATTACK(interval_timer),
	ATTACK(fork_loop), ATTACK(vfork_loop), ATTACK(zombies), ATTACK(fork_bomb), ATTACK(thread_loop), ATTACK(groups),
	ATTACK(many_regions), ATTACK(many_regions_fork), ATTACK(many_regions_locked), ATTACK(many_regions_protect),
	ATTACK(many_regions_advise), ATTACK(many_regions_exec), ATTACK(many_regions_exit), ATTACK(maps_reader),
	ATTACK(wide_calls), ATTACK(touched_unmap), ATTACK(touched_move), ATTACK(touched_lock), ATTACK(touched_fork),
	ATTACK(brk_loop), ATTACK(hog), ATTACK(table_hog), ATTACK(memfd_hog), ATTACK(long_reads), ATTACK(long_vectors),
	ATTACK(empty_vectors), ATTACK(sparse_file), ATTACK(grown_file), ATTACK(pipe_hog), ATTACK(pipe_family),
	ATTACK(pipe_loop), ATTACK(herd), ATTACK(poll_always_due), ATTACK(poll_many), ATTACK(timers), ATTACK(names),
	ATTACK(links), ATTACK(deep), ATTACK(deep_tree_given_up), ATTACK(list_large), ATTACK(arguments),
	ATTACK(descriptors), ATTACK(locks), ATTACK(futexes), ATTACK(robust_circle), ATTACK(queued_signals),
	ATTACK(signal_ping_pong), ATTACK(stop_and_go), ATTACK(console),
};
#define COUNT (sizeof ATTACKS / sizeof *ATTACKS)

static void attack(const char *name)
{
	zero = open("/dev/zero", O_RDWR);
	null = open("/dev/null", O_RDWR);
	for (size_t i = 0; i < COUNT; i++)
		if (!strcmp(ATTACKS[i].name, name))
			ATTACKS[i].run();
}

int main(int count, char **arguments)
{
	if (count > 2 && !strcmp(arguments[1], "again"))
		attack(arguments[2]);
	long long limit = atoll(arguments[1]) * 1000, length = atoll(arguments[2]) * 1000000ll;
	char *mine = pages(64 * PAGE, MAP_POPULATE);
	int failed = 0;
	for (size_t i = 0; i < COUNT; i++) {
		const char *name = ATTACKS[i].name;
		int wanted = count == 3;
		for (int j = 3; j < count; j++)
			wanted |= !strcmp(arguments[j], name);
		if (!wanted)
			continue;
		pid_t child = fork();
		if (child == 0) {
			setpgid(0, 0);
			attack(name);
			_exit(0);
		}
		if (child < 0) {
			printf("%s: fork: %s\n", name, strerror(errno));
			return 1;
		}
		setpgid(child, child);
		long long begin = now(), worst = 0, touched = 0;
		while (now() - begin < length) {
			long long before = now();
			nap(1000000);
			for (long page = 0; page < 4; page++)
				mine[page * PAGE]++;
			long long late = now() - before - 1000000;
			worst = late > worst ? late : worst;
			touched++;
		}
		long long killed = now();
		kill(-child, SIGKILL);
		while (waitpid(-child, NULL, 0) > 0)
			;
		long long gone = now() - killed;
		if (worst > limit || getenv("VERBOSE"))
			printf("%s: %lld us late at worst in %lld naps, gone %lld us after\n", name, worst / 1000, touched,
			       gone / 1000);
		else
			printf("%s ok\n", name);
		failed |= worst > limit;
		fflush(stdout);
	}
	return failed;
}
