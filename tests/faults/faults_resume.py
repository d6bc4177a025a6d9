"""Going on: from every step, with another configuration, beside another process, after steps that were not good."""

import re
import shutil

from faults_damage import TRAIN_FILES, shard_settings, shards
from harness import STEPS, expect, metrics, wait_for
from matrix import fault


@fault("F20", "stopped after each of 60 steps, on shards whose epochs and files end within, and at their end",
       "every one ends bitwise as undisturbed")
def every_step(bench):
    settings, tried = shard_settings(shards(bench)), 0
    bench.reference(**settings)
    for step in range(5 if bench.short else 1, STEPS, 5 if bench.short else 1):
        folder = bench.folder("f20")
        bench.train(folder, status=0, **{**settings, "train__max_steps": step})
        done = bench.finish(folder, **settings)
        expect(f"resume: step {step} of {STEPS}" in done.output, f"step {step}: {done.output[-300:]}")
        tried += 1
    ends = {**settings, "data__end": "stop"}
    folder = bench.folder("f20_end")
    bench.train(folder, status=0, **ends)
    last = metrics(folder)[-1]["step"]
    expect(last < STEPS, f"one epoch has {last} steps")
    parts = bench.folder("f20_parts")
    bench.train(parts, status=0, **{**ends, "train__max_steps": last - 3})
    bench.train(parts, status=0, resume=True, **ends)
    expect(metrics(parts) == metrics(folder) and bench.hashes(parts, last) == bench.hashes(folder, last),
           "the end of the data: other steps than undisturbed")
    return f"{tried} of {tried} stops bitwise; and one before the data end, after {last} steps"


@fault("F21", "resumed with other layers, vocabulary, learning rate, schedule, data", "status 78, naming the keys")
def other_configuration(bench):
    data = shard_settings(shards(bench))
    template, on_shards = bench.template("one", 15), bench.template("shards", 15, **data)
    copy = bench.folder("other_shards")
    shutil.copytree(shards(bench), copy)
    changes = [(template, "model.layers", {"model__layers": 3}), (template, "model.channels", {"model__channels": 128}),
               (template, "optimizer.lr", {"optimizer__lr": 2e-3}), (template, "run.seed", {"run__seed": 2}),
               (template, "schedule.kind", {"schedule__kind": "cosine"}), (template, "data.source", data),
               (on_shards, "data.shards", {**data, "data__shards": f"{copy}/{TRAIN_FILES}"})]
    for source, key, settings in changes:
        folder = bench.copy(source, "f21")
        done = bench.train(folder, resume=True, **{**settings, "train__max_steps": 20})
        expect(done.status == 78 and key in done.output, f"{key}: status {done.status}: {done.output[-400:]}")
        expect(len(metrics(folder)) == 15, f"{key}: a step was made")
    # The same names, other content.
    shard = sorted((bench.scratch / "shards").glob(TRAIN_FILES))[0]
    before = shard.read_bytes()
    shard.write_bytes(before[:-2] + before[-4:-2] if before[-2:] != before[-4:-2] else before[:-2] + b"\x01\x00")
    try:
        done = bench.train(bench.copy(on_shards, "f21"), resume=True, **{**data, "train__max_steps": 20})
    finally:
        shard.write_bytes(before)
    expect(done.status == 78 and "hash" in done.output, f"other tokens: {done.status}: {done.output[-400:]}")
    return f"{len(changes) + 1} of {len(changes) + 1} refused, naming the key or the data's hash"


@fault("F25", "the same run started twice", "the older process ends with 75 before it renames; the newer is untouched")
def two_writers(bench):
    folder = bench.folder("f25")
    older = bench.start(folder, 2, train__max_steps=20000)
    wait_for(lambda: bench.whole_steps(folder), "a checkpoint")
    newer = bench.start(folder, 2, resume=True, output=bench.scratch / "newer.output", train__max_steps=200)
    first = older.wait(30)
    second = newer.wait()
    expect(first.status == 75 and "started this run after generation" in first.output,
           f"older: status {first.status}: {first.output[-600:]}")
    expect(second.status == 0, f"newer: status {second.status}: {second.output[-600:]}")
    expect(bench.hashes(folder, 200) == bench.reference(2, train__max_steps=200)[1], "newer: other tensors")
    return "older: 75, newer: done, equal tensors"


@fault("F16", "NaN in the gradients of one of 2 ranks; more often than health.max_skips; with rollback",
       "all ranks leave the step out; nothing else changes; too often: status 70, or back to the newest checkpoint")
def not_a_number(bench):
    hook = {"PLIMSOLL_FAULT": "nan_gradient:12:1"}
    folder = bench.folder("f16")
    done = bench.train(folder, 2, status=0, environment=hook)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    skipped = [number + 1 for number, line in enumerate(lines) if '"skipped"' in line]
    expect(skipped == [12] and len(lines) == STEPS, f"skipped {skipped}")
    expect(re.search("step 12: .*nan.*not updated", done.output), f"no line in the log: {done.output[-500:]}")
    undisturbed = bench.reference(2)[0]
    ours = [float(line["loss"]) for line in metrics(folder)[12:]]
    expect(all(loss == loss for loss in ours), "NaN after the step")
    expect(metrics(folder)[:11] == undisturbed[:11] and metrics(folder)[11]["loss"] == undisturbed[11]["loss"],
           "other steps before it")
    done = bench.train(bench.folder("f16_stop"), 2, environment=hook, health__max_skips=0)
    expect(done.status == 70 and done.output.count("not updated, after") == 1,
           f"stop: {done.status} {done.output[-500:]}")
    folder = bench.folder("f16_back")
    done = bench.train(folder, 2, status=0, environment=hook, health__max_skips=0, health__max_rollbacks=1)
    expect("back to step 10" in done.output, f"no rollback: {done.output[-500:]}")
    expect([line["step"] for line in metrics(folder)] == list(range(1, STEPS + 1)), "steps after the rollback")
    return "left out on both ranks, run goes on; without skips 70; with a rollback back to step 10 and to the end"


@fault("F17", "gradients times 1e4 in one step; stopped and resumed around it", "the same decision, bitwise")
def spike(bench):
    hook = {"PLIMSOLL_FAULT": "scale_gradient:32:1e4"}
    settings = {"health__spike": 6, "health__window": 20}
    whole = bench.folder("f17")
    done = bench.train(whole, 2, status=0, environment=hook, **settings)
    expect("step 32" in done.output and "standard deviations" in done.output, f"no spike: {done.output[-500:]}")
    for stop in (30, 31, 32, 33):
        folder = bench.folder("f17_parts")
        bench.train(folder, 2, status=0, environment=hook, **{**settings, "train__max_steps": stop})
        bench.train(folder, 2, status=0, resume=True, environment=hook, **settings)
        expect(metrics(folder) == metrics(whole) and bench.hashes(folder, STEPS) == bench.hashes(whole, STEPS),
               f"stopped after step {stop}: other steps")
    return "left out; stops after steps 30 to 33 end bitwise equal"


@fault("F18", "one bit of a parameter of rank 2 of 4 flipped before step 12: whole optimizers, health.hash_every = 5; "
              "ZeRO-1, hash_every = 1", "noticed within hash_every steps, the rank named, status 70")
def replicas_differ(bench):
    found = []
    # ZeRO-1 gathers all parameters after every update: what a rank does not own is repaired, what it owns spreads.
    for every, zero1 in ((5, "false"), (1, "true")):
        folder = bench.folder("f18")
        settings = {"health__hash_every": every, "parallel__zero1": zero1}
        done = bench.train(folder, 4, environment={"PLIMSOLL_FAULT": "flip_parameter:12:2"}, **settings)
        found.append(metrics(folder)[-1]["step"] + 1)
        expect(done.status == 70 and "parameters of rank 2 are not" in done.output,
               f"{done.status}: {done.output[-600:]}")
        expect(12 <= found[-1] <= 12 + every, f"noticed before step {found[-1]}")
        bench.finish(folder, 4, **settings)
    return f"noticed before steps {found[0]} and {found[1]}, rank 2 named; bitwise undisturbed after a resume"
