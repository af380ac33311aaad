// The residual map at τ = 1, and how far a point is from a solution.
//
//     F(x, v) = [ P x + AᵀΠ(v) + q ;  −A x + b − Π(v) + v ],    y = Π(v),  s = y − v
//
// Π is v on the zero cone's rows and max(v, 0) on the others. The distance is said row by row, by backward errors
// (Oettli, Prager 1964): the relative change of the data that would make the point exact,
//
//     row i      max(0, |Ax + s − b|ᵢ − φᵢ) / ωᵢ,        ωᵢ = Σ|Aᵢⱼ xⱼ| + |sᵢ| + |bᵢ|
//     column j   max(0, |Px + Aᵀy + q|ⱼ − φⱼ) / ωⱼ,      ωⱼ = Σ|Pⱼₖ xₖ| + Σ|Aᵢⱼ yᵢ| + |qⱼ|,            0/0 = 0.
//
// A number xⱼ is known to the rounding of the largest one at best; hence the floors (Arioli, Demmel, Duff 1989)
//
//     φᵢ = 64 ε Σ|Aᵢⱼ| ‖x‖∞,       φⱼ = 64 ε (Σ|Pⱼₖ| ‖x‖∞ + Σ|Aᵢⱼ| ‖y‖∞)
//
// of the equilibrated program, where ‖x‖ and ‖y‖ count as √ε at least, y as no less than the largest Σ|Pⱼₖ| ‖x‖ + |qⱼ|
// that it is found from, and neither as more than its own component's, or that one's largest |q|. numerics/residual.py
// has the same definitions.
#pragma once

#include "array.hpp"
#include "program.hpp"

namespace conelayers {

constexpr double EPSILON = 2.220446049250313e-16;
constexpr double ROUNDING = 64 * EPSILON;  // of what a sum is made of: no more digits are asked for
constexpr double ACCURACY = 1e-9;          // backward errors up to which a point counts as a solution
constexpr double POLISHED = 1e-13;         // and the errors that Newton's steps aim at
// The errors from which a point is left to others: where two active sets nearly fit, the wrong one leaves 1e-10, and
// multipliers that are far off.
constexpr double SETTLED = 1e-12;
constexpr double LEAST_SIZE =
    1.4901161193847656e-8;      // √ε: what ‖x‖ and ‖y‖ of an equilibrated program count as at least
constexpr double CLOSE = 1e-6;  // distance from which on the backward errors are worth computing

constexpr double NOT_A_NUMBER = 1e300;  // the distance of a point with a NaN or an infinite number in F

template <class V>
struct Errors {
    V columns, rows;  // the largest backward errors
    V gap;            // |xᵀPx + qᵀx + bᵀy| beyond its floor, relative to its terms
    V aim;            // the largest |F|/ω where ω > φ: what the last steps make small, though the floors may excuse it
    V row, column;    // where the largest are

    V worst() const { return maximum(columns, rows); }
};

// max(0, value − floor)/size, 0/0 = 0; NaN stays.
template <class V>
CORE_INLINE V relative(V value, V floor, V size) {
    V excess = value - floor;
    return select(excess <= 0.0, splat<V>(0.0), excess / size);
}

template <class V>
class Residual {
  public:
    V *x, *v;  // the point
    V *y, *s;  // Π(v), and y − v
    V *F1, *F2;
    V* active;  // D: 1 or 0

    Residual(const Program<V>& program, Pool<V>& pool) : program_(program), structure_(program.structure) {
        int n = structure_.n, m = structure_.m, c = structure_.components;
        for (V** of_columns : {&x, &F1, &Px_, &ATy_, &own_, &column_terms_, &column_floors_, &size_of_x_})
            *of_columns = pool.take(n);
        for (V** of_rows : {&v, &y, &s, &F2, &active, &row_terms_, &row_floors_, &size_of_y_}) *of_rows = pool.take(m);
        for (V** of_components : {&data_size_, &component_x_, &component_y_, &component_own_})
            *of_components = pool.take(c);
    }

    // The sums of absolute values are those of another program from now on.
    void forget_sizes() { has_sizes_ = false; }

    // y, s, D and F at (x, v).
    void evaluate() {
        int n = structure_.n, m = structure_.m, zero = structure_.zero;
        for (int i = 0; i < zero; i++) {
            y[i] = v[i];
            s[i] = splat<V>(0.0);
            active[i] = splat<V>(1.0);
        }
        V none = splat<V>(0.0), one = splat<V>(1.0);
        for (int i = zero; i < m; i++) {
            auto on = v[i] > 0.0;
            y[i] = select(on, v[i], none);
            s[i] = select(on, none, -v[i]);
            active[i] = select(on, one, none);
        }
        for (int j = 0; j < n; j++) ATy_[j] = none;
        program_.add_AT(y, ATy_);
        if (program_.has_P()) program_.times_P(x, Px_);
        for (int j = 0; j < n; j++) F1[j] = (Px_[j] + ATy_[j]) + program_.q[j];
        program_.times_A(x, F2);
        for (int i = 0; i < m; i++) F2[i] = (program_.b[i] - F2[i]) - s[i];
    }

    // max(‖F₁‖ / (1 + ‖q‖ + ‖Px‖), ‖F₂‖ / (1 + ‖b‖ + ‖s‖)): tells better points from worse as long as some row is wrong
    // altogether.
    V distance() const {
        int n = structure_.n, m = structure_.m;
        V first = 1.0 + maximum(largest(n, program_.q), largest(n, Px_));
        V second = 1.0 + maximum(largest(m, program_.b), largest(m, s));
        V value = maximum(largest(n, F1) / first, largest(m, F2) / second);
        return select(finite(), value, splat<V>(NOT_A_NUMBER));
    }

    // The largest backward error where it or the distance is small, elsewhere 1 + the distance.
    V error(Errors<V>& errors) {
        V far = distance();
        errors = bounds();
        auto open = mask_not(mask_and(errors.aim <= POLISHED, errors.gap <= ACCURACY));
        open = mask_and(open, far <= CLOSE);
        if (any(open)) {
            Errors<V> exact = backward_errors();
            errors.columns = select(open, exact.columns, errors.columns);
            errors.rows = select(open, exact.rows, errors.rows);
            errors.gap = select(open, exact.gap, errors.gap);
            errors.aim = select(open, exact.aim, errors.aim);
            errors.row = select(open, exact.row, errors.row);
            errors.column = select(open, exact.column, errors.column);
        }
        V worst = errors.worst();
        auto known = mask_or(worst <= ACCURACY, far <= ACCURACY);
        return select(mask_and(known, far < NOT_A_NUMBER), worst, 1.0 + far);
    }

    // What rounding makes of F₁ and F₂ here, entry by entry.
    void rounding(V* of_F1, V* of_F2) {
        backward_errors();
        constexpr double SHARE = EPSILON / ROUNDING;
        for (int j = 0; j < structure_.n; j++) of_F1[j] = EPSILON * column_terms_[j] + SHARE * column_floors_[j];
        for (int i = 0; i < structure_.m; i++) of_F2[i] = EPSILON * row_terms_[i] + SHARE * row_floors_[i];
    }

  private:
    const Program<V>& program_;
    const Structure& structure_;
    bool has_sizes_ = false;
    V *Px_, *ATy_, *own_, *column_terms_, *column_floors_, *size_of_x_, *row_terms_, *row_floors_, *size_of_y_;
    V *data_size_, *component_x_, *component_y_, *component_own_;

    // Whether F is a number in every row: 0·F is zero then.
    auto finite() const {
        V sum = splat<V>(0.0);
        for (int j = 0; j < structure_.n; j++) sum += 0.0 * F1[j];
        for (int i = 0; i < structure_.m; i++) sum += 0.0 * F2[i];
        return sum == 0.0;
    }

    V total() const {
        return absolute(dot(structure_.n, x, F1) + dot(structure_.m, y, F2));  // y ⊥ s holds exactly
    }

    struct Worst {
        V value = splat<V>(0.0), place = splat<V>(0.0);
        void see(V error, int at) {
            auto more = error > value;
            value = select(more, error, value);
            place = select(more, splat<V>(at), place);
        }
    };

    // By parts of ω that cost next to nothing: |q| + |Px| + |Aᵀy| and |b| + |s|.
    Errors<V> bounds() const {
        Worst columns, rows;
        V none = splat<V>(0.0), terms = none;
        for (int j = 0; j < structure_.n; j++) {
            V q = absolute(program_.q[j]);
            columns.see(relative(absolute(F1[j]), none, (q + absolute(Px_[j])) + absolute(ATy_[j])), j);
            terms += q * absolute(x[j]);
        }
        for (int i = 0; i < structure_.m; i++) {
            V b = absolute(program_.b[i]);
            rows.see(relative(absolute(F2[i]), none, b + absolute(s[i])), i);
            terms += b * absolute(y[i]);
        }
        V aim = maximum(columns.value, rows.value);
        return {columns.value, rows.value, relative(total(), none, terms), aim, rows.place, columns.place};
    }

    Errors<V> backward_errors() {
        if (!has_sizes_) const_cast<Program<V>&>(program_).sum_sizes();
        has_sizes_ = true;
        int n = structure_.n, m = structure_.m;
        for (int j = 0; j < n; j++) size_of_x_[j] = absolute(x[j]);
        for (int i = 0; i < m; i++) size_of_y_[i] = absolute(y[i]);
        structure_.P.multiply_sizes(program_.P, size_of_x_, own_);
        for (int j = 0; j < n; j++) column_terms_[j] = own_[j] = own_[j] + absolute(program_.q[j]);
        structure_.A.add_transposed_sizes(program_.A, size_of_y_, column_terms_);
        structure_.A.multiply_sizes(program_.A, size_of_x_, row_terms_);
        for (int i = 0; i < m; i++) row_terms_[i] = (row_terms_[i] + absolute(s[i])) + absolute(program_.b[i]);
        V x_size = ROUNDING * maximum(largest(n, x), splat<V>(LEAST_SIZE));
        V y_size = find_floors(x_size);
        Worst columns, rows;
        V aim = splat<V>(0.0), gap_floor = aim, gap_terms = aim, none = aim;
        for (int j = 0; j < n; j++) {
            int c = structure_.component_of_column[j];
            V size = structure_.components > 1 ? minimum(y_size, component_y_[c]) : y_size;
            V floor = column_floors_[j] = column_floors_[j] + program_.columns_of_A[j] * size, F = absolute(F1[j]);
            columns.see(relative(F, floor, column_terms_[j]), j);
            aim = maximum(aim, select(column_terms_[j] > floor, F / column_terms_[j], none));
            gap_floor += size_of_x_[j] * floor;
            gap_terms += size_of_x_[j] * own_[j];
        }
        for (int i = 0; i < m; i++) {
            int c = structure_.component_of_row[i];
            V size = structure_.components > 1 ? minimum(x_size, component_x_[c]) : x_size;
            V floor = row_floors_[i] = program_.rows_of_A[i] * size, F = absolute(F2[i]);
            rows.see(relative(F, floor, row_terms_[i]), i);
            aim = maximum(aim, select(row_terms_[i] > floor, F / row_terms_[i], none));
            gap_floor += size_of_y_[i] * floor;
            gap_terms += absolute(program_.b[i]) * size_of_y_[i];
        }
        return {columns.value, rows.value, relative(total(), gap_floor, gap_terms), aim, rows.place, columns.place};
    }

    // The columns' floors but for their part in y, components' sizes, and the size of y.
    V find_floors(V x_size) {
        int n = structure_.n, m = structure_.m, components = structure_.components;
        V least = splat<V>(LEAST_SIZE);
        if (components > 1) {
            for (int c = 0; c < components; c++) {
                data_size_[c] = least;
                component_x_[c] = component_y_[c] = component_own_[c] = splat<V>(0.0);
            }
            for (int j = 0; j < n; j++) {
                int c = structure_.component_of_column[j];
                data_size_[c] = maximum(data_size_[c], absolute(program_.q[j]));
                component_x_[c] = maximum(component_x_[c], size_of_x_[j]);
            }
            for (int i = 0; i < m; i++) {
                int c = structure_.component_of_row[i];
                component_y_[c] = maximum(component_y_[c], size_of_y_[i]);
            }
            for (int c = 0; c < components; c++) {
                component_x_[c] = ROUNDING * maximum(component_x_[c], data_size_[c]);
                component_y_[c] = ROUNDING * maximum(component_y_[c], data_size_[c]);
            }
        }
        V top = ROUNDING * least;
        for (int j = 0; j < n; j++) {
            int c = structure_.component_of_column[j];
            V size = components > 1 ? minimum(x_size, component_x_[c]) : x_size;
            column_floors_[j] = program_.columns_of_P[j] * size;
            V own = column_floors_[j] + ROUNDING * absolute(program_.q[j]);
            if (components > 1) component_own_[c] = maximum(component_own_[c], own);
            top = maximum(top, own);
        }
        for (int c = 0; components > 1 && c < components; c++)
            component_y_[c] = maximum(component_y_[c], component_own_[c]);
        return maximum(ROUNDING * largest(m, y), top);
    }
};

}  // namespace conelayers
