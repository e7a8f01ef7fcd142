/* A wall clock that a file moves. Preloaded, it adds the nanoseconds that the first 8 bytes of the file SOAK_CLOCK say to
   CLOCK_REALTIME. Monotonic clocks, sleeps, and the times of files stay as they are. A wait whose end was computed from the
   moved clock ends when it would have; libfaketime 0.9.10 fails in clock_nanosleep, by which Python sleeps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000L
#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define REAL_OF(name, version) ((__typeof__(name) *)dlvsym(RTLD_NEXT, #name, version))

static int64_t none;
static volatile int64_t *moved = &none;
static __typeof__(clock_gettime) *real_gettime;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SOAK_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) moved = at;
}

static struct timespec shifted(struct timespec at, int64_t by) {
    int64_t ns = at.tv_nsec + by % NS;
    at.tv_sec += by / NS + (ns >= NS) - (ns < 0);
    at.tv_nsec = ns + NS * (ns < 0) - NS * (ns >= NS);
    return at;
}

/* An end by the true clock. What is not of this century is by a monotonic clock. */
static struct timespec truly(const struct timespec *end) { return end->tv_sec > NS ? shifted(*end, -*moved) : *end; }

int clock_gettime(clockid_t clock, struct timespec *told) {
    if (!real_gettime) real_gettime = REAL(clock_gettime);
    int failed = real_gettime(clock, told);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *told = shifted(*told, *moved);
    return failed;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    told->tv_sec = now.tv_sec;
    told->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *told, int base) {
    clock_gettime(CLOCK_REALTIME, told);
    return base;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict end) {
    static __typeof__(pthread_cond_timedwait) *real;
    if (!real) real = REAL_OF(pthread_cond_timedwait, "GLIBC_2.3.2");
    if (!real) real = REAL(pthread_cond_timedwait); /* where it never had another */
    struct timespec at = truly(end);
    return real(cond, mutex, &at);
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict end) {
    static __typeof__(sem_timedwait) *real;
    if (!real) real = REAL(sem_timedwait);
    struct timespec at = truly(end);
    return real(sem, &at);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict end) {
    static __typeof__(pthread_mutex_timedlock) *real;
    if (!real) real = REAL(pthread_mutex_timedlock);
    struct timespec at = truly(end);
    return real(mutex, &at);
}

/* Of C11, which librdkafka waits by; inside the C library it goes past the one of POSIX. */
int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict end) {
    static __typeof__(cnd_timedwait) *real;
    if (!real) real = REAL(cnd_timedwait);
    struct timespec at = truly(end);
    return real(cond, mutex, &at);
}
