#include "sequences.h"

#include "llama-fork.h"

namespace kvf {

Sequences::Sequences(llama_context * ctx) : memory_(llama_get_memory(ctx)) {
    const llama_model * model = llama_get_model(ctx);
    is_recurrent_             = llama_model_is_recurrent(model);
    forks_anywhere_           = !is_recurrent_ && !llama_model_is_hybrid(model) && llama_model_n_swa(model) == 0;
    for (llama_seq_id seq = static_cast<llama_seq_id>(llama_n_seq_max(ctx)) - 1; seq >= 0; --seq) {
        free_.push_back(seq);
    }
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
    free_.push_back(seq);
}

bool Sequences::fork(llama_seq_id src, llama_seq_id dst, size_t n) {
    return llama_memory_seq_fork(memory_, src, dst, static_cast<llama_pos>(n));
}

size_t Sequences::forkable(llama_seq_id src, size_t n) const {
    return static_cast<size_t>(llama_memory_seq_fork_pos(memory_, src, static_cast<llama_pos>(n)));
}

size_t Sequences::n_cells() const {
    return llama_memory_n_cells(memory_);
}

size_t Sequences::n_used() const {
    return llama_memory_n_cells_used(memory_);
}

bool Sequences::fits(size_t n_tokens) const {
    return is_recurrent_ || n_tokens <= llama_memory_n_cells_free(memory_);
}

} // namespace kvf
