#include "model/qk_source.h"

#include "kernels/embedding.h"
#include "kernels/memory.h"
#include "kernels/random.h"
#include "kernels/residual.h"

namespace plimsoll {

bool reads_source(const NetworkConfig& config, StageRange stage, QkSource source) {
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer)
        if (config.attention.qk_source_at(layer) == source) return true;
    return false;
}

QkSources::QkSources(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage, int64_t N,
                     Precision precision) {
    const Shape shape{N, config.model.channels};
    if (reads_source(config, stage, QkSource::kEmbedding)) {
        if (!stage.embedding)
            fail_input(
                "attention.qk_source = \"embedding\" in layers {} to {}, a stage of a pipeline that does not hold the "
                "embeddings; take parallel.stages = 1 and parallel.chunks = 1, or another attention.qk_source",
                stage.first_layer, stage.last_layer - 1);
        embedding_ = kept.add("embeddings for queries and keys", shape, precision.compute);
    }
    if (!reads_source(config, stage, QkSource::kPosition)) return;
    position_ = kept.add("positions for queries and keys", shape, precision.compute);
    if (precision.compute != precision.stream())
        gathered_ = shared.add("vectors of positions", shape, precision.stream());
}

Tensor QkSources::view(const Arena& kept, QkSource source, int64_t n) const {
    if (source == QkSource::kInput) return {};
    return kept[source == QkSource::kEmbedding ? embedding_ : position_].slice_rows(0, n);
}

void QkSources::forward(const Arena& kept, const Arena& shared, Tensor x, std::span<const int32_t> positions,
                        Tensor vectors, const Exec& exec) const {
    const auto n = static_cast<int64_t>(positions.size());
    if (embedding_) convert(view(kept, QkSource::kEmbedding, n), x, exec);
    if (!position_) return;
    const Tensor to = view(kept, QkSource::kPosition, n);
    const Tensor gathered = gathered_ ? shared[gathered_].slice_rows(0, n) : to;
    embedding_forward(gathered, positions, positions, vectors, {}, exec);
    if (gathered_) convert(to, gathered, exec);
}

void fill_position_vectors(Tensor vectors, const Exec& exec) {
    if (vectors.device != Device::kCpu) {
        const Memory memory = allocate_memory(Device::kCpu, vectors.bytes(), "vectors of positions");
        const Tensor host(memory.get(), vectors.dtype, vectors.shape);
        fill_position_vectors(host, exec);
        copy_tensor(vectors, host, exec);
        return;
    }
    const RandomStream stream(0, "position vectors");
    const auto fill = [&]<class T>(std::span<T> to) {
#pragma omp parallel for num_threads(exec.threads) if (to.size() > 10000)
        for (size_t i = 0; i < to.size(); ++i) to[i] = static_cast<T>(stream.normal(i));
    };
    if (vectors.dtype == DType::kF64)
        fill(vectors.span<double>());
    else
        fill(vectors.span<float>());
}

}  // namespace plimsoll
