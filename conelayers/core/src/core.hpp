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

// What a call leaves for its derivatives: the workspaces with their points and factors. The core has to live as long.
class Kept {
  public:
    virtual ~Kept() = default;
    virtual void adjoint(
        Selection selection, const double* cotangents, double* const* gradients, const int64_t* sizes, int32_t* flags,
        int threads
    ) = 0;
    virtual void tangent(
        Selection selection, const Parameters& dtheta, double* doutputs, int32_t* flags, int threads
    ) = 0;
    virtual void linear(
        Selection selection, int right_hand_sides, bool transposed, double* first, double* second, double* third,
        int32_t* flags, int threads
    ) = 0;
};

class Core {
  public:
    Model model;
    std::vector<int64_t> sizes;  // numbers in each parameter

    Core(Model made, std::vector<int64_t> sizes_of_parameters)
        : model(std::move(made)), sizes(std::move(sizes_of_parameters)) {}

    int64_t n() const { return model.structure.n; }
    int64_t m() const { return model.structure.m; }

    // Of one instance, which a call that keeps its workspaces holds.
    std::size_t workspace_bytes() {
        auto workspace = take(single_);
        std::size_t bytes = workspace->bytes();
        give_back(single_, std::move(workspace));
        return bytes;
    }

    // `lanes`: 0 for what is fastest; no result depends on it. `keep`: whether the workspaces are to be given back,
    // with their factors.
    std::unique_ptr<Kept> solve(
        int64_t batch, const Parameters& theta, const Solutions& out, const Solutions* warm, int threads, int lanes,
        bool keep, Limits& limits
    ) {
        std::unique_ptr<Kept> kept;
        over(batch, lanes, [&](auto& free) {
            auto parts = keep ? std::make_unique<KeptParts<std::decay_t<decltype(free)>>>(*this, free, batch) : nullptr;
            in_parts(free, batch, threads, parts.get(), [&](auto& instances, int64_t first, int count) {
                if (limits.reached()) return instances.give_up(out, first, count);
                instances.take(theta, first, count);
                instances.solve(out, warm, limits);
            });
            kept = std::move(parts);
        });
        return kept;
    }

    void adjoint(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, const double* cotangents,
        double* const* gradients, const int64_t* sizes, int32_t* flags, int threads, int lanes
    ) {
        each(batch, threads, lanes, [&](auto& instances, int64_t first, int count) {
            instances.take(theta, first, count);
            instances.linearize(points, selection);
            instances.adjoint(cotangents, gradients, sizes, flags);
        });
    }

    void tangent(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, const Parameters& dtheta,
        double* doutputs, int32_t* flags, int threads, int lanes
    ) {
        each(batch, threads, lanes, [&](auto& instances, int64_t first, int count) {
            instances.take(theta, first, count);
            instances.linearize(points, selection);
            instances.tangent(dtheta, doutputs, flags);
        });
    }

    void linear(
        int64_t batch, const Parameters& theta, const Solutions& points, Selection selection, int right_hand_sides,
        bool transposed, double* first, double* second, double* third, int32_t* flags, int threads, int lanes
    ) {
        each(batch, threads, lanes, [&](auto& instances, int64_t at, int count) {
            instances.take(theta, at, count);
            instances.linearize(points, selection);
            instances.linear(right_hand_sides, transposed, first, second, third, flags);
        });
    }

  private:
    template <int W>
    struct Free {
        static constexpr int LANES = W;
        std::vector<std::unique_ptr<Instances<W>>> workspaces;
    };

    static constexpr std::size_t MOST_FREE = 32;  // workspaces of a width that wait for the next call

    std::mutex mutex_;
    Free<1> single_;
#if CORE_MOST_LANES >= 4
    Free<4> four_;
#endif
#if CORE_MOST_LANES >= 8
    Free<8> eight_;
#endif

    // The workspaces of a call, part by part.
    template <class FreeOfWidth>
    struct KeptParts : Kept {
        using Workspace = typename decltype(FreeOfWidth::workspaces)::value_type;
        Core& core;
        FreeOfWidth& free;
        std::vector<Workspace> workspaces;
        std::mutex using_them;

        KeptParts(Core& of, FreeOfWidth& from, int64_t batch)
            : core(of), free(from), workspaces((batch + FreeOfWidth::LANES - 1) / FreeOfWidth::LANES) {}
        ~KeptParts() override {
            for (auto& workspace : workspaces) core.give_back(free, std::move(workspace));
        }
        void adjoint(
            Selection selection, const double* cotangents, double* const* gradients, const int64_t* sizes,
            int32_t* flags, int threads
        ) override {
            std::lock_guard<std::mutex> alone(using_them);
            ThreadPool::shared().run(static_cast<int>(workspaces.size()), threads, [&](int part) {
                workspaces[part]->linearize_here(selection);
                workspaces[part]->adjoint(cotangents, gradients, sizes, flags);
            });
        }
        void tangent(
            Selection selection, const Parameters& dtheta, double* doutputs, int32_t* flags, int threads
        ) override {
            std::lock_guard<std::mutex> alone(using_them);
            ThreadPool::shared().run(static_cast<int>(workspaces.size()), threads, [&](int part) {
                workspaces[part]->linearize_here(selection);
                workspaces[part]->tangent(dtheta, doutputs, flags);
            });
        }
        void linear(
            Selection selection, int right_hand_sides, bool transposed, double* first, double* second, double* third,
            int32_t* flags, int threads
        ) override {
            std::lock_guard<std::mutex> alone(using_them);
            ThreadPool::shared().run(static_cast<int>(workspaces.size()), threads, [&](int part) {
                workspaces[part]->linearize_here(selection);
                workspaces[part]->linear(right_hand_sides, transposed, first, second, third, flags);
            });
        }
    };

    // work(free list) for the width that suits the batch.
    template <class Work>
    void over(int64_t batch, int lanes, const Work& work) {
        int64_t wanted = lanes > 0 ? lanes : batch;
#if CORE_MOST_LANES >= 8
        if (wanted > 4) return work(eight_);
#endif
#if CORE_MOST_LANES >= 4
        if (wanted > 1) return work(four_);
#endif
        (void)wanted;
        work(single_);
    }

    template <class Work>
    void each(int64_t batch, int threads, int lanes, const Work& work) {
        over(batch, lanes, [&](auto& free) {
            in_parts(free, batch, threads, static_cast<KeptParts<std::decay_t<decltype(free)>>*>(nullptr), work);
        });
    }

    template <int W, class Work>
    void in_parts(Free<W>& free, int64_t batch, int threads, KeptParts<Free<W>>* kept, const Work& work) {
        int parts = static_cast<int>((batch + W - 1) / W);
        ThreadPool::shared().run(parts, threads, [&](int part) {
            auto workspace = take(free);
            int64_t first = static_cast<int64_t>(part) * W;
            work(*workspace, first, static_cast<int>(std::min<int64_t>(W, batch - first)));
            if (kept != nullptr)
                kept->workspaces[part] = std::move(workspace);
            else
                give_back(free, std::move(workspace));
        });
    }

    template <int W>
    std::unique_ptr<Instances<W>> take(Free<W>& free) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!free.workspaces.empty()) {
                auto workspace = std::move(free.workspaces.back());
                free.workspaces.pop_back();
                return workspace;
            }
        }
        return std::make_unique<Instances<W>>(model);
    }

    template <int W>
    void give_back(Free<W>& free, std::unique_ptr<Instances<W>> workspace) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (workspace && free.workspaces.size() < MOST_FREE) free.workspaces.push_back(std::move(workspace));
    }
};

}  // namespace conelayers
