// Affine maps with a sparse matrix: the program's data of the parameters θ, the outputs of (x, y), and their adjoints.
#pragma once

#include <cstdint>
#include <vector>

#include "lanes.hpp"
#include "ordering.hpp"

namespace conelayers {

// Values first … first + count − 1 that are copies of entries offset, offset + step, … of one parameter.
struct Run {
    int first, count, source, offset, step;
};

// value[k] = constant[k] + Σ coefficient · argument[source][offset], over the terms start[k] … start[k + 1] − 1.
struct AffineMap {
    std::vector<double> constant;
    Indices start, source, offset;
    std::vector<double> coefficient;
    std::vector<Run> runs;  // what is only copied,
    Indices others;         // and all other values

    int size() const { return static_cast<int>(constant.size()); }

    void find_runs() {
        auto copied = [&](int k) {
            return start[k + 1] - start[k] == 1 && constant[k] == 0.0 && coefficient[start[k]] == 1.0;
        };
        for (int k = 0; k < size(); k++) {
            if (!copied(k)) {
                others.push_back(k);
                continue;
            }
            int s = source[start[k]], o = offset[start[k]];
            if (!runs.empty() && runs.back().first + runs.back().count == k && runs.back().source == s) {
                Run& run = runs.back();
                if (run.count == 1) run.step = o - run.offset;
                if (o == run.offset + run.count * run.step) {
                    run.count++;
                    continue;
                }
            }
            runs.push_back({k, 1, s, o, 1});
        }
    }
};

// The parameters' values in the caller's memory: instance i of parameter p is at values[p] + i·stride[p], 0 where it is
// shared. A parameter without a value, as of a tangent, has the address null.
struct Parameters {
    const double* const* values;
    const int64_t* stride;
};

// The values of the map at the instances `instance`, one a lane; without its constants where it is linear.
template <class V>
void evaluate(const AffineMap& map, const Parameters& theta, const int64_t* instance, bool linear, V* out) {
    constexpr int W = Width<V>::value;
    const double* base[W];
    for (const Run& run : map.runs) {
        const double* values = theta.values[run.source];
        int64_t stride = theta.stride[run.source];
        V* to = out + run.first;
        if (values == nullptr) {
            for (int k = 0; k < run.count; k++) to[k] = splat<V>(0.0);
        } else if (stride == 0) {
            for (int k = 0; k < run.count; k++) to[k] = splat<V>(values[run.offset + k * run.step]);
        } else {
            for (int l = 0; l < W; l++) base[l] = values + stride * instance[l] + run.offset;
            for (int k = 0; k < run.count; k++)
                for (int l = 0; l < W; l++) set_lane(to[k], l, base[l][k * run.step]);
        }
    }
    for (int k : map.others) {
        V sum = splat<V>(linear ? 0.0 : map.constant[k]);
        for (int t = map.start[k]; t < map.start[k + 1]; t++) {
            const double* p = theta.values[map.source[t]];
            if (p == nullptr) continue;
            p += map.offset[t];
            int64_t stride = theta.stride[map.source[t]];
            V argument = splat<V>(*p);
            if (stride != 0)
                for (int l = 0; l < W; l++) set_lane(argument, l, p[stride * instance[l]]);
            sum += map.coefficient[t] * argument;
        }
        out[k] = sum;
    }
}

// Adds the adjoint of the map's linear part at `values` to the gradients of the instances first … first + count − 1:
// gradients[p] is (B, sizes[p]), or null where none is wanted.
template <class V>
void add_adjoint(
    const AffineMap& map, const V* values, int64_t first, int count, double* const* gradients, const int64_t* sizes
) {
    constexpr int W = Width<V>::value;
    double* base[W];
    for (const Run& run : map.runs) {
        if (gradients[run.source] == nullptr) continue;
        const V* from = values + run.first;
        for (int l = 0; l < count; l++) base[l] = gradients[run.source] + (first + l) * sizes[run.source] + run.offset;
        for (int k = 0; k < run.count; k++)
            for (int l = 0; l < count; l++) base[l][k * run.step] += lane_of(from[k], l);
    }
    for (int k : map.others)
        for (int t = map.start[k]; t < map.start[k + 1]; t++) {
            double* of_parameter = gradients[map.source[t]];
            if (of_parameter == nullptr) continue;
            int64_t size = sizes[map.source[t]];
            double* out = of_parameter + first * size + map.offset[t];
            for (int l = 0; l < count; l++) out[l * size] += map.coefficient[t] * lane_of(values[k], l);
        }
}

}  // namespace conelayers
