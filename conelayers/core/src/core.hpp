// A model and the workspaces that its calls share; a batch is split into parts of W instances, each by itself.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "instances.hpp"
#include "threads.hpp"

namespace conelayers {

#ifndef CORE_MOST_LANES
#define CORE_MOST_LANES 1  // of this module's instruction set
#endif

class Core {
  public:
    Model model;
    std::vector<int64_t> sizes;  // numbers in each parameter

    Core(Model made, std::vector<int64_t> sizes_of_parameters) : model(std::move(made)), sizes(std::move(sizes_of_parameters)) {}

    int64_t n() const { return model.structure.n; }
    int64_t m() const { return model.structure.m; }

    // `lanes`: 0 for what is fastest; no result depends on it.
    void solve(int64_t batch, const Parameters& theta, const Solutions& out, const Solutions* warm, int threads, int lanes, Limits& limits) {
        over(batch, threads, lanes, [&](auto& instances, int64_t first, int count) {
            instances.take(theta, first, count);
            instances.solve(out, warm, limits);
        });
    }

    void adjoint(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, const double* cotangents,
        double* const* gradients, const int64_t* sizes, int32_t* flags, int threads, int lanes
    ) {
        over(batch, threads, lanes, [&](auto& instances, int64_t first, int count) {
            instances.take(theta, first, count);
            instances.linearize(points, selection);
            instances.adjoint(cotangents, gradients, sizes, flags);
        });
    }

    void tangent(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, const Parameters& dtheta,
        double* doutputs, int32_t* flags, int threads, int lanes
    ) {
        over(batch, threads, lanes, [&](auto& instances, int64_t first, int count) {
            instances.take(theta, first, count);
            instances.linearize(points, selection);
            instances.tangent(dtheta, doutputs, flags);
        });
    }

    void linear(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, int right_hand_sides, bool transposed,
        double* first, double* second, double* third, int32_t* flags, int threads, int lanes
    ) {
        over(batch, threads, lanes, [&](auto& instances, int64_t at, int count) {
            instances.take(theta, at, count);
            instances.linearize(points, selection);
            instances.linear(right_hand_sides, transposed, first, second, third, flags);
        });
    }

  private:
    template <int W>
    using Free = std::vector<std::unique_ptr<Instances<W>>>;

    static constexpr std::size_t MOST_KEPT = 8;  // workspaces of a width that wait for the next call

    std::mutex mutex_;
    Free<1> single_;
#if CORE_MOST_LANES >= 4
    Free<4> four_;
#endif
#if CORE_MOST_LANES >= 8
    Free<8> eight_;
#endif

    template <class Work>
    void over(int64_t batch, int threads, int lanes, const Work& work) {
        int64_t wanted = lanes > 0 ? lanes : batch;
#if CORE_MOST_LANES >= 8
        if (wanted > 4) return in_parts<8>(eight_, batch, threads, work);
#endif
#if CORE_MOST_LANES >= 4
        if (wanted > 1) return in_parts<4>(four_, batch, threads, work);
#endif
        (void)wanted;
        in_parts<1>(single_, batch, threads, work);
    }

    template <int W, class Work>
    void in_parts(Free<W>& free, int64_t batch, int threads, const Work& work) {
        int parts = static_cast<int>((batch + W - 1) / W);
        ThreadPool::shared().run(parts, threads, [&](int part) {
            std::unique_ptr<Instances<W>> instances;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                if (!free.empty()) {
                    instances = std::move(free.back());
                    free.pop_back();
                }
            }
            if (!instances) instances = std::make_unique<Instances<W>>(model);
            int64_t first = static_cast<int64_t>(part) * W;
            work(*instances, first, static_cast<int>(std::min<int64_t>(W, batch - first)));
            std::lock_guard<std::mutex> lock(mutex_);
            if (free.size() < MOST_KEPT) free.push_back(std::move(instances));
        });
    }
};

}  // namespace conelayers
