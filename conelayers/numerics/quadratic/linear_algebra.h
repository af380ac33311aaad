/* Small dense linear algebra on row-major float64, written so that compilers vectorize it without reordering anything else.
   Triangular factors are upper, M = R'R: every loop that counts runs along rows. */

#ifndef CONELAYERS_LINEAR_ALGEBRA_H
#define CONELAYERS_LINEAR_ALGEBRA_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#else
#define INLINE static inline
#endif

#define PIVOT_FLOOR 1e-11 /* a pivot below this fraction of its diagonal entry counts as zero */

typedef int64_t integer;

INLINE double dot(integer count, const double *restrict x, const double *restrict y) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (integer i = 0; i < count; i++) sum += x[i] * y[i];
    return sum;
}

INLINE void axpy(integer count, double factor, const double *restrict x, double *restrict y) {
#pragma omp simd
    for (integer i = 0; i < count; i++) y[i] += factor * x[i];
}

INLINE void scale(integer count, double factor, double *restrict x) {
#pragma omp simd
    for (integer i = 0; i < count; i++) x[i] *= factor;
}

INLINE double largest(integer count, const double *x) {
    double most = 0;
    for (integer i = 0; i < count; i++) most = fmax(most, fabs(x[i]));
    return most;
}

/* y -= c_0 M_0 + ... + c_{count-1} M_{count-1} on the columns from..to, for two rows y, with c_k = c[k ldc] and c[k ldc + 1].
   Two rows by four terms is what keeps the arithmetic units busy with few registers. */
INLINE void subtract_two(integer from, integer to, integer count, const double *restrict M, integer ldm,
                         const double *restrict c, integer ldc, double *restrict y0, double *restrict y1) {
    integer k = 0;
    for (; k + 4 <= count; k += 4) {
        const double *restrict m0 = M + k * ldm, *restrict m1 = m0 + ldm, *restrict m2 = m1 + ldm, *restrict m3 = m2 + ldm;
        const double *restrict c0 = c + k * ldc, *restrict c1 = c0 + ldc, *restrict c2 = c1 + ldc, *restrict c3 = c2 + ldc;
        const double a0 = c0[0], a1 = c1[0], a2 = c2[0], a3 = c3[0], b0 = c0[1], b1 = c1[1], b2 = c2[1], b3 = c3[1];
#pragma omp simd
        for (integer j = from; j < to; j++) {
            y0[j] -= a0 * m0[j] + a1 * m1[j] + a2 * m2[j] + a3 * m3[j];
            y1[j] -= b0 * m0[j] + b1 * m1[j] + b2 * m2[j] + b3 * m3[j];
        }
    }
    for (; k < count; k++) {
        axpy(to - from, -c[k * ldc], M + k * ldm + from, y0 + from);
        axpy(to - from, -c[k * ldc + 1], M + k * ldm + from, y1 + from);
    }
}

INLINE void subtract_one(integer from, integer to, integer count, const double *restrict M, integer ldm,
                         const double *restrict c, integer ldc, double *restrict y) {
    for (integer k = 0; k < count; k++) axpy(to - from, -c[k * ldc], M + k * ldm + from, y + from);
}

/* The upper triangle of M, n x n, becomes [R, V; ., S'] after `pivots` pivots: M = [R'R, R'V; ., S' + V'V].
   0 at a pivot that is not positive (or not a number). */
INLINE int cholesky(integer n, integer pivots, integer ld, double *restrict M) {
    for (integer i = 0; i < n; i += 2) {
        double *y0 = M + i * ld, *y1 = y0 + ld;
        const int pair = i + 1 < n;
        const integer terms = i < pivots ? i : pivots;
        const double floor0 = PIVOT_FLOOR * y0[i], floor1 = pair ? PIVOT_FLOOR * y1[i + 1] : 0;
        if (pair) subtract_two(i, n, terms, M, ld, M + i, ld, y0, y1);
        else subtract_one(i, n, terms, M, ld, M + i, ld, y0);
        if (i >= pivots) continue;
        if (!(y0[i] > floor0 && y0[i] < INFINITY)) return 0;
        scale(n - i, 1 / sqrt(y0[i]), y0 + i);
        if (!pair) break;
        axpy(n - i - 1, -y0[i + 1], y0 + i + 1, y1 + i + 1);
        if (i + 1 >= pivots) continue;
        if (!(y1[i + 1] > floor1 && y1[i + 1] < INFINITY)) return 0;
        scale(n - i - 1, 1 / sqrt(y1[i + 1]), y1 + i + 1);
    }
    return 1;
}

INLINE void solve_transposed(integer n, integer ld, const double *restrict R, double *restrict x) { /* R'x = x */
    for (integer k = 0; k < n; k++) {
        x[k] /= R[k * ld + k];
        axpy(n - k - 1, -x[k], R + k * ld + k + 1, x + k + 1);
    }
}

INLINE void solve_upper(integer n, integer ld, const double *restrict R, double *restrict x) { /* R x = x */
    for (integer k = n - 1; k >= 0; k--) x[k] = (x[k] - dot(n - k - 1, R + k * ld + k + 1, x + k + 1)) / R[k * ld + k];
}

INLINE void mirror(integer n, integer ld, double *M) { /* the upper triangle, below the diagonal */
    for (integer i = 1; i < n; i++)
        for (integer j = 0; j < i; j++) M[i * ld + j] = M[j * ld + i];
}

/* R'W = A', n x m, for A m x n. */
INLINE void solve_rows(integer n, integer m, const double *R, const double *A, double *W) {
    for (integer k = 0; k < n; k++)
        for (integer j = 0; j < m; j++) W[k * m + j] = A[j * n + k];
    for (integer k = 0; k < n; k += 2) {
        double *y0 = W + k * m, *y1 = y0 + m;
        const int pair = k + 1 < n;
        if (pair) subtract_two(0, m, k, W, m, R + k, n, y0, y1);
        else subtract_one(0, m, k, W, m, R + k, n, y0);
        scale(m, 1 / R[k * n + k], y0);
        if (!pair) break;
        axpy(m, -R[k * n + k + 1], y0, y1);
        scale(m, 1 / R[(k + 1) * n + k + 1], y1);
    }
}

/* The upper triangle of S = W'W, m x m; 0 stays +0. */
INLINE void gram(integer n, integer m, const double *W, double *S) {
    memset(S, 0, (size_t)(m * m) * sizeof(double));
    for (integer i = 0; i < m; i += 2) {
        if (i + 1 < m) subtract_two(i, m, n, W, m, W + i, m, S + i * m, S + (i + 1) * m);
        else subtract_one(i, m, n, W, m, W + i, m, S + i * m);
    }
    for (integer i = 0; i < m * m; i++) S[i] = 0 - S[i];
}

#endif
