#include "cache/prefix_tree.h"

#include <algorithm>
#include <new>
#include <utility>

namespace kvf {

struct PrefixTree::Node {
    Node *                                       parent = nullptr; // of a root: none
    std::string                                  name_space;       // of a root
    std::vector<llama_token>                     edge;             // from the parent to here; empty for the root only
    std::map<llama_token, std::unique_ptr<Node>> children;
    std::vector<llama_seq_id>                    seqs; // that end here

    Node * child(llama_token token) const {
        const auto it = children.find(token);
        return it == children.end() ? nullptr : it->second.get();
    }
};

PrefixTree::PrefixTree() = default;

PrefixTree::~PrefixTree() = default;

void PrefixTree::insert(llama_seq_id seq, const std::vector<llama_token> & tokens, const std::string & name_space) {
    std::unique_ptr<Node> & root = roots_[name_space];
    if (!root) {
        try {
            root             = std::make_unique<Node>();
            root->name_space = name_space;
        } catch (...) {
            roots_.erase(name_space);
            throw;
        }
    }
    Node * node = walk(root.get(), tokens.data(), tokens.size());
    try {
        node_of_[seq] = node;
        node->seqs.push_back(seq);
    } catch (...) {
        node_of_.erase(seq);
        prune(node);
        throw;
    }
}

void PrefixTree::append(llama_seq_id seq, llama_token token) {
    Node * node = node_of_.at(seq);
    if (node->parent && node->seqs.size() == 1 && node->children.empty()) {
        node->edge.push_back(token); // alone at the end of a path, as a decoding branch mostly is
        return;
    }
    move(seq, walk(node, &token, 1));
}

void PrefixTree::truncate(llama_seq_id seq, size_t n) {
    Node * node = node_of_.at(seq);
    size_t end  = 0; // tokens from the root to the node's end
    for (const Node * above = node; above; above = above->parent) {
        end += above->edge.size();
    }
    if (n >= end) {
        return;
    }
    while (node->parent && end - node->edge.size() >= n) {
        end -= node->edge.size();
        node = node->parent;
    }
    move(seq, n < end ? split(node, node->edge.size() - (end - n)) : node);
}

std::vector<llama_token> PrefixTree::tokens(llama_seq_id seq) const {
    std::vector<llama_token> out;
    for (const Node * node = node_of_.at(seq); node; node = node->parent) {
        out.insert(out.begin(), node->edge.begin(), node->edge.end());
    }
    return out;
}

const std::string & PrefixTree::name_space(llama_seq_id seq) const {
    const Node * node = node_of_.at(seq);
    while (node->parent) {
        node = node->parent;
    }
    return node->name_space;
}

void PrefixTree::erase(llama_seq_id seq) noexcept {
    const auto it = node_of_.find(seq);
    if (it == node_of_.end()) {
        return;
    }
    Node * node = it->second;
    node_of_.erase(it);
    node->seqs.erase(std::find(node->seqs.begin(), node->seqs.end(), seq));
    prune(node);
}

void PrefixTree::clear() noexcept {
    roots_.clear();
    node_of_.clear();
}

// Visits what ends at or below a node, then what else does at or below its parent, and so on, until visit says no.
// n_common tokens are those from the root to a point of the node's edge, n_edge of them on the edge.
void PrefixTree::visit_around(const Node *                                      node,
                              size_t                                            n_common,
                              size_t                                            n_edge,
                              const std::function<bool(llama_seq_id, size_t)> & visit) {
    const Node * visited = nullptr;
    for (;;) {
        std::vector<const Node *> todo = { node };
        while (!todo.empty()) {
            const Node * below = todo.back();
            todo.pop_back();
            for (const llama_seq_id seq : below->seqs) {
                if (!visit(seq, n_common)) {
                    return;
                }
            }
            for (const auto & [first, child] : below->children) {
                if (child.get() != visited) {
                    todo.push_back(child.get());
                }
            }
        }
        if (!node->parent) {
            return;
        }
        n_common -= n_edge;
        visited = node;
        node    = node->parent;
        n_edge  = node->edge.size();
    }
}

void PrefixTree::match(const std::vector<llama_token> &                  tokens,
                       size_t                                            n_max,
                       const std::function<bool(llama_seq_id, size_t)> & visit,
                       const std::string &                               name_space) const {
    const size_t n    = std::min(n_max, tokens.size());
    const auto   root = roots_.find(name_space);
    if (root == roots_.end()) {
        return;
    }

    // down as far as the tokens go: n_common tokens end in or at the end of node's edge
    const Node * node     = root->second.get();
    size_t       n_common = 0;
    size_t       n_edge   = 0; // how much of node's edge they cover
    while (n_common < n && n_edge == node->edge.size()) {
        const Node * next = node->child(tokens[n_common]);
        if (!next) {
            break;
        }
        const size_t n_cmp = std::min(next->edge.size(), n - n_common);
        n_edge = std::mismatch(next->edge.begin(), next->edge.begin() + n_cmp, tokens.begin() + n_common).first -
                 next->edge.begin();
        n_common += n_edge;
        node = next;
    }

    visit_around(node, n_common, n_edge, [&](llama_seq_id seq, size_t n) { return n > 0 && visit(seq, n); });
}

PrefixTree::Neighbour PrefixTree::nearest(llama_seq_id seq, const std::function<bool(llama_seq_id)> & counts) const {
    const Node * node     = node_of_.at(seq);
    size_t       n_common = 0;
    for (const Node * above = node; above; above = above->parent) {
        n_common += above->edge.size();
    }

    Neighbour found;
    visit_around(node, n_common, node->edge.size(), [&](llama_seq_id other, size_t n) {
        if (other == seq || (counts && !counts(other))) {
            return true;
        }
        found = { other, n };
        return false;
    });
    return found;
}

size_t PrefixTree::n_tokens() const {
    size_t                    n = 0;
    std::vector<const Node *> todo;
    for (const auto & [name, root] : roots_) {
        todo.push_back(root.get());
    }
    while (!todo.empty()) {
        const Node * node = todo.back();
        todo.pop_back();
        n += node->edge.size();
        for (const auto & [first, child] : node->children) {
            todo.push_back(child.get());
        }
    }
    return n;
}

std::string PrefixTree::fault() const {
    const auto seq_name = [](llama_seq_id seq) { return "sequence " + std::to_string(seq); };

    size_t                    n_seqs = 0;
    std::vector<const Node *> todo;
    for (const auto & [name, root] : roots_) {
        if (root->parent || root->name_space != name || !root->edge.empty()) {
            return "the root of namespace \"" + name + "\" is not a root of this namespace";
        }
        todo.push_back(root.get());
    }
    while (!todo.empty()) {
        const Node * node = todo.back();
        todo.pop_back();
        n_seqs += node->seqs.size();
        for (const llama_seq_id seq : node->seqs) {
            const auto it = node_of_.find(seq);
            if (it == node_of_.end() || it->second != node) {
                return seq_name(seq) + " ends at a node, but the index knows it " +
                       (it == node_of_.end() ? "not at all" : "at another node");
            }
        }
        if (node->parent && node->edge.empty()) {
            return "a node has no tokens of its own";
        }
        if (node->parent && node->seqs.empty() && node->children.size() < 2) {
            return "a node has neither a sequence nor two children: nothing needs it";
        }
        for (const auto & [first, child] : node->children) {
            if (child->parent != node) {
                return "a node has another parent than the node that it is a child of";
            }
            if (child->edge.empty() || child->edge.front() != first) {
                return "a node's edge is filed under another token than its first";
            }
            todo.push_back(child.get());
        }
    }
    return n_seqs == node_of_.size() ? "" : "the index has sequences that end at no node";
}

// the node that lies n tokens below the given one, made where there is none
PrefixTree::Node * PrefixTree::walk(Node * node, const llama_token * tokens, size_t n) {
    try {
        while (n > 0) {
            Node * next = node->child(*tokens);
            if (!next) {
                auto leaf    = std::make_unique<Node>();
                leaf->parent = node;
                leaf->edge.assign(tokens, tokens + n);
                return (node->children[*tokens] = std::move(leaf)).get();
            }
            const size_t n_cmp = std::min(next->edge.size(), n);
            const size_t n_common =
                std::mismatch(next->edge.begin(), next->edge.begin() + n_cmp, tokens).first - next->edge.begin();
            node = n_common < next->edge.size() ? split(next, n_common) : next;
            tokens += n_common;
            n -= n_common;
        }
        return node;
    } catch (...) { // of no memory; what was made for nothing goes
        prune(node);
        throw;
    }
}

// puts a new node n tokens down a node's edge and returns it
PrefixTree::Node * PrefixTree::split(Node * node, size_t n) {
    auto & slot  = node->parent->children.at(node->edge.front());
    auto   upper = std::make_unique<Node>();
    Node * mid   = upper.get();

    mid->parent = node->parent;
    mid->edge.assign(node->edge.begin(), node->edge.begin() + n);
    auto & below = mid->children[node->edge[n]];

    // from here on nothing can fail
    node->edge.erase(node->edge.begin(), node->edge.begin() + n);
    node->parent = mid;
    below        = std::move(slot);
    slot         = std::move(upper);
    return mid;
}

// a sequence ends at another node from now on
void PrefixTree::move(llama_seq_id seq, Node * to) {
    try {
        to->seqs.push_back(seq);
    } catch (...) {
        prune(to);
        throw;
    }
    Node *& node = node_of_.at(seq);
    Node *  from = std::exchange(node, to);
    from->seqs.erase(std::find(from->seqs.begin(), from->seqs.end(), seq));
    prune(from);
}

// after a node has lost a sequence or a child: removes it, or joins it with its only child, if nothing needs it
void PrefixTree::prune(Node * node) noexcept {
    if (!node->seqs.empty()) {
        return;
    }
    if (!node->parent) {
        if (node->children.empty()) {
            roots_.erase(roots_.find(node->name_space));
        }
        return;
    }
    Node * parent = node->parent;
    if (node->children.empty()) {
        const llama_token first = node->edge.front();
        parent->children.erase(first);
        prune(parent);
    } else if (node->children.size() == 1) {
        Node * only = node->children.begin()->second.get();
        try {
            only->edge.insert(only->edge.begin(), node->edge.begin(), node->edge.end());
        } catch (const std::bad_alloc &) {
            return; // they stay two, which finds the same
        }
        std::unique_ptr<Node> child                        = std::move(node->children.begin()->second);
        child->parent                                      = parent;
        parent->children.find(child->edge.front())->second = std::move(child);
    }
}

} // namespace kvf
