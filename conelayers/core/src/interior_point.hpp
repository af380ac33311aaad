// A primal-dual interior point method (Mehrotra, "On the implementation of a primal-dual interior point method", 1992),
// run to a rough tolerance only: Newton's steps on the residual map do the rest.
//
//     P x + Aᵀy + q = 0,   A x + s = b,   s ∘ y = σμ e   (s, y > 0 on the nonnegative rows; s = 0, y free on the others)
//
// With ds = −rₚ − A dx and dy = M(c − ds), M = y/s, a step solves with the reduced matrix:
//
//     dy = M(A dx + rₚ + c),    (P + AᵢᵀMAᵢ) dx + Eᵀdy = −r_d − AᵢᵀM(rₚ + c),    E dx − δₑdy = −rₚ,
//
// c being the target of ds: −s for the predictor, −s + (σμ − ds dy)/y for the corrector.
#pragma once

#include "reduced_kkt.hpp"

namespace conelayers {

constexpr int MOST_INTERIOR_STEPS = 50;
constexpr double STEP_TO_BOUNDARY = 0.99;
constexpr double LEAST_STEP = 1e-8;  // a shorter one leads nowhere
constexpr double LEAST_CENTERING = 1e-12;
constexpr double NO_BOUNDARY = 1e20;  // a step that no row limits

template <class V>
class InteriorPoint {
  public:
    using Mask = typename Lane<Width<V>::value>::Mask;
    V *x, *y, *s;

    InteriorPoint(const Program<V>& program, ReducedKKT<V>& kkt, Pool<V>& pool)
        : program_(program), structure_(program.structure), kkt_(kkt) {
        int n = structure_.n, m = structure_.m;
        for (V** of_columns : {&x, &dx_, &dual_}) *of_columns = pool.take(n);
        for (V** of_rows : {&y, &s, &dy_, &ds_, &primal_, &target_, &t_}) *of_rows = pool.take(m);
    }

    // The point of least ½‖s‖² + ½xᵀPx + qᵀx, moved into the cone.
    void start() {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        for (int i = zero; i < m; i++) kkt_.weights[i] = splat<V>(1.0);
        kkt_.factor();
        for (int j = 0; j < n; j++) x[j] = -program_.q[j];
        program_.add_IT(program_.b, x);
        for (int i = 0; i < zero; i++) y[i] = program_.b[i];
        kkt_.solve(x, y);
        program_.times_A(x, t_);
        for (int i = 0; i < zero; i++) s[i] = splat<V>(0.0);
        for (int i = zero; i < m; i++) {
            y[i] = t_[i] - program_.b[i];
            s[i] = -y[i];
        }
        shift(s);
        shift(y);
    }

    // Steps until every instance of `going` is within the tolerance, or stuck.
    template <class Limits>
    void run(double tolerance, Mask going, Limits& limits) {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        double degree = std::max(1, m - zero);
        V q_size = 1.0 + largest(n, program_.q), b_size = 1.0 + largest(m, program_.b);
        for (int step = 0; step < MOST_INTERIOR_STEPS; step++) {
            residuals();
            V gap = dot(m - zero, s + zero, y + zero), mu = gap / degree;
            V error = maximum(largest(n, dual_) / q_size, largest(m, primal_) / b_size);
            error = maximum(error, gap / (1.0 + absolute(dot(n, program_.q, x))));
            going = mask_and(going, error > tolerance);
            if (!any(going) || limits.reached()) return;
            for (int i = zero; i < m; i++) kkt_.weights[i] = y[i] / s[i];
            kkt_.factor();
            for (int i = zero; i < m; i++) target_[i] = -s[i];
            find_direction();
            V length = minimum(longest_step(), splat<V>(1.0)), after = splat<V>(0.0);
            for (int i = zero; i < m; i++) after += (s[i] + length * ds_[i]) * (y[i] + length * dy_[i]);
            V sigma = maximum(after / maximum(gap, splat<V>(1e-300)), splat<V>(0.0));
            sigma = maximum(sigma * sigma * sigma, splat<V>(LEAST_CENTERING));
            V center = sigma * mu;
            for (int i = zero; i < m; i++) target_[i] = -s[i] + (center - ds_[i] * dy_[i]) / y[i];
            find_direction();
            length = minimum(STEP_TO_BOUNDARY * longest_step(), splat<V>(1.0));
            going = mask_and(going, is_usable());
            for (int j = 0; j < n; j++) x[j] = select(going, x[j] + length * dx_[j], x[j]);
            for (int i = 0; i < m; i++) y[i] = select(going, y[i] + length * dy_[i], y[i]);
            for (int i = zero; i < m; i++) s[i] = select(going, s[i] + length * ds_[i], s[i]);
            going = mask_and(going, length > LEAST_STEP);
        }
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    ReducedKKT<V>& kkt_;
    V *dx_, *dy_, *ds_, *dual_, *primal_, *target_, *t_;

    void residuals() {
        int n = structure_.n, m = structure_.m;
        for (int j = 0; j < n; j++) dual_[j] = program_.q[j];
        program_.add_AT(y, dual_);
        if (program_.has_P()) {
            program_.times_P(x, dx_);
            for (int j = 0; j < n; j++) dual_[j] += dx_[j];
        }
        program_.times_A(x, primal_);
        for (int i = 0; i < m; i++) primal_[i] = (primal_[i] + s[i]) - program_.b[i];
    }

    void find_direction() {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        const V* M = kkt_.weights;
        for (int i = zero; i < m; i++) t_[i] = -(M[i] * (primal_[i] + target_[i]));
        for (int j = 0; j < n; j++) dx_[j] = -dual_[j];
        program_.add_IT(t_, dx_);
        for (int i = 0; i < zero; i++) dy_[i] = -primal_[i];
        kkt_.solve(dx_, dy_);
        program_.times_A(dx_, t_);
        for (int i = zero; i < m; i++) {
            V moved = t_[i] + primal_[i];
            dy_[i] = M[i] * (moved + target_[i]);
            ds_[i] = -moved;
        }
    }

    // Whether the direction is one of numbers: 0·d is zero then.
    Mask is_usable() const {
        V sum = splat<V>(0.0);
        for (int j = 0; j < structure_.n; j++) sum += 0.0 * dx_[j];
        for (int i = 0; i < structure_.m; i++) sum += 0.0 * dy_[i];
        for (int i = structure_.zero; i < structure_.m; i++) sum += 0.0 * ds_[i];
        return sum == 0.0;
    }

    V longest_step() const {
        V length = splat<V>(NO_BOUNDARY);
        for (int i = structure_.zero; i < structure_.m; i++) {
            length = minimum(length, select(ds_[i] < 0.0, -s[i] / ds_[i], splat<V>(NO_BOUNDARY)));
            length = minimum(length, select(dy_[i] < 0.0, -y[i] / dy_[i], splat<V>(NO_BOUNDARY)));
        }
        return length;
    }

    // h + (1 + how far it is outside), unless it is well inside.
    void shift(V* h) const {
        int zero = structure_.zero, m = structure_.m;
        V low = splat<V>(1e300), square = dot(m - zero, h + zero, h + zero);
        for (int i = zero; i < m; i++) low = minimum(low, h[i]);
        V well_inside = 1e-8 * maximum(square_root(square), splat<V>(1.0));
        V by = select(low <= well_inside, 1.0 - low, splat<V>(0.0));
        for (int i = zero; i < m; i++) h[i] += by;
    }
};

}  // namespace conelayers
