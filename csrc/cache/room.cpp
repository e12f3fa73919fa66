#include "cache/room.h"

#include "kvf_error.h"

#include <algorithm>

namespace kvf {

namespace {

size_t n_bits(uint64_t word) {
    size_t n = 0;
    for (; word; word &= word - 1) {
        ++n;
    }
    return n;
}

} // namespace

Room::Need & Room::Need::operator+=(const Need & other) {
    parts_.resize(std::max(parts_.size(), other.parts_.size()));
    for (size_t i = 0; i < other.parts_.size(); ++i) {
        parts_[i].n_pages += other.parts_[i].n_pages;
        parts_[i].n_cells += other.parts_[i].n_cells;
    }
    return *this;
}

// Which sequences hold which cells of one part.
class Room::Holders {
  public:
    Holders(const Room & room, uint32_t i_part)
        : memory_(room.memory_),
          i_part_(i_part),
          unit_(room.paged_ ? LLAMA_PAGE_SIZE : 1),
          n_cells_(llama_memory_get_part(memory_, i_part).n_cells),
          n_free_(n_cells_ / unit_),
          cells_(llama_n_seq_max(room.ctx_)),
          n_of_unit_(n_free_) {}

    void add(llama_seq_id seq) {
        cells_[seq].resize((n_cells_ + 63) / 64);
        llama_memory_part_seq_cells(memory_, i_part_, seq, cells_[seq].data());
        for_each_unit(cells_[seq], [&](size_t unit) { n_free_ -= n_of_unit_[unit]++ == 0; });
    }

    void drop(llama_seq_id seq) {
        for_each_unit(cells_[seq], [&](size_t unit) { n_free_ += --n_of_unit_[unit] == 0; });
        cells_[seq].clear();
    }

    // pages, or cells where there are no pages
    size_t n_free() const { return n_free_; }

    // cells, those of pages in use among them
    size_t n_cells_free() const {
        size_t n = n_cells_;
        for (size_t w = 0; w < (n_cells_ + 63) / 64; ++w) {
            uint64_t held = 0;
            for (const std::vector<uint64_t> & cells : cells_) {
                held |= cells.empty() ? 0 : cells[w];
            }
            n -= n_bits(held);
        }
        return n;
    }

  private:
    template <typename F>
    void for_each_unit(const std::vector<uint64_t> & cells, F && f) const {
        for (size_t w = 0; w < cells.size(); ++w) {
            if (unit_ == 64) {
                if (cells[w] && w < n_of_unit_.size()) {
                    f(w);
                }
                continue;
            }
            for (uint64_t left = cells[w]; left; left &= left - 1) {
                f(64 * w + n_bits((left & -left) - 1));
            }
        }
    }

    static_assert(LLAMA_PAGE_SIZE == 64, "a page is a word of cells");

    llama_memory_t                     memory_;
    uint32_t                           i_part_;
    size_t                             unit_; // cells
    size_t                             n_cells_;
    size_t                             n_free_;
    std::vector<std::vector<uint64_t>> cells_;     // by sequence, a bit each
    std::vector<uint16_t>              n_of_unit_; // sequences
};

Room::Room(llama_context * ctx, bool strict)
    : ctx_(ctx), memory_(llama_get_memory(ctx)), strict_(strict), n_parts_(llama_memory_n_parts(memory_)) {
    paged_ = llama_memory_set_paged(memory_, strict ? LLAMA_PAGED_STRICT : LLAMA_PAGED_PREFER);
    if (strict && !paged_) {
        throw Error(KVF_ERROR_INVALID,
                    "batch_invariant: the cache of this model cannot be divided into pages (it needs "
                    "flash attention and no recurrent state); leave batch_invariant off");
    }
}

Room::Need Room::need(llama_seq_id seq, size_t n) const {
    Need need;
    for (uint32_t i = 0; i < n_parts_; ++i) {
        need.parts_.push_back(
            llama_memory_part_need(memory_, i, seq, 0, static_cast<uint32_t>(n), llama_n_ubatch(ctx_)));
    }
    return need;
}

Room::Need Room::need_of_fork(size_t n_past, size_t n) const {
    Need need;
    for (uint32_t i = 0; i < n_parts_; ++i) {
        need.parts_.push_back(llama_memory_part_need(memory_, i, -1, static_cast<llama_pos>(n_past),
                                                     static_cast<uint32_t>(n), llama_n_ubatch(ctx_)));
    }
    return need;
}

// what no sequence has ever been in, or all have left
bool Room::has_empty(const Need & need) const {
    for (uint32_t i = 0; i < need.parts_.size(); ++i) {
        const llama_memory_part part = llama_memory_get_part(memory_, i);
        if (paged_ ? need.parts_[i].n_pages > part.n_runs_empty
                   : need.parts_[i].n_cells > part.n_cells - part.n_cells_used) {
            return false;
        }
    }
    return true;
}

bool Room::fits(const Need &                      need,
                size_t                            n_least,
                bool                              pages_are_worth_it,
                const std::vector<llama_seq_id> & spared,
                const Next &                      next) const {
    if (n_least == 0 && has_empty(need)) {
        return true;
    }

    std::vector<Holders> parts;
    for (uint32_t i = 0; i < need.parts_.size(); ++i) {
        parts.emplace_back(*this, i);
    }
    const auto in_units = [&] {
        for (size_t i = 0; i < parts.size(); ++i) {
            if ((paged_ ? need.parts_[i].n_pages : need.parts_[i].n_cells) > parts[i].n_free()) {
                return false;
            }
        }
        return true;
    };
    const auto in_any_cells = [&] {
        for (size_t i = 0; i < parts.size(); ++i) {
            if (need.parts_[i].n_cells > parts[i].n_cells_free()) {
                return false;
            }
        }
        return paged_ && !strict_;
    };
    const auto add = [&](llama_seq_id seq) {
        for (Holders & part : parts) {
            part.add(seq);
        }
    };

    for (const llama_seq_id seq : spared) {
        add(seq);
    }
    if (!in_units() && !in_any_cells()) {
        return false;
    }
    for (llama_seq_id seq = 0; seq < static_cast<llama_seq_id>(llama_n_seq_max(ctx_)); ++seq) {
        if (std::find(spared.begin(), spared.end(), seq) == spared.end()) {
            add(seq);
        }
    }
    for (size_t n_gone = 0; n_gone < n_least || !(in_units() || (!pages_are_worth_it && in_any_cells())); ++n_gone) {
        const llama_seq_id seq = next();
        if (seq < 0) {
            return n_gone >= n_least && in_any_cells();
        }
        for (Holders & part : parts) {
            part.drop(seq);
        }
    }
    return true;
}

bool Room::compact() {
    if (!strict_) {
        return false;
    }
    llama_synchronize(ctx_); // data is moved
    return llama_memory_compact(memory_);
}

size_t Room::n_cells() const {
    return llama_memory_n_cells(memory_);
}

size_t Room::n_used() const {
    return llama_memory_n_cells_used(memory_);
}

std::vector<kvf_part> Room::parts() const {
    std::vector<kvf_part> parts;
    for (uint32_t i = 0; i < n_parts_; ++i) {
        const llama_memory_part part = llama_memory_get_part(memory_, i);
        parts.push_back({ part.n_cells, part.n_cells_used, part.n_runs, part.n_runs_empty, part.n_window });
    }
    return parts;
}

size_t Room::n_pages_held(uint32_t i_part, const std::vector<llama_seq_id> & seqs) const {
    std::vector<uint64_t> cells((llama_memory_get_part(memory_, i_part).n_cells + 63) / 64);
    for (const llama_seq_id seq : seqs) {
        llama_memory_part_seq_cells(memory_, i_part, seq, cells.data());
    }
    return cells.size() - static_cast<size_t>(std::count(cells.begin(), cells.end(), 0u));
}

size_t Room::n_pages_read(const std::vector<llama_seq_id> & seqs) const {
    size_t n = 0;
    for (uint32_t i = 0; i < n_parts_; ++i) {
        n += n_pages_held(i, seqs);
    }
    return n;
}

size_t Room::n_wanted(const std::vector<llama_seq_id> & seqs, const Need & need) const {
    if (n_parts_ == 0) {
        return 0;
    }
    return LLAMA_PAGE_SIZE * (n_pages_held(0, seqs) + (need.parts_.empty() ? 0 : need.parts_[0].n_pages));
}

} // namespace kvf
