// Strictly convex quadratic programs by primal-dual active set steps: one dense instance at a time.
//
// With P = RᵀR, W = R⁻ᵀAᵀ, S = WᵀW = AP⁻¹Aᵀ, g = R⁻ᵀq and d = −(b + Wᵀg) the active rows a satisfy
//
//     S_aa y_a = d_a,    s = S y − d,    x = −R⁻¹(g + W y).
//
// The zero cone's rows E are eliminated first: S = [LᵀL, LᵀV; VᵀL, S' + VᵀV] and d = [Lᵀt; d' + Vᵀt] leave
// S'_aa y_a = d'_a and s = S' y − d' on the inequality rows, and L y_E = t − V y.
//
// Sweeps of coordinate descent on the dual, min ½ yᵀS'y − d'ᵀy over y ≥ 0 (Hildreth, "A quadratic programming
// procedure", 1957), find most of the active set. From there the next set is where v = y − s is positive: semismooth
// Newton on the optimality conditions (Hintermüller, Ito, Kunisch, "The primal-dual active set strategy as a semismooth
// Newton method", 2002). Both work on S' alone, so that a step costs the cube of the active rows, not of the variables.
// The point is a start for Newton's method on the residual map, which refines it; where the signs do not settle, the
// interior point takes over.
#pragma once

#include "dense.hpp"
#include "program.hpp"

namespace conelayers {

class ActiveSet {
  public:
    double *x, *v;  // the point (n), (m); v is positive on the active rows and on no others

    ActiveSet(const Structure& structure, Pool<double>& pool)
        : n_(structure.n),
          m_(structure.m),
          zero_(structure.zero),
          structure_(structure),
          root_(n_, n_ + m_ + 1, pool),
          schur_(m_ + 1, m_ + 1, pool),
          factor_(std::min(n_, m_) - std::min(n_, zero_), std::min(n_, m_) - std::min(n_, zero_) + 1, pool),
          active_(m_, 0) {
        x = pool.take(n_);
        for (double** of_rows : {&v, &b_, &d_, &y_, &s_, &swept_, &inverse_, &size_, &noise_, &t_})
            *of_rows = pool.take(m_);
    }

    // Whether the program in one lane led to a point with the right signs.
    template <class V, class Limits>
    bool solve(const Program<V>& program, int lane, Limits& limits) {
        if (m_ - zero_ == 0 || zero_ > n_) return false;
        load(program, lane);
        if (!root_.pivot(n_, n_ + m_ + 1, n_) || !condense()) return false;
        std::fill(swept_, swept_ + m_, 0.0);
        for (int round = 0, sweeps = SWEEPS; round < ROUNDS && !limits.reached(); round++, sweeps *= 2) {
            sweep(sweeps);
            if (!newton(limits)) continue;
            find_point();
            return true;
        }
        return false;
    }

  private:
    static constexpr double SIGN = 1e-12;  // of y or s, a wrong one is rounding, relative to what it was computed from
    static constexpr double RIDGE = 1e-9;  // added to the diagonal (relative) of an active block without a factor
    static constexpr int PATIENCE = 3;     // steps without a new least number of wrong signs before the next round
    static constexpr int NEWTON_STEPS = 15;
    static constexpr int SWEEPS = 8, ROUNDS = 3;          // of sweeps, twice as many each time, and Newton's steps
    static constexpr double LEAST_MULTIPLIER = 2.3e-308;  // of an active row: a normal number

    int n_, m_, zero_;
    const Structure& structure_;
    DenseMatrix root_;    // [R, W, g]
    DenseMatrix schur_;   // [S, d] with the zero cone's rows eliminated
    DenseMatrix factor_;  // [F, t] with FᵀF = S'_aa and Fᵀt = d'_a
    std::vector<char> active_;
    std::vector<int> rows_;  // the active inequality rows, ascending
    double *b_, *d_, *y_, *s_;
    double* swept_;    // y of the sweeps
    double* inverse_;  // 1/S'ᵢᵢ
    double* size_;     // w: the roots of S's diagonal
    double* noise_;    // what s is rounded relative to
    double* t_;
    double length_ = 0.0;  // ‖g‖

    template <class V>
    void load(const Program<V>& program, int lane) {
        const Lines &P = structure_.P, &A = structure_.A;
        root_.clear();
        for (int j = 0; j < n_; j++) {
            double* row = root_[j];
            for (int t = P.start[j]; t < P.start[j + 1]; t++)
                if (P.index[t] >= j) row[P.index[t]] = lane_of(program.P[t], lane);
            row[n_ + m_] = lane_of(program.q[j], lane);
        }
        for (int i = 0; i < m_; i++) {
            b_[i] = lane_of(program.b[i], lane);
            for (int t = A.start[i]; t < A.start[i + 1]; t++) root_[A.index[t]][n_ + i] = lane_of(program.A[t], lane);
        }
    }

    // S and d without the zero cone's rows; false where those are dependent.
    bool condense() {
        schur_.products(root_, n_);
        length_ = std::sqrt(schur_[m_][m_]);
        for (int i = 0; i < m_; i++) {
            size_[i] = std::sqrt(schur_[i][i]);
            schur_[i][m_] = -(b_[i] + schur_[i][m_]);
        }
        if (zero_ > 0 && !schur_.pivot(m_, m_ + 1, zero_)) return false;
        for (int i = 0; i < m_; i++) d_[i] = schur_[i][m_];
        schur_.mirror(zero_, m_);
        for (int i = zero_; i < m_; i++) inverse_[i] = 1.0 / schur_[i][i];
        return true;
    }

    void list_active() {
        rows_.clear();
        for (int i = zero_; i < m_; i++)
            if (active_[i]) rows_.push_back(i);
    }

    // FᵀF = S'_aa, with a ridge if asked for, and t.
    bool factor_active(double ridge) {
        int count = static_cast<int>(rows_.size());
        for (int a = 0; a < count; a++) {
            const double* from = schur_[rows_[a]];
            double* to = factor_[a];
            for (int c = a; c < count; c++) to[c] = from[rows_[c]];
            to[a] *= 1.0 + ridge;
            to[count] = d_[rows_[a]];
        }
        return factor_.pivot(count, count + 1, count);
    }

    // y and s on the active set, but for y_E; whether F is the factor, not one with a ridge. `lost` where there is none.
    bool evaluate(bool* lost = nullptr) {
        list_active();
        int count = static_cast<int>(rows_.size());
        if (lost) *lost = false;
        bool fits = count <= factor_.rows, exact = fits && factor_active(0.0);
        if (!exact && !(fits && factor_active(RIDGE))) {
            if (lost) *lost = true;
            return false;
        }
        double square = 0.0;
        for (int i = 0; i < zero_; i++) square += d_[i] * d_[i];
        for (int a = 0; a < count; a++) {
            t_[a] = factor_[a][count];
            square += t_[a] * t_[a];
        }
        double length = length_ + std::sqrt(square);  // ‖g‖ + ‖W y‖
        factor_.solve_upper(0, count, t_);
        for (int i = zero_; i < m_; i++) {
            y_[i] = 0.0;
            s_[i] = -d_[i];
            noise_[i] = std::fabs(b_[i]) + size_[i] * length;
        }
        for (int a = 0; a < count; a++) {
            y_[rows_[a]] = t_[a];
            add_multiple(m_ - zero_, t_[a], schur_[rows_[a]] + zero_, s_ + zero_);
        }
        return exact;
    }

    // The inequality rows with a sign that is wrong beyond its tolerance; with `flip` they change sides.
    int count_wrong(bool flip) {
        double most = length_;  // W y = −(g + R x), which y is rounded relative to
        int wrong = 0;
        for (int i = zero_; i < m_; i++) most = std::max(most, size_[i] * std::fabs(y_[i]));
        for (int i = zero_; i < m_; i++) {
            bool is_wrong = active_[i] ? y_[i] * size_[i] < -SIGN * most : s_[i] < -SIGN * noise_[i];
            wrong += is_wrong;
            if (flip && is_wrong) active_[i] ^= 1;
        }
        return wrong;
    }

    // `count` sweeps from the multipliers that the last ones left; the positive ones are the active set.
    void sweep(int count) {
        int size = m_ - zero_;
        double *y = swept_ + zero_, *s = s_ + zero_;
        for (int i = 0; i < size; i++) s[i] = -d_[zero_ + i];
        for (int i = 0; i < size; i++)
            if (y[i] > 0.0) add_multiple(size, y[i], schur_[zero_ + i] + zero_, s);
        for (int k = 0; k < count; k++)
            for (int i = 0; i < size; i++) {
                const double* column = schur_[zero_ + i] + zero_;
                double next = y[i] - s[i] * inverse_[zero_ + i];
                next = next > 0.0 ? next : 0.0;
                double step = next - y[i];
                if (step == 0.0) continue;
                y[i] = next;
                add_multiple(size, step, column, s);
            }
        for (int i = 0; i < size; i++) active_[zero_ + i] = y[i] > 0.0;
    }

    // Primal-dual active set steps: whether the signs are right in the end.
    template <class Limits>
    bool newton(Limits& limits) {
        int best = m_ + 1, patience = PATIENCE;
        for (int step = 0; step < NEWTON_STEPS && !limits.reached(); step++) {
            bool lost, exact = evaluate(&lost);
            if (lost) return false;
            int wrong = count_wrong(true);
            if (wrong == 0) return exact;
            if (wrong < best) {
                best = wrong;
                patience = PATIENCE;
            } else if (--patience < 0) {
                return false;
            }
        }
        return false;
    }

    // y_E, x and v.
    void find_point() {
        for (int i = 0; i < zero_; i++) y_[i] = d_[i] - dot(m_ - zero_, schur_[i] + zero_, y_ + zero_);
        schur_.solve_upper(0, zero_, y_);
        for (int j = 0; j < n_; j++) x[j] = -(root_[j][n_ + m_] + dot(m_, root_[j] + n_, y_));
        root_.solve_upper(0, n_, x);
        for (int i = 0; i < m_; i++) {
            if (i < zero_)
                v[i] = y_[i];
            else
                v[i] = active_[i] ? std::max(y_[i], LEAST_MULTIPLIER) : std::min(-s_[i], 0.0);
        }
    }
};

}  // namespace conelayers
