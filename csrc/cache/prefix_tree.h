#pragma once

#include "llama.h"

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace kvf {

// A radix tree over tokens that finds the sequences that begin like a given prompt.
//
// An edge carries a run of tokens; a sequence stands at the node where its tokens end. The tree knows nothing of
// cells: what a sequence has already computed of its tokens is the scheduler's business.
//
// Each namespace has a root of its own, so that what is in one is never found in another.
//
// Where there is no memory, a call throws std::bad_alloc, and the tree holds what it held before.
class PrefixTree {
  public:
    PrefixTree();
    ~PrefixTree();

    // adds a sequence that is not in the tree yet
    void insert(llama_seq_id seq, const std::vector<llama_token> & tokens, const std::string & name_space = {});

    // one more token for a sequence that is in the tree
    void append(llama_seq_id seq, llama_token token);

    // keeps the first n tokens of a sequence that is in the tree
    void truncate(llama_seq_id seq, size_t n);

    // forgets a sequence; unknown ones are ignored
    void erase(llama_seq_id seq) noexcept;

    // forgets all
    void clear() noexcept;

    // of a sequence that is in the tree
    std::vector<llama_token> tokens(llama_seq_id seq) const;
    const std::string &      name_space(llama_seq_id seq) const;

    // Calls visit(seq, n_common) for every sequence of a namespace that shares at least one of the first n_max tokens, the longest
    // common prefix first, until visit returns false. visit must not change the tree.
    void match(const std::vector<llama_token> &                               tokens,
               size_t                                                         n_max,
               const std::function<bool(llama_seq_id seq, size_t n_common)> & visit,
               const std::string &                                            name_space = {}) const;

    struct Neighbour {
        llama_seq_id seq      = -1;
        size_t       n_common = 0;
    };

    // another sequence, of those that count (without counts: of all), that shares most with one that is in the tree
    Neighbour nearest(llama_seq_id seq, const std::function<bool(llama_seq_id)> & counts = {}) const;

    // tokens held by all edges together
    size_t n_tokens() const;

    bool   has(llama_seq_id seq) const { return node_of_.count(seq) > 0; }
    size_t n_seqs() const { return node_of_.size(); }

    // What is wrong with it, as a sentence; "" if nothing is: every node but the root has a sequence or at least two children,
    // every edge is found under its first token, and every sequence is where it is said to be. (Where there was no memory to
    // join a node with its only child, it is not so until the next change there, and yet nothing is found wrongly.)
    std::string fault() const;

  private:
    friend struct Tampering;

    struct Node;

    static void visit_around(const Node *                                      node,
                             size_t                                            n_common,
                             size_t                                            n_edge,
                             const std::function<bool(llama_seq_id, size_t)> & visit);

    Node * walk(Node * node, const llama_token * tokens, size_t n);
    Node * split(Node * node, size_t n);
    void   move(llama_seq_id seq, Node * to);
    void   prune(Node * node) noexcept;

    std::map<std::string, std::unique_ptr<Node>> roots_; // by namespace
    std::unordered_map<llama_seq_id, Node *>     node_of_;
};

} // namespace kvf
