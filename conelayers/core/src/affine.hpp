// Affine maps with a sparse matrix: the program's data of the parameters θ, the outputs of (x, y), and their adjoints.
#pragma once

#include <cstdint>
#include <vector>

#include "lanes.hpp"
#include "ordering.hpp"

namespace conelayers {

// value[k] = constant[k] + Σ coefficient · argument[source][offset], over the terms start[k] … start[k + 1] − 1.
struct AffineMap {
    std::vector<double> constant;
    Indices start, source, offset;
    std::vector<double> coefficient;

    int size() const { return static_cast<int>(constant.size()); }
};

// The parameters' values in the caller's memory: instance i of parameter p is at values[p] + i·stride[p], 0 where it is shared.
struct Parameters {
    const double* const* values;
    const int64_t* stride;
};

// Value k of the map at the instances `instance`, one a lane.
template <class V>
CORE_INLINE V value_of(const AffineMap& map, int k, const Parameters& theta, const int64_t* instance) {
    constexpr int W = Width<V>::value;
    V sum = splat<V>(map.constant[k]);
    for (int t = map.start[k]; t < map.start[k + 1]; t++) {
        const double* p = theta.values[map.source[t]] + map.offset[t];
        int64_t stride = theta.stride[map.source[t]];
        V argument = splat<V>(*p);
        if (stride != 0)
            for (int l = 0; l < W; l++) set_lane(argument, l, p[stride * instance[l]]);
        sum += map.coefficient[t] * argument;
    }
    return sum;
}

// The same without the constant: the tangent's values. A parameter without a tangent has the address null.
template <class V>
CORE_INLINE V tangent_of(const AffineMap& map, int k, const Parameters& dtheta, const int64_t* instance) {
    constexpr int W = Width<V>::value;
    V sum = splat<V>(0.0);
    for (int t = map.start[k]; t < map.start[k + 1]; t++) {
        const double* p = dtheta.values[map.source[t]];
        if (p == nullptr) continue;
        p += map.offset[t];
        int64_t stride = dtheta.stride[map.source[t]];
        V argument = splat<V>(*p);
        if (stride != 0)
            for (int l = 0; l < W; l++) set_lane(argument, l, p[stride * instance[l]]);
        sum += map.coefficient[t] * argument;
    }
    return sum;
}

}  // namespace conelayers
