// Threads that sleep between calls and take the parts of a batch one after the other. Who takes which part changes no
// result.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace conelayers {

// Results do not depend on whether a framework had denormal numbers flushed to zero in this thread.
class StandardArithmetic {
  public:
#if defined(__SSE2__)
    StandardArithmetic() : saved_(_mm_getcsr()) {
        _mm_setcsr(0x1F80);
    }  // round to nearest, no flushing, exceptions masked
    ~StandardArithmetic() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

class ThreadPool {
  public:
    static constexpr int MOST_THREADS = 64;

    // part(0) … part(count − 1), on up to `threads` threads, this one among them.
    void run(int count, int threads, const std::function<void(int)>& part) {
        int helpers = std::min({threads, count, MOST_THREADS}) - 1;
        std::unique_lock<std::mutex> alone(calls_, std::try_to_lock);
        if (helpers < 1 || !alone.owns_lock()) {  // another call has the threads: this one does its work itself
            StandardArithmetic standard;
            for (int i = 0; i < count; i++) part(i);
            return;
        }
        start(helpers);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            part_ = &part;
            count_ = count;
            next_.store(0);
            wanted_ = active_ = helpers;
            generation_++;
        }
        wake_.notify_all();
        work(part, count);
        std::unique_lock<std::mutex> lock(mutex_);
        active_ -= wanted_;  // helpers that have not begun are not needed any more
        wanted_ = 0;
        done_.wait(lock, [this] { return active_ == 0; });
        part_ = nullptr;
    }

    // The pool of this process: one that was forked off has none of its parent's threads, and makes its own.
    static ThreadPool& shared() {
        static std::mutex making;
        static ThreadPool* pool = nullptr;
        static long owner = 0;
        std::lock_guard<std::mutex> lock(making);
        if (pool == nullptr || owner != process()) {
            pool = new ThreadPool;  // never deleted: its threads sleep until the process ends
            owner = process();
        }
        return *pool;
    }

  private:
    std::mutex calls_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int> next_{0};
    const std::function<void(int)>* part_ = nullptr;
    int count_ = 0, started_ = 0, wanted_ = 0, active_ = 0;
    long generation_ = 0;

    static long process() {
#if defined(__unix__) || defined(__APPLE__)
        return static_cast<long>(getpid());
#else
        return 1;
#endif
    }

    void start(int helpers) {
        for (; started_ < helpers; started_++) std::thread([this] { help(); }).detach();
    }

    void work(const std::function<void(int)>& part, int count) {
        StandardArithmetic standard;
        for (int i; (i = next_.fetch_add(1)) < count;) part(i);
    }

    void help() {
        std::unique_lock<std::mutex> lock(mutex_);
        long seen = 0;
        for (;;) {
            wake_.wait(lock, [&] { return wanted_ > 0 && generation_ != seen; });
            seen = generation_;
            wanted_--;
            const auto* part = part_;
            int count = count_;
            lock.unlock();
            work(*part, count);
            lock.lock();
            active_--;
            done_.notify_all();
        }
    }
};

}  // namespace conelayers
