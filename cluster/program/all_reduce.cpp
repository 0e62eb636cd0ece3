#include "all_reduce.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace headrace {

using Clock = std::chrono::steady_clock;

namespace {

constexpr uint32_t kLayout = 1;  // of Header and Line: ranks may come from different builds
constexpr int kMostRanks = 64;
constexpr auto kSpin = std::chrono::microseconds(200);
// Interval at which a sleeping rank checks that its peer still runs.
constexpr auto kLook = std::chrono::milliseconds(50);
constexpr size_t kLine = 64;
constexpr size_t kSmall = 16384;  // up to this size a second wait costs more than adding everything
constexpr size_t kPage = 4096;

std::runtime_error failed(const std::string& what) {
  return std::runtime_error(what + ": " + std::strerror(errno));
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::nanoseconds most) {
  timespec limit{most.count() / 1000000000, most.count() % 1000000000};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &limit, nullptr, 0);
}

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Sums of two-byte numbers are rounded once, at the end.
template <typename T>
[[gnu::optimize("O3")]] void add(const std::byte* const* slots, int ranks, void* output,
                                 size_t count) {
  T* out = static_cast<T*>(output);
  constexpr size_t kBlock = 512;
  Wide<T> sums[kBlock];
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t block = std::min(kBlock, count - start);
    const T* first = reinterpret_cast<const T*>(slots[0]) + start;
    for (size_t i = 0; i < block; ++i) sums[i] = static_cast<Wide<T>>(first[i]);
    for (int rank = 1; rank < ranks; ++rank) {
      const T* next = reinterpret_cast<const T*>(slots[rank]) + start;
      for (size_t i = 0; i < block; ++i) sums[i] += static_cast<Wide<T>>(next[i]);
    }
    for (size_t i = 0; i < block; ++i) out[start + i] = static_cast<T>(sums[i]);
  }
}

size_t size_of(Element element) {
  switch (element) {
    case Element::kFloat: return 4;
    case Element::kDouble: return 8;
    default: return 2;
  }
}

void add_as(Element element, const std::byte* const* slots, int ranks, void* out, size_t count) {
  switch (element) {
    case Element::kFloat: return add<float>(slots, ranks, out, count);
    case Element::kDouble: return add<double>(slots, ranks, out, count);
    case Element::kHalf: return add<c10::Half>(slots, ranks, out, count);
    case Element::kBFloat16: return add<c10::BFloat16>(slots, ranks, out, count);
  }
}

}  // namespace

struct SharedMemoryGroup::Header {
  uint64_t token;
  uint64_t slot_bytes;
  uint32_t layout;
  uint32_t size;
  std::atomic<uint32_t> broken;
};

// One rank's announcements, in a cache line that only this rank writes to, except `sleepers`.
struct alignas(kLine) SharedMemoryGroup::Line {
  std::atomic<uint32_t> step;  // counts the slots that it has filled
  std::atomic<uint32_t> sleepers;
  std::atomic<uint32_t> joined;
  uint32_t element[2];
  uint64_t bytes[2];
};

SharedMemoryGroup::SharedMemoryGroup(int descriptor, int rank, double timeout_s)
    : descriptor_(descriptor),
      rank_(rank),
      timeout_(std::chrono::duration_cast<std::chrono::nanoseconds>(
          std::chrono::duration<double>(timeout_s))) {}

SharedMemoryGroup* SharedMemoryGroup::create(int size, size_t slot_bytes, double timeout_s) {
  if (size < 1 || size > kMostRanks) {
    throw std::invalid_argument("a group has 1 to 64 ranks, not " + std::to_string(size));
  }
  if (slot_bytes < kLine) {
    throw std::invalid_argument("a slot has 64 bytes or more, not " + std::to_string(slot_bytes));
  }
  int descriptor = memfd_create("headrace-all-reduce", MFD_CLOEXEC);
  if (descriptor < 0) throw failed("no shared memory for the all-reduce");
  std::unique_ptr<SharedMemoryGroup> group(new SharedMemoryGroup(descriptor, 0, timeout_s));
  group->size_ = size;
  group->slot_bytes_ = (slot_bytes + kPage - 1) / kPage * kPage;
  const size_t bytes = kPage * (1 + (size * sizeof(Line) + kPage - 1) / kPage) +
                       2 * size * group->slot_bytes_;
  if (ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
    throw failed("no " + std::to_string(bytes) + " bytes of shared memory for the all-reduce");
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) throw failed("the all-reduce's memory cannot be mapped");
  group->memory_ = static_cast<std::byte*>(memory);
  group->mapped_bytes_ = bytes;
  auto* header = new (memory) Header{};
  if (getrandom(&header->token, sizeof(header->token), 0) != sizeof(header->token)) {
    throw failed("no random number for the all-reduce's address");
  }
  header->slot_bytes = group->slot_bytes_;
  header->layout = kLayout;
  header->size = static_cast<uint32_t>(size);
  group->address_ = std::to_string(getpid()) + ":" + std::to_string(descriptor) + ":" +
                    std::to_string(header->token);
  group->enter();
  return group.release();
}

SharedMemoryGroup* SharedMemoryGroup::join(const std::string& address, int rank, double timeout_s) {
  int pid = 0, number = 0;
  unsigned long long token = 0;
  if (std::sscanf(address.c_str(), "%d:%d:%llu", &pid, &number, &token) != 3) {
    throw std::invalid_argument("expected an all-reduce's address PID:FD:TOKEN, got " + address);
  }
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(number);
  int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  const std::string where =
      "rank " + std::to_string(rank) + " cannot join the all-reduce at " + address;
  if (descriptor < 0) {
    throw failed(where + " (rank 0 must run on this node and as this user)");
  }
  std::unique_ptr<SharedMemoryGroup> group(new SharedMemoryGroup(descriptor, rank, timeout_s));
  struct stat facts {};
  if (fstat(descriptor, &facts) != 0) throw failed(where);
  const size_t bytes = static_cast<size_t>(facts.st_size);
  void* memory = bytes < kPage ? MAP_FAILED
                               : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                                      descriptor, 0);
  if (memory == MAP_FAILED) throw failed(where);
  group->memory_ = static_cast<std::byte*>(memory);
  group->mapped_bytes_ = bytes;
  const auto* header = reinterpret_cast<const Header*>(memory);
  if (header->token != token) throw std::runtime_error(where + ": it no longer exists");
  if (header->layout != kLayout) {
    throw std::runtime_error(where + ": another version of Headrace created it");
  }
  if (rank < 1 || rank >= static_cast<int>(header->size)) {
    throw std::invalid_argument(where + ": it has ranks 0 to " + std::to_string(header->size - 1));
  }
  group->size_ = static_cast<int>(header->size);
  group->slot_bytes_ = header->slot_bytes;
  group->address_ = address;
  group->enter();
  return group.release();
}

SharedMemoryGroup::~SharedMemoryGroup() {
  if (memory_ != nullptr) munmap(memory_, mapped_bytes_);
  close(descriptor_);
}

// Locks the rank's own byte. The kernel releases it at any end of the process, so the others see
// that it has ended, even before its parent has reaped it.
void SharedMemoryGroup::enter() {
  uint32_t free = 0;
  if (!line(rank_).joined.compare_exchange_strong(free, 1)) {
    throw std::runtime_error("rank " + std::to_string(rank_) + " of this all-reduce is already open");
  }
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank_;
  lock.l_len = 1;
  if (fcntl(descriptor_, F_OFD_SETLK, &lock) != 0) throw failed("no lock for the all-reduce");
  line(rank_).joined.store(2);
}

bool SharedMemoryGroup::has_ended(int peer) const {
  if (line(peer).joined.load() != 2) return false;  // still joining
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = peer;
  lock.l_len = 1;
  return fcntl(descriptor_, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

SharedMemoryGroup::Line& SharedMemoryGroup::line(int rank) const {
  return reinterpret_cast<Line*>(memory_ + kPage)[rank];
}

std::byte* SharedMemoryGroup::slot(int rank) const {
  // A rank refills a slot only two parts later: by then all have announced the part between, and
  // so have read this one.
  const size_t index = static_cast<size_t>(part_ % 2) * size_ + rank;
  return memory_ + mapped_bytes_ - (2 * size_ - index) * slot_bytes_;
}

void SharedMemoryGroup::all_reduce(const void* input, void* output, size_t count, Element element) {
  std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
  if (!alone) throw std::runtime_error("two threads of one rank run the same all-reduce");
  const size_t width = size_of(element);
  const auto* in = static_cast<const std::byte*>(input);
  auto* out = static_cast<std::byte*>(output);
  size_t left = count * width;
  do {
    const size_t bytes = std::min(slot_bytes_, left);
    ++part_;
    if (bytes <= kSmall) {
      add_all(in, out, bytes, element);
    } else {
      add_shares(in, out, bytes, element);
    }
    in += bytes;
    out += bytes;
    left -= bytes;
  } while (left > 0);
}

// Every rank adds everything: one wait.
void SharedMemoryGroup::add_all(const std::byte* in, std::byte* out, size_t bytes,
                                Element element) {
  const std::byte* slots[kMostRanks];
  std::memcpy(slot(rank_), in, bytes);
  meet(bytes, element);
  for (int peer = 0; peer < size_; ++peer) slots[peer] = slot(peer);
  add_as(element, slots, size_, out, bytes / size_of(element));
}

// Every rank adds its share and copies the others' sums: two waits, but less to read and add.
void SharedMemoryGroup::add_shares(const std::byte* in, std::byte* out, size_t bytes,
                                   Element element) {
  const std::byte* slots[kMostRanks];
  const size_t share = (bytes / size_ + kLine - 1) / kLine * kLine;
  auto start = [&](int rank) { return rank < size_ ? std::min(bytes, share * rank) : bytes; };
  const size_t own = start(rank_), own_bytes = start(rank_ + 1) - own;
  for (int peer = 0; peer < size_; ++peer) {
    const size_t from = start(peer);
    if (peer != rank_) std::memcpy(slot(rank_) + from, in + from, start(peer + 1) - from);
  }
  meet(bytes, element);
  for (int peer = 0; peer < size_; ++peer) slots[peer] = (peer == rank_ ? in : slot(peer)) + own;
  add_as(element, slots, size_, slot(rank_) + own, own_bytes / size_of(element));
  meet(bytes, element);
  for (int peer = 0; peer < size_; ++peer) {
    const size_t from = start(peer);
    std::memcpy(out + from, slot(peer) + from, start(peer + 1) - from);
  }
}

void SharedMemoryGroup::meet(uint64_t bytes, Element element) {
  ++step_;
  announce(bytes, element);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) await(peer, bytes, element);
  }
}

void SharedMemoryGroup::announce(uint64_t bytes, Element element) {
  Line& own = line(rank_);
  own.bytes[step_ % 2] = bytes;
  own.element[step_ % 2] = static_cast<uint32_t>(element);
  // Both sequentially consistent, as the sleeper's are: one of the two sees the other.
  own.step.store(step_);
  if (own.sleepers.load() != 0) futex_wake(own.step);
}

void SharedMemoryGroup::await(int peer, uint64_t bytes, Element element) {
  Line& other = line(peer);
  // Steps are compared by their difference, because they start again after 2^32.
  auto announced = [&] { return static_cast<int32_t>(other.step.load() - step_) >= 0; };
  const auto* header = reinterpret_cast<const Header*>(memory_);
  const auto spin_until = Clock::now() + kSpin;
  while (!announced()) {
    if (header->broken.load(std::memory_order_relaxed) != 0) break;
    if (Clock::now() > spin_until) {
      sleep_until_announced(peer);
      break;
    }
    for (int i = 0; i < 16; ++i) pause();
  }
  if (header->broken.load() != 0) fail("the group was aborted, by another rank or by its owner");
  if (other.bytes[step_ % 2] != bytes ||
      other.element[step_ % 2] != static_cast<uint32_t>(element)) {
    fail("rank " + std::to_string(peer) + " reduces " + std::to_string(other.bytes[step_ % 2]) +
         " bytes, this one " + std::to_string(bytes) +
         ", or of another type; all ranks must run the same batch through slices of one model");
  }
}

void SharedMemoryGroup::sleep_until_announced(int peer) {
  Line& other = line(peer);
  const auto* header = reinterpret_cast<const Header*>(memory_);
  const auto deadline = Clock::now() + timeout_;
  for (;;) {
    other.sleepers.fetch_add(1);
    const uint32_t seen = other.step.load();
    const bool there = static_cast<int32_t>(seen - step_) >= 0;
    if (!there && header->broken.load() == 0) {
      const std::chrono::nanoseconds left = deadline - Clock::now();
      futex_wait(other.step, seen,
                 std::clamp<std::chrono::nanoseconds>(left, std::chrono::nanoseconds(1), kLook));
    }
    other.sleepers.fetch_sub(1);
    // In this order, because its last step may be followed by a regular end.
    const bool ended = has_ended(peer);
    if (static_cast<int32_t>(other.step.load() - step_) >= 0 || header->broken.load() != 0) return;
    if (ended) fail("the process of rank " + std::to_string(peer) + " has ended");
    if (Clock::now() > deadline) {
      char seconds[32];
      const double limit_s = std::chrono::duration<double>(timeout_).count();
      std::snprintf(seconds, sizeof(seconds), "%g", limit_s);
      fail("rank " + std::to_string(peer) + " did not take part within " + seconds +
           " s: it is stopped, blocked, or did not receive the batch");
    }
  }
}

void SharedMemoryGroup::abort() {
  reinterpret_cast<Header*>(memory_)->broken.store(1);
  for (int peer = 0; peer < size_; ++peer) futex_wake(line(peer).step);
}

void SharedMemoryGroup::fail(const std::string& why) {
  abort();
  throw std::runtime_error("all-reduce, rank " + std::to_string(rank_) + " of " +
                           std::to_string(size_) + ": " + why);
}

}  // namespace headrace
