// Semismooth Newton on the residual map: from a rough point to machine precision.
//
// A step solves J(D)·[dx; dv] = −F (linear_system.hpp). F is piecewise linear, so once the active rows are the right
// ones a step leaves of the error what the regularization leaves. Where J is singular on the way, a proximal step takes
// its place:
//
//     [P + AᵢᵀMAᵢ + δI, Eᵀ; E, −δ] [dx; dy_E] = [−F₁ + AᵢᵀM F₂; F₂],   M = 1/δ on active rows,   dy = M(A dx − F₂),
//     dv = A dx − F₂ + (1 − δ) dy,    δ = μ·min(1e−2, 0.1‖F‖),
//
// a descent direction once δ is large enough: μ grows thirtyfold when the line search on ‖F‖ fails, and shrinks by five
// after a full step. The best point of each instance is kept.
#pragma once

#include "linear_system.hpp"

namespace conelayers {

constexpr int PLAIN_STEPS = 8;
constexpr int PROXIMAL_STEPS = 20;
constexpr int MOST_SETTLING_STEPS = 20;
constexpr double SETTLING_PATIENCE = 2.0;  // steps without fewer changes than ever before
constexpr int LAST_REFINEMENTS = 3;
constexpr double DIVERGED = 1e6;
constexpr double LARGEST_PROXIMAL = 1e-2, PROXIMAL_SHARE = 0.1;
constexpr double PROXIMAL_GROWTH = 30.0, PROXIMAL_DECAY = 5.0, MOST_PROXIMAL = 1e8;
constexpr double SUFFICIENT_DECREASE = 1e-4;
constexpr int HALVINGS = 5;

template <class V>
class Newton {
  public:
    using Mask = typename Lane<Width<V>::value>::Mask;
    V *x, *v;  // the best points
    V error;   // of these (residual.hpp)
    Errors<V> errors;

    Newton(const Program<V>& program, Residual<V>& residual, ReducedKKT<V>& kkt, LinearSystem<V>& system, Pool<V>& pool)
        : program_(program), structure_(program.structure), residual_(residual), kkt_(kkt), system_(system) {
        int n = structure_.n, m = structure_.m;
        for (V** of_columns : {&x, &dx_, &from_x_}) *of_columns = pool.take(n);
        for (V** of_rows : {&v, &dv_, &t_, &factored_, &from_v_}) *of_rows = pool.take(m);
    }

    // No instance has a point yet.
    void reset() { error = splat<V>(NOT_A_NUMBER); }

    // The points in the residual's x and v are those of the instances `which` to start from; the others keep theirs.
    void begin(Mask which) {
        residual_.evaluate();
        begin_with(which);
    }

    void plain(Mask todo, int steps) {
        restore();
        V before = error;
        Mask going = mask_and(todo, before > POLISHED);
        for (int k = 0; k < steps && any(going); k++) {
            factor();
            find_direction(splat<V>(1.0));
            move(going, splat<V>(1.0));
            Errors<V> found;
            V now = residual_.error(found);
            keep(mask_and(going, now < error), now, found);
            // Far from the solution the error may rise while the active rows settle; near it, no progress means
            // rounding.
            auto stalled = mask_and(before <= ACCURACY, now > 0.5 * before);
            going = mask_and(going, mask_and(mask_not(stalled), mask_and(now > POLISHED, now < DIVERGED)));
            before = now;
        }
    }

    // No active row at all, in the residual's x and v.
    void start_inactive() {
        for (int j = 0; j < structure_.n; j++) residual_.x[j] = splat<V>(0.0);
        for (int i = 0; i < structure_.m; i++) residual_.v[i] = splat<V>(i < structure_.zero ? 0.0 : -1.0);
        residual_.evaluate();
    }

    // From the residual's point: each step's active set is where v of the last one is positive, until it stays. For a
    // strictly convex program the rows that change sides are about half as many from one step to the next; an instance
    // where that ends early is given up. Those that arrived have their points improved by `plain`.
    template <class Limits>
    void settle(Mask todo, int steps, Limits& limits) {
        V none = splat<V>(0.0), least = splat<V>(structure_.m + 1.0), patience = splat<V>(SETTLING_PATIENCE);
        Mask going = todo, arrived = mask_and(todo, mask_not(todo));
        for (int k = 0; k < steps && any(going) && !limits.reached(); k++) {
            factor();
            find_direction(splat<V>(1.0));
            move(going, splat<V>(1.0));
            V changed = none;
            for (int i = structure_.zero; i < structure_.m; i++)
                changed += select(residual_.active[i] != factored_[i], splat<V>(1.0), none);
            arrived = mask_or(arrived, mask_and(going, changed == 0.0));
            patience = select(changed < least, splat<V>(SETTLING_PATIENCE), patience - 1.0);
            least = minimum(least, changed);
            going = mask_and(going, mask_and(changed > 0.0, patience > 0.0));
        }
        if (!any(arrived)) return;
        begin_with(arrived);
        plain(arrived, PLAIN_STEPS);
    }

    // For rows that are exact only up to the rounding of larger ones: steps with the exact J.
    void refine(Mask todo) {
        Mask going = mask_and(todo, mask_and(error <= ACCURACY, errors.aim > POLISHED));
        if (!any(going)) return;
        restore();
        for (int k = 0; k < LAST_REFINEMENTS && any(going); k++) {
            factor();
            for (int j = 0; j < structure_.n; j++) dx_[j] = -residual_.F1[j];
            for (int i = 0; i < structure_.m; i++) dv_[i] = -residual_.F2[i];
            system_.solve(dx_, dv_, false);
            for (int j = 0; j < structure_.n; j++) dx_[j] = system_.first[j];
            for (int i = 0; i < structure_.m; i++) dv_[i] = system_.second[i];
            move(going, splat<V>(1.0));
            Errors<V> found;
            V now = residual_.error(found);
            auto better = mask_and(found.aim < 0.5 * errors.aim, now <= maximum(error, splat<V>(POLISHED)));
            going = mask_and(going, better);
            keep(going, now, found);
            going = mask_and(going, found.aim > POLISHED);
        }
    }

    template <class Limits>
    void proximal(Mask todo, int steps, Limits& limits) {
        restore();
        V one = splat<V>(1.0), mu = one;
        Mask going = mask_and(todo, error > ACCURACY);
        for (int k = 0; k < steps && any(going) && !limits.reached(); k++) {
            V size = norm(), delta = mu * minimum(splat<V>(LARGEST_PROXIMAL), PROXIMAL_SHARE * size);
            delta = maximum(delta, splat<V>(STATIC_DELTA));
            kkt_.prepare(one, delta, delta);
            for (int i = structure_.zero; i < structure_.m; i++)
                kkt_.weights[i] = select(residual_.active[i] > 0.0, 1.0 / delta, splat<V>(0.0));
            kkt_.factor();
            find_direction(1.0 - delta);
            V length = search(going, size);
            Errors<V> found;
            V now = residual_.error(found);
            keep(mask_and(going, now < error), now, found);
            mu = select(length == 1.0, mu / PROXIMAL_DECAY, select(length == 0.0, mu * PROXIMAL_GROWTH, mu));
            going = mask_and(going, mask_and(now > ACCURACY, mu < MOST_PROXIMAL));
        }
        kkt_.prepare(one, splat<V>(STATIC_DELTA), splat<V>(STATIC_DELTA));
        is_factored_ = false;
    }

    // The residual at the best points.
    void restore() {
        for (int j = 0; j < structure_.n; j++) residual_.x[j] = x[j];
        for (int i = 0; i < structure_.m; i++) residual_.v[i] = v[i];
        residual_.evaluate();
    }

    // The reduced matrix at the residual's point, unless it is that of the last factorization.
    void factor() {
        bool same = is_factored_;
        for (int i = structure_.zero; i < structure_.m && same; i++) same = !any(residual_.active[i] != factored_[i]);
        if (!same) {
            for (int i = 0; i < structure_.m; i++) factored_[i] = residual_.active[i];
            system_.factor(factored_);
            is_factored_ = true;
        }
    }

    // Somebody else has factored other weights.
    void forget_factor() { is_factored_ = false; }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    Residual<V>& residual_;
    ReducedKKT<V>& kkt_;
    LinearSystem<V>& system_;
    V *dx_, *dv_, *t_, *factored_, *from_x_, *from_v_;
    bool is_factored_ = false;

    void begin_with(Mask which) {
        Errors<V> found;
        V now = residual_.error(found);
        keep(which, now, found);
    }

    void save(Mask which) {
        for (int j = 0; j < structure_.n; j++) x[j] = select(which, residual_.x[j], x[j]);
        for (int i = 0; i < structure_.m; i++) v[i] = select(which, residual_.v[i], v[i]);
    }

    void keep(Mask better, V now, const Errors<V>& found) {
        error = select(better, now, error);
        errors.columns = select(better, found.columns, errors.columns);
        errors.rows = select(better, found.rows, errors.rows);
        errors.gap = select(better, found.gap, errors.gap);
        errors.aim = select(better, found.aim, errors.aim);
        errors.row = select(better, found.row, errors.row);
        errors.column = select(better, found.column, errors.column);
        save(better);
    }

    // dx and dv from the factored matrix with weights M; `share` of dy is added to dv (1 − δ, 1 without the proximal
    // term).
    void find_direction(V share) {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        const V *M = kkt_.weights, *F1 = residual_.F1, *F2 = residual_.F2;
        for (int j = 0; j < n; j++) dx_[j] = -F1[j];
        for (int i = zero; i < m; i++) t_[i] = M[i] * F2[i];
        program_.add_IT(t_, dx_);
        for (int i = 0; i < zero; i++) dv_[i] = F2[i];
        kkt_.solve(dx_, dv_);
        program_.times_A(dx_, t_);
        for (int i = 0; i < zero; i++) dv_[i] = (t_[i] - F2[i]) + share * dv_[i];
        for (int i = zero; i < m; i++) {
            V left = t_[i] - F2[i];
            dv_[i] = left + share * (M[i] * left);
        }
    }

    void move(Mask going, V length) {
        for (int j = 0; j < structure_.n; j++)
            residual_.x[j] = select(going, residual_.x[j] + length * dx_[j], residual_.x[j]);
        for (int i = 0; i < structure_.m; i++)
            residual_.v[i] = select(going, residual_.v[i] + length * dv_[i], residual_.v[i]);
        residual_.evaluate();
    }

    V norm() const {
        int n = structure_.n, m = structure_.m;
        return square_root(dot(n, residual_.F1, residual_.F1) + dot(m, residual_.F2, residual_.F2));
    }

    // The largest of the steps 1, ½, … (or 0) that lowers ‖F‖ enough; the residual is at the point it leads to.
    V search(Mask going, V size) {
        int n = structure_.n, m = structure_.m;
        for (int j = 0; j < n; j++) from_x_[j] = residual_.x[j];
        for (int i = 0; i < m; i++) from_v_[i] = residual_.v[i];
        V length = splat<V>(1.0);
        Mask found = mask_not(going);
        for (int k = 0; k <= HALVINGS; k++) {
            if (k == HALVINGS) length = select(found, length, splat<V>(0.0));
            for (int j = 0; j < n; j++) residual_.x[j] = select(going, from_x_[j] + length * dx_[j], from_x_[j]);
            for (int i = 0; i < m; i++) residual_.v[i] = select(going, from_v_[i] + length * dv_[i], from_v_[i]);
            if (k == HALVINGS) {
                Mask still = length == 0.0;  // 0·NaN is no step either
                for (int j = 0; j < n; j++) residual_.x[j] = select(still, from_x_[j], residual_.x[j]);
                for (int i = 0; i < m; i++) residual_.v[i] = select(still, from_v_[i], residual_.v[i]);
            }
            residual_.evaluate();
            if (k == HALVINGS) break;
            found = mask_or(found, norm() <= (1.0 - SUFFICIENT_DECREASE * length) * size);
            if (!any(mask_not(found))) break;
            length = select(found, length, 0.5 * length);
        }
        return length;
    }
};

}  // namespace conelayers
