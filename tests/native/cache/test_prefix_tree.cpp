// The radix tree against the plain way: a list of token vectors, compared one by one.

#include "cache/prefix_tree.h"
#include "check.h"

#include <algorithm>
#include <map>
#include <random>

using Tokens = std::vector<llama_token>;

static size_t n_common_tokens(const Tokens & a, const Tokens & b, size_t n_max) {
    size_t n = 0;
    while (n < n_max && n < a.size() && n < b.size() && a[n] == b[n]) {
        ++n;
    }
    return n;
}

static void check_match(const kvf::PrefixTree &                tree,
                        const std::map<llama_seq_id, Tokens> & plain,
                        const Tokens &                         prompt,
                        size_t                                 n_max) {
    std::map<llama_seq_id, size_t> expected;
    for (const auto & [seq, tokens] : plain) {
        const size_t n = n_common_tokens(tokens, prompt, n_max);
        if (n > 0) {
            expected[seq] = n;
        }
    }
    std::map<llama_seq_id, size_t> found;
    size_t                         last = prompt.size();
    tree.match(prompt, n_max, [&](llama_seq_id seq, size_t n) {
        CHECK(found.count(seq) == 0);
        CHECK(n <= last); // the longest first
        last       = n;
        found[seq] = n;
        return true;
    });
    CHECK(found == expected);
}

static void check_nearest(const kvf::PrefixTree & tree, const std::map<llama_seq_id, Tokens> & plain) {
    for (const auto & [seq, tokens] : plain) {
        size_t n_most = 0;
        for (const auto & [other, others] : plain) {
            n_most = other == seq ? n_most : std::max(n_most, n_common_tokens(tokens, others, tokens.size()));
        }
        const kvf::PrefixTree::Neighbour found = tree.nearest(seq);
        CHECK(found.n_common == n_most);
        CHECK(found.seq != seq && (found.seq >= 0) == (plain.size() > 1));
        CHECK(found.seq < 0 || n_common_tokens(tokens, plain.at(found.seq), tokens.size()) == n_most);
    }
}

static void test_random() {
    std::mt19937                   rng(1);
    kvf::PrefixTree                tree;
    std::map<llama_seq_id, Tokens> plain;
    const auto                     random = [&](int n) { return static_cast<int>(rng() % n); };

    for (int round = 0; round < 20000; ++round) {
        const llama_seq_id seq   = random(24);
        const auto         known = plain.find(seq);
        if (known == plain.end()) {
            Tokens tokens;
            if (!plain.empty() && random(4) > 0) { // mostly begin like another one
                auto like = plain.begin();
                std::advance(like, random(static_cast<int>(plain.size())));
                tokens = like->second;
                tokens.resize(random(static_cast<int>(tokens.size()) + 1));
            }
            for (int i = random(6); i > 0; --i) {
                tokens.push_back(random(3));
            }
            tree.insert(seq, tokens);
            plain[seq] = tokens;
        } else if (random(3) > 0) {
            const llama_token token = random(3);
            tree.append(seq, token);
            known->second.push_back(token);
        } else if (random(2) > 0) {
            const size_t n = random(static_cast<int>(known->second.size()) + 2);
            tree.truncate(seq, n);
            known->second.resize(std::min(n, known->second.size()));
        } else {
            tree.erase(seq);
            plain.erase(known);
        }
        CHECK(tree.fault().empty());
        check_nearest(tree, plain);

        Tokens prompt;
        for (int i = random(12); i > 0; --i) {
            prompt.push_back(random(3));
        }
        check_match(tree, plain, prompt, random(14));
    }
    for (const auto & [seq, tokens] : plain) {
        tree.erase(seq);
    }
    CHECK(tree.n_tokens() == 0);
    CHECK(tree.fault().empty());
}

static void test_shared_tokens_are_held_once() {
    kvf::PrefixTree tree;
    tree.insert(0, { 1, 2, 3, 4 });
    tree.insert(1, { 1, 2, 3, 5 });
    tree.insert(2, { 1, 2 });
    CHECK(tree.n_tokens() == 5);
    tree.erase(0);
    CHECK(tree.n_tokens() == 4);
}

static void test_visit_can_stop() {
    kvf::PrefixTree tree;
    tree.insert(0, { 1, 2, 3 });
    tree.insert(1, { 1, 2 });
    int n_visits = 0;
    tree.match({ 1, 2, 3 }, 3, [&](llama_seq_id seq, size_t n) {
        CHECK(seq == 0 && n == 3);
        ++n_visits;
        return false;
    });
    CHECK(n_visits == 1);
}

int main() {
    test_random();
    test_shared_tokens_are_held_once();
    test_visit_can_stop();
    return 0;
}
