/* Processes whose threads come and go, want more memory than there may be, and hold locks that outlive them. They are
 * killed at any moment, by their parent or by a kernel without memory. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOCKS 8
#define CHILDREN 4
#define ROUNDS 4
#define THREADS 5
#define BYTES (6 << 20)

static pthread_mutex_t *locks;
static atomic_uint *touched;

static unsigned draw(unsigned *state, unsigned below)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % below;
}

static void nap(unsigned microseconds)
{
	nanosleep(&(struct timespec){ 0, microseconds * 1000L }, NULL);
}

static void take(pthread_mutex_t *lock)
{
	if (pthread_mutex_lock(lock) == EOWNERDEAD)
		pthread_mutex_consistent(lock);
}

static void *live(void *argument)
{
	unsigned state = (unsigned)(unsigned long)argument, chosen = draw(&state, LOCKS);
	char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	take(&locks[chosen]);
	for (size_t at = 0; at < BYTES; at += 4096) {
		memory[at] = 1;
		atomic_fetch_add(touched, 1);
	}
	/* The memory stays. Some end with the lock, in one way or the other. */
	switch (draw(&state, 12)) {
	case 0:
		return NULL;
	case 1:
		syscall(SYS_exit, 0);
	case 2:
		_exit(0);
	}
	pthread_mutex_unlock(&locks[chosen]);
	return NULL;
}

static void child(unsigned state)
{
	for (;;) {
		pthread_t threads[THREADS];
		int count = 0;
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 64 * 1024);
		for (int i = 0; i < THREADS; i++)
			if (!pthread_create(&threads[count], &attributes, live, (void *)(unsigned long)draw(&state, 1 << 20)))
				count++;
		while (count--)
			pthread_join(threads[count], NULL);
	}
}

int main(void)
{
	unsigned state = 1, killed = 0;
	pthread_mutexattr_t attributes;

	touched = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	locks = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_init(&attributes);
	if (pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) ||
	    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST))
		return 1;
	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&locks[i], &attributes);
	for (int round = 0; round < ROUNDS; round++) {
		pid_t children[CHILDREN];
		for (int i = 0; i < CHILDREN; i++) {
			children[i] = fork();
			if (children[i] == 0)
				child(state + i * 7919);
			if (children[i] < 0)
				return 2;
		}
		/* Until they have touched so many pages, or are all dead. */
		unsigned goal = atomic_load(touched) + 12000 + draw(&state, 8000);
		siginfo_t info;
		int living = CHILDREN;
		while (living && atomic_load(touched) < goal) {
			nap(1000);
			living = 0;
			for (int i = 0; i < CHILDREN; i++) {
				info.si_pid = 0;
				waitid(P_PID, children[i], &info, WEXITED | WNOHANG | WNOWAIT);
				living += info.si_pid == 0;
			}
		}
		for (int i = 0; i < CHILDREN; i++) {
			nap(draw(&state, 2000));
			if (draw(&state, 4) == 0)
				kill(children[i], SIGSTOP);
			kill(children[i], SIGKILL);
		}
		for (int i = 0; i < CHILDREN; i++) {
			int status;
			if (waitpid(children[i], &status, 0) != children[i])
				return 3;
			killed += WIFSIGNALED(status) || WIFEXITED(status);
		}
		/* Everybody is dead: every lock can be had. */
		for (int i = 0; i < LOCKS; i++) {
			take(&locks[i]);
			pthread_mutex_unlock(&locks[i]);
		}
	}
	printf("%u children are dead, and every lock is free\n", killed);
	return 0;
}
