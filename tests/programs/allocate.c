/* malloc, realloc and free in four threads at once; every byte is checked before its block goes. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, BLOCKS = 200, ROUNDS = 3000 };

static void *work(void *argument) {
    uint64_t state = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 1, sum = 0;
    unsigned char *block[BLOCKS] = {0};
    size_t size[BLOCKS] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        int index = (int)(state >> 33) % BLOCKS;
        unsigned char mark = (unsigned char)index;
        for (size_t at = 0; at < size[index]; at++)
            if (block[index][at] != mark)
                return (void *)1;
        size_t wanted = (state >> 20) % 8 == 0 ? (state >> 40) % 300000 : (state >> 40) % 600;
        if (wanted % 3 == 0) {
            free(block[index]);
            block[index] = wanted ? malloc(wanted) : NULL;
        } else {
            block[index] = realloc(block[index], wanted);
        }
        if (wanted && !block[index])
            return (void *)2;
        size[index] = wanted;
        if (wanted)
            memset(block[index], mark, wanted);
        sum = sum * 31 + wanted;
    }
    for (int index = 0; index < BLOCKS; index++)
        free(block[index]);
    printf("thread %d: sum %lx\n", (int)(uintptr_t)argument, (unsigned long)sum);
    return NULL;
}

int main(void) {
    pthread_t thread[THREADS];
    int failed = 0;
    /* One line at a time and in order: each thread prints when the one before it has ended. */
    for (uintptr_t index = 0; index < THREADS; index++)
        if (pthread_create(&thread[index], NULL, work, (void *)index) != 0)
            return 2;
    for (int index = 0; index < THREADS; index++) {
        void *result;
        pthread_join(thread[index], &result);
        failed |= result != NULL;
    }
    return failed;
}
