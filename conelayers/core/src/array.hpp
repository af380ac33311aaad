// Memory for registers: one aligned block of a workspace, handed out in pieces that live as long as it does.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace conelayers {

template <class V>
class Pool {
  public:
    // `count` zeros; the pointer is good until the pool goes.
    V* take(std::size_t count) {
        constexpr std::size_t ALIGNMENT = 64;  // bytes: a cache line, and the widest register
        std::size_t bytes = ((count > 0 ? count : 1) * sizeof(V) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        void* block = ::operator new(bytes, std::align_val_t(ALIGNMENT));
        std::memset(block, 0, bytes);
        blocks_.emplace_back(block);
        bytes_ += bytes;
        return static_cast<V*>(block);
    }

    std::size_t bytes() const { return bytes_; }

  private:
    struct Free {
        void operator()(void* block) const { ::operator delete(block, std::align_val_t(64)); }
    };
    std::vector<std::unique_ptr<void, Free>> blocks_;
    std::size_t bytes_ = 0;
};

}  // namespace conelayers
