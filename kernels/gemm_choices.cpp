#include "kernels/gemm_choices.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "kernels/error.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTitle = "plimsoll gemm algorithms ", kVersion = "1";
constexpr uintmax_t kMostBytes = 16 << 20;
constexpr double kNoise = 1.01;  // times this near to each other are equal
constexpr double kHopeless = 2;  // times the best so far: not worth timing
constexpr double kSeriesSeconds = 2e-3;
constexpr int kMostCalls = 20, kSeries = 2;
constexpr int kDigits = 16;  // of 64 bits

uint64_t fnv1a(std::string_view text) {
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return hash;
}

std::string hexadecimal(const GemmAlgorithm& algorithm) {
    std::string text;
    for (const uint64_t word : algorithm.words) text += fmt::format("{:016x}", word);
    return text;
}

std::optional<uint64_t> read_word(std::string_view text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (text.size() != kDigits || error != std::errc() || end != text.data() + text.size()) return {};
    return value;
}

std::optional<GemmAlgorithm> read_algorithm(std::string_view text) {
    GemmAlgorithm algorithm;
    if (text.size() != algorithm.words.size() * kDigits) return {};
    for (size_t i = 0; i < algorithm.words.size(); ++i) {
        const auto word = read_word(text.substr(i * kDigits, kDigits));
        if (!word) return {};
        algorithm.words[i] = *word;
    }
    return algorithm;
}

std::vector<std::string_view> split(std::string_view line) {
    std::vector<std::string_view> fields;
    for (size_t at = 0; at <= line.size();) {
        const size_t end = std::min(line.find('\t', at), line.size());
        fields.push_back(line.substr(at, end - at));
        at = end + 1;
    }
    return fields;
}

std::string line_of(const std::string& machine, const std::string& product, const TimedAlgorithm& choice) {
    const std::string text =
        fmt::format("{}\t{}\t{}\t{:.3f}", machine, product, hexadecimal(choice.algorithm), 1e6 * choice.seconds);
    return fmt::format("{}\t{:016x}\n", text, fnv1a(text));
}

// Holds path.lock for its life; nobody else who asks gets it meanwhile, in this process or another.
class Lock {
  public:
    explicit Lock(const std::string& path) : fd_(::open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
        if (fd_ < 0) {
            why_ = std::strerror(errno);
            return;
        }
        // Another rank measures for seconds at most. One that hangs must not hang this one.
        const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(2);
        while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
            if (errno != EWOULDBLOCK && errno != EINTR) why_ = std::strerror(errno);
            if (std::chrono::steady_clock::now() > patience) why_ = "another process has held it for two minutes";
            if (!why_.empty()) return;
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
    ~Lock() {
        if (fd_ >= 0) ::close(fd_);
    }
    Lock(const Lock&) = delete;
    // Empty if it is held.
    const std::string& why_not() const { return why_; }

  private:
    int fd_;
    std::string why_;
};

}  // namespace

std::string GemmProblem::text() const {
    return fmt::format("{}x{}x{},{}{},{}-{},{}.{}.{}.{},{},{}{}", rows, columns, inner, a_turned ? 't' : 'n',
                       b_turned ? 't' : 'n', name_of(operands), name_of(result), a_leading, b_leading, c_leading,
                       before_leading, accumulate ? "add" : "set", epilogue, bias ? "+bias" : "");
}

std::vector<TimedAlgorithm> time_candidates(std::span<const GemmAlgorithm> candidates,
                                            const std::function<std::optional<double>(size_t, int)>& seconds) {
    std::vector<TimedAlgorithm> timed;
    double best = INFINITY;
    for (size_t i = 0; i < candidates.size(); ++i) {
        if (!seconds(i, 1)) continue;
        const std::optional<double> one = seconds(i, 1);
        if (!one || *one > kHopeless * best) continue;
        const int calls = std::clamp(static_cast<int>(std::ceil(kSeriesSeconds / std::max(*one, 1e-7))), 1, kMostCalls);
        double least = *one;
        for (int series = 0; series < kSeries; ++series) least = std::min(least, seconds(i, calls).value_or(INFINITY));
        timed.push_back({candidates[i], least});
        if (least > 0) best = std::min(best, least);
    }
    return timed;
}

std::optional<TimedAlgorithm> fastest(std::span<const TimedAlgorithm> timed) {
    const auto counts = [](const TimedAlgorithm& t) { return std::isfinite(t.seconds) && t.seconds > 0; };
    double least = INFINITY;
    for (const TimedAlgorithm& t : timed)
        if (counts(t)) least = std::min(least, t.seconds);
    for (const TimedAlgorithm& t : timed)
        if (counts(t) && t.seconds <= kNoise * least) return t;
    return {};
}

GemmChoices::GemmChoices(std::string path, std::string machine, Warn warn)
    : path_(std::move(path)), machine_(std::move(machine)), warn_(std::move(warn)) {
    std::ranges::replace_if(
        machine_, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
    read();
}

void GemmChoices::warn_once(const std::string& message) {
    if (message == last_warning_) return;
    last_warning_ = message;
    if (warn_) warn_(message);
}

void GemmChoices::read() {
    std::error_code error;
    if (!fs::exists(path_, error) && !error) return;
    const uintmax_t bytes = fs::is_regular_file(path_, error) ? fs::file_size(path_, error) : kMostBytes + 1;
    std::ifstream file(path_, std::ios::binary);
    if (error || bytes > kMostBytes || !file) {
        foreign_ = true;
        return warn_once(fmt::format("run.gemm_cache '{}': {}; products are computed by the library's first choice",
                                     path_,
                                     error                ? error.message()
                                     : bytes > kMostBytes ? "no file of algorithms, it is too large or a folder"
                                                          : "it cannot be read"));
    }
    std::ostringstream text;
    text << file.rdbuf();
    read_lines(text.str());
}

void GemmChoices::read_lines(const std::string& text) {
    if (text.empty()) return;
    const std::string title = text.substr(0, text.find('\n'));
    foreign_ = !title.starts_with(kTitle);
    if (foreign_)
        return warn_once(
            fmt::format("run.gemm_cache '{}' begins with '{}', wanted '{}{}': not a file of algorithms, it is left "
                        "alone, and products are computed by the library's first choice",
                        path_, brief(title), kTitle, kVersion));
    if (title.substr(kTitle.size()) != kVersion)
        return warn_once(
            fmt::format("run.gemm_cache '{}' is of version '{}', wanted {}: its algorithms are measured again", path_,
                        brief(title.substr(kTitle.size())), kVersion));
    int damaged = 0, first_damaged = 0, number = 1;
    for (size_t at = title.size() + 1; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string_view line(text.data() + at, end - at);
        at = end + 1;
        ++number;
        const std::vector<std::string_view> fields = split(line);
        const bool whole = fields.size() == 5 && !fields[0].empty() && !fields[1].empty();
        const auto sum = whole ? read_word(fields[4]) : std::nullopt;
        const auto algorithm = whole ? read_algorithm(fields[2]) : std::nullopt;
        double microseconds = 0;
        const bool timed =
            whole &&
            std::from_chars(fields[3].data(), fields[3].data() + fields[3].size(), microseconds).ec == std::errc();
        if (sum && algorithm && timed && *sum == fnv1a(line.substr(0, line.size() - kDigits - 1)))
            known_.emplace(Name(fields[0], fields[1]), TimedAlgorithm{*algorithm, 1e-6 * microseconds});
        else if (++damaged == 1)
            first_damaged = number;
    }
    if (damaged)
        warn_once(fmt::format(
            "run.gemm_cache '{}': {} damaged line{}, the first is line {}; what they held is measured again", path_,
            damaged, damaged == 1 ? "" : "s", first_damaged));
}

bool GemmChoices::write() {
    const std::string temporary = path_ + ".temporary";
    {
        std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
        file << kTitle << kVersion << '\n';
        for (const auto& [name, choice] : known_) file << line_of(name.first, name.second, choice);
        file.flush();
        if (!file) return false;
    }
    std::error_code error;
    fs::rename(temporary, path_, error);
    return !error;
}

std::optional<GemmAlgorithm> GemmChoices::choose(const std::string& product,
                                                 const std::function<bool(const GemmAlgorithm&)>& usable,
                                                 const std::function<std::vector<TimedAlgorithm>()>& measure) {
    const Name name(machine_, product);
    const auto find = [&]() -> std::optional<GemmAlgorithm> {
        const auto known = known_.find(name);
        if (known == known_.end()) return {};
        if (usable(known->second.algorithm)) return known->second.algorithm;
        warn_once(fmt::format("run.gemm_cache '{}': the library refuses its algorithm for {}; it is measured again",
                              path_, product));
        known_.erase(known);
        return {};
    };
    if (const auto algorithm = find()) return algorithm;
    if (!measure || foreign_) return {};
    const Lock lock(path_);
    if (!lock.why_not().empty()) {
        warn_once(
            fmt::format("run.gemm_cache '{0}': {0}.lock: {1}; products are computed by the library's first choice",
                        path_, lock.why_not()));
        return {};
    }
    known_.clear();
    read();  // what others have written meanwhile
    if (foreign_) return {};
    if (const auto algorithm = find()) return algorithm;
    ++searches_;
    std::optional<TimedAlgorithm> best;
    try {
        best = fastest(measure());
    } catch (const Error& error) {
        if (error.code() != ExitCode::kBadInput) throw;
        warn_once(fmt::format("{}: {}; it is computed by the library's first choice", product, error.what()));
    }
    if (!best) return {};
    known_.insert_or_assign(name, *best);
    if (write()) return best->algorithm;
    known_.erase(name);
    warn_once(
        fmt::format("run.gemm_cache '{}' cannot be written ({}); products are computed by the library's first choice",
                    path_, std::strerror(errno)));
    return {};
}

}  // namespace plimsoll
