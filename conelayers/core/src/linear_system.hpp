// Systems with J(D) = [P, AᵀD; −A, I − D] and with its transpose, solved by the reduced matrix and refined on J itself.
//
//     J·[dx; dv] = [r₁; r₂]:   dy = D dv,  dv = r₂ + A dx + dy   (second row),   P dx + Aᵀdy = r₁   (first row).
//         With dy = M(r₂ + A dx) on the nonnegative cone's rows, M = λ/(1 − λ + δλ), and dy free on the zero cone's:
//         (P + AᵢᵀMAᵢ) dx + Eᵀdy = r₁ − AᵢᵀM r₂,    E dx − δₑdy = −r₂.
//
//     Jᵀ·[λ; μ] = [g₁; g₂]:    P λ − Aᵀμ = g₁,   μ + D(Aλ − μ) = g₂.  With μ = g₂ − t:
//         t = M(Aλ − g₂),   (P + AᵢᵀMAᵢ) λ + Eᵀt = g₁ + Aᵀg₂ + AᵢᵀM g₂,    E λ − δₑt = g₂.
//
// Neither is exact: M, δₚ and δₑ are regularized. Corrections by the residual of J make it so where J is regular: each
// makes the residual some δ‖J⁻¹‖ times what it was. Where J is singular the residual of a random right-hand side stays;
// so a probe with one decides, and the rank test that names the cause is left to those who can pay for it.
#pragma once

#include "reduced_kkt.hpp"
#include "residual.hpp"

namespace conelayers {

constexpr double REFINED = 4e-15;   // relative residual at which refinement ends
constexpr double ACCEPTED = 1e-10;  // and the one up to which a system counts as solved
// Residual of the probe below which J is regular: a singular one leaves what a random vector has of it.
constexpr double REGULAR = 1e-8;
constexpr int MOST_REFINEMENTS = 12;
constexpr int PROBE_REFINEMENTS = 8;
constexpr double NO_RIGHT_HAND_SIDE = 1e-290;  // a smaller one has the solution zero

template <class V>
class LinearSystem {
  public:
    using Mask = typename Lane<Width<V>::value>::Mask;
    V *first, *second;  // the solution: dx and dv, or λ and μ
    const V* element;   // D (m)

    LinearSystem(const Program<V>& program, ReducedKKT<V>& kkt, Pool<V>& pool)
        : element(nullptr), program_(program), structure_(program.structure), kkt_(kkt) {
        int n = structure_.n, m = structure_.m;
        for (V** of_columns : {&first, &r1_, &e1_, &e1_next_, &u_, &first_next_}) *of_columns = pool.take(n);
        for (V** of_rows : {&second, &r2_, &e2_, &e2_next_, &w_, &t_, &second_next_}) *of_rows = pool.take(m);
    }

    // Factors the reduced matrix at D.
    void factor(const V* D) {
        element = D;
        for (int i = structure_.zero; i < structure_.m; i++) kkt_.weights[i] = weight(D[i]);
        kkt_.factor();
    }

    static V weight(V lambda) {
        return select(lambda == 0.0, splat<V>(0.0), lambda / ((1.0 - lambda) + DELTA * lambda));
    }

    // The relative residual of the refined solution for r₁ (n) and r₂ (m).
    V solve(const V* r1, const V* r2, bool transposed, int refinements = MOST_REFINEMENTS, double enough = REFINED) {
        int n = structure_.n, m = structure_.m;
        V size = maximum(largest(n, r1), largest(m, r2));
        auto nothing = size <= NO_RIGHT_HAND_SIDE;
        size = select(nothing, splat<V>(1.0), size);
        for (int j = 0; j < n; j++) {
            r1_[j] = e1_[j] = r1[j];
            first[j] = splat<V>(0.0);
        }
        for (int i = 0; i < m; i++) {
            r2_[i] = e2_[i] = r2[i];
            second[i] = splat<V>(0.0);
        }
        V error = splat<V>(1.0);
        Mask going = mask_not(nothing);
        for (int k = 0; k <= refinements && any(going); k++) {
            correct(transposed);
            residual(transposed);
            V next = maximum(largest(n, e1_next_), largest(m, e2_next_)) / size;
            next = select(finite(), next, splat<V>(1e300));
            auto better = mask_and(going, next < error);
            for (int j = 0; j < n; j++) {
                first[j] = select(better, first_next_[j], first[j]);
                e1_[j] = select(better, e1_next_[j], e1_[j]);
            }
            for (int i = 0; i < m; i++) {
                second[i] = select(better, second_next_[i], second[i]);
                e2_[i] = select(better, e2_next_[i], e2_[i]);
            }
            auto fast = next < 0.5 * error;
            error = select(better, next, error);
            going = mask_and(mask_and(going, fast), error > enough);
        }
        return select(nothing, splat<V>(0.0), error);
    }

    // Multiplies the entries of r₁ and r₂ by numbers of either sign and sizes from 1 to 2, of which no sum vanishes by
    // chance.
    void scatter(V* r1, V* r2) const {
        uint64_t state = 0x9E3779B97F4A7C15u;
        auto factor = [&] {  // xorshift (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            double size = 1.0 + static_cast<double>(state >> 40) / (1 << 24);
            return state & 1 ? size : -size;
        };
        for (int j = 0; j < structure_.n; j++) r1[j] *= factor();
        for (int i = 0; i < structure_.m; i++) r2[i] *= factor();
    }

    // Whether J is regular at the factored D: whether a system with any right-hand side has a solution. Inert columns
    // without an active row are left out: J's columns and rows there are zero, and nobody asks for what they leave open.
    Mask is_regular() {
        for (int j = 0; j < structure_.n; j++) u_[j] = splat<V>(1.0);
        for (int i = 0; i < structure_.m; i++) w_[i] = splat<V>(1.0);
        scatter(u_, w_);
        for (std::size_t k = 0; k < structure_.inert_columns.size(); k++) {
            V active = splat<V>(0.0);
            for (int t = structure_.inert_start[k]; t < structure_.inert_start[k + 1]; t++)
                active += element[structure_.inert_rows[t]];
            V& u = u_[structure_.inert_columns[k]];
            u = select(active == 0.0, splat<V>(0.0), u);
        }
        return solve(u_, w_, false, PROBE_REFINEMENTS, REGULAR) <= REGULAR;
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    ReducedKKT<V>& kkt_;
    V *r1_, *r2_, *e1_, *e2_, *e1_next_, *e2_next_, *u_, *w_, *t_, *first_next_, *second_next_;

    auto finite() const {
        V sum = splat<V>(0.0);
        for (int j = 0; j < structure_.n; j++) sum += 0.0 * e1_next_[j];
        for (int i = 0; i < structure_.m; i++) sum += 0.0 * e2_next_[i];
        return sum == 0.0;
    }

    // first_next = first + its correction for the residual e, and second_next.
    void correct(bool transposed) {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        const V* M = kkt_.weights;
        for (int j = 0; j < n; j++) u_[j] = e1_[j];
        if (transposed) {
            for (int i = 0; i < zero; i++) t_[i] = w_[i] = e2_[i];
            for (int i = zero; i < m; i++) t_[i] = e2_[i] + M[i] * e2_[i];
            program_.add_AT(t_, u_);
        } else {
            for (int i = 0; i < zero; i++) w_[i] = -e2_[i];
            for (int i = zero; i < m; i++) t_[i] = -(M[i] * e2_[i]);
            program_.add_IT(t_, u_);
        }
        kkt_.solve(u_, w_);
        program_.times_A(u_, t_);
        for (int j = 0; j < n; j++) first_next_[j] = first[j] + u_[j];
        if (transposed) {
            for (int i = 0; i < zero; i++) second_next_[i] = second[i] + (e2_[i] - w_[i]);
            for (int i = zero; i < m; i++) second_next_[i] = second[i] + (e2_[i] - M[i] * (t_[i] - e2_[i]));
        } else {
            for (int i = 0; i < zero; i++) second_next_[i] = second[i] + ((e2_[i] + t_[i]) + w_[i]);
            for (int i = zero; i < m; i++) {
                V given = e2_[i] + t_[i];
                second_next_[i] = second[i] + (given + M[i] * given);
            }
        }
    }

    // e_next = r − J·next.
    void residual(bool transposed) {
        int n = structure_.n, m = structure_.m;
        const V* D = element;
        if (program_.has_P()) {
            program_.times_P(first_next_, e1_next_);
            for (int j = 0; j < n; j++) e1_next_[j] = r1_[j] - e1_next_[j];
        } else {
            for (int j = 0; j < n; j++) e1_next_[j] = r1_[j];
        }
        program_.times_A(first_next_, e2_next_);
        if (transposed) {
            program_.add_AT(second_next_, e1_next_);
            for (int i = 0; i < m; i++)
                e2_next_[i] = r2_[i] - (second_next_[i] + D[i] * (e2_next_[i] - second_next_[i]));
        } else {
            for (int i = 0; i < m; i++) {
                V moved = D[i] * second_next_[i];
                e2_next_[i] = r2_[i] - ((second_next_[i] - moved) - e2_next_[i]);
                t_[i] = -moved;
            }
            program_.add_AT(t_, e1_next_);
        }
    }
};

}  // namespace conelayers
