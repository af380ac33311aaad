/* The compiled half of conelayers.numerics.quadratic: the algorithm of algorithm.py, one instance after the other.

   minimize 1/2 x'Px + q'x subject to Ax + s = b, s = 0 on the first e rows and s >= 0 on the others. With P = R'R,
   W = R'^{-1}A', S = W'W, g = R'^{-1}q and d = -(b + W'g): on the active rows a S_aa y_a = d_a, and s = S y - d,
   x = -R^{-1}(g + W y). The equality rows are eliminated first: S = [E'E, E'V; V'E, S' + V'V] and d = [E't; d' + V't] leave
   S'_aa y_a = d'_a on the inequality rows, s = S'y - d', and E y_e = t - V y. Arrays are float64 and row-major; nothing is
   allocated or kept between calls. */

#include "linear_algebra.h"

#define INTERFACE_VERSION 2 /* the Python side refuses another one */

#define RIDGE 1e-9     /* added to the diagonal (relative) of an active block that has no Cholesky factor */
#define SIGN 1e-12     /* size below which a wrong sign of y or s is rounding, relative to what it was computed from */
#define FINE_SIGN 1e-14 /* and after the refinement */
#define FARKAS 1e-9    /* relative size of A'z below which it is zero; ten times it is what b'z has to exceed */
#define PATIENCE 3     /* Newton steps without a new least number of wrong signs before it is given up */
#define NEWTON_STEPS 15
#define FINAL_STEPS 5  /* Newton steps after a refinement */
#define START_FLOOR 1e-6 /* what PIVOT_FLOOR is, for rows that need not be active at the start of the dual active set method */
#define ROUNDS 3       /* of Newton, or the dual active set method, and refinement until the refined signs are right */
#define REFINEMENTS 3
#define ENOUGH 4e-16   /* relative residual at which refinement has nothing to gain */
#define ACCEPT 1e-9    /* and at which a solution is one */

enum { SOLVED = 0, NOT_DEFINITE = 1, DEPENDENT = 2, INFEASIBLE = 3, STALLED = 4 };

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif
/* GNU libc resolves the clones when the library is loaded; elsewhere the baseline instruction set is used. */
#if defined(CONELAYERS_DISPATCH) && defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define DISPATCH __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DISPATCH
#endif

/* A batch. Shared matrices are there once, and so are then R, and (if both are shared) W, n x m, and S. Otherwise W keeps the
   active columns only, n x k, at instance i's n x capacity entries; F is k x k at its capacity x capacity entries.
   S holds [E, V; ., S'] and, as a row below, the roots of the diagonal that it had. Where an instance is INFEASIBLE its v is z,
   the certificate; elsewhere, without a solution, x and v are zero. */
typedef struct {
    integer n, m, equalities, capacity, shared_P, shared_A; /* capacity: min(n, m), which no k exceeds */
    const double *P, *q, *A, *b;
    double *R, *W, *S, *F, *x, *v;
    uint8_t *active; /* in: where to start; out: the active rows, none where there is no solution */
    int32_t *code;
} batch;

/* One instance at work. */
typedef struct {
    integer n, m, e, k;
    const double *P, *q, *A, *b, *W, *S, *w;     /* w: the roots of W'W's diagonal */
    double *R, *T, *F;                           /* T: the tableau of the inequality rows; F, k x k, factors S_aa */
    double *d, *noise, *y, *s, *row, *t;         /* m: d = [t; d'], noise is what s is rounded relative to */
    double *g, *x, *r, *u;                       /* n */
    double length;                               /* |g| */
    integer *rows;                               /* the active rows, ascending */
    uint8_t *active;
} instance;

/* K [u; e] = [u; e] with K = [P, A_a'; A_a, 0]: u' = R'^{-1}u, S_aa e' = W_a'u' - e, u'' = R^{-1}(u' - W_a e').
   Row i of the k active ones is the column position[i] of W, n x width; wide has room for width numbers. */
INLINE void solve_saddle(integer n, integer k, integer width, const integer *position, const double *R, const double *W,
                         const double *F, double *u, double *e, double *wide) {
    solve_transposed(n, n, R, u);
    if (k) {
        memset(wide, 0, (size_t)width * sizeof(double));
        for (integer i = 0; i < n; i++) axpy(width, u[i], W + i * width, wide);
        for (integer i = 0; i < k; i++) e[i] = wide[position[i]] - e[i];
        solve_transposed(k, k, F, e);
        solve_upper(k, k, F, e);
        memset(wide, 0, (size_t)width * sizeof(double));
        for (integer i = 0; i < k; i++) wide[position[i]] = e[i];
        for (integer i = 0; i < n; i++) u[i] -= dot(width, W + i * width, wide);
    }
    solve_upper(n, n, R, u);
}

INLINE int root(integer n, const double *P, double *R) { /* where it fails R = I, so that nothing after it meets a zero */
    memcpy(R, P, (size_t)(n * n) * sizeof(double));
    const int definite = cholesky(n, n, n, R);
    if (!definite) {
        memset(R, 0, (size_t)(n * n) * sizeof(double));
        for (integer j = 0; j < n; j++) R[j * n + j] = 1;
    }
    return definite;
}

INLINE void list_active(instance *p) {
    p->k = 0;
    for (integer i = 0; i < p->m; i++)
        if (p->active[i]) p->rows[p->k++] = i;
}

/* F'F = S_aa with the diagonal times 1 + ridge, on the inequality rows: the last block of F. */
INLINE int factor_active(instance *p, double ridge) {
    const integer k = p->k, e = p->e;
    for (integer i = e; i < k; i++) {
        const double *row = p->S + p->rows[i] * p->m;
        for (integer j = i; j < k; j++) p->F[i * k + j] = row[p->rows[j]];
        p->F[i * k + i] *= 1 + ridge;
    }
    return cholesky(k - e, k - e, k, p->F + e * k + e);
}

/* E y_e = t - V y. */
INLINE void recover(const instance *p, const double *t, double *y) {
    const integer m = p->m, e = p->e;
    for (integer i = 0; i < e; i++) y[i] = (t ? t[i] : 0) - dot(m - e, p->S + i * m + e, y + e);
    solve_upper(e, m, p->S, y);
}

/* Flip the inequality rows with a sign that is wrong beyond its tolerance, and count them. */
INLINE integer flip_wrong(instance *p, double tolerance) {
    double most = p->length; /* W y = -(g + R x): what y is rounded relative to */
    integer wrong = 0;
    for (integer i = p->e; i < p->m; i++) most = fmax(most, p->w[i] * fabs(p->y[i]));
    for (integer i = p->e; i < p->m; i++) {
        const int is_wrong = p->active[i] ? p->y[i] * p->w[i] < -tolerance * most : p->s[i] < -tolerance * p->noise[i];
        p->active[i] ^= (uint8_t)is_wrong;
        wrong += is_wrong;
    }
    return wrong;
}

/* y and s on the active set, but for y_e. 1 if F factors S_aa, 0 if it took a ridge, -1 if that did not do either. */
INLINE int evaluate(instance *p) {
    const integer m = p->m, e = p->e;
    list_active(p);
    const integer k = p->k;
    const int exact = k <= p->n && factor_active(p, 0);
    if (!exact && !factor_active(p, RIDGE)) return -1;
    memcpy(p->t, p->d, (size_t)e * sizeof(double));
    for (integer i = e; i < k; i++) p->t[i] = p->d[p->rows[i]];
    solve_transposed(k - e, k, p->F + e * k + e, p->t + e);
    const double length = p->length + sqrt(dot(k, p->t, p->t)); /* |g| + |W y| */
    solve_upper(k - e, k, p->F + e * k + e, p->t + e);
    memset(p->y, 0, (size_t)m * sizeof(double));
    for (integer i = e; i < m; i++) p->s[i] = -p->d[i], p->noise[i] = fabs(p->b[i]) + p->w[i] * length;
    for (integer i = e; i < k; i++) {
        p->y[p->rows[i]] = p->t[i];
        axpy(m - e, p->t[i], p->S + p->rows[i] * m + e, p->s + e);
    }
    return exact;
}

/* Primal-dual active set steps. 1 if the signs are right and F factors S_aa, 0 otherwise. */
INLINE int newton(instance *p, integer steps) {
    integer best = p->m + 1;
    int patience = PATIENCE;
    for (integer step = 0; step < steps; step++) {
        const int exact = evaluate(p);
        if (exact < 0) return 0;
        const integer wrong = flip_wrong(p, SIGN);
        if (wrong == 0) return exact;
        if (wrong < best) best = wrong, patience = PATIENCE;
        else if (--patience < 0) return 0;
    }
    return 0;
}

/* The symmetric principal pivot on k: afterwards T_kk = -1/T_kk, and T_ij without k's part. */
INLINE void pivot(integer h, double *restrict T, integer k, uint8_t *active, double *restrict column) {
    const double value = T[k * h + k];
    memcpy(column, T + k * h, (size_t)h * sizeof(double));
    for (integer i = 0; i < h; i++)
        if (i != k && column[i] != 0) axpy(h, -column[i] / value, column, T + i * h);
    for (integer i = 0; i < h; i++) T[i * h + k] = T[k * h + i] = column[i] / fabs(value);
    T[k * h + k] = -1 / value;
    active[k] ^= 1;
}

/* Whether z, 1 on the entering row and -column on the active ones, proves infeasibility: z >= 0, A'z = 0 and b'z < 0, while
   b'z = s'z >= 0 for every feasible s. A P that is nearly singular makes rows look dependent that are not. */
INLINE int is_certificate(instance *p, integer entering, const double *column) {
    double bz = 0, terms = largest(p->m, p->b), most = 0, *z = p->t;
    for (integer i = p->e; i < p->m; i++) z[i] = i == entering ? 1 : p->active[i] ? -column[i - p->e] : 0;
    recover(p, NULL, z);
    memset(p->u, 0, (size_t)p->n * sizeof(double));
    for (integer i = 0; i < p->m; i++) {
        if (z[i] == 0) continue;
        bz += p->b[i] * z[i], terms += fabs(p->b[i] * z[i]), most = fmax(most, fabs(z[i]) * largest(p->n, p->A + i * p->n));
        axpy(p->n, z[i], p->A + i * p->n, p->u);
    }
    return bz < -10 * FARKAS * terms && largest(p->n, p->u) <= FARKAS * most;
}

/* The dual active set method of Goldfarb and Idnani (1983) on the tableau T = [-S_aa^{-1}, S_aa^{-1}S_ai; ., Schur complement]
   of S', h x h. */
INLINE int dual_active_set(instance *p) {
    const integer m = p->m, e = p->e, h = m - e, limit = 6 * h + 30;
    const double *d = p->d + e, *w = p->w + e, *b = p->b + e;
    double *T = p->T, *y = p->y + e, *s = p->s + e;
    uint8_t *active = p->active + e;
    integer entering = -1;
    for (integer i = 0; i < h; i++) memcpy(T + i * h, p->S + (i + e) * m + e, (size_t)h * sizeof(double));
    for (integer i = 0; i < h; i++) {
        if (!active[i]) continue;
        active[i] = 0;
        if (T[i * h + i] > START_FLOOR * w[i] * w[i]) pivot(h, T, i, active, p->row);
    }
    /* Start: y_a = S_aa^{-1} d_a, without the rows where that is negative, until none is. */
    for (int dropped = 1; dropped;) {
        dropped = 0;
        for (integer i = 0; i < h; i++) p->t[i] = active[i] ? d[i] : 0;
        for (integer i = 0; i < h; i++) {
            const double value = dot(h, T + i * h, p->t);
            y[i] = active[i] ? -value : 0;
            s[i] = active[i] ? 0 : value - d[i];
        }
        for (integer i = 0; i < h; i++)
            if (active[i] && y[i] < 0) pivot(h, T, i, active, p->row), dropped = 1;
    }
    for (integer pivots = 0; pivots < limit; pivots++) {
        if (entering < 0) {
            double worst = 0, length = p->length + sqrt(dot(e, p->d, p->d)); /* |g| + |W y|, or more */
            for (integer i = 0; i < h; i++) length += w[i] * fabs(y[i]);
            for (integer i = 0; i < h; i++)
                if (!active[i] && s[i] < -SIGN * (fabs(b[i]) + w[i] * length) && !(s[i] / w[i] >= worst))
                    worst = s[i] / w[i], entering = i;
            if (entering < 0) return SOLVED;
        }
        /* y_i rises by t, y_a falls by t S_aa^{-1}S_ai, s_i rises by t times the Schur complement. */
        const double *column = T + entering * h;
        const int depends = !(column[entering] > PIVOT_FLOOR * w[entering] * w[entering]);
        double step = depends ? INFINITY : -s[entering] / column[entering];
        integer next = entering;
        for (integer i = 0; i < h; i++)
            if (active[i] && column[i] > 0 && y[i] < step * column[i]) step = y[i] / column[i], next = i;
        if (step == INFINITY) return is_certificate(p, entering + e, column) ? INFEASIBLE : STALLED;
        for (integer i = 0; i < h; i++) {
            if (active[i]) y[i] -= step * column[i];
            else s[i] += step * column[i];
        }
        y[entering] += step;
        if (next == entering) entering = -1;
        pivot(h, T, next, active, p->row);
        if (active[next]) s[next] = 0;
        else y[next] = 0;
    }
    return STALLED;
}

/* r = -(Px + q + A'y), s = b - Ax and the relative residual of (x, y, s), which is not a number where any of them is not. */
INLINE double residual(instance *p) {
    const integer n = p->n, m = p->m;
    const double size = 1 + largest(n, p->x);
    double Px = 0, Ax = 0, dual = 0, primal = 0, low_s = 0, low_y = 0, sum = 0;
    memset(p->u, 0, (size_t)n * sizeof(double));
    for (integer i = 0; i < m; i++) {
        const double *row = p->A + i * n;
        double value = 0, norm = 0;
#pragma omp simd reduction(+ : value, norm)
        for (integer j = 0; j < n; j++) value += row[j] * p->x[j], norm += fabs(row[j]);
        p->s[i] = p->b[i] - value, p->noise[i] = fabs(p->b[i]) + norm * size, sum += p->noise[i] + fabs(value);
        Ax = fmax(Ax, fabs(value));
        if (p->active[i]) {
            axpy(n, p->y[i], row, p->u);
            primal = fmax(primal, fabs(p->s[i]));
            if (i >= p->e) low_y = fmax(low_y, -p->y[i]);
        } else low_s = fmax(low_s, -p->s[i]);
    }
    for (integer i = 0; i < n; i++) {
        const double value = dot(n, p->P + i * n, p->x);
        p->r[i] = -(value + p->q[i] + p->u[i]), sum += fabs(p->r[i]);
        Px = fmax(Px, fabs(value)), dual = fmax(dual, fabs(p->r[i]));
    }
    if (!(sum < INFINITY)) return NAN;
    const double rows = 1 + fmax(Ax, largest(m, p->b)), columns = 1 + fmax(fmax(Px, largest(n, p->u)), largest(n, p->q));
    return fmax(fmax(dual / columns, primal / rows), fmax(low_s / rows, low_y / (1 + largest(m, p->y))));
}

/* y_e, x and the first rows of F, then iterative refinement of x and y on K. */
INLINE double refine(instance *p) {
    const integer k = p->k;
    recover(p, p->d, p->y);
    for (integer i = 0; i < p->e; i++)
        for (integer j = i; j < k; j++) p->F[i * k + j] = p->S[i * p->m + p->rows[j]];
    for (integer i = 0; i < p->n; i++) p->x[i] = -p->g[i] - dot(p->m, p->W + i * p->m, p->y);
    solve_upper(p->n, p->n, p->R, p->x);
    double error = residual(p);
    for (int step = 0; step < REFINEMENTS && error > ENOUGH; step++) {
        const double before = error;
        for (integer i = 0; i < p->k; i++) p->t[i] = p->s[p->rows[i]];
        solve_saddle(p->n, p->k, p->m, p->rows, p->R, p->W, p->F, p->r, p->t, p->row);
        axpy(p->n, 1, p->r, p->x);
        for (integer i = 0; i < p->k; i++) p->y[p->rows[i]] += p->t[i];
        error = residual(p);
        if (!(error < 0.5 * before)) break;
    }
    return error;
}

INLINE int solve_instance(instance *p) {
    int settled = newton(p, NEWTON_STEPS);
    for (int round = 0; round < ROUNDS; round++) {
        if (!settled) {
            const int code = dual_active_set(p);
            if (code == INFEASIBLE) return code;
            /* Rounding can spoil the tableau; the next one starts from the data, at the set reached. */
            if (code == STALLED || evaluate(p) != 1) continue;
        }
        if (refine(p) <= ACCEPT) {
            /* At a degenerate vertex Newton may find no set, and the dual method one whose signs are right up to rounding. */
            if (!flip_wrong(p, settled ? FINE_SIGN : SIGN)) return SOLVED;
            settled = newton(p, FINAL_STEPS);
        } else settled = 0;
    }
    return STALLED;
}

/* S and below it w; 0 where the equality rows are dependent. */
INLINE int eliminate(integer n, integer m, integer e, const double *W, double *S) {
    gram(n, m, W, S);
    for (integer j = 0; j < m; j++) S[m * m + j] = sqrt(S[j * m + j]);
    const int independent = cholesky(m, e, m, S);
    mirror(m - e, m, S + e * m + e);
    return independent;
}

EXPORT int32_t quadratic_version(void) { return INTERFACE_VERSION; }

EXPORT int64_t quadratic_workspace(int64_t n, int64_t m) { return 3 * m * m + n * m + 9 * m + 4 * n; }

/* R, W and S as far as they are shared; a code if that settles all instances. */
EXPORT DISPATCH int32_t quadratic_prepare(const batch *all) {
    if (!all->shared_P) return SOLVED;
    if (!root(all->n, all->P, all->R)) return NOT_DEFINITE;
    if (!all->shared_A) return SOLVED;
    solve_rows(all->n, all->m, all->R, all->A, all->W);
    return eliminate(all->n, all->m, all->equalities, all->W, all->S) ? SOLVED : DEPENDENT;
}

/* The instances first <= i < last, in quadratic_workspace(n, m) numbers of room. */
EXPORT DISPATCH void quadratic_solve(const batch *all, int64_t first, int64_t last, double *room) {
    const integer n = all->n, m = all->m, e = all->equalities, c = all->capacity, shared = all->shared_P && all->shared_A;
    double *S = room, *W = S + (m + 1) * m;
    instance one = {.n = n, .m = m, .e = e, .S = shared ? all->S : S, .W = shared ? all->W : W};
    instance *p = &one;
    room = W + n * m;
    double **parts[] = {&p->T, &p->F, &p->d, &p->noise, &p->y, &p->s, &p->row, &p->t, &p->g, &p->x, &p->r, &p->u};
    for (int i = 0; i < 12; i++) *parts[i] = room, room += i < 2 ? m * m : i < 8 ? m : n;
    p->rows = (integer *)room, p->w = p->S + m * m;
    for (integer i = first; i < last; i++) {
        p->P = all->P + (all->shared_P ? 0 : i * n * n), p->A = all->A + (all->shared_A ? 0 : i * m * n);
        p->q = all->q + i * n, p->b = all->b + i * m, p->active = all->active + i * m;
        p->R = all->R + (all->shared_P ? 0 : i * n * n);
        int code = all->shared_P || root(n, p->P, p->R) ? SOLVED : NOT_DEFINITE;
        if (code == SOLVED && !shared) {
            solve_rows(n, m, p->R, p->A, W);
            code = eliminate(n, m, e, W, S) ? SOLVED : DEPENDENT;
        }
        if (code == SOLVED) {
            memcpy(p->g, p->q, (size_t)n * sizeof(double));
            solve_transposed(n, n, p->R, p->g);
            p->length = sqrt(dot(n, p->g, p->g));
            for (integer j = 0; j < m; j++) p->d[j] = -p->b[j];
            for (integer j = 0; j < n; j++) axpy(m, -p->g[j], p->W + j * m, p->d);
            for (integer j = 0; j < e; j++) {
                p->d[j] /= p->S[j * m + j];
                axpy(m - j - 1, -p->d[j], p->S + j * m + j + 1, p->d + j + 1);
            }
            memset(p->active, 1, (size_t)e);
            code = solve_instance(p);
        }
        all->code[i] = code;
        if (code != SOLVED) {
            memset(p->active, 0, (size_t)m);
            memset(all->x + i * n, 0, (size_t)n * sizeof(double)), memset(all->v + i * m, 0, (size_t)m * sizeof(double));
            if (code == INFEASIBLE) memcpy(all->v + i * m, p->t, (size_t)m * sizeof(double)); /* is_certificate left it there */
            continue;
        }
        list_active(p);
        memcpy(all->x + i * n, p->x, (size_t)n * sizeof(double));
        for (integer j = 0; j < m; j++) /* the sign of v tells which rows are active, whatever the rounding */
            all->v[i * m + j] = !p->active[j] ? fmin(-p->s[j], 0) : j < e ? p->y[j] : fmax(p->y[j], DBL_MIN);
        memcpy(all->F + i * c * c, p->F, (size_t)(p->k * p->k) * sizeof(double));
        for (integer j = 0; j < n && !shared; j++)
            for (integer h = 0; h < p->k; h++) all->W[i * n * c + j * p->k + h] = W[j * m + p->rows[h]];
    }
}

/* K [dx; eta] = [p1; p2 on the active rows], eta 0 on the others; room for n + 4 m numbers. */
EXPORT DISPATCH void quadratic_apply(const batch *all, int64_t first, int64_t last, const double *p1, const double *p2,
                                     double *dx, double *eta, double *room) {
    const integer n = all->n, m = all->m, c = all->capacity, shared = all->shared_P && all->shared_A;
    double *e = room, *wide = e + m;
    integer *rows = (integer *)(wide + m), *position = rows + m;
    for (integer i = first; i < last; i++) {
        const uint8_t *active = all->active + i * m;
        integer k = 0;
        for (integer j = 0; j < m; j++)
            if (active[j]) e[k] = p2[i * m + j], position[k] = shared ? j : k, rows[k++] = j;
        memcpy(dx + i * n, p1 + i * n, (size_t)n * sizeof(double));
        solve_saddle(n, k, shared ? m : k, position, all->R + (all->shared_P ? 0 : i * n * n),
                     all->W + (shared ? 0 : i * n * c), all->F + i * c * c, dx + i * n, e, wide);
        memset(eta + i * m, 0, (size_t)m * sizeof(double));
        for (integer j = 0; j < k; j++) eta[i * m + rows[j]] = e[j];
    }
}
