#!/usr/bin/env python3
"""Breaks one line of mathematics at a time and requires that a test fails: a test that cannot fail is a defect.

    scripts/mutation_test.py                in a copy of the tree; prints mutation | caught by
    scripts/mutation_test.py --only rank    those whose name holds a word
    scripts/mutation_test.py --list         only names them
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What notices a wrong sum over ranks, or a message of the wrong place.
LAYOUTS = ("train_test", "*Layout*")

# name, file, text that stands there once, text that breaks it, test program, gtest filter
MUTATIONS = [
    ("RoPE's pairs not put together for llama", "train/export/tensor_map.cpp", ".stride = HS / 2", ".stride = 1", "train_test",
     "*GgufExport*"),
    ("every group's gates are the first's", "train/export/tensor_map.cpp", ".first = g * gates, .count = gates",
     ".first = 0, .count = gates", "train_test", "*HfTest*"),
    ("Conv1D not transposed", "train/export/hf_layout.cpp", "tensors.back().transposed = true;", "", "train_test", "*HfTest*"),
    ("f16 rounds ties up", "train/export/tensor_types.cpp", "0xfffu + ((magnitude >> 13) & 1u)", "0x1000u", "train_test", "*Half*"),
    ("GGUF sizes not compared with the file", "train/export/gguf_file.cpp", "value > left() / least", "false", "train_test",
     "*GgufFile*"),
    ("softmax backward without delta", "kernels/attention/row.h", "kIsNormalized<V> ? dp - delta : dp", "dp", "kernels_test", "*Attention*"),
    ("sigmoid backward without 1 - p", "kernels/attention/variants/sigmoid.h", "p * (T(1) - p) * dp", "p * dp", "kernels_test", "*Attention*"),
    ("sigmoid's pair with one reciprocal for both", "kernels/attention/variants/sigmoid.h", "first = r * y, second = r * x;",
     "first = r * y, second = r * y;", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: output not scaled when the maximum rises", "kernels/cuda/sm90/attention_forward.cuh",
     "out[i] *= rows.factor[i / 2 % 2];", ";", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: tiles that the window cuts taken for whole", "kernels/cuda/sm90/query_tile.cuh",
     "first_last > window ? first_last : window", "first_last", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: pinned keys before the window skipped", "kernels/cuda/sm90/query_tile.cuh",
     "mask.pinned > 0 ? first_last + mask.pinned : 0", "0", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: a last section of heads as wide as the others", "kernels/cuda/sm90/schedule.h",
     "section < left ? section : left, at", "section + 0 * left, at", "cuda_emulated_test", "*Attention90*"),
    ("sm_90: queries of the next piece not waited for", "kernels/cuda/sm90/attention_forward.cuh",
     "device::mbarrier_wait(&b.queries_empty, (item & 1) ^ 1);", "", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: no proxy fence before the output's store", "kernels/cuda/sm90/warpgroup.cuh",
     "device::fence_proxy_async();", "", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: dQ without the scale", "kernels/cuda/sm90/attention_dq.cuh",
     "dq[i] *= a.mask.scale;", ";", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: a stage of keys given back before dQ has them", "kernels/cuda/sm90/attention_dq.cuh",
     "if (adds) release(b.keys_empty[(n - 1) % kStages], lane);", "release(b.keys_empty[n % kStages], lane);",
     "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: a tile skipped behind the window too many", "kernels/cuda/sm90/query_tile.cuh",
     "n0 += (dense - n0) / kKeys * kKeys;", "n0 += ((dense - n0) / kKeys + 1) * kKeys;", "cuda_emulated_test",
     "*CudaAttention90*"),
    ("sm_90: dK of tiles that the end of a window cuts taken for whole", "kernels/cuda/sm90/attention_dkv.cuh",
     "|| m0 + kQueries > of.whole", "", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: pinned keys lose the queries behind their window", "kernels/cuda/sm90/attention_dkv.cuh",
     "a.mask.window > 0 && !(a.mask.pinned > 0 && n0 < document + a.mask.pinned)", "a.mask.window > 0",
     "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: a gate's factor left out of lse", "kernels/cuda/sm90/backward_rows.cuh",
     "row.state - logf(row.factor)", "row.state", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: delta not made greater where the gate is folded into lse", "kernels/cuda/sm90/backward_rows.cuh",
     "open ? row.delta / row.factor : 0.0f", "row.delta", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: rows of queries given back while other lanes read them", "kernels/cuda/sm90/attention_dkv.cuh",
     "__syncwarp();  // other", "// other", "cuda_emulated_test", "*CudaAttention90*"),
    ("sm_90: dK and dV of the first query head of a group only", "kernels/cuda/sm90/attention_dkv.cuh",
     "head < (w.key_head + 1) * a.group; ++head)\n                n = ", "head < w.key_head * a.group + 1; ++head)\n                n = ",
     "cuda_emulated_test", "*CudaAttention90*"),
    ("times within noise not taken for equal", "kernels/gemm_choices.cpp", "t.seconds <= kNoise * least", "t.seconds <= least",
     "kernels_test", "Fastest*"),
    ("damaged lines of algorithms believed", "kernels/gemm_choices.cpp", "if (sum && algorithm && timed &&",
     "if (sum && algorithm && timed ||", "kernels_test", "GemmChoices*"),
    ("other ranks' algorithms not read before a search", "kernels/gemm_choices.cpp", "    read();  // what others have written meanwhile",
     "", "kernels_test", "GemmChoices*"),
    ("a branch's gradient from the stream's before the norm", "kernels/cpu/norm.cpp", "store(dbranch[n * C + c], to[c]);",
     "store(dbranch[n * C + c], row[c]);", "kernels_test", "ResidualNorm*"),
    ("a gain's gradient without the normed row", "kernels/cuda/norm.cu", "dgain[k].at[i] += dout * xh;", "dgain[k].at[i] += dout;",
     "cuda_emulated_test", "*CudaNorm*LongRows*"),
    ("rows of the same block overwrite each other's sums", "kernels/cuda/norm.cu", "n0 += kRows, buffer ^= 1", "n0 += kRows",
     "cuda_emulated_test", "*CudaNorm*LongRows*"),
    ("a whole vocabulary's loss without the target's logit", "kernels/cuda/cross_entropy.cu", "(total.max - target_logit) + log_sum",
     "total.max + log_sum", "cuda_emulated_test", "*WholeVocabulary*"),
    ("RoPE's second half turned the other way", "kernels/cuda/rope.cu", "b.at[k] * r.x + a.at[k] * r.y", "b.at[k] * r.x - a.at[k] * r.y",
     "cuda_emulated_test", "*Rope*"),
    ("dq without the scale", "kernels/cpu/attention_backward.cpp", "products.dquery(i), HS, static_cast<R>(spec.scale)",
     "products.dquery(i), HS, R(1)", "kernels_test", "*Attention*"),
    ("AMX: dk without the scale", "kernels/cpu/amx/attention_products.h", "return scale_;", "return 1;",
     "kernels_test", "*Attention*InBf16*"),
    ("AMX: half of a tile's keys left out", "kernels/cpu/amx/attention_products.h", "int64_t{first} + int64_t{second}",
     "1", "kernels_test", "*Attention*InBf16*"),
    ("AMX: sums of an earlier tile dropped", "kernels/cpu/amx/attention_products.h", "begun_[c] = true;", ";",
     "kernels_test", "*Attention*InBf16*"),
    ("blocks of queries begin where tasks do", "kernels/cpu/attention_backward.cpp", "position % kQueries == 0 ||",
     "i == 0 ||", "kernels_test", "*OfAWholeDocument*"),
    ("only a group's first query head", "kernels/cpu/attention_backward.cpp", "head < (kv_head + 1) * group; ++head",
     "head < kv_head * group + 1; ++head", "kernels_test", "*Attention*"),
    ("gate's gradient without 1 - g", "kernels/gate_function.h", "return t * s * (R(1) - s);", "return t * s;",
     "kernels_test", "*Gate*"),
    ("a virtual key's score without its value's part", "kernels/cpu/extra_key.cpp", "ds += gw * with_grad(", "ds += 0 * with_grad(",
     "kernels_test", "ExtraKey*"),
    ("a virtual key that queries do not learn from", "model/parts/extra_key.cpp",
     "extra_key_backward_query(d.q, v.scratch[0], v.p[0], scale_, exec);", ";", "model_test", "*Gradients*bias*"),
    ("a stream's virtual key meets queries without rotation", "model/kv_cache.cpp",
     "rope_forward(queries, positions_, options_.frequencies, exec);", ";", "model_test", "*Streams*bias*"),
    ("biases of keys learn from the first query head of a group", "kernels/cpu/key_bias.cpp",
     "sum += db[h] * w.ptr<R>()[h * HS + c];", "sum += db[g * group] * w.ptr<R>()[h * HS + c];", "kernels_test", "KeyBias*"),
    ("a key's bias is not added in backward", "kernels/cpu/attention_backward.cpp",
     "key_bias.add_to(weights, first, here, queries.count);", "", "kernels_test", "*Attention*"),
    ("a key's bias has the gradient of its last tile of queries", "kernels/cpu/attention_tile.h",
     "of(row + j) += lane_sum<R>(queries,", "of(row + j) = lane_sum<R>(queries,", "kernels_test", "*Attention*"),
    ("values do not learn from the biases of their keys", "model/parts/key_bias.cpp",
     "key_bias_backward(d.v, v.d[0], v.scratch[0], before.v, v.p[0], write, exec);",
     "key_bias_backward(before.v, v.d[0], v.scratch[0], before.v, v.p[0], write, exec);", "model_test", "*Gradients*key_bias*"),
    ("cached keys have no biases", "kernels/cpu/attention_cached.cpp", "t.key_bias ? t.key_bias.ptr<R>()", "false ? t.key_bias.ptr<R>()",
     "model_test", "*ecod*key_bias*"),
    ("probes do not know biases of keys", "train/head_probe.cpp", "core.key_bias && j < n", "false && j < n", "train_test",
     "HeadWeights*:Interventions*"),
    ("CUDA: values learn from the bias of a group's first query head", "kernels/cuda/key_bias.cu",
     "sum += db[h] * w[h * dv.HS + c];", "sum += db[first] * w[h * dv.HS + c];", "cuda_emulated_test", "*KeyBias*"),
    ("CUDA: queries do not learn from keys with their biases", "kernels/cuda/attention_backward.cu",
     "a.key_bias.start_columns(p, here.row_of_key(n0), n1 - n0, head, lane);", "", "cuda_emulated_test", "Cases/CudaAttention.*"),
    ("CUDA: a key's bias has the gradient of its last tile of queries", "kernels/cuda/attention_backward.cu",
     "*at(key, head) += sum;", "*at(key, head) = sum;", "cuda_emulated_test", "Cases/CudaAttention.*"),
    ("sm_90: biases of keys are passed over", "kernels/cuda/sm90/launch.cuh",
     "spec.scale > 0 && !t.key_bias &&", "spec.scale > 0 &&", "cuda_emulated_test", "*Attention90*"),
    ("embeddings do not learn as queries and keys", "model/transformer.cpp",
     "residual_forward(stream_gradient(n, input.set), stream_gradient(n, input.set), d, exec);", "residual_forward(d, stream_gradient(n, input.set), d, exec);",
     "model_test", "*Gradients*embedding_qk*"),
    ("keys without a matrix send back the values' gradient", "model/qkv_map.cpp", "copy_rows(ds, keys(dqkv), exec);",
     "copy_rows(ds, values(dqkv), exec);", "model_test", "*Gradients*merged*"),
    ("a symmetric map learns from queries alone", "model/qkv_map.cpp", "of_source(dbias), keys(dqkv), s, Write::kAccumulate",
     "of_source(dbias), queries(dqkv), s, Write::kAccumulate", "model_test", "*Gradients*symmetric*"),
    ("elu + 1 with slope 1 below 0", "kernels/cpu/feature_map.cpp", "(value > 0 ? R(1) : below)", "R(1)", "kernels_test", "FeatureMap*"),
    ("a shared gate's gradient of the last head", "kernels/cpu/gate.cpp", "to[c] += Combination::dg(", "to[c] = Combination::dg(",
     "kernels_test", "*Gate*"),
    ("mixture's gradient without its mean", "kernels/cpu/gate.cpp", "(static_cast<R>(d[h]) - mean)", "static_cast<R>(d[h])",
     "kernels_test", "*HeadSoftmax*"),
    ("temperature's position from 0", "kernels/cpu/temperature.cpp", "std::log(static_cast<R>(positions[n]) + R(1))",
     "std::log(static_cast<R>(positions[n]) + R(2))", "kernels_test", "*Temperature*"),
    ("temperature's token gradient without its slope", "kernels/cpu/temperature.cpp", "d * (1 - tanh * tanh)", "d",
     "kernels_test", "*Temperature*"),
    ("what the norm behind attention read is not computed again", "model/parts/post_norm.cpp",
     "keeps_branch() const override { return true; }", "keeps_branch() const override { return false; }", "model_test",
     "*RecomputeWithout*"),
    ("the norm behind attention adds to what is there", "model/parts/post_norm.cpp", "fill_zero(sum, exec);", "",
     "model_test", "*Gradients*post_norm*"),
    ("lambda's gradient of the first map", "kernels/cpu/differential.cpp", "dlambda -= dz * static_cast<R>(second[c]);",
     "dlambda -= dz * static_cast<R>(first[c]);", "kernels_test", "Differential*"),
    ("weight gradient always overwritten", "kernels/cpu/matmul.cpp",
     "product(matrix(dweight), transposed(matrix(dout)), matrix(x), write,",
     "product(matrix(dweight), transposed(matrix(dout)), matrix(x), Write::kOverwrite,", "kernels_test", "*atmul*"),
    ("rope backward turns forward", "kernels/cpu/rope.cpp", "rotate<T>(dx, positions, frequencies, -1, exec.threads)",
     "rotate<T>(dx, positions, frequencies, 1, exec.threads)", "kernels_test", "*ope*"),
    ("norm backward without the mean of g xhat", "kernels/cpu/norm.cpp", "mean_g - xhat * mean_g_xhat)", "mean_g)",
     "kernels_test", "*Norm*"),
    ("QK-norm backward likewise", "kernels/cpu/qk_norm.cpp", "scale * (d * gains[c] - xhat * mean_g_xhat)", "scale * (d * gains[c])",
     "kernels_test", "*Norm*"),
    ("GELU's slope without its last term", "kernels/cpu/mlp.cpp", "return w + x * ((w - w * w) * (R(kRoot) + R(3 * kRoot * kCubic) * (x * x)));",
     "return w;", "kernels_test", "*ctivation*:*Mlp*:*elu*"),
    ("cross entropy gradient keeps the target", "kernels/cpu/cross_entropy.cpp", "* factor - static_cast<R>(scale) : R(0)",
     "* factor : R(0)", "kernels_test", "*ross*"),
    ("a repeated token's gradient overwritten", "kernels/cpu/embedding.cpp", "token[c] += grad[c]", "token[c] = grad[c]",
     "kernels_test", "*mbedding*"),
    ("AdamW without its second bias correction", "kernels/cpu/optimizer.cpp", "static_cast<R>(1 / std::sqrt(1 - std::pow(spec.beta2, step)))",
     "R(1)", "kernels_test", "*dam*:*ptimizer*"),
    ("block's residual gradient lost", "model/block.cpp", "    stream_backward(dx, dbranch,", "    fill_zero(dx, exec);\n    stream_backward(dx, dbranch,",
     "model_test", "*Gradients*"),
    ("gate's input gradient lost", "model/parts/gate.cpp",
     "matmul_backward_input(dinput, dz, v.p[0], Write::kAccumulate, exec);",
     ";", "model_test", "*Gradients*"),
    ("decorrelation keeps the length's part", "kernels/cpu/decorrelation.cpp", "of_first * first[c] + of_row * row[c]",
     "of_first * first[c]", "kernels_test", "*Decorrelation*"),
    ("the first layer's stream is not decorrelated", "model/transformer.cpp", "if (of_inputs(part)) decorrelate(",
     "if (of_inputs(part) && layer) decorrelate(", "golden_test", "*bos_decorrelation*"),
    ("values do not learn from their gates", "model/parts/gate.cpp",
     "map_backward(v, flat(d.v), flat(before.v), write, BackwardPart::kAll, exec);",
     "map_backward(v, flat(d.v), flat(before.v), write, BackwardPart::kWeights, exec);", "model_test", "*Gradients*of_values*"),
    ("QK-norm gain gradient swapped", "model/block.cpp", "qk_norm_backward(dk, d_.k_norm_gain", "qk_norm_backward(dk, d_.q_norm_gain",
     "model_test", "*Gradients*"),
    ("tied table overwritten", "model/transformer.cpp", "if (write == Write::kOverwrite && !holds_head) fill_zero(dtoken, exec);",
     "fill_zero(dtoken, exec);", "golden_test", "*Fp64*"),
    ("z-loss gradient lost", "model/lm_head.cpp", "t.state, targets, scale, z_loss_, exec)", "t.state, targets, scale, 0.0, exec)", "golden_test", "*Fp64*"),
    ("only the last chunk of the vocabulary", "model/lm_head.cpp", "v0 ? Write::kAccumulate : Write::kOverwrite",
     "Write::kOverwrite", "model_test", "*Chunks*"),
    ("BPE merges from the left, whatever the rank", "data/bpe.cpp", "rank != other.rank ? rank > other.rank : place > other.place",
     "place > other.place", "data_test", "Bpe*"),
    ("BPE merges equal ranks from the right", "data/bpe.cpp", ": place > other.place", ": place < other.place", "data_test", "Bpe*"),
    ("BPE takes a merge whose right symbol is gone", "data/bpe.cpp", "if (right.id != candidate.right) continue;", "",
     "data_test", "Bpe*"),
    ("BPE: spaces keep their last one", "data/pretokenizer.cpp", "last == begin ? end : last", "last == begin ? end : end",
     "data_test", "Bpe*"),
    ("BPE: a long s is no s", "data/pretokenizer.cpp", "any_case && text.substr(begin + 1)", "false && text.substr(begin + 1)",
     "data_test", "Pretokenizer*"),
    ("two tokenizers in one data set", "data/shard_tokenizer.cpp", "if (a != b) {", "if (false) {", "data_test", "ShardTokenizer*"),
    ("tied head's norm never reported", "model/transformer.cpp", "if (of_weights(part)) on_ready(config_.model.layers);",
     "if (of_weights && !config_.model.tied) on_ready(config_.model.layers);", "model_test", "*Reported*"),
    ("a cached window one key too long", "kernels/attention/mask.h", "i < near ? 0 : i - near + 1;",
     "i < near ? 0 : i - near;", "kernels_test", "*Cached*"),
    ("cached keys' distance by rows", "kernels/cpu/attention_cached.cpp", "query.position - (run.position + j)",
     "query.position - (run.row + j)", "kernels_test", "*Cached*"),
    ("a stream's query at its true position", "model/kv_cache.cpp", "std::min(token, cache.size())", "token", "model_test",
     "*Decoder*"),
    ("a stream forgets one token too many", "model/kv_cache.cpp", "token - cache.recent)", "token - cache.recent + 1)",
     "model_test", "*Decoder*"),
    ("a prompt without its heads' gates", "model/kv_cache.cpp", "if (call.t.gate) head", "if (false) head", "model_test",
     "*Decoder*"),
    ("a nucleus one id too small", "train/sampler.cpp", "if (sum >= options_.top_p * total) return sorted + 1;",
     "if (sum >= options_.top_p * total) return sorted;", "train_test", "Sampler*"),
    ("every token drawn by one number", "train/generate.cpp", "stream.uniform(static_cast<uint64_t>(n))", "stream.uniform(0)",
     "train_test", "Generate*"),
    ("a rank's contribution dropped", "dist/communicator.cpp", "rank_sum(sum, parts, me, exec);",
     "std::memset(others.get(), 0, static_cast<size_t>(sum.bytes())); rank_sum(sum, parts, me, exec);", *LAYOUTS),
    ("a rank's own part added first", "kernels/cpu/rank_sum.cpp", "return r == rank ? own : others + (r < rank ? r : r - 1) * stride;",
     "return r == 0 ? own : others + (r - 1) * stride;", *LAYOUTS),
    ("TCP: a group has the number of the one it was split from", "dist/tcp_transport.cpp",
     "mixed(number + 1 + static_cast<uint32_t>(color))", "group_", "dist_test", "TcpMessages.OfGroups*"),
    ("TCP: what is left of an abandoned message is not kept", "dist/tcp_mesh.cpp",
     "message.own.assign(message.payload.begin(), message.payload.end());",
     "message.own.assign(message.payload.size(), std::byte{0});", "dist_test", "TcpMessages.GivenUp*"),
    ("TCP: who has ended is waited for", "dist/tcp_mesh_connections.cpp", "if (place.second != rank) continue;", "continue;",
     "dist_test", "TcpEnd.OfOneRank*"),
    ("a batch script taken for a task of srun", "train/launch.cpp", 'std::getenv("SLURM_STEP_ID") ?',
     'std::getenv("SLURM_JOB_ID") ?', "train_test", "LaunchedRanks*"),
    ("two ranks of one GPU pass", "train/rank_table.cpp", "who.size() < 2", "who.size() < 3", "train_test", "SharedDevices*"),
    ("two gathered shards swapped", "dist/communicator.cpp", "    return start(CommKind::kAllGather,",
     "    if (receives.size() > 1 && receives[0].bytes.size() == receives[1].bytes.size())\n"
     "        std::swap(receives[0].bytes, receives[1].bytes);\n    return start(CommKind::kAllGather,", *LAYOUTS),
    ("a shard begins one element late", "dist/shard_layout.cpp", "out.push_back({at(p), at(p + 1)});",
     "out.push_back({std::min(at(p) + (p > 0), at(p + 1)), at(p + 1)});", *LAYOUTS),
    ("updated parameters not gathered", "train/replica.cpp",
     "chunk->sync->gather({chunk->model.parameters(), chunk->model.working()});", ";", *LAYOUTS),
    ("a tied table's two gradients not added", "train/replica.cpp",
     "residual_forward(as_row(own), as_row(first ? own : other), as_row(first ? other : own), exec);", ";", *LAYOUTS),
    ("a tied table's copy counts in the norm", "train/network_chunk.cpp", "if (!holds_copy()) continue;",
     "continue;", *LAYOUTS),
    ("a pipeline's micro batches in another order", "train/pipeline_work.cpp", "first_sample_ + (micro_batch * lanes_ + lane) * rows_",
     "first_sample_ + ((count_ - 1 - micro_batch) * lanes_ + lane) * rows_", *LAYOUTS),
    ("micro batches in another order without one", "train/replica.cpp", "feeds_[l]->next(first_sample + (first + m * lanes_ + lane) * rows, rows)",
     "feeds_[l]->next(first_sample + (first + (micro_batches_ - 1 - m) * lanes_ + lane) * rows, rows)", *LAYOUTS),
    ("gradients leave after the first micro batch", "train/pipeline_work.cpp", "micro_batch == count_ - 1", "micro_batch == 0",
     *LAYOUTS),
    ("the gradient of another micro batch sent", "dist/pipeline/executor.cpp",
     "backward_.send(work.stream_gradient(chunk, set, part), peer)",
     "backward_.send(work.stream_gradient(chunk, set > 0 ? set - 1 : set, part), peer)", *LAYOUTS),
    ("the activations of another micro batch sent", "dist/pipeline/executor.cpp",
     "forward_.send(work.stream_out(chunk, set, part), peer)",
     "forward_.send(work.stream_out(chunk, set > 0 ? set - 1 : set, part), peer)", *LAYOUTS),
    ("a process alone asks the others", "dist/communicator.cpp", "if (size() == 1) return;\n    const std::vector<std::byte> all",
     "const std::vector<std::byte> all", "train_test", "StepCost*"),
    ("a process alone copies its gradients", "train/replica.cpp", "        chunk->optimizer.step(",
     "        convert(as_row(chunk->model.gradients()), as_row(chunk->model.gradients()), exec);\n"
     "        chunk->optimizer.step(", "train_test", "StepCost*"),
    ("another RoPE base in forward", "model/block.cpp", "rope_forward(unrotated(parts_.size()), positions, model_.rope_theta, exec)",
     "rope_forward(unrotated(parts_.size()), positions, 2 * model_.rope_theta, exec)", "golden_test", "*Fp64*"),
    ("a cut document restarts its positions", "dist/simulator/step_documents.h", "return causal_pairs(end) - causal_pairs(begin);",
     "return causal_pairs(end - begin);", "cad_test", "Simulator*"),
    ("ping-pong hides nothing", "dist/simulator/cad_step.cpp", "std::max(first.attention + first.copies / 2, last.out)",
     "(first.attention + first.copies / 2 + last.out)", "cad_test", "Simulator*"),
    ("what a relay sends on counts as the first hop", "dist/cad/key_pieces.h", "f(relayed ? CaHop::kOutAgain : CaHop::kOut,",
     "f(CaHop::kOut,", "cad_test", "Simulator*"),
    ("gathered keys cost no memory", "dist/simulator/policies.cpp",
     "work.kept = static_cast<double>(others) * costs_.memory.key_block;", "work.kept = 0;", "cad_test", "Simulator*"),
    ("CAD: the home's own part of keys' gradients is left out", "dist/cad/disaggregated_attention.cpp",
     "residual_forward(own, own, first, exec);", "copy_tensor(own, first, exec);", "cad_test", "Disaggregated*"),
    ("CAD: a relay adds one part twice", "dist/cad/disaggregated_attention.cpp", "part(sum.first_part + 1)",
     "part(sum.first_part)", "cad_test", "Disaggregated*"),
    ("CAD: tasks one position too far", "dist/cad/round.cpp", "tasks.tasks.push_back({row, count, task.begin,",
     "tasks.tasks.push_back({row, count, task.begin + (count < 128 && task.begin > 0 ? -1 : 0),", "cad_test", "Disaggregated*"),
    ("CAD: one process adds servers in another order", "dist/cad/round.cpp", "std::ranges::sort(result.servers, {}, &CaHomeRound::Server::rank);",
     "std::ranges::sort(result.servers, std::greater{}, &CaHomeRound::Server::rank);", "train_test", "*CadLayout*"),
    ("CAD: lanes share their scratch", "model/transformer.h", "scratch_[static_cast<size_t>(set % options_.lanes)]",
     "scratch_[0 * static_cast<size_t>(set)]", "model_test", "*Turns*"),
    ("CAD: repair swaps nothing and gives up", "dist/cad/repair.cpp", "if (!move_cheapest(from) && !swap_cheapest(from)) break;",
     "break;", "cad_test", "CadRandomPlans*"),
    ("CAD: a query does not see itself", "dist/cad/pairs.h", "return n * (n + 1) / 2;", "return n * (n - 1) / 2;", "cad_test", "CadPairs*"),
    ("CAD: keys of the window's far end forgotten", "dist/cad/pairs.cpp", "begin - options.window + 1)",
     "begin - options.window + 1 + options.block)", "cad_test", "CadPairs*"),
    ("CAD: keys sent to their owner", "dist/cad/key_pieces.cpp", "if (is_home(need) || part.begin >= part.end) continue;",
     "if (part.begin >= part.end) continue;", "cad_test", "CadKeyPieces*"),
    ("CAD: bytes of a relay counted at the owner", "dist/cad/key_pieces.h", "const int source = relayed ? piece.relay : owner;",
     "const int source = owner;", "cad_test", "CadKeyPieces*"),
    ("CAD: a relay for two servers", "dist/cad/key_pieces.cpp", "int64_t kRelayed = 3;", "int64_t kRelayed = 2;", "cad_test",
     "CadKeyPieces*"),
    ("CAD: lost rows pass for a plan", "dist/cad/validate.cpp", " || task.begin != next)", ")", "cad_test", "CadValidate*"),
    ("the other weights not divided again", "train/interventions.cpp", "(j == 0 ? gamma : 1) / by - 1", "(j == 0 ? gamma : 1) - 1",
     "train_test", "Interventions*"),
    ("an extra column forgotten in the new sum", "train/interventions.cpp",
     "if (spec.extra_column != ExtraColumn::kNone) rest", "if (false) rest", "train_test", "Interventions*"),
    ("an intervention made in every layer", "train/interventions.cpp", "(one.layer < 0 || one.layer == layer) && (one.head",
     "(one.head", "train_test", "Interventions*"),
    ("what is behind core attention stays of a head", "train/interventions.cpp",
     "if (one && one->kind == InterventionKind::kZero)", "if (false)", "train_test", "Interventions*"),
    ("the identity leaves a column its weight", "train/interventions.cpp", "begin + i, kAlone)", "begin + i, 0)", "train_test",
     "Interventions*"),
    ("a learned column keeps its share", "train/interventions.cpp", "element(t.lse, at) + std::log(by)", "element(t.lse, at)",
     "train_test", "Interventions*"),
    ("score maps counted as core attention counts them", "train/interventions.cpp", "at / group / halves * group", "at / group * group",
     "train_test", "Interventions*"),
    ("the identity ignores the gate", "train/interventions.cpp", "identity ? g * element", "identity ? element", "train_test",
     "Interventions*"),
    ("a scaled weight ignores the gate", "train/interventions.cpp", "old + g * change", "old + change", "train_test",
     "Interventions*"),
    ("the bias of a branch stays", "train/interventions.cpp", '{"weight", "bias"}', '{"weight"}', "train_test", "Interventions*"),
    ("the MLP goes with the attention", "train/interventions.cpp",
     "(attention ? InterventionKind::kZeroMlp : InterventionKind::kZeroAttention)) continue;", "InterventionKind::kZeroMlp) continue;",
     "train_test", "Interventions*"),
    ("branches come back in the order they went", "train/interventions.cpp",
     "auto saved = saved_.rbegin(); saved != saved_.rend()", "auto saved = saved_.begin(); saved != saved_.end()", "train_test",
     "Interventions*"),
    ("a column's mean over queries that cannot see it", "train/head_analysis.cpp", "/= static_cast<double>(seen[j]);",
     "/= static_cast<double>(n - static_cast<int64_t>(j));", "train_test", "HeadAnalysis*"),
    ("half of the weight on the smallest receivers", "train/head_analysis.cpp", "std::greater<>()", "std::less<>()", "train_test",
     "HeadAnalysis*"),
    ("induction one token late", "train/head_analysis.cpp", "weights.weight(i, i - n + 1)", "weights.weight(i, i - n + 2)", "train_test",
     "HeadAnalysis*"),
    ("a repeated sequence holds the first token", "train/head_analysis.cpp", "if (ids[i] != first) copy", "copy", "train_test",
     "HeadAnalysis*"),
    ("attributions ignore the gate", "train/head_analysis.cpp", "weights.weight(i, j) * g * dot", "weights.weight(i, j) * dot",
     "train_test", "HeadAnalysis*"),
    ("the first query's attribution for the first key's", "train/head_analysis.cpp", "if (j == 0) result.first", "if (i == 0) result.first",
     "train_test", "HeadAnalysis*"),
    ("a cosine without the first token's norm", "train/stream_probe.cpp", "dot / (first_norm * std::sqrt(square) + kTiny)",
     "dot / (square + kTiny)", "train_test", "StreamProbe*"),
]


def applicable(root):
    """The mutations whose text stands in its file exactly once."""
    for name, file, before, after, program, tests in MUTATIONS:
        text = (root / file).read_text()
        if text.count(before) != 1:
            sys.exit(f"mutation_test: '{name}': {file} holds its text {text.count(before)} times, wanted once; update MUTATIONS")
        yield name, file, before, after, program, tests


def left_out(folder, names):
    """What a copy of the tree does without: what was built, and what runs left."""
    top = Path(folder) == ROOT
    return [name for name in names if name == "__pycache__" or (top and (name.startswith("build") or name in ("runs", ".git")))]


def build(tree, programs):
    done = subprocess.run(["cmake", "--build", "build", "--target", *programs], cwd=tree, capture_output=True, text=True)
    return done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def first_failure(tree, program, tests):
    """Name of the first test that fails, or None."""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    done = subprocess.run([tree / "build" / program, f"--gtest_filter={tests}", "--gtest_fail_fast"], capture_output=True,
                          text=True, env=environment)
    found = re.search(r"\[  FAILED  \] (\S+?),? ", done.stdout + " ")
    return found.group(1) if found else (f"exit status {done.returncode}" if done.returncode else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="only mutations whose name it finds")
    parser.add_argument("--list", action="store_true", help="name the mutations, run nothing")
    arguments = parser.parse_args()
    mutations = [mutation for mutation in applicable(ROOT) if re.search(arguments.only, mutation[0])]
    if not mutations:
        sys.exit(f"mutation_test: no mutation's name holds '{arguments.only}'")
    if arguments.list:
        print("\n".join(name for name, *_ in mutations))
        return 0
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "plimsoll"
        shutil.copytree(ROOT, tree, ignore=left_out)
        programs = sorted({mutation[4] for mutation in mutations})
        subprocess.run(["cmake", "-S", ".", "-B", "build", "-G", "Ninja"], cwd=tree, check=True, capture_output=True)
        good, output = build(tree, programs)
        if not good:
            sys.exit(f"mutation_test: the unbroken tree does not build:\n{output}")
        # A test that fails anyway would catch every mutation.
        for program, tests in sorted({(mutation[4], mutation[5]) for mutation in mutations}):
            failure = first_failure(tree, program, tests)
            if failure:
                sys.exit(f"mutation_test: {program} --gtest_filter={tests} fails in the unbroken tree: {failure}")
        print("| mutation | caught by |\n|---|---|", flush=True)
        for name, file, before, after, program, tests in mutations:
            path = tree / file
            kept = path.read_text()
            path.write_text(kept.replace(before, after))
            good, output = build(tree, [program])
            caught = first_failure(tree, program, tests) if good else f"does not build: {output[-200:]}"
            path.write_text(kept)
            survivors += caught is None or not good
            print(f"| {name} | {caught or '**nothing**'} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
