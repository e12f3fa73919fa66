#include "cache/sequences.h"

#include "engine/error.h"
#include "llama-fork.h"
#include "llama-pages.h"

namespace kvf {

Sequences::Sequences(llama_context * ctx, bool strict_pages)
    : ctx_(ctx), memory_(llama_get_memory(ctx)), strict_pages_(strict_pages) {
    const bool paged = llama_memory_set_paged(memory_, strict_pages ? LLAMA_PAGED_STRICT : LLAMA_PAGED_PREFER);
    if (strict_pages && !paged) {
        throw Error(KVF_ERROR_INVALID,
                    "batch_invariant: the cache of this model cannot be divided into pages (it needs "
                    "flash attention and no recurrent state); leave batch_invariant off");
    }
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
    if (!keep(src, dst, n)) {
        return false;
    }
    llama_synchronize(ctx_); // data is copied
    if (llama_memory_seq_own_page(memory_, dst) || !strict_pages_) {
        return true; // without pages, or when none is free, dst goes on in whatever cells are
    }
    if (compact() && llama_memory_seq_own_page(memory_, dst)) {
        return true;
    }
    llama_memory_seq_drop(memory_, dst);
    return false;
}

bool Sequences::keep(llama_seq_id src, llama_seq_id dst, size_t n) {
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

size_t Sequences::n_cells_for(size_t n_past, size_t n) const {
    if (!strict_pages_) {
        return n;
    }
    const auto n_pages = [](size_t n_tokens) { return (n_tokens + LLAMA_PAGE_SIZE - 1) / LLAMA_PAGE_SIZE; };
    return (n_pages(n_past + n) - n_pages(n_past)) * LLAMA_PAGE_SIZE;
}

size_t Sequences::n_cells_for_fork(size_t n_past, size_t n) const {
    const size_t n_copied = n_past % LLAMA_PAGE_SIZE;
    return n_cells_for(n_past - n_copied, n_copied + n);
}

bool Sequences::fits(size_t n_cells) const {
    if (is_recurrent_) {
        return true;
    }
    const size_t n_free = strict_pages_ ? size_t(llama_memory_n_pages_free(memory_)) * LLAMA_PAGE_SIZE
                                        : llama_memory_n_cells_free(memory_);
    return n_cells <= n_free;
}

bool Sequences::compact() {
    if (!strict_pages_) {
        return false;
    }
    llama_synchronize(ctx_); // data is moved
    return llama_memory_compact(memory_);
}

} // namespace kvf
