// Which of a library's algorithms computes a product: measured once per product and machine, kept in a file.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/dtype.h"

namespace plimsoll {

// Everything that an algorithm is chosen by: c (rows, columns) = a (rows, inner) b (inner, columns) and what follows.
struct GemmProblem {
    int64_t rows, columns, inner;
    int64_t a_leading, b_leading, c_leading;  // elements between neighbouring rows, or columns of what is turned
    int64_t before_leading;                   // of the matrix beside an activation; 0 without one
    bool a_turned, b_turned;
    DType operands, result;
    bool accumulate;
    std::string_view epilogue;  // "none", "bias", "gelu" ...
    bool bias;

    auto operator<=>(const GemmProblem&) const = default;
    // One word, such as "32768x768x3072,nt,bf16-bf16,3072.3072.768.0,set,none".
    std::string text() const;
};

// The library's own description of an algorithm, opaque here: cublasLtMatmulAlgo_t may be stored and used again with
// the same version of the library.
struct GemmAlgorithm {
    std::array<uint64_t, 8> words{};
    bool operator==(const GemmAlgorithm&) const = default;
};

struct TimedAlgorithm {
    GemmAlgorithm algorithm;
    double seconds;
};

// Times candidates, given in the library's order of preference, best first. seconds(i, calls) runs candidate i so many
// times and returns seconds per call, or nothing if the library refuses it. Each runs once to warm up; what then is
// twice as slow as the best so far is not timed, the others get the best of two series of calls.
std::vector<TimedAlgorithm> time_candidates(std::span<const GemmAlgorithm> candidates,
                                            const std::function<std::optional<double>(size_t, int)>& seconds);

// The first in the library's order that takes at most 1 % longer than the fastest: two searches that measure a little
// differently come to the same. Times that are no positive number do not count; no time, no choice.
std::optional<TimedAlgorithm> fastest(std::span<const TimedAlgorithm> timed);

// Choices and the file that keeps them. The file is text: a line that says what it is, then one line per product,
//   machine <tab> product <tab> algorithm, 128 hexadecimal digits <tab> microseconds <tab> FNV-1a of all that
// A line of another machine (card, library or driver) is kept and not used. A damaged line, and a file of another
// version, are told of and not used, and gone when the file is next written; a file that is something else is left
// alone. It is replaced whole (rename), by one process at a time (flock on path.lock) which reads it again first: the
// first choice stays, and ranks that share the file compute with the same algorithms. Without the file, or the lock,
// nothing is measured: the choice is the library's, so that results depend on no clock.
class GemmChoices {
  public:
    using Warn = std::function<void(const std::string&)>;

    // Reads the file if there is one. `machine`: one line without tabs. No trouble with the file throws: `warn` is
    // told.
    GemmChoices(std::string path, std::string machine, Warn warn);

    // The algorithm of a product: the file's if `usable` has nothing against it, else the fastest() of `measure`,
    // written down before it is returned. Nothing if there is none, no place to keep it, or `measure` throws an Error
    // for want of memory (78). Without `measure` only what is known counts.
    std::optional<GemmAlgorithm> choose(const std::string& product,
                                        const std::function<bool(const GemmAlgorithm&)>& usable,
                                        const std::function<std::vector<TimedAlgorithm>()>& measure);

    // How often `measure` was called.
    int searches() const { return searches_; }

  private:
    using Name = std::pair<std::string, std::string>;  // machine, product

    void read();
    void read_lines(const std::string& text);
    bool write();
    void warn_once(const std::string& message);

    std::string path_, machine_;
    Warn warn_;
    std::map<Name, TimedAlgorithm> known_;
    std::string last_warning_;
    bool foreign_ = false;  // the file is something else
    int searches_ = 0;
};

}  // namespace plimsoll
