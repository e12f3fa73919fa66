#include "cache/sequences.h"

#include "llama-fork.h"
#include "llama-pages.h"

#include <numeric>

namespace kvf {

Sequences::Sequences(llama_context * ctx, Room & room) : ctx_(ctx), memory_(llama_get_memory(ctx)), room_(room) {
    const llama_model * model = llama_get_model(ctx);
    forks_anywhere_ =
        !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model) && llama_model_n_swa(model) == 0;
    free_.resize(llama_n_seq_max(ctx));
    std::iota(free_.rbegin(), free_.rend(), 0);
}

llama_seq_id Sequences::take() {
    if (free_.empty()) {
        return -1;
    }
    const llama_seq_id seq = free_.back();
    free_.pop_back();
    return seq;
}

void Sequences::give_back(llama_seq_id seq) {
    llama_memory_seq_drop(memory_, seq);
    free_.push_back(seq); // it has been there
}

void Sequences::clear() {
    llama_synchronize(ctx_);
    llama_memory_clear(memory_, /* data = */ false);
    free_.resize(llama_n_seq_max(ctx_));
    std::iota(free_.rbegin(), free_.rend(), 0);
}

bool Sequences::fork(llama_seq_id src, llama_seq_id dst, size_t n) {
    if (!keep(src, dst, n)) {
        return false;
    }
    llama_synchronize(ctx_); // data is copied
    if (llama_memory_seq_own_page(memory_, dst) || !room_.is_strict()) {
        return true; // without pages, or when none is free, dst goes on in whatever cells are
    }
    if (room_.compact() && llama_memory_seq_own_page(memory_, dst)) {
        return true;
    }
    llama_memory_seq_drop(memory_, dst);
    return false;
}

bool Sequences::keep(llama_seq_id src, llama_seq_id dst, size_t n) {
    return llama_memory_seq_fork(memory_, src, dst, static_cast<llama_pos>(n));
}

bool Sequences::cut(llama_seq_id seq, size_t n) {
    return forks_anywhere_ && llama_memory_seq_rm(memory_, seq, static_cast<llama_pos>(n), -1);
}

size_t Sequences::forkable(llama_seq_id src, size_t n) const {
    return static_cast<size_t>(llama_memory_seq_fork_pos(memory_, src, static_cast<llama_pos>(n)));
}

} // namespace kvf
