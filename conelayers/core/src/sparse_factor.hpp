// K = L D Lᵀ of a symmetric matrix with a fixed pattern, for W instances at once; no pivoting, as K is quasi-definite
// or definite.
//
// Vanderbei, "Symmetric quasidefinite matrices" (1995): a matrix [H, Eᵀ; E, −C] with H, C ≻ 0 has a factorization with
// D's signs known beforehand, in any ordering. The pattern, found once (`FactorPattern`), is common to all instances
// and all factorizations.
//
// Vertices that no varying entry reaches, directly or through fill-in, come first: their columns of L are the same in
// all factorizations of one instance, which compute them once.
//
// Columns with the same rows below form a node (a supernode: Ng, Peyton, "Block sparse Cholesky algorithms on advanced
// uniprocessor computers", 1993), whose products with each other are dense: what a node K below another one, J, takes
// from it is a product of K's rows, computed in tiles of sums.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "dense.hpp"
#include "lanes.hpp"
#include "ordering.hpp"

namespace conelayers {

struct FactorPattern {
    int size = 0;
    int constant_columns = 0;    // the first so many columns of L do not depend on varying entries
    Indices order, place;        // vertex at each position, position of each vertex
    std::vector<char> negative;  // by position: the sign of D
    Indices column_start, row;   // L strictly below the diagonal, by columns, rows ascending
    Indices node_start;          // the first column of each node, and the number of columns
    int constant_nodes = 0;      // those of the constant columns
    std::vector<char> follow;    // whether the rows below a node follow each other
    std::vector<char> single;    // whether it is one column whose rows do not
    // By node J, ascending: the nodes K whose products it takes; which of the rows below K is the first in J, how many
    // are, and whether from there on K has the same rows as the source before.
    Indices source_start, source, source_first, source_count;
    std::vector<char> source_joins;
    int room = 0;  // numbers that a factorization needs beside L

    // `graph`: neighbours of each vertex. `later`: vertices that must not go before one of their neighbours has gone.
    // `varying`: vertices whose own entries change from one factorization to the next.
    static FactorPattern of(
        const std::vector<Indices>& graph, const std::vector<char>& negative, const std::vector<char>& later,
        const std::vector<char>& varying
    );

    int entries() const { return static_cast<int>(row.size()); }

    // Multiplications of one factorization.
    double work() const {
        double total = 0;
        for (int k = 0; k < size; k++) {
            double length = column_start[k + 1] - column_start[k];
            total += 0.5 * length * (length + 3);
        }
        return total;
    }

    int nodes() const { return static_cast<int>(node_start.size()) - 1; }
    // The rows below a node: those of its last column.
    const int* rows_below(int node) const { return row.data() + column_start[node_start[node + 1] - 1]; }
    int count_below(int node) const {
        int last = node_start[node + 1] - 1;
        return column_start[last + 1] - column_start[last];
    }

    // Where the entry (i, j) of K is kept: a position in L's entries, or ~k for the diagonal one at position k.
    int position(int i, int j) const {
        int a = place[i], b = place[j];
        if (a == b) return ~a;
        if (a < b) std::swap(a, b);
        auto first = row.begin() + column_start[b], last = row.begin() + column_start[b + 1];
        return static_cast<int>(std::lower_bound(first, last, a) - row.begin());
    }

  private:
    static constexpr int WORTH_A_RUN = 4;  // rows that follow each other
    void find_nodes();
};

inline FactorPattern FactorPattern::of(
    const std::vector<Indices>& graph, const std::vector<char>& negative, const std::vector<char>& later,
    const std::vector<char>& varying
) {
    FactorPattern p;
    int size = p.size = static_cast<int>(graph.size());
    Ordering found = minimum_degree(graph, later);
    Indices at(size), parent(size, -1);
    for (int k = 0; k < size; k++) at[found.order[k]] = k;
    for (int k = 0; k < size; k++) {
        int first = size;
        for (int u : found.columns[k]) first = std::min(first, at[u]);
        if (first < size) parent[k] = first;
    }
    // A column varies with its own entries and with those of its children in the elimination tree.
    std::vector<char> varies(size, 0);
    for (int k = 0; k < size; k++) {
        if (varying[found.order[k]]) varies[k] = 1;
        if (varies[k] && parent[k] >= 0) varies[parent[k]] = 1;
    }
    // Postorder of the tree, which puts columns of one shape side by side; then the constant ones in front.
    std::vector<Indices> children(size);
    Indices roots, postorder, stack;
    for (int k = size - 1; k >= 0; k--) (parent[k] < 0 ? roots : children[parent[k]]).push_back(k);
    std::vector<char> opened(size, 0);
    stack.assign(roots.begin(), roots.end());
    while (!stack.empty()) {
        int k = stack.back();
        if (opened[k]) {
            postorder.push_back(k);
            stack.pop_back();
            continue;
        }
        opened[k] = 1;
        stack.insert(stack.end(), children[k].begin(), children[k].end());
    }
    std::stable_partition(postorder.begin(), postorder.end(), [&](int k) { return !varies[k]; });
    p.order.resize(size);
    p.place.resize(size);
    p.negative.resize(size);
    for (int k = 0; k < size; k++) {
        p.order[k] = found.order[postorder[k]];
        p.place[p.order[k]] = k;
        p.negative[k] = negative[p.order[k]];
        p.constant_columns += !varies[postorder[k]];
    }
    p.column_start.assign(1, 0);
    for (int k = 0; k < size; k++) {
        std::size_t start = p.row.size();
        for (int u : found.columns[postorder[k]]) p.row.push_back(p.place[u]);
        std::sort(p.row.begin() + start, p.row.end());
        p.column_start.push_back(static_cast<int>(p.row.size()));
    }
    p.find_nodes();
    return p;
}

inline void FactorPattern::find_nodes() {
    Indices node_of(size);
    for (int k = 0; k < size; k++) {
        bool joins = k > 0 && k != constant_columns && column_start[k] > column_start[k - 1] &&
                     row[column_start[k - 1]] == k &&
                     column_start[k + 1] - column_start[k] == column_start[k] - column_start[k - 1] - 1;
        if (!joins) node_start.push_back(k);
        node_of[k] = static_cast<int>(node_start.size()) - 1;
    }
    constant_nodes = constant_columns < size ? node_of[constant_columns] : static_cast<int>(node_start.size());
    node_start.push_back(size);
    struct Source {
        int node, first, count;
    };
    std::vector<std::vector<Source>> sources(nodes());
    for (int K = 0; K < nodes(); K++) {
        const int* rows = rows_below(K);
        int count = count_below(K);
        follow.push_back(count >= WORTH_A_RUN && rows[count - 1] - rows[0] == count - 1);
        for (int i = 0; i < count;) {
            int J = node_of[rows[i]], first = i;
            while (i < count && node_of[rows[i]] == J) i++;
            sources[J].push_back({K, first, i - first});
        }
        room = std::max(room, (node_start[K + 1] - node_start[K]) * Tile<double>::HEIGHT);
    }
    for (int K = 0; K < nodes(); K++) single.push_back(node_start[K + 1] - node_start[K] == 1 && !follow[K]);
    auto rows_from = [&](const Source& of) { return rows_below(of.node) + of.first; };
    auto length = [&](const Source& of) { return count_below(of.node) - of.first; };
    source_start.assign(1, 0);
    for (auto& of_node : sources) {
        int columns = 0;
        for (std::size_t t = 0; t < of_node.size(); t++) {
            const Source& one = of_node[t];
            bool joins = t > 0 && one.node != constant_nodes && length(one) == length(of_node[t - 1]) &&
                         std::equal(rows_from(one), rows_from(one) + length(one), rows_from(of_node[t - 1]));
            source.push_back(one.node);
            source_first.push_back(one.first);
            source_count.push_back(one.count);
            source_joins.push_back(joins);
            columns = (joins ? columns : 0) + node_start[one.node + 1] - node_start[one.node];
            room = std::max(room, columns * one.count);
        }
        source_start.push_back(static_cast<int>(source.size()));
    }
}

template <class V>
class SparseFactor {
  public:
    V *lower, *diagonal;  // entries of L, or of K before it is factored; D, or K's diagonal
    V* inverse;           // 1/D

    SparseFactor(const FactorPattern& pattern, Pool<V>& pool)
        : lower(pool.take(pattern.entries() + PADDING)),
          diagonal(pool.take(pattern.size)),
          inverse(pool.take(pattern.size)),
          pattern_(pattern),
          scaled_(pool.take(pattern.room + PADDING)),
          gathered_(pool.take(pattern.size)),
          pivots_(pool.take(pattern.size)),
          columns_(pattern.size),
          local_(pattern.size) {}

    static constexpr double LEAST_PIVOT = 1e-13;  // of the equilibrated matrix: a smaller one is rounding

    void add(int position, V value) { (position >= 0 ? lower[position] : diagonal[~position]) += value; }

    void clear() {
        std::memset(static_cast<void*>(lower), 0, pattern_.entries() * sizeof(V));
        std::memset(static_cast<void*>(diagonal), 0, pattern_.size * sizeof(V));
    }

    // All that is at or behind the columns of node `from`, of a factor of the same pattern.
    void copy(const SparseFactor& other, int from) {
        int column = pattern_.node_start[from], entry = pattern_.column_start[column];
        std::memcpy(static_cast<void*>(lower + entry), other.lower + entry, (pattern_.entries() - entry) * sizeof(V));
        std::size_t bytes = (pattern_.size - column) * sizeof(V);
        std::memcpy(static_cast<void*>(diagonal + column), other.diagonal + column, bytes);
        std::memcpy(static_cast<void*>(inverse + column), other.inverse + column, bytes);
    }

    // The columns of L in the nodes first … last − 1 from those before them and from K's; nodes below `known` have
    // taken their products already.
    void factor(int first, int last, int known) {
        for (int node = first; node < last; node++) {
            update(node, known, node);
            finish(node);
        }
    }
    void factor() { factor(0, pattern_.nodes(), 0); }

    // Subtracts from the columns of `node` what the nodes in [low, high) contribute to them.
    void update(int node, int low, int high) {
        const FactorPattern& p = pattern_;
        int t = p.source_start[node], last = p.source_start[node + 1];
        while (t < last && p.source[t] < low) t++;
        if (t == last || p.source[t] >= high) return;
        int start = p.node_start[node], width = p.node_start[node + 1] - start, below = p.count_below(node);
        const int* rows = p.rows_below(node);
        for (int c = 0; c < width; c++) local_[start + c] = c;
        for (int i = 0; i < below; i++) local_[rows[i]] = width + i;
        while (t < last && p.source[t] < high) {
            int first = p.source_first[t], count = p.source_count[t], from = p.source[t], columns = 0;
            int length = p.count_below(from) - first;
            const int* below_it = p.rows_below(from) + first;
            do {
                for (int k = p.node_start[p.source[t]]; k < p.node_start[p.source[t] + 1]; k++) {
                    pivots_[columns] = diagonal[k];
                    columns_[columns++] = lower + p.column_start[k + 1] - length;
                }
                t++;
            } while (t < last && p.source_joins[t] && p.source[t] < high);
            if (length == 1) {
                V* target = diagonal + start + local_[below_it[0]];
                for (int k = 0; k < columns; k++) *target -= columns_[k][0] * (columns_[k][0] * pivots_[k]);
            } else if (columns < WORTH_TILES) {
                for (int k = 0; k < columns; k++)
                    subtract_column(columns_[k], pivots_[k], below_it, length, count, start);
            } else {
                subtract_columns(columns, below_it, length, count, start);
            }
        }
    }

    // r ← K⁻¹ r, by positions.
    void solve(V* r) {
        const FactorPattern& p = pattern_;
        const int *start = p.node_start.data(), *column = p.column_start.data(), *rows = p.row.data();
        for (int node = 0; node < p.nodes(); node++) {
            int k = start[node];
            if (p.single[node])
                add_multiple_at(column[k + 1] - column[k], -r[k], lower + column[k], rows + column[k], r);
            else
                solve_lower(node, r);
        }
        for (int node = p.nodes() - 1; node >= 0; node--) {
            int k = start[node];
            if (p.single[node])
                r[k] = r[k] * inverse[k] - dot_at(column[k + 1] - column[k], lower + column[k], rows + column[k], r);
            else
                solve_upper(node, r);
        }
    }

  private:
    static constexpr int HEIGHT = Tile<V>::HEIGHT, SPAN = Tile<V>::SPAN;
    static constexpr int WORTH_TILES = 4;  // columns
    const FactorPattern& pattern_;
    V *scaled_, *gathered_, *pivots_;
    std::vector<const V*> columns_;
    Indices local_;  // the place of each row among those of the node at work

    // Column start + c of a node by local rows.
    V* local_column(int start, int c) { return lower + pattern_.column_start[start + c] - c - 1; }

    // l d lᵀ of one column l with these rows, the first `count` of which are columns of the node.
    void subtract_column(const V* l, V pivot, const int* rows, int length, int count, int start) {
        bool follow = local_[rows[length - 1]] - local_[rows[0]] == length - 1;
        for (int i = 0; i < count; i++) {
            int c = local_[rows[i]];
            V factor = l[i] * pivot, *target = local_column(start, c);
            diagonal[start + c] -= l[i] * factor;
            if (follow) {
                V* out = target + local_[rows[0]];
                for (int j = i + 1; j < length; j++) out[j] -= l[j] * factor;
            } else {
                for (int j = i + 1; j < length; j++) target[local_[rows[j]]] -= l[j] * factor;
            }
        }
    }

    // Σ lₖ dₖ lₖᵀ of several such columns.
    void subtract_columns(int columns, const int* rows, int length, int count, int start) {
        bool follow = local_[rows[length - 1]] - local_[rows[0]] == length - 1;
        for (int k = 0; k < columns; k++)
            for (int i = 0; i < count; i++) scaled_[k * count + i] = columns_[k][i] * pivots_[k];
        V sums[HEIGHT * SPAN];
        for (int top = 0; top < count; top += HEIGHT)
            for (int left = top; left < length; left += SPAN) {
                int end = std::min(left + SPAN, length);
                Tile<V>::products(columns, scaled_ + top, count, columns_.data(), left, sums, end - left);
                for (int i = top; i < std::min(top + HEIGHT, count); i++) {
                    int c = local_[rows[i]], j = std::max(left, i + 1);
                    const V* sum = sums + (i - top) * SPAN - left;
                    V* target = local_column(start, c);
                    if (i >= left && i < end) diagonal[start + c] -= sum[i];
                    if (follow) {
                        V* out = target + local_[rows[0]];
                        for (; j < end; j++) out[j] -= sum[j];
                    } else {
                        for (; j < end; j++) target[local_[rows[j]]] -= sum[j];
                    }
                }
            }
    }

    // The node's columns, which have lost all others' products: by blocks, each of which loses those before it at once.
    void finish(int node) {
        const FactorPattern& p = pattern_;
        int start = p.node_start[node], width = p.node_start[node + 1] - start;
        int height = width + p.count_below(node);
        for (int top = 0; top < width; top += HEIGHT) {
            int end = std::min(top + HEIGHT, width);
            if (top > 0) subtract_own(start, top, end, height);
            for (int c = top; c < end; c++) {
                int j = start + c;
                V* target = local_column(start, c);
                for (int b = top; b < c; b++) {
                    const V* l = local_column(start, b);
                    V factor = l[c] * diagonal[start + b];
                    diagonal[j] -= l[c] * factor;
                    for (int i = c + 1; i < height; i++) target[i] -= l[i] * factor;
                }
                V pivot = diagonal[j];
                pivot = p.negative[j] ? minimum(pivot, splat<V>(-LEAST_PIVOT)) : maximum(pivot, splat<V>(LEAST_PIVOT));
                diagonal[j] = pivot;
                V reciprocal = inverse[j] = 1.0 / pivot;
                for (int i = c + 1; i < height; i++) target[i] *= reciprocal;
            }
        }
    }

    void subtract_own(int start, int top, int end, int height) {
        for (int k = 0; k < top; k++) {
            const V* l = columns_[k] = local_column(start, k) + top;
            V pivot = diagonal[start + k];
            for (int i = 0; i < end - top; i++) scaled_[k * HEIGHT + i] = l[i] * pivot;
        }
        V sums[HEIGHT * SPAN];
        for (int left = top; left < height; left += SPAN) {
            int last = std::min(left + SPAN, height);
            Tile<V>::products(top, scaled_, HEIGHT, columns_.data(), left - top, sums, last - left);
            for (int c = top; c < end; c++) {
                const V* sum = sums + (c - top) * SPAN - left;
                V* target = local_column(start, c);
                if (c >= left && c < last) diagonal[start + c] -= sum[c];
                for (int i = std::max(left, c + 1); i < last; i++) target[i] -= sum[i];
            }
        }
    }

    // The rows below a node, where they follow each other, or gathered.
    V* below(int node, V* r) {
        const int* rows = pattern_.rows_below(node);
        if (pattern_.follow[node]) return r + rows[0];
        for (int i = 0; i < pattern_.count_below(node); i++) gathered_[i] = r[rows[i]];
        return gathered_;
    }

    void solve_lower(int node, V* r) {
        const FactorPattern& p = pattern_;
        int start = p.node_start[node], width = p.node_start[node + 1] - start, count = p.count_below(node);
        const int* rows = p.rows_below(node);
        for (int c = 0; c + 1 < width; c++) {
            const V* l = local_column(start, c);
            for (int i = c + 1; i < width; i++) r[start + i] -= l[i] * r[start + c];
        }
        if (count == 0) return;
        V* out = below(node, r);
        int c = 0;
        for (; c + 4 <= width; c += 4) {
            const V *l0 = local_column(start, c) + width, *l1 = local_column(start, c + 1) + width;
            const V *l2 = local_column(start, c + 2) + width, *l3 = local_column(start, c + 3) + width;
            V f0 = r[start + c], f1 = r[start + c + 1], f2 = r[start + c + 2], f3 = r[start + c + 3];
            for (int i = 0; i < count; i++) out[i] -= (l0[i] * f0 + l1[i] * f1) + (l2[i] * f2 + l3[i] * f3);
        }
        for (; c < width; c++) {
            const V* l = local_column(start, c) + width;
            V factor = r[start + c];
            for (int i = 0; i < count; i++) out[i] -= l[i] * factor;
        }
        if (!p.follow[node])
            for (int i = 0; i < count; i++) r[rows[i]] = out[i];
    }

    void solve_upper(int node, V* r) {
        const FactorPattern& p = pattern_;
        int start = p.node_start[node], width = p.node_start[node + 1] - start, count = p.count_below(node);
        const V* known = count > 0 ? below(node, r) : r;
        for (int c = width - 1; c >= 0; c--) {
            const V* l = local_column(start, c);
            V a = r[start + c] * inverse[start + c] - dot(width - c - 1, l + c + 1, r + start + c + 1);
            r[start + c] = a - dot(count, l + width, known);
        }
    }
};

}  // namespace conelayers
