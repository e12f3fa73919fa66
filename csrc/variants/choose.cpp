#include "variants/choose.h"

#ifdef KVFORK_CPU_VARIANTS

#    include "ggml-cpu-options.h"
#    include "ggml-cpu.h"

#    include <cstdlib>
#    include <cstring>

// the functions of a CPU back end that are called by name: all else is found through what the first one returns
#    define KIND(name, runs)                                             \
        extern "C" ggml_backend_reg_t ggml_backend_cpu_reg_##name(void); \
        extern "C" void               ggml_cpu_set_plain_weights_##name(bool);
#    include "kinds.inc"
#    undef KIND

namespace kvf {

namespace {

struct Kind {
    const char * name;
    bool         runs; // on this processor, and with this system
    ggml_backend_reg_t (*reg)();
    void (*set_plain_weights)(bool);
};

// KVFORK_CPU_VARIANT names a kind. If it does not run here, or there is none, the best one is taken, and the Python side
// refuses the name.
Kind choose() {
    __builtin_cpu_init();
#    define KIND(name, runs) { #name, runs, ggml_backend_cpu_reg_##name, ggml_cpu_set_plain_weights_##name },
    const Kind kinds[] = {
#    include "kinds.inc"
    };
#    undef KIND
    const char * const wanted = std::getenv("KVFORK_CPU_VARIANT");
    const Kind *       best   = nullptr;
    for (const Kind & kind : kinds) {
        const bool is_wanted = wanted && std::strcmp(wanted, kind.name) == 0;
        if (kind.runs && (!best || is_wanted)) {
            best = &kind;
        }
    }
    return *best; // the last one runs anywhere
}

const Kind & chosen() {
    static const Kind kind = choose();
    return kind;
}

} // namespace

const char * cpu_variant() {
    return chosen().name;
}

} // namespace kvf

ggml_backend_reg_t ggml_backend_cpu_reg(void) {
    return kvf::chosen().reg();
}

void ggml_cpu_set_plain_weights(bool plain) {
    kvf::chosen().set_plain_weights(plain);
}

#else

namespace kvf {

const char * cpu_variant() {
    return "";
}

} // namespace kvf

#endif
