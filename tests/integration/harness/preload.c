/* Preloaded into the server under test: reads and writes that do less than they are asked or are
 * interrupted, syncs that take long, a wall clock that jumps, and a machine without IPv6. The test sets
 * all of it while the server runs, in the file that TESTS_PRELOAD names: four 64-bit numbers, as below. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct settings {
    _Atomic int64_t clock_seconds; /* how far the wall clock is ahead */
    _Atomic int64_t sync_micros;   /* what a sync takes longer */
    _Atomic int64_t io_bytes_max;  /* what one read or write does at most; 0 for all of it */
    _Atomic int64_t no_ipv6;       /* whether sockets of IPv6 are refused */
};

static struct settings none;
static struct settings *set = &none;
static _Atomic uint64_t calls;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TESTS_PRELOAD");
    int file = path ? open(path, O_RDWR) : -1;
    void *shared = file < 0 ? MAP_FAILED
                            : mmap(NULL, sizeof *set, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) set = shared;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* How much of len this call does; 0 where it is interrupted. */
static size_t part(size_t len) {
    size_t most = (size_t)set->io_bytes_max;
    if (most == 0 || len == 0) return len;
    if (atomic_fetch_add(&calls, 1) % 7 == 6) return 0;
    return len < most ? len : most;
}

ssize_t pwrite64(int file, const void *bytes, size_t len, off64_t at) {
    REAL(pwrite64);
    size_t some = part(len);
    if (some == 0 && len > 0) return errno = EINTR, -1;
    return real(file, bytes, some, at);
}

ssize_t pread64(int file, void *bytes, size_t len, off64_t at) {
    REAL(pread64);
    size_t some = part(len);
    if (some == 0 && len > 0) return errno = EINTR, -1;
    return real(file, bytes, some, at);
}

int fdatasync(int file) {
    REAL(fdatasync);
    if (set->sync_micros > 0) usleep((useconds_t)set->sync_micros);
    return real(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += set->clock_seconds;
    return result;
}

int socket(int domain, int type, int protocol) {
    REAL(socket);
    if (domain == AF_INET6 && set->no_ipv6) return errno = EAFNOSUPPORT, -1;
    return real(domain, type, protocol);
}
