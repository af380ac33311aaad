// W instances from their parameters to their solutions and derivatives: the whole path, in the order in which it runs.
#pragma once

#include <memory>

#include "active_set.hpp"
#include "equilibration.hpp"
#include "interior_point.hpp"
#include "limits.hpp"
#include "model.hpp"
#include "newton.hpp"
#include "rays.hpp"

namespace conelayers {

constexpr double FIRST_TOLERANCE = 1e-3;  // of the interior point, where Newton takes over
constexpr double NEXT_TOLERANCE = 1e-2;   // what it is multiplied with where Newton did not arrive
constexpr int ROUNDS = 4;
constexpr int PROXIMAL_FROM = 2;    // the first round after which proximal steps are tried
constexpr int POLISHING_STEPS = 2;  // before a derivative, whose point may have lost digits on the way
constexpr double LARGE = 1e3;       // size of a point in the equilibrated units from which it may be badly known
constexpr double VERY_LARGE = 1e8;  // and in the user's units
// Size of an entry of v, in the equilibrated units, up to which rounding may decide its sign, and with it the element.
constexpr double AT_KINK_SIZE = 1e-10;
constexpr double UNSURE = 1e-5;     // relative change of x by rounding from which it is: others judge it

template <int W>
class Instances {
  public:
    using V = typename Lane<W>::Real;
    using Mask = typename Lane<W>::Mask;

    explicit Instances(const Model& model)
        : model_(model),
          structure_(model.structure),
          program_(structure_, pool_),
          equilibration_(structure_, pool_),
          kkt_(program_, pool_),
          residual_(program_, pool_),
          interior_(program_, kkt_, pool_),
          system_(program_, kkt_, pool_),
          newton_(program_, residual_, kkt_, system_, pool_),
          rays_(program_, kkt_, pool_) {
        if (structure_.suits_active_set) active_set_ = std::make_unique<ActiveSet>(structure_, single_pool_);
        int n = structure_.n, m = structure_.m;
        for (V** of_columns : {&x_, &first_, &dx_}) *of_columns = pool_.take(n);
        gradient_ = pool_.take(program_.size());
        for (V** of_rows : {&y_, &element_, &second_, &dy_, &ds_}) *of_rows = pool_.take(m);
    }

    // The instances first … first + count − 1 of a batch; count ≤ W, the last one fills the lanes that are left.
    void take(const Parameters& theta, int64_t first, int count) {
        place(first, count);
        evaluate(model_.data, theta, instance_, false, program_.data);
        finite_ = is_finite();
        equilibration_.apply(program_);
        residual_.forget_sizes();
        newton_.reset();
        newton_.forget_factor();
        kkt_.prepare(splat<V>(1.0), splat<V>(STATIC_DELTA), splat<V>(STATIC_DELTA));
    }

    std::size_t bytes() const { return pool_.bytes(); }

    // The same instances, given up before anything of them is computed.
    void give_up(const Solutions& out, int64_t first, int count) {
        place(first, count);
        finite_ = splat<V>(0.0) > 0.0;
        for (int64_t at = first; at < first + count; at++) {
            out.outcome[at] = static_cast<int32_t>(Outcome::STOPPED);
            std::fill_n(out.errors + 3 * at, 3, 0.0);
            std::fill_n(out.places + 2 * at, 2, 0);
        }
    }

    // Solves, from the points (x, y, s) where `warm` says so.
    void solve(const Solutions& out, const Solutions* warm, Limits& limits) {
        Mask todo = finite_, infeasible = mask_and(finite_, mask_not(finite_));  // nowhere
        if (warm != nullptr) {
            read_point(*warm);
            newton_.begin(todo);
            todo = mask_and(todo, mask_not(newton_.error <= POLISHED));
            newton_.settle(todo, MOST_SETTLING_STEPS, limits);
            todo = mask_and(todo, mask_not(newton_.error <= POLISHED));
        }
        if (structure_.m == structure_.zero)
            solve_equalities(todo);
        else
            solve_inequalities(todo, infeasible, limits);
        newton_.refine(finite_);
        newton_.restore();
        write(out, infeasible, limits.reached());
    }

    // The points of solutions, and the matrices there.
    void linearize(const Solutions& points, Selection selection) {
        read_point(points);
        Mask all = splat<V>(0.0) < 1.0;
        newton_.begin(all);
        newton_.plain(all, POLISHING_STEPS);
        newton_.restore();
        linearize_here(selection);
    }

    // The same at the points that `solve` ended at.
    void linearize_here(Selection selection) {
        int n = structure_.n, m = structure_.m;
        selection_ = selection;
        Mask unsettled = mask_and(finite_, mask_not(finite_));
        solution_ = mask_and(finite_, newton_.error <= ACCURACY);
        if (selection == Selection::DEFAULT) {
            unsettled = choose_default_element();
        } else {
            choose_element(selection);
            system_.factor(element_);
            newton_.forget_factor();
        }
        regular_ = system_.is_regular();
        V nearest = splat<V>(1.0);
        for (int i = structure_.zero; i < m; i++) {
            V size = absolute(residual_.v[i]);
            nearest = minimum(nearest, select(size == 0.0, splat<V>(1.0), size));
        }
        at_kink_ = mask_or(nearest <= AT_KINK_SIZE, unsettled);
        V beta = equilibration_.beta, gamma = equilibration_.gamma;
        for (int j = 0; j < n; j++) x_[j] = equilibration_.d[j] * residual_.x[j] / beta;
        for (int i = 0; i < m; i++) y_[i] = equilibration_.e[i] * residual_.y[i] / gamma;
    }

    // dθ for the cotangents of the outputs (B, outputs): (B, size) for each parameter, zeros before; null where none is
    // wanted.
    void adjoint(const double* cotangents, double* const* gradients, const int64_t* sizes, int32_t* flags) {
        int n = structure_.n, m = structure_.m, outputs = model_.outputs.size();
        for (int j = 0; j < n; j++) first_[j] = splat<V>(0.0);
        for (int i = 0; i < m; i++) second_[i] = splat<V>(0.0);
        for (int k = 0; k < outputs; k++) {
            V g = splat<V>(0.0);
            for (int l = 0; l < W; l++) set_lane(g, l, cotangents[instance_[l] * outputs + k]);
            for (int t = model_.outputs.start[k]; t < model_.outputs.start[k + 1]; t++)
                (model_.outputs.source[t] == 0 ? first_ : second_)[model_.outputs.offset[t]] +=
                    model_.outputs.coefficient[t] * g;
        }
        for (int i = 0; i < m; i++) ds_[i] = splat<V>(0.0);
        V error = solve_adjoint();
        write_flags(flags, error);
        add_gradients(gradients, sizes);
    }

    // The outputs' tangents (B, outputs) along dθ.
    void tangent(const Parameters& dtheta, double* doutputs, int32_t* flags) {
        const Lines &P = structure_.P, &A = structure_.A;
        evaluate(model_.data, dtheta, instance_, true, gradient_);
        const V *dP = gradient_, *dq = dP + P.index.size(), *dA = dq + structure_.n, *db = dA + A.index.size();
        // r₁ = −(dP x + dAᵀy + dq), r₂ = dA x − db
        for (int j = 0; j < structure_.n; j++) first_[j] = -dq[j];
        for (int j = 0; j < structure_.n; j++)
            for (int t = P.start[j]; t < P.start[j + 1]; t++) first_[P.index[t]] -= dP[t] * x_[j];
        for (int i = 0; i < structure_.m; i++) {
            second_[i] = -db[i];
            for (int t = A.start[i]; t < A.start[i + 1]; t++) {
                first_[A.index[t]] -= dA[t] * y_[i];
                second_[i] += dA[t] * x_[A.index[t]];
            }
        }
        V error = solve_tangent();
        write_flags(flags, error);
        write_outputs(dx_, dy_, doutputs, false);
    }

    // `right_hand_sides` systems with J in the user's units: (r₁, r₂) ↦ (dx, dy, ds), or transposed (gx, gy, gs) ↦ (λ,
    // μ); (B, k, ·).
    void linear(int right_hand_sides, bool transposed, double* first, double* second, double* third, int32_t* flags) {
        int n = structure_.n, m = structure_.m;
        V worst = splat<V>(0.0);
        for (int k = 0; k < right_hand_sides; k++) {
            auto at = [&](int l) { return instance_[l] * right_hand_sides + k; };
            for (int l = 0; l < W; l++) {
                for (int j = 0; j < n; j++) set_lane(first_[j], l, first[at(l) * n + j]);
                for (int i = 0; i < m; i++) set_lane(second_[i], l, second[at(l) * m + i]);
                for (int i = 0; transposed && i < m; i++) set_lane(ds_[i], l, third[at(l) * m + i]);
            }
            V error = transposed ? solve_adjoint() : solve_tangent();
            worst = maximum(worst, error);
            for (int l = 0; l < count_; l++) {
                for (int j = 0; j < n; j++) first[at(l) * n + j] = lane_of(dx_[j], l);
                for (int i = 0; i < m; i++) second[at(l) * m + i] = lane_of(dy_[i], l);
                for (int i = 0; !transposed && i < m; i++) third[at(l) * m + i] = lane_of(ds_[i], l);
            }
        }
        write_flags(flags, worst);
    }

  private:
    const Model& model_;
    const Structure& structure_;
    Pool<V> pool_;
    Pool<double> single_pool_;
    Program<V> program_;
    Equilibration<V> equilibration_;
    ReducedKKT<V> kkt_;
    Residual<V> residual_;
    InteriorPoint<V> interior_;
    LinearSystem<V> system_;
    Newton<V> newton_;
    Rays<V> rays_;
    std::unique_ptr<ActiveSet> active_set_;  // where the structure suits it
    int64_t first_index_ = 0, instance_[W] = {};
    int count_ = 0;
    Selection selection_ = Selection::DEFAULT;
    Mask finite_, solution_, regular_, at_kink_;
    V *x_, *y_, *element_;                  // a solution in the user's units, and D there
    V *first_, *second_, *dx_, *dy_, *ds_;  // right-hand sides and solutions
    V* gradient_;                           // of the data, or their tangent

    void place(int64_t first, int count) {
        first_index_ = first;
        count_ = count;
        for (int l = 0; l < W; l++) instance_[l] = first + std::min(l, count - 1);
    }

    Mask is_finite() const {
        V sum = splat<V>(0.0);
        for (int k = 0; k < program_.size(); k++) sum += 0.0 * program_.data[k];
        return sum == 0.0;
    }

    void solve_equalities(Mask todo) {
        for (int j = 0; j < structure_.n; j++) residual_.x[j] = splat<V>(0.0);
        for (int i = 0; i < structure_.m; i++) residual_.v[i] = splat<V>(0.0);
        newton_.begin(todo);
        newton_.plain(todo, PLAIN_STEPS);
    }

    void solve_inequalities(Mask todo, Mask& infeasible, Limits& limits) {
        if (active_set_) todo = mask_and(todo, mask_not(is_solved_by_active_set(todo, limits)));
        if (!active_set_ && structure_.settling != Structure::Settling::NEVER) {
            bool always = structure_.settling == Structure::Settling::ALWAYS;
            newton_.start_inactive();
            newton_.settle(todo, always ? MOST_SETTLING_STEPS : 1, limits);
            todo = mask_and(todo, mask_not(newton_.error <= SETTLED));
        }
        if (!any(todo)) return;
        interior_.start();
        double tolerance = FIRST_TOLERANCE;
        for (int round = 0; round < ROUNDS && any(todo) && !limits.reached(); round++) {
            interior_.run(tolerance, todo, limits);
            newton_.forget_factor();
            for (int j = 0; j < structure_.n; j++) residual_.x[j] = interior_.x[j];
            for (int i = 0; i < structure_.m; i++) residual_.v[i] = interior_.y[i] - interior_.s[i];
            newton_.begin(todo);
            newton_.plain(todo, PLAIN_STEPS);
            todo = mask_and(todo, mask_not(newton_.error <= SETTLED));
            if (!any(todo)) return;
            Mask shown = rays_.lead_to_primal_ray(interior_.y, todo);
            infeasible = mask_or(infeasible, shown);
            todo = mask_and(todo, mask_not(shown));
            kkt_.prepare(splat<V>(1.0), splat<V>(STATIC_DELTA), splat<V>(STATIC_DELTA));
            newton_.forget_factor();
            if (round >= PROXIMAL_FROM && any(todo)) {
                newton_.proximal(todo, PROXIMAL_STEPS, limits);
                newton_.plain(todo, 3);
                todo = mask_and(todo, mask_not(newton_.error <= SETTLED));
            }
            tolerance *= NEXT_TOLERANCE;
        }
    }

    // One lane after the other; Newton's steps from there.
    Mask is_solved_by_active_set(Mask todo, Limits& limits) {
        V found = splat<V>(0.0);
        for (int l = 0; l < W; l++) {
            if (!lane_of(todo, l)) continue;
            // The lanes behind the last instance repeat it.
            bool repeated = l >= count_;
            if (!(repeated ? lane_of(found, l - 1) > 0.0 : active_set_->solve(program_, l, limits))) continue;
            set_lane(found, l, 1.0);
            for (int j = 0; j < structure_.n; j++) set_lane(residual_.x[j], l, active_set_->x[j]);
            for (int i = 0; i < structure_.m; i++) set_lane(residual_.v[i], l, active_set_->v[i]);
        }
        Mask started = found > 0.0;
        newton_.begin(started);
        newton_.plain(started, PLAIN_STEPS);
        return mask_and(started, newton_.error <= SETTLED);
    }

    // The smallest element at kinks v = 0, exactly so: a small v may be all there is, beside a bound of 1e14. Says at which instances J is singular with
    // the largest one: where it is regular with both, it is with every element (Robinson), and any of them will do.
    Mask choose_default_element() {
        V kinks = splat<V>(0.0);
        for (int i = structure_.zero; i < structure_.m; i++)
            kinks += select(residual_.v[i] == 0.0, splat<V>(1.0), splat<V>(0.0));
        Mask kinked = kinks > 0.0, unsettled = mask_and(kinked, mask_not(kinked));
        for (int i = 0; i < structure_.m; i++) element_[i] = residual_.active[i];
        if (!any(kinked)) {
            newton_.factor();  // most often the last one
            return unsettled;
        }
        set_kinks(1.0);
        system_.factor(element_);
        unsettled = mask_and(kinked, mask_not(system_.is_regular()));
        set_kinks(0.0);
        system_.factor(element_);
        newton_.forget_factor();
        return unsettled;
    }

    void set_kinks(double value) {
        for (int i = structure_.zero; i < structure_.m; i++)
            element_[i] = select(residual_.v[i] == 0.0, splat<V>(value), element_[i]);
    }

    void choose_element(Selection selection) {
        V one = splat<V>(1.0);
        for (int i = 0; i < structure_.m; i++) {
            V low = residual_.active[i];
            element_[i] = low;
            if (i < structure_.zero) continue;
            V high = select(residual_.v[i] >= 0.0, one, splat<V>(0.0));
            if (selection == Selection::HIGH) element_[i] = high;
            if (selection == Selection::MID) {
                // ½ in the user's units, in which y/s is `balance` times smaller.
                V e = equilibration_.e[i], balance = equilibration_.gamma / (equilibration_.beta * e * e);
                element_[i] = select(low == high, low, balance / (1.0 + balance));
            }
        }
    }

    void read_point(const Solutions& points) {
        int n = structure_.n, m = structure_.m;
        for (int l = 0; l < W; l++) {
            for (int j = 0; j < n; j++) set_lane(first_[j], l, points.x[instance_[l] * n + j]);
            for (int i = 0; i < m; i++) set_lane(dy_[i], l, points.y[instance_[l] * m + i]);
            for (int i = 0; i < m; i++) set_lane(ds_[i], l, points.s[instance_[l] * m + i]);
        }
        V beta = equilibration_.beta, gamma = equilibration_.gamma;
        for (int j = 0; j < n; j++) residual_.x[j] = beta * first_[j] / equilibration_.d[j];
        for (int i = 0; i < m; i++)
            residual_.v[i] = gamma * dy_[i] / equilibration_.e[i] - beta * equilibration_.e[i] * ds_[i];
    }

    // Whether x is known at a large point: it may move but little when its data are rounded.
    Mask is_sure() {
        newton_.factor();
        residual_.rounding(first_, second_);
        system_.scatter(first_, second_);
        V error = system_.solve(first_, second_, false);
        V moved = largest(structure_.n, system_.first);
        return mask_and(error <= ACCEPTED, moved <= UNSURE * largest(structure_.n, residual_.x));
    }

    void write(const Solutions& out, Mask infeasible, bool stopped) {
        int n = structure_.n, m = structure_.m;
        V beta = equilibration_.beta, gamma = equilibration_.gamma;
        for (int j = 0; j < n; j++) dx_[j] = equilibration_.d[j] * residual_.x[j] / beta;
        for (int i = 0; i < m; i++) {
            dy_[i] = equilibration_.e[i] * residual_.y[i] / gamma;
            ds_[i] = residual_.s[i] / (equilibration_.e[i] * beta);
        }
        Mask solved = mask_and(finite_, newton_.error <= SETTLED);
        Mask large = mask_or(
            maximum(largest(n, residual_.x), largest(m, residual_.v)) >= LARGE,
            maximum(largest(n, dx_), largest(m, dy_)) >= VERY_LARGE
        );
        if (any(mask_and(solved, large))) solved = mask_and(solved, mask_or(mask_not(large), is_sure()));
        const Errors<V>& errors = newton_.errors;
        for (int l = 0; l < count_; l++) {
            int64_t at = first_index_ + l;
            Outcome outcome = lane_of(solved, l)       ? Outcome::SOLVED
                              : lane_of(infeasible, l) ? Outcome::PRIMAL_INFEASIBLE
                              : stopped                ? Outcome::STOPPED
                                                       : Outcome::OPEN;
            out.outcome[at] = static_cast<int32_t>(outcome);
            out.errors[3 * at] = lane_of(errors.rows, l);
            out.errors[3 * at + 1] = lane_of(errors.columns, l);
            out.errors[3 * at + 2] = lane_of(errors.gap, l);
            out.places[2 * at] = static_cast<int32_t>(lane_of(errors.row, l));
            out.places[2 * at + 1] = static_cast<int32_t>(lane_of(errors.column, l));
            for (int j = 0; j < n; j++) out.x[at * n + j] = lane_of(dx_[j], l);
            for (int i = 0; i < m; i++) out.y[at * m + i] = lane_of(dy_[i], l);
            for (int i = 0; i < m; i++) out.s[at * m + i] = lane_of(ds_[i], l);
        }
        write_outputs(dx_, dy_, out.outputs, true);
    }

    void write_outputs(const V* x, const V* y, double* out, bool constant) {
        const AffineMap& map = model_.outputs;
        for (int k = 0; k < map.size(); k++) {
            V value = splat<V>(constant ? map.constant[k] : 0.0);
            for (int t = map.start[k]; t < map.start[k + 1]; t++)
                value += map.coefficient[t] * (map.source[t] == 0 ? x : y)[map.offset[t]];
            for (int l = 0; l < count_; l++) out[(first_index_ + l) * map.size() + k] = lane_of(value, l);
        }
    }

    void write_flags(int32_t* flags, V error) {
        for (int l = 0; l < count_; l++) {
            int32_t found = lane_of(regular_, l) ? 0 : SINGULAR;
            if (!(lane_of(error, l) <= ACCEPTED)) found |= INACCURATE;
            if (!lane_of(solution_, l)) found |= NOT_A_SOLUTION;
            if (selection_ == Selection::DEFAULT && lane_of(at_kink_, l)) found |= AT_KINK;
            flags[first_index_ + l] = found;
        }
    }

    // λ and μ in dx and dy for the cotangents of x (`first`), y (`second`) and s (`ds`), all in the user's units; the
    // residual.
    V solve_adjoint() {
        int n = structure_.n, m = structure_.m;
        V beta = equilibration_.beta, gamma = equilibration_.gamma;
        const V *d = equilibration_.d, *e = equilibration_.e;
        for (int j = 0; j < n; j++) first_[j] = d[j] * first_[j] / beta;
        for (int i = 0; i < m; i++) {
            V gy = e[i] * second_[i] / gamma, gs = ds_[i] / (e[i] * beta);
            second_[i] = element_[i] * (gy + gs) - gs;
        }
        V error = system_.solve(first_, second_, true);
        for (int j = 0; j < n; j++) dx_[j] = gamma * d[j] * system_.first[j];
        for (int i = 0; i < m; i++) dy_[i] = beta * e[i] * system_.second[i];
        return error;
    }

    // dx, dy and ds for the right-hand sides `first` and `second`, all in the user's units; the residual.
    V solve_tangent() {
        int n = structure_.n, m = structure_.m;
        V beta = equilibration_.beta, gamma = equilibration_.gamma;
        const V *d = equilibration_.d, *e = equilibration_.e;
        for (int j = 0; j < n; j++) first_[j] = gamma * d[j] * first_[j];
        for (int i = 0; i < m; i++) second_[i] = beta * e[i] * second_[i];
        V error = system_.solve(first_, second_, false);
        for (int j = 0; j < n; j++) dx_[j] = d[j] * system_.first[j] / beta;
        for (int i = 0; i < m; i++) {
            V dv = system_.second[i], dy = element_[i] * dv;
            dy_[i] = e[i] * dy / gamma;
            ds_[i] = (dy - dv) / (e[i] * beta);
        }
        return error;
    }

    // dq = −λ, db = −μ, dA = −y λᵀ + μ xᵀ, dP = −½(λxᵀ + xλᵀ), and the adjoint of the map from θ to them.
    void add_gradients(double* const* gradients, const int64_t* sizes) {
        const V *lambda = dx_, *mu = dy_;
        const Lines &P = structure_.P, &A = structure_.A;
        V *dP = gradient_, *dq = dP + P.index.size(), *dA = dq + structure_.n, *db = dA + A.index.size();
        for (int j = 0; j < structure_.n; j++) {
            dq[j] = -lambda[j];
            for (int t = P.start[j]; t < P.start[j + 1]; t++)
                dP[t] = -0.5 * (lambda[P.index[t]] * x_[j] + x_[P.index[t]] * lambda[j]);
        }
        for (int i = 0; i < structure_.m; i++) {
            db[i] = -mu[i];
            V of_x = mu[i], of_lambda = y_[i];
            V* out = dA + A.start[i];
            if (A.first[i] >= 0) {
                const V *x = x_ + A.first[i], *l = lambda + A.first[i];
                for (int t = 0; t < A.length(i); t++) out[t] = of_x * x[t] - of_lambda * l[t];
            } else {
                const int* index = A.index.data() + A.start[i];
                for (int t = 0; t < A.length(i); t++) out[t] = of_x * x_[index[t]] - of_lambda * lambda[index[t]];
            }
        }
        add_adjoint(model_.data, gradient_, first_index_, count_, gradients, sizes);
    }
};

}  // namespace conelayers
