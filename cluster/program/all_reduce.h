// Sums over the processes that hold one model's slices on one node, through shared memory.
//
//   create: memfd ─ address "PID:FD:TOKEN" ─→ join: /proc/PID/fd/FD ─→ all ranks map the same pages
//   all_reduce: copy into the rank's slot → announce → wait for the others → add a share of all
//               slots → announce → wait → copy the others' shares
//
// The memory has no name in any file system, so processes killed at any time leave nothing behind.
// Every number is added by one rank, or by all in the ranks' order: the sums are bit-identical.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace headrace {

enum class Element : uint32_t { kFloat, kDouble, kHalf, kBFloat16 };

class SharedMemoryGroup {
 public:
  // Both raise std::runtime_error if the memory cannot be allocated.
  static SharedMemoryGroup* create(int size, size_t slot_bytes, double timeout_s);
  static SharedMemoryGroup* join(const std::string& address, int rank, double timeout_s);

  ~SharedMemoryGroup();
  SharedMemoryGroup(const SharedMemoryGroup&) = delete;
  SharedMemoryGroup& operator=(const SharedMemoryGroup&) = delete;

  // `output` becomes the sum of all ranks' `input`, each `count` elements; they may be the same.
  //
  // Raises std::runtime_error when a rank's process has ended, when a rank does not take part within
  // the time limit, and when ranks reduce different sizes. The group is unusable from then on, for
  // every rank: no rank can know which sums the others have received.
  void all_reduce(const void* input, void* output, size_t count, Element element);

  // Makes all ranks' calls fail, including those that wait.
  void abort();

  const std::string& address() const { return address_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

 private:
  struct Header;
  struct Line;
  SharedMemoryGroup(int descriptor, int rank, double timeout_s);

  Line& line(int rank) const;
  std::byte* slot(int rank) const;
  void enter();
  void add_all(const std::byte* in, std::byte* out, size_t bytes, Element element);
  void add_shares(const std::byte* in, std::byte* out, size_t bytes, Element element);
  void meet(uint64_t bytes, Element element);
  void announce(uint64_t bytes, Element element);
  void await(int peer, uint64_t bytes, Element element);
  void sleep_until_announced(int peer);
  bool has_ended(int peer) const;
  [[noreturn]] void fail(const std::string& why);

  int descriptor_;
  int rank_;
  int size_ = 0;
  size_t slot_bytes_ = 0;
  size_t mapped_bytes_ = 0;
  std::chrono::nanoseconds timeout_;
  std::byte* memory_ = nullptr;
  uint32_t step_ = 0;  // number of announcements
  uint32_t part_ = 0;
  std::string address_;
  std::mutex busy_;
};

}  // namespace headrace
