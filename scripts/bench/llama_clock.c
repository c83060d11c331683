/* Notes when llama-server is inside libllama: loaded before it (LD_PRELOAD), and mapped to the file that LLAMA_CLOCK
 * names. The file begins with a count; the n-th call of those below is entry n modulo ENTRIES: kind, begin, end, in
 * CLOCK_MONOTONIC nanoseconds. server_rows.py reads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { COMPUTE = 1, LOGITS = 2, SAMPLE = 3, TEXT = 4, ENTRIES = 1 << 16 };

struct clock_file {
    uint64_t count;
    struct {
        int64_t kind, begin_ns, end_ns;
    } entries[ENTRIES];
};

static struct clock_file *file;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void note(int64_t kind, int64_t begin_ns) {
    if (file == NULL) return;
    uint64_t place = __atomic_fetch_add(&file->count, 1, __ATOMIC_SEQ_CST) % ENTRIES;
    file->entries[place].kind = kind;
    file->entries[place].begin_ns = begin_ns;
    file->entries[place].end_ns = now_ns();
}

__attribute__((constructor)) static void open_file(void) {
    const char *name = getenv("LLAMA_CLOCK");
    int handle = name ? open(name, O_RDWR) : -1;
    if (handle < 0) return;
    void *mapped = ftruncate(handle, sizeof *file) ? MAP_FAILED
                                                   : mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    if (mapped != MAP_FAILED) file = mapped;
    close(handle);
}

#define CALLED(kind, type, name, parameters, arguments)                 \
    type name parameters {                                              \
        static type(*real) parameters;                                  \
        if (real == NULL) real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        int64_t begin_ns = now_ns();                                    \
        type result = real arguments;                                   \
        note(kind, begin_ns);                                           \
        return result;                                                  \
    }

/* Both names of a step, of newer and of older servers. */
CALLED(COMPUTE, int32_t, llama_process, (void *context, int type, void *batch), (context, type, batch))

struct batch {
    int32_t n_tokens;
    void *token, *embd, *pos, *n_seq_id, *seq_id, *logits;
};
CALLED(COMPUTE, int32_t, llama_decode, (void *context, struct batch batch), (context, batch))

CALLED(LOGITS, float *, llama_get_logits_ith, (void *context, int32_t place), (context, place))

CALLED(TEXT, int32_t, llama_token_to_piece,
       (const void *vocabulary, int32_t token, char *text, int32_t length, int32_t strip, int special),
       (vocabulary, token, text, length, strip, special))

void llama_sampler_apply(void *sampler, void *candidates) {
    static void (*real)(void *, void *);
    if (real == NULL) real = (void (*)(void *, void *))dlsym(RTLD_NEXT, "llama_sampler_apply");
    int64_t begin_ns = now_ns();
    real(sampler, candidates);
    note(SAMPLE, begin_ns);
}
void llama_synchronize(void *context) {
    static void (*real)(void *);
    if (real == NULL) real = (void (*)(void *))dlsym(RTLD_NEXT, "llama_synchronize");
    int64_t begin_ns = now_ns();
    real(context);
    note(COMPUTE, begin_ns);
}
