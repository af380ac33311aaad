// What all instances share: the patterns of P and A, the cone, and what follows from them once.
//
//     minimize ½ xᵀP x + qᵀx  subject to  A x + s = b, s ∈ {0}^zero × R₊^nonneg
#pragma once

#include <map>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "lanes.hpp"
#include "ordering.hpp"
#include "sparse_factor.hpp"

namespace conelayers {

// The lines (rows of A, columns of P) of a sparse matrix: where the entries of each are, and which unknowns they
// multiply.
struct Lines {
    int count = 0;
    Indices start, index;
    Indices first;  // the first unknown of a line whose unknowns follow each other, else −1

    void finish() {
        count = static_cast<int>(start.size()) - 1;
        first.assign(count, -1);
        for (int i = 0; i < count; i++) {
            int begin = start[i], length = start[i + 1] - begin;
            if (length && index[begin + length - 1] - index[begin] == length - 1) first[i] = index[begin];
        }
    }
    int length(int i) const { return start[i + 1] - start[i]; }

    // out[i] = Σ values·x for the lines first_line … last − 1.
    template <class V>
    void multiply(const V* values, const V* x, V* out, int from, int to) const {
        for (int i = from; i < to; i++) {
            const V* a = values + start[i];
            out[i] = first[i] >= 0 ? dot(length(i), a, x + first[i]) : dot_at(length(i), a, index.data() + start[i], x);
        }
    }
    // The same with |values|.
    template <class V>
    void multiply_sizes(const V* values, const V* x, V* out) const {
        for (int i = 0; i < count; i++)
            out[i] = dot_of_sizes_at(length(i), values + start[i], index.data() + start[i], x);
    }
    // out[index] += Σ over the lines of values·y: four lines with the same unknowns at a time.
    template <class V>
    void add_transposed(const V* values, const V* y, V* out, int from, int to) const {
        for (int i = from; i < to;) {
            int length_i = length(i), begin = start[i];
            if (first[i] < 0) {
                add_multiple_at(length_i, y[i], values + begin, index.data() + begin, out);
                i++;
            } else if (i + 4 <= to && alike(i)) {
                const V *a = values + begin, *b = values + start[i + 1], *c = values + start[i + 2],
                        *d = values + start[i + 3];
                V fa = y[i], fb = y[i + 1], fc = y[i + 2], fd = y[i + 3];
                V* o = out + first[i];
                for (int t = 0; t < length_i; t++) o[t] += (fa * a[t] + fb * b[t]) + (fc * c[t] + fd * d[t]);
                i += 4;
            } else {
                add_multiple(length_i, y[i], values + begin, out + first[i]);
                i++;
            }
        }
    }
    template <class V>
    void add_transposed_sizes(const V* values, const V* y, V* out) const {
        for (int i = 0; i < count; i++)
            for (int t = start[i]; t < start[i + 1]; t++) out[index[t]] += absolute(values[t]) * y[i];
    }

  private:
    bool alike(int i) const {
        for (int k = 1; k < 4; k++)
            if (first[i + k] != first[i] || length(i + k) != length(i)) return false;
        return true;
    }
};

// Rows of the nonnegative cone over the same variables, whose part of A'MA is one dense block; and those with a
// variable each.
struct RowBlock {
    Indices rows, columns;
    Indices positions;  // of the block's upper triangle in the factor, row by row
    bool in_order;      // whether each row of it follows itself in the factor, behind the diagonal
};

struct Structure {
    int n = 0, m = 0, zero = 0;
    Lines P, A;  // columns of P (symmetric), rows of A
    std::vector<RowBlock> blocks;
    Indices single_rows, single_columns;
    Indices kept_rows;  // of the nonnegative cone, that stay vertices of the reduced matrix

    // Auxiliary columns on which nothing depends where no row of theirs is active, and the rows that they are in.
    Indices inert_columns, inert_start, inert_rows;

    // Components: parts of the program that have nothing to do with each other.
    int components = 1;
    Indices component_of_column, component_of_row;
    std::vector<char> curved_component;  // whether P has an entry there

    FactorPattern kkt;               // of the reduced matrix; vertices: variables, the zero cone's rows, rows kept
    Indices P_positions, P_entries;  // of the upper triangle of P in the factor
    Indices E_positions;             // of the entries of the zero cone's rows
    Indices kept_positions;          // of those of the rows kept

    bool suits_active_set = false;  // whether a dense active set method takes less than an interior point

    enum class Settling {
        NEVER,
        IF_NOTHING_IS_ACTIVE,
        ALWAYS
    } settling = Settling::NEVER;  // on an active set, before the interior point is asked

    FactorPattern fit;     // of the normal equations of the equilibration, vertices: variables, then rows
    Indices fit_A, fit_P;  // positions of each entry of A, and of P (off the diagonal twice)

    Structure(
        int n, int m, int zero, const Indices& P_start, const Indices& P_row, const Indices& A_start,
        const Indices& A_row, const Indices& inert = {}
    );

  private:
    void read(const Indices& P_start, const Indices& P_row, const Indices& A_start, const Indices& A_row);
    void find_components();
    void group_rows();
    void choose_kept_rows();
    FactorPattern pattern_of_kkt() const;
    void order_kkt();
    void choose_method();
    void order_fit();
};

inline Structure::Structure(
    int n_, int m_, int zero_, const Indices& P_start, const Indices& P_row, const Indices& A_start,
    const Indices& A_row, const Indices& inert
)
    : n(n_), m(m_), zero(zero_), inert_columns(inert) {
    read(P_start, P_row, A_start, A_row);
    for (int j : inert) {
        inert_start.push_back(static_cast<int>(inert_rows.size()));
        inert_rows.insert(inert_rows.end(), A_row.begin() + A_start[j], A_row.begin() + A_start[j + 1]);
    }
    inert_start.push_back(static_cast<int>(inert_rows.size()));
    find_components();
    group_rows();
    choose_kept_rows();
    order_kkt();
    choose_method();
    order_fit();
}

inline void Structure::read(
    const Indices& P_start, const Indices& P_row, const Indices& A_start, const Indices& A_row
) {
    P.start = P_start;
    P.index = P_row;
    P.finish();
    A.start.assign(m + 1, 0);
    for (int r : A_row) A.start[r + 1]++;
    std::partial_sum(A.start.begin(), A.start.end(), A.start.begin());
    A.index.resize(A_row.size());
    Indices next(A.start.begin(), A.start.end() - 1);
    for (int j = 0; j < n; j++)
        for (int t = A_start[j]; t < A_start[j + 1]; t++) A.index[next[A_row[t]]++] = j;
    A.finish();
}

inline void Structure::find_components() {
    Indices root(n + m);
    std::iota(root.begin(), root.end(), 0);
    auto find = [&](int v) {
        while (root[v] != v) v = root[v] = root[root[v]];
        return v;
    };
    for (int j = 0; j < n; j++)
        for (int t = P.start[j]; t < P.start[j + 1]; t++) root[find(j)] = find(P.index[t]);
    for (int i = 0; i < m; i++)
        for (int t = A.start[i]; t < A.start[i + 1]; t++) root[find(n + i)] = find(A.index[t]);
    Indices label(n + m, -1);
    components = 0;
    auto labelled = [&](int v) {
        int& known = label[find(v)];
        if (known < 0) known = components++;
        return known;
    };
    component_of_column.resize(n);
    component_of_row.resize(m);
    for (int j = 0; j < n; j++) component_of_column[j] = labelled(j);
    for (int i = 0; i < m; i++) component_of_row[i] = labelled(n + i);
    curved_component.assign(components, 0);
    for (int j = 0; j < n; j++)
        if (P.length(j)) curved_component[component_of_column[j]] = 1;
}

// Rows of the nonnegative cone that are not kept, by their variables.
inline void Structure::group_rows() {
    std::map<Indices, Indices> by_columns;
    std::vector<char> kept(m, 0);
    for (int i : kept_rows) kept[i] = 1;
    single_rows.clear();
    single_columns.clear();
    blocks.clear();
    for (int i = zero; i < m; i++) {
        if (kept[i]) continue;
        Indices columns(A.index.begin() + A.start[i], A.index.begin() + A.start[i + 1]);
        if (columns.size() == 1) {
            single_rows.push_back(i);
            single_columns.push_back(columns[0]);
        } else if (!columns.empty()) {
            by_columns[columns].push_back(i);
        }
    }
    for (auto& [columns, rows] : by_columns) blocks.push_back({rows, columns, {}, true});
}

// A row of weight μ is a clique μ a aᵀ of its variables, or a vertex [·, a; aᵀ, −1/μ], which is the same matrix before
// the row is eliminated. Where an ordering would rather have one of its variables gone first, as those in few sparse
// rows with nothing else to tie them to the others, the row is kept, if that saves enough of the factorization.
inline void Structure::choose_kept_rows() {
    constexpr double WORTH_A_TRIAL = 3e4;     // multiplications of a factorization
    constexpr double WORTH_KEEPING = 0.8;     // of the multiplications without it
    constexpr double DENSE_CURVATURE = 0.25;  // of P: variables are tied to each other anyhow
    if (blocks.empty() || static_cast<double>(P.index.size()) > DENSE_CURVATURE * n * n) return;
    double without = pattern_of_kkt().work();
    if (without < WORTH_A_TRIAL) return;
    Indices candidates;
    for (auto& block : blocks) candidates.insert(candidates.end(), block.rows.begin(), block.rows.end());
    std::sort(candidates.begin(), candidates.end());
    kept_rows = candidates;
    group_rows();
    FactorPattern trial = pattern_of_kkt();
    kept_rows.clear();
    for (std::size_t k = 0; k < candidates.size(); k++) {
        int i = candidates[k], at = trial.place[n + zero + static_cast<int>(k)];
        bool first = true;
        for (int t = A.start[i]; t < A.start[i + 1]; t++) first = first && at < trial.place[A.index[t]];
        if (!first) kept_rows.push_back(i);
    }
    group_rows();
    if (!kept_rows.empty() && pattern_of_kkt().work() > WORTH_KEEPING * without) {
        kept_rows.clear();
        group_rows();
    }
}

inline FactorPattern Structure::pattern_of_kkt() const {
    int kept = static_cast<int>(kept_rows.size()), size = n + zero + kept;
    std::vector<Indices> graph(size);
    std::vector<char> negative(size, 0), later(size, 0), varying(size, 0);
    for (int j = 0; j < n; j++)
        for (int t = P.start[j]; t < P.start[j + 1]; t++)
            if (P.index[t] != j) graph[j].push_back(P.index[t]);
    auto add_vertex = [&](int vertex, int row) {
        negative[vertex] = 1;
        for (int t = A.start[row]; t < A.start[row + 1]; t++) {
            graph[A.index[t]].push_back(vertex);
            graph[vertex].push_back(A.index[t]);
        }
    };
    for (int i = 0; i < zero; i++) {
        add_vertex(n + i, i);
        later[n + i] = 1;
    }
    for (int k = 0; k < kept; k++) {
        add_vertex(n + zero + k, kept_rows[k]);
        varying[n + zero + k] = 1;
    }
    for (int j : single_columns) varying[j] = 1;
    for (auto& block : blocks)
        for (int j : block.columns) {
            varying[j] = 1;
            for (int k : block.columns)
                if (k != j) graph[j].push_back(k);
        }
    for (auto& neighbours : graph) {
        std::sort(neighbours.begin(), neighbours.end());
        neighbours.erase(std::unique(neighbours.begin(), neighbours.end()), neighbours.end());
    }
    return FactorPattern::of(graph, negative, later, varying);
}

inline void Structure::order_kkt() {
    kkt = pattern_of_kkt();
    for (int j = 0; j < n; j++)
        for (int t = P.start[j]; t < P.start[j + 1]; t++)
            if (P.index[t] <= j) {
                P_positions.push_back(kkt.position(P.index[t], j));
                P_entries.push_back(t);
            }
    for (int i = 0; i < zero; i++)
        for (int t = A.start[i]; t < A.start[i + 1]; t++) E_positions.push_back(kkt.position(n + i, A.index[t]));
    for (std::size_t k = 0; k < kept_rows.size(); k++)
        for (int t = A.start[kept_rows[k]]; t < A.start[kept_rows[k] + 1]; t++)
            kept_positions.push_back(kkt.position(n + zero + static_cast<int>(k), A.index[t]));
    for (auto& block : blocks)
        for (std::size_t a = 0; a < block.columns.size(); a++)
            for (std::size_t b = a; b < block.columns.size(); b++) {
                int position = kkt.position(block.columns[a], block.columns[b]);
                if (b > a + 1 && position != block.positions.back() + 1) block.in_order = false;
                block.positions.push_back(position);
            }
}

// The dense active set method: P may be definite, is so dense that R, R⁻ᵀAᵀ and AP⁻¹Aᵀ cost less than an interior
// point's factorizations, and has so few rows that a vertex of them is not likely: near one the active set takes too long
// to settle. Elsewhere Newton's method may settle on an active set by itself (newton.hpp), if the program without
// inequalities has a solution: each variable is tied down by P or by an equality. Variables that are bounded from both
// sides jump from one to the other; where there are many, only a program without active rows is found so.
inline void Structure::choose_method() {
    constexpr double MOST_OF_BOTH_BOUNDS = 0.1;  // of the variables
    std::vector<char> tied(n, 0), bounded(n, 0);
    bool curved = true, settles = m > zero;
    for (int t = 0; t < A.start[zero]; t++) tied[A.index[t]] = 1;
    int both = 0;
    for (int j : single_columns) {
        both += bounded[j];
        bounded[j] = 1;
    }
    for (int j = 0; j < n; j++) {
        bool diagonal = std::binary_search(P.index.begin() + P.start[j], P.index.begin() + P.start[j + 1], j);
        curved = curved && diagonal;
        settles = settles && curved_component[component_of_column[j]] && (diagonal || tied[j]);
    }
    if (settles) settling = both < MOST_OF_BOTH_BOUNDS * n ? Settling::ALWAYS : Settling::IF_NOTHING_IS_ACTIVE;
    constexpr double INTERIOR_STEPS = 8.0;
    constexpr double MOST_ROWS = 1.6;  // per variable
    double columns = n, rows = m, interior = kkt.work();
    for (auto& block : blocks) {
        double width = static_cast<double>(block.columns.size());
        interior += 0.5 * width * width * static_cast<double>(block.rows.size());
    }
    double dense = columns * columns * columns / 6 + 0.5 * columns * rows * (columns + rows);
    suits_active_set = curved && m > zero && rows <= MOST_ROWS * columns && dense < INTERIOR_STEPS * interior;
}

inline void Structure::order_fit() {
    int size = n + m;
    std::vector<Indices> graph(size);
    std::vector<char> no(size, 0);
    for (int j = 0; j < n; j++)
        for (int t = P.start[j]; t < P.start[j + 1]; t++)
            if (P.index[t] != j) graph[j].push_back(P.index[t]);
    for (int i = 0; i < m; i++)
        for (int t = A.start[i]; t < A.start[i + 1]; t++) {
            graph[A.index[t]].push_back(n + i);
            graph[n + i].push_back(A.index[t]);
        }
    fit = FactorPattern::of(graph, no, no, no);
    for (int i = 0; i < m; i++)
        for (int t = A.start[i]; t < A.start[i + 1]; t++) fit_A.push_back(fit.position(n + i, A.index[t]));
    for (int j = 0; j < n; j++)
        for (int t = P.start[j]; t < P.start[j + 1]; t++) fit_P.push_back(fit.position(j, P.index[t]));
}

}  // namespace conelayers
