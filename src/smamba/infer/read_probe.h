// How fast this machine reads memory, with the threads that the decoder would use: the floor of decoding.
#pragma once
#include <cstdint>
#include <memory>

namespace smamba::infer {

class ReadProbe {
 public:
  /// A buffer much larger than the caches, in large pages where the system has them. Error(kOutOfMemory).
  explicit ReadProbe(int64_t bytes);
  int64_t bytes() const { return bytes_; }
  /// Reads it all once.
  void run();

 private:
  struct Free {
    void operator()(float* p) const;
  };
  int64_t bytes_;
  std::unique_ptr<float[], Free> data_;
  volatile float sum_ = 0;
};

}  // namespace smamba::infer
