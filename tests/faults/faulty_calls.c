/* Fails or tears one system call of a process, or several: loaded by LD_PRELOAD, below SQLite and Python.
 *
 * Calls count that are about a path in which a pattern occurs, or about a descriptor of such a path; all of
 * them, or those of one name. From the n-th on, so many of them are treated as asked for. Set by the
 * environment at the start (FAULTY_PATTERN, FAULTY_CALL, FAULTY_NUMBER, FAULTY_TIMES, FAULTY_ACTION,
 * FAULTY_ERRNO, FAULTY_LOG: a descriptor), or by faulty_arm from within, as a forked child does.
 *
 * Actions: "fail" does nothing and fails; "after" does it and fails; "short" transfers half and says so;
 * "torn" writes half and fails; "none" only counts.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define TEXT 1024

enum verdict { PASS, FAIL, AFTER, SHORT, TORN };

static struct {
    char pattern[TEXT];
    char call[32];
    long number;
    long times;
    int verdict;
    int error;
    int log;
} order = {.log = -1};

static atomic_int armed;
static atomic_long counted;
static atomic_long treated;

static int verdict_of(const char *action) {
    static const struct { const char *name; int verdict; } known[] = {
        {"fail", FAIL}, {"after", AFTER}, {"short", SHORT}, {"torn", TORN}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(action, known[i].name) == 0) return known[i].verdict;
    return PASS;
}

EXPORT void faulty_arm(const char *pattern, const char *call, long number, long times, const char *action,
                       int error, int log) {
    atomic_store(&armed, 0);
    snprintf(order.pattern, TEXT, "%s", pattern);
    snprintf(order.call, sizeof order.call, "%s", call);
    order.number = number;
    order.times = times;
    order.verdict = verdict_of(action);
    order.error = error;
    order.log = log;
    atomic_store(&counted, 0);
    atomic_store(&treated, 0);
    atomic_store(&armed, 1);
}

/* Nothing is counted or treated between faulty_pause(1) and faulty_pause(0). */
EXPORT void faulty_pause(int paused) {
    if (order.pattern[0]) atomic_store(&armed, !paused);
}

EXPORT void faulty_disarm(void) {
    atomic_store(&armed, 0);
    order.pattern[0] = 0;
}

EXPORT long faulty_counted(void) { return atomic_load(&counted); }

EXPORT long faulty_treated(void) { return atomic_load(&treated); }

static const char *setting(const char *name, const char *otherwise) {
    const char *found = getenv(name);
    return found ? found : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    const char *pattern = getenv("FAULTY_PATTERN");
    if (!pattern || !*pattern) return;
    faulty_arm(pattern, setting("FAULTY_CALL", ""), atol(setting("FAULTY_NUMBER", "1")),
               atol(setting("FAULTY_TIMES", "1")), setting("FAULTY_ACTION", "none"),
               atoi(setting("FAULTY_ERRNO", "5")), atoi(setting("FAULTY_LOG", "-1")));
}

static int judge(const char *call, const char *path) {
    if (!strstr(path, order.pattern)) return PASS;
    if (order.call[0] && strcmp(order.call, call) != 0) return PASS;
    long number = atomic_fetch_add(&counted, 1) + 1;
    if (order.log >= 0) {
        char line[TEXT + 64];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        if (length > 0 && syscall(SYS_write, order.log, line, (size_t)length) < 0) return PASS;
    }
    if (order.verdict == PASS || number < order.number || number >= order.number + order.times) return PASS;
    atomic_fetch_add(&treated, 1);
    return order.verdict;
}

static int about_path(const char *call, const char *path) {
    if (!atomic_load(&armed) || !path) return PASS;
    int kept = errno, verdict = judge(call, path);
    errno = kept;
    return verdict;
}

static int about_fd(const char *call, int fd) {
    if (!atomic_load(&armed)) return PASS;
    char link[64], path[TEXT];
    int kept = errno, verdict = PASS;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        verdict = judge(call, path);
    }
    errno = kept;
    return verdict;
}

/* A path relative to a folder's descriptor is as good as that folder's path for a pattern that names folders. */
static int about_at(const char *call, int fd, const char *path) {
    if (!path || path[0] == '/' || fd == AT_FDCWD) return about_path(call, path);
    return about_fd(call, fd);
}

#define REFUSED (errno = order.error, -1)

/* A call that has no halves. */
#define WHOLE(verdict, act)                                              \
    do {                                                                 \
        int is = (verdict);                                              \
        if (is == FAIL || is == SHORT || is == TORN) return REFUSED;     \
        if (is == AFTER) {                                               \
            if ((act) < 0) return -1;                                    \
            return REFUSED;                                              \
        }                                                                \
        return (act);                                                    \
    } while (0)

/* -- opening and closing -- */

static mode_t mode_of(int flags, va_list rest) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

/* The descriptor of an opening that is said to have failed would leak: it is never opened, whatever the action. */
#define OPEN(name)                                                       \
    EXPORT int name(const char *path, int flags, ...) {                  \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        if (about_path("open", path) != PASS) return REFUSED;            \
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                     \
    EXPORT int name(int fd, const char *path, int flags, ...) {          \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        if (about_at("open", fd, path) != PASS) return REFUSED;          \
        return (int)syscall(SYS_openat, fd, path, flags | O_LARGEFILE, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

EXPORT DIR *opendir(const char *path) {
    static DIR *(*next)(const char *);
    if (!next) next = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    if (about_path("opendir", path) != PASS) {
        errno = order.error;
        return NULL;
    }
    return next(path);
}

EXPORT int close(int fd) {
    /* Linux closes the descriptor also where it says that it failed. */
    int verdict = about_fd("close", fd);
    int result = (int)syscall(SYS_close, fd);
    return verdict == PASS || result < 0 ? result : REFUSED;
}

/* -- reading and writing -- */

static size_t half(size_t length) { return length > 1 ? length / 2 : length; }

#define TRANSFER(call, act_whole, act_half)                              \
    do {                                                                 \
        switch (about_fd(call, fd)) {                                    \
        case FAIL: return REFUSED;                                       \
        case AFTER:                                                      \
            if ((act_whole) < 0) return -1;                              \
            return REFUSED;                                              \
        case SHORT: return (act_half);                                   \
        case TORN:                                                       \
            if ((act_half) < 0) return -1;                               \
            return REFUSED;                                              \
        default: return (act_whole);                                     \
        }                                                                \
    } while (0)

EXPORT ssize_t read(int fd, void *data, size_t length) {
    TRANSFER("read", syscall(SYS_read, fd, data, length), syscall(SYS_read, fd, data, half(length)));
}

EXPORT ssize_t write(int fd, const void *data, size_t length) {
    TRANSFER("write", syscall(SYS_write, fd, data, length), syscall(SYS_write, fd, data, half(length)));
}

#define POSITIONAL(name, call, number, kind)                             \
    EXPORT ssize_t name(int fd, kind data, size_t length, off_t offset) { \
        TRANSFER(call, syscall(number, fd, data, length, offset), syscall(number, fd, data, half(length), offset)); \
    }
POSITIONAL(pread, "pread", SYS_pread64, void *)
POSITIONAL(pread64, "pread", SYS_pread64, void *)
POSITIONAL(pwrite, "pwrite", SYS_pwrite64, const void *)
POSITIONAL(pwrite64, "pwrite", SYS_pwrite64, const void *)

EXPORT int fsync(int fd) { WHOLE(about_fd("fsync", fd), (int)syscall(SYS_fsync, fd)); }

EXPORT int fdatasync(int fd) { WHOLE(about_fd("fsync", fd), (int)syscall(SYS_fdatasync, fd)); }

EXPORT int ftruncate(int fd, off_t length) {
    WHOLE(about_fd("ftruncate", fd), (int)syscall(SYS_ftruncate, fd, length));
}

EXPORT int ftruncate64(int fd, off_t length) {
    WHOLE(about_fd("ftruncate", fd), (int)syscall(SYS_ftruncate, fd, length));
}

/* -- locks -- */

static const char *lock_call(int command, const void *argument) {
    if (command != F_SETLK && command != F_SETLKW) return NULL;
    return ((const struct flock *)argument)->l_type == F_UNLCK ? "unlock" : "setlk";
}

#define FCNTL(name)                                                      \
    EXPORT int name(int fd, int command, ...) {                          \
        va_list rest;                                                    \
        va_start(rest, command);                                         \
        void *argument = va_arg(rest, void *);                           \
        va_end(rest);                                                    \
        const char *call = lock_call(command, argument);                 \
        WHOLE(call ? about_fd(call, fd) : PASS, (int)syscall(SYS_fcntl, fd, command, argument)); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

EXPORT int flock(int fd, int operation) {
    WHOLE(about_fd(operation & LOCK_UN ? "funlock" : "flock", fd), (int)syscall(SYS_flock, fd, operation));
}

/* -- names -- */

EXPORT int rename(const char *old, const char *new) {
    WHOLE(about_path("rename", new), (int)syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0));
}

EXPORT int renameat(int old_fd, const char *old, int new_fd, const char *new) {
    WHOLE(about_at("rename", new_fd, new), (int)syscall(SYS_renameat2, old_fd, old, new_fd, new, 0));
}

EXPORT int link(const char *old, const char *new) {
    WHOLE(about_path("link", new), (int)syscall(SYS_linkat, AT_FDCWD, old, AT_FDCWD, new, 0));
}

EXPORT int linkat(int old_fd, const char *old, int new_fd, const char *new, int flags) {
    WHOLE(about_at("link", new_fd, new), (int)syscall(SYS_linkat, old_fd, old, new_fd, new, flags));
}

EXPORT int unlink(const char *path) {
    WHOLE(about_path("unlink", path), (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

EXPORT int unlinkat(int fd, const char *path, int flags) {
    WHOLE(about_at("unlink", fd, path), (int)syscall(SYS_unlinkat, fd, path, flags));
}

EXPORT int rmdir(const char *path) {
    WHOLE(about_path("rmdir", path), (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR));
}

EXPORT int mkdir(const char *path, mode_t mode) {
    WHOLE(about_path("mkdir", path), (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

EXPORT int futimens(int fd, const struct timespec times[2]) {
    WHOLE(about_fd("utime", fd), (int)syscall(SYS_utimensat, fd, NULL, times, 0));
}

/* -- looking: the kernel's struct is not libc's everywhere, so libc does it -- */

#define STAT_FD(name, kind)                                              \
    EXPORT int name(int fd, struct kind *status) {                       \
        static int (*next)(int, struct kind *);                          \
        if (!next) next = (int (*)(int, struct kind *))dlsym(RTLD_NEXT, #name); \
        WHOLE(about_fd("fstat", fd), next(fd, status));                  \
    }
#define STAT_PATH(name, kind)                                            \
    EXPORT int name(const char *path, struct kind *status) {             \
        static int (*next)(const char *, struct kind *);                 \
        if (!next) next = (int (*)(const char *, struct kind *))dlsym(RTLD_NEXT, #name); \
        WHOLE(about_path("stat", path), next(path, status));             \
    }
#define STAT_AT(name, kind)                                              \
    EXPORT int name(int fd, const char *path, struct kind *status, int flags) { \
        static int (*next)(int, const char *, struct kind *, int);       \
        if (!next) next = (int (*)(int, const char *, struct kind *, int))dlsym(RTLD_NEXT, #name); \
        WHOLE(about_at("stat", fd, path), next(fd, path, status, flags)); \
    }
STAT_FD(fstat, stat)
STAT_PATH(stat, stat)
STAT_PATH(lstat, stat)
STAT_AT(fstatat, stat)
STAT_FD(fstat64, stat64)
STAT_PATH(stat64, stat64)
STAT_PATH(lstat64, stat64)
STAT_AT(fstatat64, stat64)

/* -- memory -- */

static void *map(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (!(flags & MAP_ANONYMOUS) && about_fd("mmap", fd) != PASS) {
        errno = order.error;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(address, length, protection, flags, fd, offset);
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    return map(address, length, protection, flags, fd, offset);
}
