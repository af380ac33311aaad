// The one matrix behind interior point, Newton's steps, tangents and adjoints.
//
// With D the Clarke element of Π (diagonal, 0 ≤ λ ≤ 1), K = [P, A'ᵀ√Λ; √ΛA', −(I − Λ)] is what J(D) reduces to. Its
// rows of the nonnegative cone are eliminated: with weights μ = λ/(1 − λ + δλ) they leave P + AᵢᵀMAᵢ; in the interior
// point μ = y/s takes the same place. The zero cone's rows E stay, as equalities. So all that is ever factored is
//
//     [ P + AᵢᵀM Aᵢ + δₚI ,  Eᵀ ;  E , −δₑI ],
//
// quasi-definite, of one pattern; where that leaves L sparser, some rows of Aᵢ stay too, with −1/μ on the diagonal
// (structure.hpp). Active rows (λ = 1) count as equalities that may give way by δ times their
// multiplier; solutions are refined with J itself, which takes δ, δₚ and δₑ out again (linear_system.hpp).
#pragma once

#include "array.hpp"
#include "dense.hpp"
#include "program.hpp"
#include "sparse_factor.hpp"

namespace conelayers {

// δ and δₚ = δₑ, relative to A' and P' of size 1. Where P and the active rows leave a direction free, which only
// equalities settle, its pivot is δₚ, and what is subtracted from 1/δ there leaves rounding of the size ε/δ = 2e−10:
// far below δₚ. Both cost digits of a single solve, some δ‖J⁻¹‖ of the right-hand side, which the next correction
// recovers.
constexpr double DELTA = 1e-6;
constexpr double STATIC_DELTA = 1e-7;

template <class V>
class ReducedKKT {
  public:
    V* weights;  // M, for the rows of the nonnegative cone (m)

    ReducedKKT(const Program<V>& program, Pool<V>& pool)
        : weights(pool.take(program.structure.m)),
          program_(program),
          structure_(program.structure),
          factor_(structure_.kkt, pool),
          base_(structure_.kkt, pool),
          permuted_(pool.take(structure_.kkt.size)),
          scaled_(pool.take(scratch_size(structure_) + PADDING)) {}

    static constexpr double TAKEN_OUT = 1e30;  // on the diagonal of a row that has no part in the matrix

    // What no weight changes: P, E, the regularization, and the columns of L that follow from them alone.
    // `curvature`: 0 leaves P out, for rays; `primal` and `dual`: δₚ and δₑ.
    void prepare(V curvature, V primal, V dual) {
        prepare_with(curvature, primal, [&](int) { return dual; });
    }

    // Another δₑ for each row of the zero cone, 1/size² and no P, for rays; a row of size zero is taken out.
    void prepare_with_dual_sizes(V primal, const V* size) {
        V* dual = permuted_;
        for (int i = 0; i < structure_.zero; i++)
            dual[i] = select(size[i] > 0.0, 1.0 / (size[i] * size[i]), splat<V>(TAKEN_OUT));
        prepare_with(splat<V>(0.0), primal, [&](int i) { return dual[i]; });
    }

    void factor() {
        const FactorPattern& p = structure_.kkt;
        factor_.copy(base_, p.constant_nodes);
        add_rows();
        for (std::size_t k = 0; k < structure_.kept_rows.size(); k++) {
            V weight = weights[structure_.kept_rows[k]];
            V size = select(weight > 1.0 / TAKEN_OUT, 1.0 / weight, splat<V>(TAKEN_OUT));
            factor_.diagonal[p.place[structure_.n + structure_.zero + static_cast<int>(k)]] = -size;
        }
        factor_.factor(p.constant_nodes, p.nodes(), p.constant_nodes);
    }

    // [u (n); w (zero)] ← K⁻¹ [u; w].
    void solve(V* u, V* w) {
        const FactorPattern& p = structure_.kkt;
        int n = structure_.n, end = n + structure_.zero;
        const int* place = p.place.data();
        for (int j = 0; j < n; j++) permuted_[place[j]] = u[j];
        for (int i = n; i < end; i++) permuted_[place[i]] = w[i - n];
        for (int k = end; k < p.size; k++) permuted_[place[k]] = splat<V>(0.0);
        factor_.solve(permuted_);
        for (int j = 0; j < n; j++) u[j] = permuted_[place[j]];
        for (int i = n; i < end; i++) w[i - n] = permuted_[place[i]];
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    SparseFactor<V> factor_, base_;
    V *permuted_, *scaled_;
    std::vector<const V*> used_;

    template <class Dual>
    void prepare_with(V curvature, V primal, Dual dual) {
        const Structure& s = structure_;
        const FactorPattern& p = s.kkt;
        base_.clear();
        for (int j = 0; j < s.n; j++) base_.diagonal[p.place[j]] = primal;
        for (int i = 0; i < s.zero; i++) base_.diagonal[p.place[s.n + i]] = -dual(i);
        for (int k = s.n + s.zero; k < p.size; k++) base_.diagonal[p.place[k]] = splat<V>(0.0);
        for (std::size_t t = 0; t < s.P_positions.size(); t++)
            base_.add(s.P_positions[t], curvature * program_.P[s.P_entries[t]]);
        for (std::size_t t = 0; t < s.E_positions.size(); t++) base_.add(s.E_positions[t], program_.A[t]);
        const int* position = s.kept_positions.data();
        for (int i : s.kept_rows)
            for (int t = s.A.start[i]; t < s.A.start[i + 1]; t++) base_.add(*position++, program_.A[t]);
        base_.factor(0, p.constant_nodes, 0);
        for (int node = p.constant_nodes; node < p.nodes(); node++) base_.update(node, 0, p.constant_nodes);
        factor_.copy(base_, 0);
    }

    static std::size_t scratch_size(const Structure& s) {
        std::size_t most = 0;
        for (auto& block : s.blocks) most = std::max(most, block.rows.size() * block.columns.size());
        return most;
    }

    // AᵢᵀMAᵢ. Rows without a weight in any lane are left out: they would add zeros.
    void add_rows() {
        const Structure& s = structure_;
        V *lower = factor_.lower, *diagonal = factor_.diagonal;
        for (std::size_t k = 0; k < s.single_rows.size(); k++) {
            int i = s.single_rows[k];
            V a = program_.A[s.A.start[i]];
            diagonal[s.kkt.place[s.single_columns[k]]] += (weights[i] * a) * a;
        }
        for (auto& block : s.blocks) {
            int width = static_cast<int>(block.columns.size());
            used_.clear();
            V* scaled = scaled_;
            for (int i : block.rows) {
                V w = weights[i];
                if (!any(w != 0.0)) continue;
                const V* a = program_.A + s.A.start[i];
                for (int c = 0; c < width; c++) scaled[c] = w * a[c];
                scaled += width;
                used_.push_back(a);
            }
            if (used_.empty()) continue;
            if (used_.size() == 1)
                add_one(block, width);
            else
                add_block(block, width, lower, diagonal);
        }
    }

    void add_one(const RowBlock& block, int width) {
        const V* a = used_[0];
        const int* position = block.positions.data();
        for (int i = 0; i < width; i++)
            for (int j = i; j < width; j++) factor_.add(*position++, scaled_[i] * a[j]);
    }

    // The products of a block's rows, in tiles of sums that stay in registers; each sum runs over the rows in their
    // order. Tiles at the edge read on behind a row (padding), to no effect.
    void add_block(const RowBlock& block, int width, V* lower, V* diagonal) {
        constexpr int HEIGHT = Tile<V>::HEIGHT, SPAN = Tile<V>::SPAN;
        int rows = static_cast<int>(used_.size());
        V sums[HEIGHT * SPAN];
        for (int top = 0; top < width; top += HEIGHT)
            for (int left = top; left < width; left += SPAN) {
                int height = std::min(HEIGHT, width - top), span = std::min(SPAN, width - left);
                Tile<V>::products(rows, scaled_ + top, width, used_.data(), left, sums, span);
                for (int i = 0; i < height; i++) {
                    int row = top + i, first = std::max(left, row);
                    const int* positions = block.positions.data() + row * width - row * (row - 1) / 2 - row;
                    const V* sum = sums + i * SPAN - left;
                    if (first == row && first < left + span) diagonal[~positions[row]] += sum[first++];
                    if (first == left + span) continue;
                    if (block.in_order) {
                        V* out = lower + positions[first] - first;
                        for (int j = first; j < left + span; j++) out[j] += sum[j];
                    } else {
                        for (int j = first; j < left + span; j++) lower[positions[j]] += sum[j];
                    }
                }
            }
    }
};

}  // namespace conelayers
