// Certificates of infeasibility: what the interior point leaves of one, refined, and whether it is one to rounding.
//
//     y ≥ 0 on the nonnegative rows, Aᵀy = 0, bᵀy < 0                no x has b − Ax ∈ K
//
// Of a rough ray y the nearest one, entry by entry, is h = y − Y²A z with (AᵀY²A) z = Aᵀy: least Σ (hᵢ − yᵢ)²/yᵢ² subject to Aᵀh = 0.
// That matrix is the reduced one with P left out and the weights y²; the zero cone's rows have the same as 1/δₑ, row by row: they
// enter as [AᵢᵀY²Aᵢ, Eᵀ; E, −Y⁻²]. It is believed to the standard of solve/infeasibility: each equation to 1e−12 of its own terms.
#pragma once

#include "reduced_kkt.hpp"

namespace conelayers {

constexpr double RAY_ROUNDING = 1e-12;  // of an equation's own terms
constexpr double RAY_FALLS = 1e-9;      // of Σ|bᵢyᵢ|: what −bᵀy has to be at least, as what is within that counts as solved
constexpr double RAY_FAR = 1e-4;        // what is left of an equation lets only points so many times larger than b asks for be feasible
constexpr double RAY_NOISE = 1e-8;      // of the largest entry: smaller ones may be left out
constexpr double RAY_RIDGE = 1e-12;     // of the largest entry of AᵀY²A
constexpr int RAY_REFINEMENTS = 3;

template <class V>
class Rays {
  public:
    using Mask = typename Lane<Width<V>::value>::Mask;
    V* ray;  // (m)

    Rays(const Program<V>& program, ReducedKKT<V>& kkt, Pool<V>& pool)
        : ray(pool.take(program.structure.m)),
          program_(program),
          structure_(program.structure),
          kkt_(kkt),
          size_(pool.take(program.structure.m)),
          t_(pool.take(program.structure.m)),
          w_(pool.take(program.structure.m)),
          left_(pool.take(program.structure.n)),
          z_(pool.take(program.structure.n)) {}

    // Whether y (m) leads to a ray that shows that there is no feasible x. The reduced matrix has to be prepared anew afterwards.
    Mask lead_to_primal_ray(const V* y, Mask candidates) {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        V top = largest(m, y), none = splat<V>(0.0);
        candidates = mask_and(candidates, mask_and(top > 0.0, top < 1e300));
        V scale = select(candidates, top, splat<V>(1.0));
        for (int i = 0; i < m; i++) {
            V h = y[i] / scale;
            auto kept = absolute(h) > RAY_NOISE;
            if (i >= zero) kept = h > RAY_NOISE;
            ray[i] = select(mask_and(candidates, kept), h, none);
        }
        Mask shown = mask_and(candidates, is_primal_ray());
        if (!any(mask_and(candidates, mask_not(shown)))) return shown;
        // d of h = |y| d, which starts at the sign of y; weights y² once.
        for (int i = 0; i < m; i++) size_[i] = absolute(ray[i]);
        for (int i = zero; i < m; i++) kkt_.weights[i] = size_[i] * size_[i];
        V greatest = none;
        for (int i = 0; i < m; i++)
            for (int t = structure_.A.start[i]; t < structure_.A.start[i + 1]; t++) {
                V a = size_[i] * program_.A[t];
                greatest = maximum(greatest, a * a);
            }
        V ridge = maximum(RAY_RIDGE * greatest, splat<V>(1e-300));
        kkt_.prepare_with_dual_sizes(ridge, size_);
        kkt_.factor();
        for (int k = 0; k < RAY_REFINEMENTS; k++) {
            for (int j = 0; j < n; j++) z_[j] = none;
            program_.add_AT(ray, z_);
            for (int i = 0; i < zero; i++) w_[i] = none;
            kkt_.solve(z_, w_);
            program_.times_A(z_, t_);
            for (int i = 0; i < m; i++) {
                V next = ray[i] - size_[i] * size_[i] * t_[i];
                auto kept = absolute(next) > RAY_NOISE * size_[i];
                if (i >= zero) kept = next > RAY_NOISE * size_[i];
                ray[i] = select(mask_and(kept, mask_not(shown)), next, select(shown, ray[i], none));
            }
        }
        return mask_or(shown, mask_and(candidates, is_primal_ray()));
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    ReducedKKT<V>& kkt_;
    V *size_, *t_, *w_, *left_, *z_;

    Mask is_primal_ray() {
        int n = structure_.n, m = structure_.m;
        V falls = splat<V>(0.0), total = falls, none = falls;
        for (int i = 0; i < m; i++) {
            V term = program_.b[i] * ray[i];
            falls -= term;
            total += absolute(term);
        }
        falls = select(total > 0.0, falls / total, none);
        for (int j = 0; j < n; j++) left_[j] = z_[j] = none;
        program_.add_AT(ray, left_);
        for (int i = 0; i < m; i++) w_[i] = absolute(ray[i]);
        structure_.A.add_transposed_sizes(program_.A, w_, z_);
        V bound = minimum(splat<V>(RAY_ROUNDING), RAY_FAR * falls);
        Mask vanishes = falls > RAY_FALLS;
        for (int j = 0; j < n; j++) vanishes = mask_and(vanishes, absolute(left_[j]) <= bound * z_[j]);
        return vanishes;
    }
};

}  // namespace conelayers
