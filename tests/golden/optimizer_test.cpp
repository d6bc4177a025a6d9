// Muon and OrthoAdam against PyTorch's optimizers, step by step.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/muon.h"
#include "kernels/orthoadam.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"
#include "support/updates.h"

namespace plimsoll {
namespace {

const std::string kFolder = PLIMSOLL_SOURCE_DIR "/tests/golden/optimizer";

struct Steps {
    nlohmann::json header = nlohmann::json::parse(std::ifstream(kFolder + "/steps.json"));
    double hyper(const char* key) const { return header.at("hyper").at(key); }

    std::vector<double> tensor(const nlohmann::json& offset, const Shape& shape) const {
        std::vector<double> values(static_cast<size_t>(shape.elements()));
        std::ifstream bin(kFolder + "/steps.bin", std::ios::binary);
        bin.seekg(static_cast<std::streamoff>(offset.get<int64_t>() * 8));
        bin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * 8));
        EXPECT_TRUE(bin.good()) << "steps.bin ends at " << offset;
        return values;
    }
    // Calls step(param, grad, shape, name, number) for each gradient of each matrix, and compares with `key`.
    template <class T, class Make>
    void expect_followed(const char* key, double roundings, Make&& make) const {
        for (const nlohmann::json& c : header.at("cases")) {
            const Shape shape{c.at("shape")[0].get<int64_t>(), c.at("shape")[1].get<int64_t>()};
            const auto rounded = [&](const nlohmann::json& offset) {
                const std::vector<double> values = tensor(offset, shape);
                return std::vector<T>(values.begin(), values.end());
            };
            std::vector<T> param = rounded(c.at("start")[0]);
            auto step = make(shape, c.at("name").get<std::string>());
            for (size_t t = 0; t < c.at("gradients").size(); ++t) {
                std::vector<T> grad = rounded(c.at("gradients")[t]);
                step(view(param, shape), view(grad, shape), static_cast<int64_t>(t + 1));
                SCOPED_TRACE(fmt::format("{}, step {}", c.at("name").get<std::string>(), t + 1));
                expect_close(param, tensor(c.at(key)[t], shape), roundings, key);
            }
        }
    }
};

template <class T>
class GoldenOptimizer : public testing::Test {};
TYPED_TEST_SUITE(GoldenOptimizer, WideFloats);

// Newton-Schulz multiplies what is small, roundings too, by up to 485, and the rate by 0.02 and 0.8 at most.
TYPED_TEST(GoldenOptimizer, MuonFollowsPyTorch) {
    using T = TypeParam;
    const Steps steps;
    for (const auto& [key, scale] :
         {std::pair{"muon_rms", MuonSpec::Scale::kRms}, {"muon_spectral", MuonSpec::Scale::kSpectral}})
        steps.expect_followed<T>(key, 60, [&](Shape shape, const std::string&) {
            const int64_t count = shape.elements();
            const auto zeros = [&] { return std::vector<T>(static_cast<size_t>(count)); };
            return [=, &steps, buffer = zeros(), a = zeros(), b = zeros(), c = zeros(), d = zeros()](
                       Tensor param, Tensor grad, int64_t) mutable {
                muon_step(param, view(buffer, shape), grad, {},
                          {view(a, {count}), view(b, {count}), view(c, {count}), view(d, {count})},
                          {.lr = steps.hyper("lr"),
                           .momentum = steps.hyper("momentum"),
                           .weight_decay = steps.hyper("weight_decay"),
                           .scale = scale},
                          {});
            };
        });
}

TYPED_TEST(GoldenOptimizer, OrthoAdamIsPyTorchsAdamWInTheRotatedNetwork) {
    using T = TypeParam;
    const Steps steps;
    const auto seed = steps.header.at("seed").get<uint64_t>();
    steps.expect_followed<T>("orthoadam", 60, [&](Shape shape, const std::string& name) {
        const auto zeros = [&] { return std::vector<T>(static_cast<size_t>(shape.elements())); };
        const MatrixBasis basis{Rotation{RandomStream(seed, "orthoadam", name + " rows")},
                                Rotation{RandomStream(seed, "orthoadam", name + " columns")}};
        return [=, &steps, m = zeros(), v = zeros(), scratch = zeros()](Tensor param, Tensor grad,
                                                                        int64_t number) mutable {
            orthoadam_step(param, view(m, shape), view(v, shape), grad, {}, view(scratch, {shape.elements()}), basis,
                           {.lr = steps.hyper("lr"),
                            .beta1 = steps.hyper("beta1"),
                            .beta2 = steps.hyper("beta2"),
                            .eps = steps.hyper("eps"),
                            .weight_decay = steps.hyper("weight_decay"),
                            .step = number},
                           {});
        };
    });
}

}  // namespace
}  // namespace plimsoll
