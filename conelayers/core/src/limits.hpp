// What ends a call early: a deadline, a flag that somebody else sets, and Ctrl-C, which only the calling thread can
// see.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace conelayers {

class Limits {
  public:
    static constexpr double BETWEEN_POLLS = 0.05;  // seconds after which the calling thread looks for signals

    // `seconds`: until the deadline, negative for none. `stop`: a number that becomes nonzero, or null.
    // `poll`: whether the call is to be given up; asked in the calling thread only.
    Limits(double seconds, const int32_t* stop, bool (*poll)())
        : deadline_(seconds < 0 ? -1.0 : now() + seconds),
          stop_(stop),
          poll_(poll),
          caller_(std::this_thread::get_id()),
          polled_(now()) {}

    bool reached() {
        if (halted_.load(std::memory_order_relaxed)) return true;
        double time = now();
        bool over = deadline_ >= 0 && time >= deadline_;
        over = over || (stop_ != nullptr && *static_cast<const volatile int32_t*>(stop_) != 0);
        if (!over && poll_ != nullptr && std::this_thread::get_id() == caller_ && time - polled_ > BETWEEN_POLLS) {
            over = interrupted_ = poll_();
            polled_ = now();
        }
        if (over) halted_.store(true, std::memory_order_relaxed);
        return over;
    }

    bool interrupted() const { return interrupted_; }

  private:
    double deadline_;
    const int32_t* stop_;
    bool (*poll_)();
    std::thread::id caller_;
    double polled_;
    std::atomic<bool> halted_{false};
    bool interrupted_ = false;

    static double now() {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
};

}  // namespace conelayers
