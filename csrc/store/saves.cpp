#include "store/saves.h"

#include "llama-rows.h"

#include <algorithm>

namespace kvf {

Saves::Saves(llama_context * ctx, Store & store, size_t n_slice_bytes)
    : ctx_(ctx), memory_(llama_get_memory(ctx)), store_(store), n_slice_bytes_(n_slice_bytes) {
    const char * why = nullptr;
    whole_           = llama_memory_rows_kind(memory_, &why) == LLAMA_ROWS_WHOLE;
    why_not_         = why ? why : "";
}

void Saves::add(llama_seq_id             seq,
                std::vector<llama_token> tokens,
                const std::string &      name_space,
                size_t                   n_stored,
                uint64_t                 lookup) {
    if (!why_not_.empty() || tokens.size() < N_LEAST) {
        return;
    }
    Save save;
    save.seq = seq;

    Digest       parent    = {};
    const size_t n_segment = whole_ ? tokens.size() : N_SEGMENT;
    for (size_t begin = 0; begin < tokens.size(); begin += n_segment) {
        Segment segment;
        segment.shelf    = store_.shelf(name_space);
        segment.parent   = parent;
        segment.begin    = static_cast<uint32_t>(begin);
        segment.is_whole = whole_;
        segment.tokens.assign(tokens.begin() + begin, tokens.begin() + std::min(tokens.size(), begin + n_segment));

        const Digest name     = segment.name();
        const bool   is_there = segment.end() <= n_stored;
        if (!is_there && store_.wants(name, lookup)) {
            save.segments.push_back(std::move(segment));
        }
        parent = name;
    }
    if (save.segments.empty()) {
        return;
    }
    save.number     = ++n_added_;
    save.lookup     = lookup;
    save.tokens     = std::move(tokens);
    save.name_space = name_space;
    saves_.push_back(std::move(save));
}

void Saves::forget(llama_seq_id seq) {
    saves_.erase(std::remove_if(saves_.begin(), saves_.end(), [&](const Save & save) { return save.seq == seq; }),
                 saves_.end());
}

bool Saves::has(llama_seq_id seq) const {
    return std::any_of(saves_.begin(), saves_.end(), [&](const Save & save) { return save.seq == seq; });
}

bool Saves::can_go_on() const {
    return !saves_.empty() && store_.has_room();
}

void Saves::go_on() {
    if (can_go_on() && !copy(saves_.front())) {
        saves_.pop_front();
    }
}

void Saves::go_on_with(llama_seq_id seq) {
    const auto it = std::find_if(saves_.begin(), saves_.end(), [&](const Save & save) { return save.seq == seq; });
    while (it != saves_.end() && store_.has_room()) {
        if (!copy(*it)) {
            saves_.erase(it);
            break;
        }
    }
}

void Saves::go_on_with_all() {
    while (can_go_on()) {
        go_on();
    }
}

// Copies the next rows of a snapshot. False when there are no more.
bool Saves::copy(Save & save) {
    if (whole_) {
        return copy_whole(save);
    }
    const Segment & segment = save.segments.front();
    if (save.n_copied == 0 && !store_.wants(segment.name(), save.lookup)) { // another snapshot had it too
        save.segments.pop_front();
        return !save.segments.empty();
    }
    const size_t n_tokens = segment.tokens.size();
    const auto   n_block  = static_cast<uint32_t>(n_tokens);
    llama_synchronize(ctx_);
    if (save.n_copied == 0) {
        save.payload = Payload(llama_memory_rows_size(memory_, n_block));
    }
    const size_t n = std::min(N_SLICE, n_tokens - save.n_copied);
    if (!llama_memory_rows_get(memory_, save.seq, segment.begin + static_cast<llama_pos>(save.n_copied),
                               static_cast<uint32_t>(n), save.payload.data.get(), n_block,
                               static_cast<uint32_t>(save.n_copied))) {
        return false; // it is not what it was when it became a snapshot, so it is not kept
    }
    save.n_copied += n;
    if (save.n_copied == n_tokens) {
        hand_over(save);
    }
    return !save.segments.empty();
}

bool Saves::copy_whole(Save & save) {
    llama_synchronize(ctx_);
    if (save.n_copied == 0) {
        save.payload = Payload(llama_memory_whole_size(memory_, save.seq));
    }
    const size_t begin = save.n_copied;
    const size_t end   = begin + std::min(n_slice_bytes_, save.payload.size - begin);
    if (begin == end ||
        !llama_memory_whole_get(memory_, save.seq, save.payload.data.get(), save.payload.size, begin, end)) {
        return false; // it is not what it was, as above
    }
    save.n_copied = end;
    if (end == save.payload.size) {
        hand_over(save);
    }
    return !save.segments.empty();
}

void Saves::hand_over(Save & save) {
    store_.write(save.name_space, std::move(save.segments.front()), std::move(save.payload));
    save.segments.pop_front();
    save.n_copied = 0;
}

} // namespace kvf
