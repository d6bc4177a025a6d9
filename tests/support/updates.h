// Updates of whole tensors by a spec, once: a table of one span, on any device, and then the op that reads it.
#pragma once

#include "kernels/muon.h"
#include "kernels/orthoadam.h"
#include "kernels/update_table.h"

namespace plimsoll {

// Calls op(table) when the factors lie where it runs, and waits for it.
template <class Op>
void update_once(int64_t count, const UpdateFactors& factors, const Exec& exec, Op&& op) {
    UpdateTable table({{.count = count, .factors = factors}});
    const Shape shape = table.shape();
    const Memory memory = allocate_memory(exec.device, shape.elements() * size_of(DType::kI32), "updates");
    table.place(Tensor(memory.get(), DType::kI32, shape, exec.device));
    table.upload(exec);
    op(table);
    wait_for(exec);
}

inline void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const AdamWSpec& spec,
                       const Exec& exec) {
    update_once(param.elements(), factors_of(spec), exec,
                [&](const UpdateTable& table) { adamw_step(param, m, v, grad, working, table.spans(0, 1), exec); });
}

inline void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec) {
    update_once(param.elements(), factors_of(spec), exec,
                [&](const UpdateTable& table) { sgd_step(param, buffer, grad, working, table.spans(0, 1), exec); });
}

inline void muon_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const MuonScratch& scratch,
                      const MuonSpec& spec, const Exec& exec) {
    update_once(param.elements(), factors_of(spec, param.shape), exec, [&](const UpdateTable& table) {
        muon_step(param, buffer, grad, working, scratch, table.factors_on_device(0), exec);
    });
}

inline void orthoadam_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, Tensor scratch,
                           const MatrixBasis& basis, const AdamWSpec& spec, const Exec& exec) {
    update_once(param.elements(), factors_of(spec), exec, [&](const UpdateTable& table) {
        orthoadam_step(param, m, v, grad, working, scratch, basis, table.factors_on_device(0), exec);
    });
}

}  // namespace plimsoll
