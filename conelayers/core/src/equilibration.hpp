// Equilibration of a program, so that v = y − s compares multipliers and slacks of one size.
//
// With d > 0 (n,), e > 0 (m,), β, γ > 0 the program in x' = β x/d, s' = β e s, y' = γ y/e has the data
//
//     P' = (γ/β) d P d,   q' = γ d q,   A' = e A d,   b' = β e b.
//
// log d and log e are the least squares fit that brings the entries to one size (Curtis, Reid, "On the automatic
// scaling of matrices for Gaussian elimination", 1972):
//
//     log|Aᵢⱼ| + log eᵢ + log dⱼ ≈ 0,    log|Pⱼₖ| + log dⱼ + log dₖ ≈ 0     over the entries that are not zero.
//
// Whatever units the user chose, it ends in the same program: units add to the logarithms what the fit takes away
// again. In a component without P one factor stays open, d·t and e/t; it makes q' and b' of one size there. β and γ
// bring b' and q' to size 1. All are powers of two: scaling rounds nothing.
#pragma once

#include "array.hpp"
#include "program.hpp"
#include "structure.hpp"

namespace conelayers {

constexpr double LIMIT_OF_LOGARITHMS = 300.0;  // of log₂ β and log₂ γ, twice those of log₂ d and log₂ e
constexpr double LEAST_LOGARITHM = -1000.0;    // a logarithm below this is that of zero
constexpr double TOLERATED_LOGARITHM = 1.0;    // by which q' and b' may differ from 1
// By which q' or b' is so small that it counts as zero: rounding is not to be scaled up.
constexpr double LOGARITHMS_APART = 40.0;
constexpr double RIDGE_OF_FIT = 1e-10;  // of the normal equations, which are singular

template <class V>
class Equilibration {
  public:
    V *d, *e, beta, gamma;  // factors

    Equilibration(const Structure& s, Pool<V>& pool)
        : d(pool.take(s.n)),
          e(pool.take(s.m)),
          beta(splat<V>(1.0)),
          gamma(splat<V>(1.0)),
          structure_(s),
          normal_(s.fit, pool),
          log_P_(pool.take(s.P.index.size())),
          log_A_(pool.take(s.A.index.size())),
          log_q_(pool.take(s.n)),
          log_b_(pool.take(s.m)),
          solution_(pool.take(s.fit.size)),
          of_b_(pool.take(s.components)),
          of_q_(pool.take(s.components)) {
        auto all = [](V) { return splat<V>(1.0); };
        factor_normal_equations(all);
    }

    // Finds the factors of the program's data and puts the scaled ones in their place.
    void apply(Program<V>& program) {
        find(program);
        scale(program);
    }

  private:
    const Structure& structure_;
    SparseFactor<V> normal_;
    bool over_all_ = true;  // the normal equations are those over all stored entries
    V *log_P_, *log_A_, *log_q_, *log_b_, *solution_, *of_b_, *of_q_;

    // GᵀG of the fit's equations, over the entries that have the weight 1, and a ridge.
    template <class Weight>
    void factor_normal_equations(Weight weight) {
        const Structure& s = structure_;
        V* diagonal = normal_.diagonal;
        normal_.clear();
        for (int i = 0; i < s.m; i++)
            for (int t = s.A.start[i]; t < s.A.start[i + 1]; t++) {
                V w = weight(log_A_[t]);
                normal_.add(s.fit_A[t], w);
                diagonal[s.fit.place[s.n + i]] += w;
                diagonal[s.fit.place[s.A.index[t]]] += w;
            }
        for (int j = 0; j < s.n; j++)
            for (int t = s.P.start[j]; t < s.P.start[j + 1]; t++) {
                V w = weight(log_P_[t]);
                int k = s.P.index[t];
                diagonal[s.fit.place[j]] += w;
                diagonal[s.fit.place[k]] += w;
                if (k == j)
                    diagonal[s.fit.place[j]] += 2.0 * w;
                else
                    normal_.add(s.fit_P[t], w);
            }
        V top = splat<V>(1.0);
        for (int k = 0; k < s.fit.size; k++) top = maximum(top, diagonal[k]);
        for (int k = 0; k < s.fit.size; k++) diagonal[k] += RIDGE_OF_FIT * top;
        normal_.factor();
    }

    // log₂|values|, roughly; whether one of them is that of zero.
    static auto take_logarithms(int count, const V* values, V* logarithms) {
        auto found = splat<V>(0.0) > 0.0;
        for (int t = 0; t < count; t++) {
            logarithms[t] = log2_roughly(values[t]);
            found = mask_or(found, logarithms[t] < LEAST_LOGARITHM);
        }
        return found;
    }

    void find(const Program<V>& program) {
        const Structure& s = structure_;
        auto some_are_zero = take_logarithms(static_cast<int>(s.A.index.size()), program.A, log_A_);
        auto some_of_P = take_logarithms(static_cast<int>(s.P.index.size()), program.P, log_P_);
        for (int j = 0; j < s.n; j++) log_q_[j] = log2_roughly(program.q[j]);
        for (int i = 0; i < s.m; i++) log_b_[i] = log2_roughly(program.b[i]);
        // Entries that are zero have no part in the fit: another matrix, that of this instance.
        bool zeros = any(some_are_zero) || any(some_of_P);
        if (zeros || !over_all_)
            factor_normal_equations([](V a) { return select(a < LEAST_LOGARITHM, splat<V>(0.0), splat<V>(1.0)); });
        over_all_ = !zeros;
        fit_sizes();
        balance_open_components();
        choose_beta_and_gamma();
    }

    void fit_sizes() {
        const Structure& s = structure_;
        V* r = solution_;
        for (int k = 0; k < s.fit.size; k++) r[k] = splat<V>(0.0);
        auto present = [](V a) { return select(a < LEAST_LOGARITHM, splat<V>(0.0), a); };
        for (int i = 0; i < s.m; i++) {
            V sum = splat<V>(0.0);
            for (int t = s.A.start[i]; t < s.A.start[i + 1]; t++) {
                V a = present(log_A_[t]);
                sum += a;
                r[s.fit.place[s.A.index[t]]] -= a;
            }
            r[s.fit.place[s.n + i]] -= sum;
        }
        for (int j = 0; j < s.n; j++) {
            V sum = splat<V>(0.0);
            for (int t = s.P.start[j]; t < s.P.start[j + 1]; t++) sum += present(log_P_[t]);
            r[s.fit.place[j]] -= 2.0 * sum;
        }
        normal_.solve(r);
        V limit = splat<V>(LIMIT_OF_LOGARITHMS / 2);
        auto whole = [&](V a) { return rounded(maximum(minimum(a, limit), -limit)); };
        for (int j = 0; j < s.n; j++) log_q_[j] += d[j] = whole(r[s.fit.place[j]]);
        for (int i = 0; i < s.m; i++) log_b_[i] += e[i] = whole(r[s.fit.place[s.n + i]]);
    }

    void balance_open_components() {
        const Structure& s = structure_;
        V limit = splat<V>(LIMIT_OF_LOGARITHMS);
        for (int c = 0; c < s.components; c++) of_b_[c] = of_q_[c] = splat<V>(LOG_OF_ZERO);
        for (int j = 0; j < s.n; j++)
            of_q_[s.component_of_column[j]] = maximum(of_q_[s.component_of_column[j]], log_q_[j]);
        for (int i = 0; i < s.m; i++) of_b_[s.component_of_row[i]] = maximum(of_b_[s.component_of_row[i]], log_b_[i]);
        for (int c = 0; c < s.components; c++) {
            V shift = rounded(maximum(minimum(0.5 * (of_b_[c] - of_q_[c]), limit), -limit));
            auto both = mask_and(of_b_[c] > LEAST_LOGARITHM, of_q_[c] > LEAST_LOGARITHM);
            of_q_[c] = s.curved_component[c] ? splat<V>(0.0) : select(both, shift, splat<V>(0.0));
        }
        for (int j = 0; j < s.n; j++) {
            V shift = of_q_[s.component_of_column[j]];
            d[j] += shift;
            log_q_[j] += shift;
        }
        for (int i = 0; i < s.m; i++) {
            V shift = of_q_[s.component_of_row[i]];
            e[i] -= shift;
            log_b_[i] -= shift;
        }
    }

    void choose_beta_and_gamma() {
        const Structure& s = structure_;
        V q_size = splat<V>(LOG_OF_ZERO), b_size = q_size, zero = splat<V>(0.0);
        for (int j = 0; j < s.n; j++) q_size = maximum(q_size, log_q_[j]);
        for (int i = 0; i < s.m; i++) b_size = maximum(b_size, log_b_[i]);
        auto no_q = q_size < LEAST_LOGARITHM, no_b = b_size < LEAST_LOGARITHM;
        gamma = select(mask_or(no_q, absolute(q_size) <= TOLERATED_LOGARITHM), zero, -rounded(q_size));
        beta = select(mask_or(no_b, absolute(b_size) <= TOLERATED_LOGARITHM), zero, -rounded(b_size));
        if (!s.P.index.empty()) {
            // Without one of the two, or next to none, P' keeps its size: x ≈ q/P for b = 0, y ≈ P b for q = 0.
            beta = select(mask_or(no_b, beta > LOGARITHMS_APART + gamma), gamma, beta);
            gamma = select(mask_or(no_q, gamma > LOGARITHMS_APART + beta), beta, gamma);
        }
        V limit = splat<V>(LIMIT_OF_LOGARITHMS);
        beta = maximum(minimum(beta, limit), -limit);
        gamma = maximum(minimum(gamma, limit), -limit);
    }

    // The logarithms turned into factors, and the data scaled. With the limits above no product of factors is out of
    // range, in this order.
    void scale(Program<V>& program) {
        const Structure& s = structure_;
        for (int j = 0; j < s.n; j++) d[j] = power_of_two(d[j]);
        for (int i = 0; i < s.m; i++) e[i] = power_of_two(e[i]);
        V ratio = power_of_two(gamma - beta);
        beta = power_of_two(beta);
        gamma = power_of_two(gamma);
        scale_lines(s.P, ratio, d, program.P);
        scale_lines(s.A, splat<V>(1.0), e, program.A);
        for (int j = 0; j < s.n; j++) program.q[j] *= gamma * d[j];
        for (int i = 0; i < s.m; i++) program.b[i] *= beta * e[i];
    }

    // values[t] · (common · factor of its line · d of its unknown).
    void scale_lines(const Lines& lines, V common, const V* factors, V* values) const {
        for (int i = 0; i < lines.count; i++) {
            V factor = common * factors[i], *of_line = values + lines.start[i];
            const int* index = lines.index.data() + lines.start[i];
            if (lines.first[i] >= 0) {
                const V* of_unknowns = d + lines.first[i];
                for (int t = 0; t < lines.length(i); t++) of_line[t] *= factor * of_unknowns[t];
            } else {
                for (int t = 0; t < lines.length(i); t++) of_line[t] *= factor * d[index[t]];
            }
        }
    }
};

}  // namespace conelayers
