/*
 * Metadata and small-file load that costs little itself: processes that do one kind of operation.
 *
 *     load PHASE DIR LAYOUT COUNT[,COUNT]... BYTES LIMIT_MS
 *
 * PHASE    prepare  make the directories of the layout
 *          create   open(O_CREAT | O_EXCL), close
 *          stat     lstat
 *          open     open, close
 *          list     readdir, and lstat of each entry, like ls -l; an operation is an entry
 *          remove   unlink
 *          write    open(O_CREAT | O_EXCL), write BYTES, close
 *          read     open, read BYTES, close; the first bytes are compared with what was written
 *          xattr    fgetxattr of security.none, on one open file: a request that is answered without asking further
 *          clear    remove the directories
 * LAYOUT   one: all files in DIR; own: a directory for each process; tree: directories of 100 files,
 *          ten in each of the level above, below a directory for each process
 * COUNT    one number for each process: as many processes, which do so many operations each
 * LIMIT_MS a process stops after so many milliseconds; 0: never
 *
 * The processes wait for each other before they begin. Prints one line of JSON: operations of all, nanoseconds from
 * the start to the end of the last one, and the operations of each. Exit status 1: an operation failed, and stderr
 * says which.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PROCESSES = 256, MAX_BYTES = 1 << 20, NAME_BYTES = 256, FILES_IN_LEAF = 100 };

struct outcome {
    long operations;
    long long end_ns;
};

static const char *phase;
static char layout;
static int process; /* which one this is */
static size_t size_bytes;
static long long limit_ns;
static char *buffer;

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "load %s: %s: %s\n", phase, what, errno ? strerror(errno) : "wrong contents");
    _exit(1);
}

static void name_of(char *name, long number)
{
    if (layout == 'o')
        snprintf(name, NAME_BYTES, "f%d-%07ld", process, number);
    else if (layout == 'w')
        snprintf(name, NAME_BYTES, "p%d/f%07ld", process, number);
    else
        snprintf(name, NAME_BYTES, "p%d/a%ld/b%ld/f%07ld", process, number / (10 * FILES_IN_LEAF),
                 number / FILES_IN_LEAF, number);
}

static void tag(long number) /* so that a file that holds another's data is noticed */
{
    size_t length = size_bytes < sizeof number ? size_bytes : sizeof number;
    number = number * MAX_PROCESSES + process;
    memcpy(buffer, &number, length);
}

static int tagged(long number)
{
    size_t length = size_bytes < sizeof number ? size_bytes : sizeof number;
    number = number * MAX_PROCESSES + process;
    return memcmp(buffer, &number, length) == 0;
}

static void create(const char *name, long number, int with_data)
{
    int file = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (file < 0)
        fail(name);
    if (with_data) {
        tag(number);
        if (write(file, buffer, size_bytes) != (ssize_t)size_bytes)
            fail(name);
    }
    if (close(file))
        fail(name);
}

static void look_into(const char *name, long number, int with_data)
{
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        fail(name);
    if (with_data) {
        errno = 0;
        if (read(file, buffer, size_bytes) != (ssize_t)size_bytes || !tagged(number))
            fail(name);
    }
    if (close(file))
        fail(name);
}

static void operate(char kind, long number)
{
    char name[NAME_BYTES];
    struct stat status;
    name_of(name, number);
    switch (kind) {
    case 'c': create(name, number, 0); break;
    case 'w': create(name, number, 1); break;
    case 'o': look_into(name, number, 0); break;
    case 'r': look_into(name, number, 1); break;
    case 's':
        if (lstat(name, &status))
            fail(name);
        break;
    default:
        if (unlink(name))
            fail(name);
    }
}

static long list(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    struct stat status;
    char inner[NAME_BYTES * 2];
    long entries = 0;
    if (!directory)
        fail(path);
    while (errno = 0, (entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        entries++;
        if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
            fail(entry->d_name);
        if (S_ISDIR(status.st_mode)) {
            snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
            entries += list(inner);
        }
    }
    if (errno)
        fail(path);
    closedir(directory);
    return entries;
}

static long ask(long count)
{
    char name[NAME_BYTES], value[64];
    int file;
    name_of(name, 0);
    if ((file = open(name, O_RDONLY | O_CLOEXEC)) < 0)
        fail(name);
    for (long number = 0; number < count; number++)
        if (fgetxattr(file, "security.none", value, sizeof value) >= 0 || (errno != ENODATA && errno != EOPNOTSUPP))
            fail(name);
    close(file);
    return count;
}

/* Directories of one process for *count* files; made, or removed from the deepest one up. */
static void directories(long count, int make)
{
    char path[NAME_BYTES];
    long leaves = layout == 't' ? (count + FILES_IN_LEAF - 1) / FILES_IN_LEAF : 0;
    if (layout == 'o')
        return;
    snprintf(path, sizeof path, "p%d", process);
    if (make && mkdir(path, 0755))
        fail(path);
    for (long leaf = 0; leaf < leaves; leaf++) {
        snprintf(path, sizeof path, "p%d/a%ld", process, leaf / 10);
        if (make && leaf % 10 == 0 && mkdir(path, 0755))
            fail(path);
        snprintf(path, sizeof path, "p%d/a%ld/b%ld", process, leaf / 10, leaf);
        if (make ? mkdir(path, 0755) : rmdir(path))
            fail(path);
        snprintf(path, sizeof path, "p%d/a%ld", process, leaf / 10);
        if (!make && (leaf % 10 == 9 || leaf == leaves - 1) && rmdir(path))
            fail(path);
    }
    snprintf(path, sizeof path, "p%d", process);
    if (!make && rmdir(path))
        fail(path);
}

static long work(long count)
{
    char own[NAME_BYTES];
    long long end_ns = limit_ns ? now_ns() + limit_ns : 0;
    long number;
    snprintf(own, sizeof own, "p%d", process);
    if (!strcmp(phase, "prepare") || !strcmp(phase, "clear")) {
        directories(count, *phase == 'p');
        return count;
    }
    if (!strcmp(phase, "xattr"))
        return ask(count);
    if (!strcmp(phase, "list"))
        return list(layout == 'o' ? "." : own);
    char kind = !strcmp(phase, "remove") ? 'u' : *phase;
    for (number = 0; number < count; number++) {
        if (end_ns && now_ns() >= end_ns)
            break;
        operate(kind, number);
    }
    return number;
}

static int parse_counts(char *text, long *counts)
{
    int processes = 0;
    for (char *part = strtok(text, ","); part && processes < MAX_PROCESSES; part = strtok(NULL, ","))
        counts[processes++] = atol(part);
    return processes;
}

static int run(int processes, const long *counts)
{
    struct outcome *outcomes = mmap(NULL, sizeof *outcomes * MAX_PROCESSES, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int ready[2], go[2], status, failed = 0;
    long operations = 0;
    char byte;
    if (outcomes == MAP_FAILED || pipe(ready) || pipe(go))
        fail("no memory or pipe");
    for (process = 0; process < processes; process++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child)
            continue;
        close(go[1]);
        if (write(ready[1], "", 1) != 1 || read(go[0], &byte, 1)) /* ends when all have closed the pipe */
            fail("barrier");
        outcomes[process].operations = work(counts[process]);
        outcomes[process].end_ns = now_ns();
        _exit(0);
    }
    for (int waiting = 0; waiting < processes; waiting++)
        if (read(ready[0], &byte, 1) != 1)
            fail("barrier");
    long long begun_ns = now_ns(), ended_ns = begun_ns;
    close(go[1]);
    while (wait(&status) > 0)
        failed |= status != 0;
    if (failed)
        return 1;
    for (int index = 0; index < processes; index++) {
        operations += outcomes[index].operations;
        if (outcomes[index].end_ns > ended_ns)
            ended_ns = outcomes[index].end_ns;
    }
    printf("{\"operations\": %ld, \"duration_ns\": %lld, \"counts\": [", operations, ended_ns - begun_ns);
    for (int index = 0; index < processes; index++)
        printf("%s%ld", index ? ", " : "", outcomes[index].operations);
    printf("]}\n");
    return 0;
}

int main(int argc, char **argv)
{
    long counts[MAX_PROCESSES];
    int processes;
    if (argc != 7 || !strchr("owt", layout = argv[3][0] == 'o' && argv[3][1] == 'w' ? 'w' : argv[3][0])) {
        fprintf(stderr, "usage: load PHASE DIR one|own|tree COUNT[,COUNT]... BYTES LIMIT_MS\n");
        return 2;
    }
    phase = argv[1];
    processes = parse_counts(argv[4], counts);
    size_bytes = strtoul(argv[5], NULL, 10);
    limit_ns = atoll(argv[6]) * 1000000LL;
    if (!processes || size_bytes > MAX_BYTES || !(buffer = malloc(MAX_BYTES))) {
        fprintf(stderr, "load: bad COUNT or BYTES\n");
        return 2;
    }
    for (size_t index = 0; index < size_bytes; index++) /* not what compresses well or looks like a hole */
        buffer[index] = (char)(index * 2654435761u >> 13);
    if (chdir(argv[2]))
        fail(argv[2]);
    return run(processes, counts);
}
