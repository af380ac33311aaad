// The data of W instances over one structure, and the products with them.
#pragma once

#include "array.hpp"
#include "dense.hpp"
#include "structure.hpp"

namespace conelayers {

template <class V>
struct Program {
    const Structure& structure;
    V* data;                                     // the four of them, one after the other
    V *P, *q, *A, *b;                            // P by columns; A by rows (Structure::A)
    V *rows_of_A, *columns_of_A, *columns_of_P;  // sums of absolute values, for the backward errors' floors

    Program(const Structure& s, Pool<V>& pool)
        : structure(s),
          data(pool.take(s.P.index.size() + s.n + s.A.index.size() + s.m + PADDING)),
          P(data),
          q(P + s.P.index.size()),
          A(q + s.n),
          b(A + s.A.index.size()),
          rows_of_A(pool.take(s.m)),
          columns_of_A(pool.take(s.n)),
          columns_of_P(pool.take(s.n)) {}

    int size() const { return static_cast<int>(b + structure.m - data); }
    bool has_P() const { return !structure.P.index.empty(); }

    void times_P(const V* x, V* out) const { structure.P.multiply(P, x, out, 0, structure.n); }
    void times_A(const V* x, V* out) const { structure.A.multiply(A, x, out, 0, structure.m); }

    // out += Aᵀy over all rows; over those of the zero cone; over those of the nonnegative one.
    void add_AT(const V* y, V* out) const { structure.A.add_transposed(A, y, out, 0, structure.m); }
    void add_ET(const V* y, V* out) const { structure.A.add_transposed(A, y, out, 0, structure.zero); }
    void add_IT(const V* y, V* out) const { structure.A.add_transposed(A, y, out, structure.zero, structure.m); }

    void sum_sizes() {
        const Structure& s = structure;
        for (int j = 0; j < s.n; j++) {
            V sum = splat<V>(0.0);
            for (int t = s.P.start[j]; t < s.P.start[j + 1]; t++) sum += absolute(P[t]);
            columns_of_P[j] = sum;
            columns_of_A[j] = splat<V>(0.0);
        }
        for (int i = 0; i < s.m; i++) {
            V sum = splat<V>(0.0);
            for (int t = s.A.start[i]; t < s.A.start[i + 1]; t++) {
                V size = absolute(A[t]);
                sum += size;
                columns_of_A[s.A.index[t]] += size;
            }
            rows_of_A[i] = sum;
        }
    }
};

}  // namespace conelayers
