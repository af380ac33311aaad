// Certificates of infeasibility: what the interior point leaves of one, refined, and whether it is one to rounding.
//
//     y ≥ 0 on the nonnegative rows, Aᵀy = 0, bᵀy < 0                no x has b − Ax ∈ K
//
// Of a rough ray y the nearest one, entry by entry, is h = y − Y²A z with (AᵀY²A) z = Aᵀy: least Σ (hᵢ − yᵢ)²/yᵢ²
// subject to Aᵀh = 0. That matrix is the reduced one with P left out and the weights y²; the zero cone's rows have the
// same as 1/δₑ, row by row: they enter as [AᵢᵀY²Aᵢ, Eᵀ; E, −Y⁻²]. It is believed to the standard of
// solve/infeasibility: each equation to 1e−12 of its own terms.
#pragma once

#include "reduced_kkt.hpp"

namespace conelayers {

constexpr double RAY_ROUNDING = 1e-12;  // of an equation's own terms
constexpr double RAY_FALLS = 1e-9;  // of Σ|bᵢyᵢ|: what −bᵀy has to be at least, as what is within that counts as solved
// What is left of an equation lets only points so many times larger than b asks for be feasible.
constexpr double RAY_FAR = 1e-4;
constexpr double RAY_NOISE = 1e-8;       // of the largest entry: smaller ones may be left out
constexpr double RAY_MUCH_NOISE = 1e-4;  // and so at first, where an iterate is still far from its limit
constexpr double MOST_OF_A_RAY = 1e200;
constexpr double RAY_RIDGE = 1e-12;  // of the largest entry of AᵀY²A
constexpr int RAY_REFINEMENTS = 3;

template <class V>
class Rays {
  public:
    using Mask = typename Lane<Width<V>::value>::Mask;
    Rays(const Program<V>& program, ReducedKKT<V>& kkt, Pool<V>& pool)
        : program_(program),
          structure_(program.structure),
          kkt_(kkt),
          ray_(pool.take(program.structure.m)),
          size_(pool.take(program.structure.m)),
          t_(pool.take(program.structure.m)),
          w_(pool.take(program.structure.m)),
          left_(pool.take(program.structure.n)),
          z_(pool.take(program.structure.n)) {}

    // Whether y (m) leads to a ray that shows that there is no feasible x. The reduced matrix has to be prepared anew
    // afterwards.
    Mask lead_to_primal_ray(const V* y, Mask candidates) {
        V top = largest(structure_.m, y);
        candidates = mask_and(candidates, mask_and(top > 0.0, top < MOST_OF_A_RAY));
        Mask shown = mask_and(candidates, mask_not(candidates));  // none
        // What is small may be noise, whose equations nothing else can fulfil: without it first, then with most of it.
        for (double noise : {RAY_MUCH_NOISE, RAY_NOISE}) {
            Mask open = mask_and(candidates, mask_not(shown));
            if (any(open))
                shown = mask_or(shown, mask_and(open, is_close_to_ray(y, select(open, top, splat<V>(1.0)), noise)));
        }
        return shown;
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    ReducedKKT<V>& kkt_;
    V *ray_, *size_, *t_, *w_, *left_, *z_;

    Mask is_close_to_ray(const V* y, V scale, double noise) {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        V none = splat<V>(0.0);
        for (int i = 0; i < m; i++) {
            V h = y[i] / scale, size = i < zero ? absolute(h) : h;
            ray_[i] = select(size > noise, h, none);
            size_[i] = absolute(ray_[i]);
        }
        Mask shown = is_primal_ray();
        V greatest = none;
        for (int i = 0; i < m; i++)
            for (int t = structure_.A.start[i]; t < structure_.A.start[i + 1]; t++) {
                V a = size_[i] * program_.A[t];
                greatest = maximum(greatest, a * a);
            }
        for (int i = zero; i < m; i++) kkt_.weights[i] = size_[i] * size_[i];
        kkt_.prepare_with_dual_sizes(maximum(RAY_RIDGE * greatest, splat<V>(1e-300)), size_);
        kkt_.factor();
        for (int k = 0; k < RAY_REFINEMENTS; k++) {
            for (int j = 0; j < n; j++) z_[j] = none;
            program_.add_AT(ray_, z_);
            for (int i = 0; i < zero; i++) w_[i] = none;
            kkt_.solve(z_, w_);
            program_.times_A(z_, t_);
            for (int i = 0; i < m; i++) {
                V next = ray_[i] - size_[i] * size_[i] * t_[i], size = i < zero ? absolute(next) : next;
                ray_[i] = select(size > RAY_NOISE * size_[i], next, none);
            }
            shown = mask_or(shown, is_primal_ray());
        }
        return shown;
    }

    Mask is_primal_ray() {
        int n = structure_.n, m = structure_.m;
        V falls = splat<V>(0.0), total = falls, none = falls;
        for (int i = 0; i < m; i++) {
            V term = program_.b[i] * ray_[i];
            falls -= term;
            total += absolute(term);
        }
        falls = select(total > 0.0, falls / total, none);
        for (int j = 0; j < n; j++) left_[j] = z_[j] = none;
        program_.add_AT(ray_, left_);
        for (int i = 0; i < m; i++) w_[i] = absolute(ray_[i]);
        structure_.A.add_transposed_sizes(program_.A, w_, z_);
        V bound = minimum(splat<V>(RAY_ROUNDING), RAY_FAR * falls);
        Mask vanishes = falls > RAY_FALLS;
        for (int j = 0; j < n; j++) vanishes = mask_and(vanishes, absolute(left_[j]) <= bound * z_[j]);
        return vanishes;
    }
};

}  // namespace conelayers
