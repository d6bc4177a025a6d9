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
    ("softmax backward without delta", "kernels/attention/variants/softmax.h", "p * (dp - delta)", "p * dp", "kernels_test", "*Attention*"),
    ("sigmoid backward without 1 - p", "kernels/attention/variants/sigmoid.h", "p * (T(1) - p) * dp", "p * dp", "kernels_test", "*Attention*"),
    ("dq without the scale", "kernels/cpu/attention_backward.cpp", "tile.dqueries + i * W, HS, static_cast<R>(spec.scale)",
     "tile.dqueries + i * W, HS, R(1)", "kernels_test", "*Attention*"),
    ("only a group's first query head", "kernels/cpu/attention_backward.cpp", "head < (kv_head + 1) * group; ++head",
     "head < kv_head * group + 1; ++head", "kernels_test", "*Attention*"),
    ("gate's gradient without 1 - g", "kernels/cpu/gate.cpp", "from[c]) * g * (R(1) - g))", "from[c]) * g)",
     "kernels_test", "*Gate*"),
    ("weight gradient always overwritten", "kernels/cpu/matmul.cpp",
     "product(matrix(dweight), transposed(matrix(dout)), matrix(x), write,",
     "product(matrix(dweight), transposed(matrix(dout)), matrix(x), Write::kOverwrite,", "kernels_test", "*atmul*"),
    ("rope backward turns forward", "kernels/cpu/rope.cpp", "rotate<T>(dx, positions, theta, -1, exec.threads)",
     "rotate<T>(dx, positions, theta, 1, exec.threads)", "kernels_test", "*ope*"),
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
    ("block's residual gradient lost", "model/block.cpp", "norm_backward(dx, d_.norm1_gain", "fill_zero(dx, exec);\n    norm_backward(dx, d_.norm1_gain",
     "model_test", "*Gradients*"),
    ("gate's input gradient lost", "model/block.cpp", "matmul_backward_input(s_.dnorm, flat(s_.dgate), p_.gate, Write::kAccumulate, exec);",
     ";", "model_test", "*Gradients*"),
    ("QK-norm gain gradient swapped", "model/block.cpp", "qk_norm_backward(dk, d_.k_norm_gain", "qk_norm_backward(dk, d_.q_norm_gain",
     "model_test", "*Gradients*"),
    ("tied table overwritten", "model/transformer.cpp", "if (write == Write::kOverwrite && !holds_head) fill_zero(dtoken, exec);",
     "fill_zero(dtoken, exec);", "golden_test", "*Fp64*"),
    ("z-loss gradient lost", "model/lm_head.cpp", "targets, scale, z_loss_, exec)", "targets, scale, 0.0, exec)", "golden_test", "*Fp64*"),
    ("only the last chunk of the vocabulary", "model/lm_head.cpp", "v0 ? Write::kAccumulate : Write::kOverwrite",
     "Write::kOverwrite", "model_test", "*Chunks*"),
    ("tied head's norm never reported", "model/transformer.cpp", "if (of_weights) on_ready(config_.model.layers);",
     "if (of_weights && !config_.model.tied) on_ready(config_.model.layers);", "model_test", "*Reported*"),
    ("a rank's contribution dropped", "dist/communicator.cpp", "rank_sum(sum, parts, me, exec);",
     "std::memset(others.get(), 0, static_cast<size_t>(sum.bytes())); rank_sum(sum, parts, me, exec);", *LAYOUTS),
    ("a rank's own part added first", "kernels/cpu/rank_sum.cpp", "return r == rank ? own : others + (r < rank ? r : r - 1) * stride;",
     "return r == 0 ? own : others + (r - 1) * stride;", *LAYOUTS),
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
    ("another RoPE base in forward", "model/block.cpp", "rope_forward(qk, positions, model_.rope_theta, exec)",
     "rope_forward(qk, positions, 2 * model_.rope_theta, exec)", "golden_test", "*Fp64*"),
    ("a cut document restarts its positions", "dist/simulator/step_documents.h", "return causal_pairs(end) - causal_pairs(begin);",
     "return causal_pairs(end - begin);", "cad_test", "Simulator*"),
    ("ping-pong hides nothing", "dist/simulator/cad_step.cpp", "std::max(first.attention + first.copies / 2, last.out)",
     "(first.attention + first.copies / 2 + last.out)", "cad_test", "Simulator*"),
    ("a relay counts as the owner", "dist/simulator/exchange.cpp", "const int source = relayed ? piece.relay : owner;",
     "const int source = owner;", "cad_test", "Simulator*"),
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
    ("CAD: bytes of a relay counted at the owner", "dist/cad/key_pieces.cpp", "server == piece.relay ? owner : piece.relay;",
     "server == piece.relay ? owner : owner;", "cad_test", "CadKeyPieces*"),
    ("CAD: a relay for two servers", "dist/cad/key_pieces.cpp", "int64_t kRelayed = 3;", "int64_t kRelayed = 2;", "cad_test",
     "CadKeyPieces*"),
    ("CAD: lost rows pass for a plan", "dist/cad/validate.cpp", " || task.begin != next)", ")", "cad_test", "CadValidate*"),
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
