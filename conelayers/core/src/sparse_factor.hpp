// K = L D Lᵀ of a symmetric matrix with a fixed pattern, for W instances at once; no pivoting, as K is quasi-definite
// or definite.
//
// Vanderbei, "Symmetric quasidefinite matrices" (1995): a matrix [H, Eᵀ; E, −C] with H, C ≻ 0 has a factorization with
// D's signs known beforehand, in any ordering. The pattern, found once (`FactorPattern`), is common to all instances
// and all factorizations.
//
// Vertices that no varying entry reaches, directly or through fill-in, come first: their columns of L are the same in
// all factorizations of one instance, which compute them once.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "lanes.hpp"
#include "ordering.hpp"

namespace conelayers {

struct FactorPattern {
    int size = 0;
    int constant_columns = 0;        // the first so many columns of L do not depend on varying entries
    Indices order, place;            // vertex at each position, position of each vertex
    std::vector<char> negative;      // by position: the sign of D
    Indices column_start, row;       // L strictly below the diagonal, by columns, rows ascending
    Indices tail;                    // from this entry on the rows of a column follow each other
    Indices row_start, from, entry;  // by rows: the columns k < j with Lⱼₖ ≠ 0, and where that entry is stored

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

    // Where the entry (i, j) of K is kept: a position in L's entries, or ~k for the diagonal one at position k.
    int position(int i, int j) const {
        int a = place[i], b = place[j];
        if (a == b) return ~a;
        if (a < b) std::swap(a, b);
        auto first = row.begin() + column_start[b], last = row.begin() + column_start[b + 1];
        return static_cast<int>(std::lower_bound(first, last, a) - row.begin());
    }
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
    Indices count(size, 0);
    for (int k = 0; k < size; k++) {
        std::size_t start = p.row.size();
        for (int u : found.columns[postorder[k]]) p.row.push_back(p.place[u]);
        std::sort(p.row.begin() + start, p.row.end());
        p.column_start.push_back(static_cast<int>(p.row.size()));
        for (std::size_t t = start; t < p.row.size(); t++) count[p.row[t]]++;
        int end = p.column_start[k + 1], tail = end;
        while (tail > static_cast<int>(start) && (tail == end || p.row[tail - 1] + 1 == p.row[tail])) tail--;
        p.tail.push_back(tail);
    }
    p.row_start.assign(1, 0);
    for (int j = 0; j < size; j++) p.row_start.push_back(p.row_start[j] + count[j]);
    p.from.resize(p.row.size());
    p.entry.resize(p.row.size());
    Indices next(p.row_start.begin(), p.row_start.end() - 1);
    for (int k = 0; k < size; k++)
        for (int t = p.column_start[k]; t < p.column_start[k + 1]; t++) {
            p.from[next[p.row[t]]] = k;
            p.entry[next[p.row[t]]++] = t;
        }
    return p;
}

// The numbers: `lower` (entries of L, or of K before it is factored), `diagonal` (D, or K's), and room for one column.
template <class V>
struct SparseFactor {
    const FactorPattern& pattern;
    V *lower, *diagonal, *column;

    static constexpr double LEAST_PIVOT = 1e-13;  // of the equilibrated matrix: a smaller one is rounding

    CORE_INLINE void add(int position, V value, V* lower, V* diagonal) {
        if (position >= 0)
            lower[position] += value;
        else
            diagonal[~position] += value;
    }

    // Columns first … last − 1 of L from those before them and from K's; updates by columns below `known` were made
    // already.
    void factor(int first, int last, int known) {
        for (int j = first; j < last; j++) {
            update(j, known, j);
            V pivot = diagonal[j];
            pivot =
                pattern.negative[j] ? minimum(pivot, splat<V>(-LEAST_PIVOT)) : maximum(pivot, splat<V>(LEAST_PIVOT));
            diagonal[j] = pivot;
            V reciprocal = 1.0 / pivot;
            for (int t = pattern.column_start[j]; t < pattern.column_start[j + 1]; t++) lower[t] *= reciprocal;
        }
    }

    // Subtract from column j what the columns k in [low, high) contribute to it, four of one shape at a time.
    void update(int j, int low, int high) {
        const FactorPattern& p = pattern;
        const int *rows = p.row.data(), begin = p.column_start[j], end = p.column_start[j + 1];
        int t = p.row_start[j], last = p.row_start[j + 1];
        while (t < last && p.from[t] < low) t++;
        if (t == last || p.from[t] >= high) return;
        bool dense = p.tail[j] == begin;  // the column's rows follow each other: no scattering
        V* target = dense ? lower + begin - (begin < end ? rows[begin] : 0) : column;
        if (!dense)
            for (int i = begin; i < end; i++) column[rows[i]] = lower[i];
        V pivot = diagonal[j];
        const V* tails[4];
        V factors[4];
        int waiting = 0, tail_row = 0, tail_length = 0;
        auto flush = [&] {
            V* out = target + tail_row;
            if (waiting == 4) {
                const V *a = tails[0], *b = tails[1], *c = tails[2], *d = tails[3];
                V fa = factors[0], fb = factors[1], fc = factors[2], fd = factors[3];
                for (int i = 0; i < tail_length; i++) out[i] -= (a[i] * fa + b[i] * fb) + (c[i] * fc + d[i] * fd);
            } else {
                for (int w = 0; w < waiting; w++) {
                    const V* a = tails[w];
                    V f = factors[w];
                    for (int i = 0; i < tail_length; i++) out[i] -= a[i] * f;
                }
            }
            waiting = 0;
        };
        for (; t < last && p.from[t] < high; t++) {
            int k = p.from[t], e = p.entry[t], stop = p.column_start[k + 1];
            V value = lower[e], f = value * diagonal[k];
            pivot -= value * f;
            int tail = std::max(++e, p.tail[k]);
            for (; e < tail; e++) target[rows[e]] -= lower[e] * f;
            if (e == stop) continue;
            if (waiting && (tail_row != rows[e] || tail_length != stop - e)) flush();
            tail_row = rows[e];
            tail_length = stop - e;
            tails[waiting] = lower + e;
            factors[waiting++] = f;
            if (waiting == 4) flush();
        }
        if (waiting) flush();
        diagonal[j] = pivot;
        if (!dense)
            for (int i = begin; i < end; i++) lower[i] = column[rows[i]];
    }

    // r ← K⁻¹ r, by positions.
    void solve(V* r) const {
        const FactorPattern& p = pattern;
        const int* rows = p.row.data();
        for (int k = 0; k < p.size; k++) {
            V a = r[k];
            int e = p.column_start[k], tail = p.tail[k], end = p.column_start[k + 1];
            for (; e < tail; e++) r[rows[e]] -= lower[e] * a;
            if (e < end) {
                V* out = r + rows[e];
                const V* l = lower + e;
                for (int i = 0; i < end - e; i++) out[i] -= l[i] * a;
            }
        }
        for (int k = p.size - 1; k >= 0; k--) {
            V a = r[k] / diagonal[k];
            int e = p.column_start[k], tail = p.tail[k], end = p.column_start[k + 1];
            if (e < tail) a -= dot_at(tail - e, lower + e, rows + e, r);
            if (tail < end) a -= dot(end - tail, lower + tail, r + rows[tail]);
            r[k] = a;
        }
    }
};

}  // namespace conelayers
