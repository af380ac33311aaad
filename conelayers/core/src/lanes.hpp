// One real number of W instances: a plain double for W = 1, a SIMD register for W = 4 and 8.
//
// Everything above this file is a template over W and runs the same operations in the same order at every width:
// control flow depends on the structure alone, or on a mask that freezes the lanes that are done. Hence an instance's
// result has the same bits alone and in any company. That needs -ffp-contract=off, no reassociation, and sums in an
// order that is fixed here: every dot product has four partial sums, element i going to number i mod 4, which a single
// instance keeps in one register.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) || defined(__clang__)
#define CORE_VECTORS 1
#define CORE_INLINE static inline __attribute__((always_inline))
#else
#define CORE_VECTORS 0  // a compiler without vector extensions builds the scalar code, with the same bits
#define CORE_INLINE static inline
#endif

namespace conelayers {

template <int W>
struct Lane;

template <>
struct Lane<1> {
    using Real = double;
    using Mask = bool;
    using Bits = int64_t;
};

#if CORE_VECTORS
template <>
struct Lane<4> {
    typedef double Real __attribute__((vector_size(32)));
    typedef int64_t Mask __attribute__((vector_size(32)));
    typedef Mask Bits;
};

template <>
struct Lane<8> {
    typedef double Real __attribute__((vector_size(64)));
    typedef int64_t Mask __attribute__((vector_size(64)));
    typedef Mask Bits;
};
#endif

constexpr int64_t SIGN_BIT = INT64_MIN;
constexpr double BIAS_BITS = 6755399441055744.0;  // 1.5 · 2⁵²: added to a number below 2⁵¹ it rounds it to a whole one

// What differs between a double and a register: the number of lanes, selection, masks, square roots.

template <class V>
struct Width;
template <>
struct Width<double> {
    static constexpr int value = 1;
};

CORE_INLINE double select(bool m, double a, double b) {
    return m ? a : b;
}
CORE_INLINE bool any(bool m) {
    return m;
}
CORE_INLINE bool mask_not(bool m) {
    return !m;
}
CORE_INLINE bool mask_and(bool a, bool b) {
    return a && b;
}
CORE_INLINE bool mask_or(bool a, bool b) {
    return a || b;
}
CORE_INLINE double square_root(double a) {
    return std::sqrt(a);
}
CORE_INLINE double absolute(double a) {
    return std::fabs(a);
}
CORE_INLINE int64_t bits_of(double a) {
    int64_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}
CORE_INLINE double from_bits(int64_t bits) {
    double a;
    std::memcpy(&a, &bits, sizeof a);
    return a;
}
CORE_INLINE double lane_of(double a, int) {
    return a;
}
CORE_INLINE void set_lane(double& a, int, double value) {
    a = value;
}
CORE_INLINE bool lane_of(bool m, int) {
    return m;
}

#if CORE_VECTORS
#define CORE_DEFINE_LANES(W)                                                              \
    template <>                                                                           \
    struct Width<Lane<W>::Real> {                                                         \
        static constexpr int value = W;                                                   \
    };                                                                                    \
    CORE_INLINE Lane<W>::Real select(Lane<W>::Mask m, Lane<W>::Real a, Lane<W>::Real b) { \
        return m ? a : b;                                                                 \
    }                                                                                     \
    CORE_INLINE bool any(Lane<W>::Mask m) {                                               \
        int64_t found = 0;                                                                \
        for (int l = 0; l < W; l++) found |= m[l];                                        \
        return found != 0;                                                                \
    }                                                                                     \
    CORE_INLINE Lane<W>::Mask mask_not(Lane<W>::Mask m) {                                 \
        return ~m;                                                                        \
    }                                                                                     \
    CORE_INLINE Lane<W>::Mask mask_and(Lane<W>::Mask a, Lane<W>::Mask b) {                \
        return a & b;                                                                     \
    }                                                                                     \
    CORE_INLINE Lane<W>::Mask mask_or(Lane<W>::Mask a, Lane<W>::Mask b) {                 \
        return a | b;                                                                     \
    }                                                                                     \
    CORE_INLINE Lane<W>::Real square_root(Lane<W>::Real a) {                              \
        Lane<W>::Real r;                                                                  \
        for (int l = 0; l < W; l++) r[l] = std::sqrt(a[l]);                               \
        return r;                                                                         \
    }                                                                                     \
    CORE_INLINE Lane<W>::Bits bits_of(Lane<W>::Real a) {                                  \
        return (Lane<W>::Bits)a;                                                          \
    }                                                                                     \
    CORE_INLINE Lane<W>::Real from_bits(Lane<W>::Bits bits) {                             \
        return (Lane<W>::Real)bits;                                                       \
    }                                                                                     \
    CORE_INLINE Lane<W>::Real absolute(Lane<W>::Real a) {                                 \
        return from_bits(bits_of(a) & ~SIGN_BIT);                                         \
    }                                                                                     \
    CORE_INLINE double lane_of(Lane<W>::Real a, int l) {                                  \
        return a[l];                                                                      \
    }                                                                                     \
    CORE_INLINE void set_lane(Lane<W>::Real& a, int l, double value) {                    \
        a[l] = value;                                                                     \
    }                                                                                     \
    CORE_INLINE bool lane_of(Lane<W>::Mask m, int l) {                                    \
        return m[l] != 0;                                                                 \
    }

CORE_DEFINE_LANES(4)
CORE_DEFINE_LANES(8)
#undef CORE_DEFINE_LANES
#endif

template <class V>
CORE_INLINE V splat(double a) {
    V zero = {};
    return zero + a;
}

template <class V>
CORE_INLINE V maximum(V a, V b) {
    return select(a > b, a, b);
}

template <class V>
CORE_INLINE V minimum(V a, V b) {
    return select(a < b, a, b);
}

// The nearest whole number, ties to the even one, for |a| < 2⁵¹.
template <class V>
CORE_INLINE V rounded(V a) {
    return (a + BIAS_BITS) - BIAS_BITS;
}

// 2ᵏ for a whole number |k| ≤ 1000, by writing its exponent.
template <class V>
CORE_INLINE V power_of_two(V k) {
    return from_bits((bits_of(k + BIAS_BITS) - bits_of(splat<V>(BIAS_BITS)) + 1023) << 52);
}

// log₂|a| to a tenth, read off the exponent and the leading mantissa (linear between powers of two); −2000 for zero.
constexpr double LOG_OF_ZERO = -2000.0;

template <class V>
CORE_INLINE V log2_roughly(V a) {
    constexpr double UNIT = 1.0 / (1 << 20);  // of the exponent in the high word of a double
    // The high word as a whole number: put into the mantissa of 2⁵² it is one, without a conversion of integers.
    auto word = (bits_of(absolute(a)) >> 32) | 0x4330000000000000;
    V high = from_bits(word) - 4503599627370496.0;
    return select(high > 0.0, high * UNIT - 1023.0, splat<V>(LOG_OF_ZERO));
}

// ‖a‖ in the maximum norm. Comparisons with NaN are false: it is told by `all_finite`, not here.
template <class V>
CORE_INLINE V largest(int count, const V* a) {
    V top = splat<V>(0.0);
    for (int i = 0; i < count; i++) top = maximum(top, absolute(a[i]));
    return top;
}

#if CORE_VECTORS
// Neighbouring numbers of one instance in the widest register: for what is done number by number, in no order.
#if defined(__AVX512F__)
typedef Lane<8>::Real Neighbours;
#else
typedef Lane<4>::Real Neighbours;
#endif
typedef Lane<4>::Real FourSums;

CORE_INLINE FourSums load_four(const double* a) {
    FourSums r;
    std::memcpy(&r, a, sizeof r);
    return r;
}
#endif

template <class V>
CORE_INLINE V dot(int count, const V* a, const V* b) {
    V s0 = {}, s1 = {}, s2 = {}, s3 = {};
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    if (i < count) s0 += a[i] * b[i];
    if (i + 1 < count) s1 += a[i + 1] * b[i + 1];
    if (i + 2 < count) s2 += a[i + 2] * b[i + 2];
    return (s0 + s1) + (s2 + s3);
}

#if CORE_VECTORS
template <>
inline __attribute__((always_inline)) double dot<double>(int count, const double* a, const double* b) {
    FourSums sums = {};
    int i = 0;
    for (; i + 4 <= count; i += 4) sums += load_four(a + i) * load_four(b + i);
    double s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    if (i < count) s0 += a[i] * b[i];
    if (i + 1 < count) s1 += a[i + 1] * b[i + 1];
    if (i + 2 < count) s2 += a[i + 2] * b[i + 2];
    return (s0 + s1) + (s2 + s3);
}
#endif

// Σ a[i] b[index[i]].
template <class V>
CORE_INLINE V dot_at(int count, const V* a, const int* index, const V* b) {
    V s0 = {}, s1 = {}, s2 = {}, s3 = {};
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[index[i]];
        s1 += a[i + 1] * b[index[i + 1]];
        s2 += a[i + 2] * b[index[i + 2]];
        s3 += a[i + 3] * b[index[i + 3]];
    }
    if (i < count) s0 += a[i] * b[index[i]];
    if (i + 1 < count) s1 += a[i + 1] * b[index[i + 1]];
    if (i + 2 < count) s2 += a[i + 2] * b[index[i + 2]];
    return (s0 + s1) + (s2 + s3);
}

// Σ |a[i]| b[index[i]].
template <class V>
CORE_INLINE V dot_of_sizes_at(int count, const V* a, const int* index, const V* b) {
    V s0 = {}, s1 = {}, s2 = {}, s3 = {};
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        s0 += absolute(a[i]) * b[index[i]];
        s1 += absolute(a[i + 1]) * b[index[i + 1]];
        s2 += absolute(a[i + 2]) * b[index[i + 2]];
        s3 += absolute(a[i + 3]) * b[index[i + 3]];
    }
    for (int rest = 0; i < count; i++, rest++) (rest == 0 ? s0 : rest == 1 ? s1 : s2) += absolute(a[i]) * b[index[i]];
    return (s0 + s1) + (s2 + s3);
}

// out += factor · a.
template <class V>
CORE_INLINE void add_multiple(int count, V factor, const V* a, V* out) {
    for (int i = 0; i < count; i++) out[i] += factor * a[i];
}

template <class V>
CORE_INLINE void add_multiple_at(int count, V factor, const V* a, const int* index, V* out) {
    for (int i = 0; i < count; i++) out[index[i]] += factor * a[i];
}

}  // namespace conelayers
