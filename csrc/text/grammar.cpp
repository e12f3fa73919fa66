#include "text/grammar.h"

#include "kvf_error.h"

#include "llama-cpp.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace kvf {

namespace {

constexpr size_t MAX_GROUPS   = 256;      // inside of one another
constexpr size_t MAX_CHAIN    = 1024;     // rules that begin with one another
constexpr size_t MAX_ELEMENTS = 1u << 20; // characters, ranges and names, after repetition
constexpr double MAX_WAYS     = 1u << 13; // to begin a rule; as many as llama.cpp may follow, patch 0011
constexpr size_t MAX_REPEATED = 2000;     // times; llama.cpp's MAX_REPETITION_THRESHOLD

[[noreturn]] void refuse(const std::string & what) {
    throw Error(KVF_ERROR_INVALID, "grammar: " + what);
}

// One thing in a sequence: a terminal, or the name of a rule.
struct Item {
    static constexpr size_t TERMINAL = SIZE_MAX;

    size_t rule = TERMINAL;
};

using Sequence = std::vector<Item>;
using Rule     = std::vector<Sequence>; // its alternatives

// The rules of a grammar without their terminals. A group and a repetition are rules of their own, as in llama.cpp:
// x* is R ::= x R | "". Where the text is no GBNF, it ends: llama.cpp says what is wrong.
class Outline {
  public:
    Outline(const std::string & text, bool is_exact) : text_(text), is_exact_(is_exact) { read(); }

    const std::vector<Rule> & rules() const { return rules_; }

  private:
    // a group, or the whole of a rule, that is being read
    struct Open {
        size_t rule;
        size_t n_last = 0; // elements of the last item
    };

    static bool in_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-'; }

    char at(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }

    size_t add_rule() {
        rules_.push_back({ {} });
        return rules_.size() - 1;
    }

    size_t rule_named(const std::string & name) {
        const auto it = names_.find(name);
        return it != names_.end() ? it->second : names_[name] = add_rule();
    }

    Sequence & sequence() { return rules_[open_.back().rule].back(); }

    void add(Item item, size_t n_elements) {
        sequence().push_back(item);
        open_.back().n_last = n_elements;
        count(n_elements);
    }

    void count(size_t n_elements) {
        n_elements_ += n_elements;
        if (n_elements_ > MAX_ELEMENTS) {
            refuse("has more than " + std::to_string(MAX_ELEMENTS) +
                   " characters and names, repetitions counted in; make it shorter, or repeat a rule's name");
        }
    }

    // the last item at least n_min times, and at most n_max times
    bool repeat(size_t n_min, size_t n_max) {
        if (sequence().empty()) {
            return false;
        }
        if (n_max == 0) {
            sequence().pop_back();
            return true;
        }
        const size_t n_times = std::max(n_min, n_max == SIZE_MAX ? n_min + 1 : n_max);
        count(open_.back().n_last * std::min(n_times, MAX_REPEATED));
        const Item   item   = sequence().back();
        const size_t repeat = add_rule();
        rules_[repeat]      = { { item }, {} };
        if (n_max > 1) {
            rules_[repeat].front().push_back({ repeat });
        }
        if (n_min == 0) {
            sequence().back() = { repeat };
        } else if (n_max > 1) {
            sequence().push_back({ repeat });
        }
        return true;
    }

    size_t skip_space(size_t i) const {
        while (at(i) == ' ' || at(i) == '\t' || at(i) == '\r' || at(i) == '\n' || at(i) == '#') {
            i = at(i) == '#' ? std::min(text_.find('\n', i), text_.size()) : i + 1;
        }
        return i;
    }

    size_t read_number(size_t i, size_t & number) const {
        for (number = 0; std::isdigit(static_cast<unsigned char>(at(i))); ++i) {
            number = std::min(number * 10 + static_cast<size_t>(at(i) - '0'), size_t(1) << 31);
        }
        return i;
    }

    // the characters up to the one that closes; where that is, or the end of the text
    size_t read_terminal(size_t i, char close) {
        size_t n = 0;
        for (++i; i < text_.size() && text_[i] != close; ++i) {
            i += text_[i] == '\\';
            ++n;
        }
        add({}, std::max<size_t>(n, 1));
        if (n == 0) { // "" is nothing
            sequence().pop_back();
        }
        return i + 1;
    }

    void read() {
        size_t i = skip_space(0);
        while (i < text_.size()) {
            const char c = text_[i];
            if (in_name(c)) {
                const size_t from = i;
                while (in_name(at(i))) {
                    ++i;
                }
                const size_t rule = rule_named(text_.substr(from, i - from));
                const size_t next = skip_space(i);
                if (text_.compare(next, 3, "::=") == 0) {
                    open_        = { { rule } };
                    rules_[rule] = { {} };
                    i            = next + 3;
                } else if (open_.empty()) {
                    return;
                } else {
                    add({ rule }, 1);
                }
            } else if (open_.empty()) {
                return;
            } else if (c == '"') {
                i = read_terminal(i, '"');
            } else if (c == '[') {
                i = read_terminal(i, ']');
            } else if (c == '<' || c == '!') {
                i = std::min(text_.find('>', i), text_.size()) + 1;
                add({}, 1);
            } else if (c == '.') {
                add({}, 1);
                ++i;
            } else if (c == '|') {
                rules_[open_.back().rule].push_back({});
                ++i;
            } else if (c == '(') {
                const size_t group = add_rule();
                add({ group }, 1);
                open_.push_back({ group });
                if (open_.size() > MAX_GROUPS) {
                    refuse("has groups inside of one another, more than " + std::to_string(MAX_GROUPS) +
                           "; make rules of them");
                }
                ++i;
            } else if (c == ')' && open_.size() > 1) {
                open_.pop_back();
                ++i;
            } else if (c == '*' || c == '+' || c == '?' || c == '{') {
                size_t n_min = c == '+' ? 1 : 0;
                size_t n_max = c == '?' ? 1 : SIZE_MAX;
                i            = skip_space(i + 1);
                if (c == '{') {
                    const size_t from = i;

                    i = skip_space(read_number(i, n_min));
                    if (at(i) == ',') {
                        i = skip_space(i + 1);
                        if (std::isdigit(static_cast<unsigned char>(at(i)))) {
                            i = skip_space(read_number(i, n_max));
                        }
                    } else {
                        n_max = n_min;
                    }
                    if (at(i++) != '}') {
                        return;
                    }
                    if (n_max < n_min) { // llama.cpp takes the difference for a number without a sign
                        refuse("{" + text_.substr(from, std::min<size_t>(i - from, 60)) +
                               ": is at most less often than at least; swap the two numbers");
                    }
                    if (n_min > MAX_REPEATED || (is_exact_ && n_max != SIZE_MAX && n_max > MAX_REPEATED)) {
                        refuse("{" + text_.substr(from, std::min<size_t>(i - from, 60)) + ": llama.cpp counts up to " +
                               std::to_string(MAX_REPEATED) +
                               " repetitions only; repeat a group of several, or leave the end open, as in {1,}");
                    }
                }
                if (!repeat(n_min, n_max)) {
                    return;
                }
            } else {
                return;
            }
            i = skip_space(i);
        }
    }

    const std::string &                     text_;
    const bool                              is_exact_;
    std::vector<Rule>                       rules_;
    std::unordered_map<std::string, size_t> names_;
    std::vector<Open>                       open_;
    size_t                                  n_elements_ = 0;
};

// Which rules may be nothing.
std::vector<bool> empties(const std::vector<Rule> & rules) {
    std::vector<bool>                is_empty(rules.size());
    std::vector<std::vector<size_t>> users(rules.size());
    for (size_t r = 0; r < rules.size(); ++r) {
        for (const Sequence & sequence : rules[r]) {
            for (const Item & item : sequence) {
                if (item.rule != Item::TERMINAL) {
                    users[item.rule].push_back(r);
                }
            }
        }
    }
    const auto may_be_empty = [&](const Sequence & sequence) {
        return std::all_of(sequence.begin(), sequence.end(),
                           [&](const Item & item) { return item.rule != Item::TERMINAL && is_empty[item.rule]; });
    };
    std::vector<size_t> todo(rules.size());
    for (size_t r = 0; r < rules.size(); ++r) {
        todo[r] = r;
    }
    while (!todo.empty()) {
        const size_t r = todo.back();
        todo.pop_back();
        if (!is_empty[r] && std::any_of(rules[r].begin(), rules[r].end(), may_be_empty)) {
            is_empty[r] = true;
            todo.insert(todo.end(), users[r].begin(), users[r].end());
        }
    }
    return is_empty;
}

// A rule that another one may begin with.
struct First {
    size_t rule;
    bool   is_last; // nothing follows it there
};

std::vector<std::vector<First>> firsts(const std::vector<Rule> & rules) {
    const std::vector<bool>         is_empty = empties(rules);
    std::vector<std::vector<First>> out(rules.size());
    for (size_t r = 0; r < rules.size(); ++r) {
        for (const Sequence & sequence : rules[r]) {
            for (size_t i = 0; i < sequence.size() && sequence[i].rule != Item::TERMINAL; ++i) {
                out[r].push_back({ sequence[i].rule, i + 1 == sequence.size() });
                if (!is_empty[sequence[i].rule]) {
                    break;
                }
            }
        }
    }
    return out;
}

// Goes through the rules that begin with one another, each once, without calling itself; Tarjan's algorithm, by which rules
// that begin with themselves are found together.
class Beginnings {
  public:
    explicit Beginnings(std::vector<std::vector<First>> firsts)
        : firsts_(std::move(firsts)),
          order_(firsts_.size()),
          low_(firsts_.size()),
          group_(firsts_.size()),
          ways_(firsts_.size(), 1.0),
          length_(firsts_.size(), 1) {
        for (size_t r = 0; r < firsts_.size(); ++r) {
            if (order_[r] == 0) {
                walk(r);
            }
        }
    }

  private:
    struct Step {
        size_t rule;
        size_t i_next = 0;
    };

    void walk(size_t root) {
        std::vector<Step> steps = { { root } };
        while (!steps.empty()) {
            const size_t r = steps.back().rule;
            if (steps.back().i_next == 0) {
                order_[r] = low_[r] = ++n_seen_;
                pending_.push_back(r);
            }
            if (steps.back().i_next < firsts_[r].size()) {
                const size_t next = firsts_[r][steps.back().i_next++].rule;
                if (order_[next] == 0) {
                    steps.push_back({ next });
                } else if (group_[next] == 0) {
                    low_[r] = std::min(low_[r], order_[next]);
                }
                continue;
            }
            steps.pop_back();
            if (!steps.empty()) {
                low_[steps.back().rule] = std::min(low_[steps.back().rule], low_[r]);
            }
            if (low_[r] == order_[r]) {
                close_group(r);
            }
        }
    }

    void close_group(size_t root) {
        const auto                from = std::find(pending_.rbegin(), pending_.rend(), root).base() - 1;
        const std::vector<size_t> members(from, pending_.end());
        pending_.erase(from, pending_.end());
        ++n_groups_;
        for (const size_t r : members) {
            group_[r] = n_groups_;
        }
        for (const size_t r : members) {
            for (const First & first : firsts_[r]) {
                if (group_[first.rule] != n_groups_) {
                    ways_[root] += ways_[first.rule];
                    length_[root] = std::max(length_[root], members.size() + length_[first.rule]);
                } else if (!first.is_last) { // it would grow before anything is said
                    refuse("has a rule that begins with itself (left recursion); begin it with something else");
                }
            }
        }
        if (length_[root] > MAX_CHAIN) {
            refuse("has rules that begin with one another, more than " + std::to_string(MAX_CHAIN) +
                   " in a row; write some of them out");
        }
        if (ways_[root] > MAX_WAYS) {
            refuse("has a rule that can begin in more than " + std::to_string(static_cast<size_t>(MAX_WAYS)) +
                   " ways; let its alternatives begin differently");
        }
        for (const size_t r : members) {
            ways_[r]   = ways_[root];
            length_[r] = length_[root];
        }
    }

    std::vector<std::vector<First>> firsts_;
    std::vector<size_t>             order_; // in which they were seen, from 1
    std::vector<size_t>             low_;
    std::vector<size_t>             group_; // from 1
    std::vector<double>             ways_;
    std::vector<size_t>             length_;
    std::vector<size_t>             pending_;
    size_t                          n_seen_   = 0;
    size_t                          n_groups_ = 0;
};

} // namespace

void check_grammar(const llama_vocab * vocab, const std::string & grammar, bool is_exact) {
    Beginnings(firsts(Outline(grammar, is_exact).rules()));
    if (!llama_sampler_ptr(llama_sampler_init_grammar(vocab, grammar.c_str(), "root"))) {
        refuse("does not parse as GBNF with a rule named root: " + grammar.substr(0, 200));
    }
}

} // namespace kvf
