// A sweep: one configuration, varied along axes. Every cell is an ordinary run in a directory of its own.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "train/config_fields.h"

namespace plimsoll {

struct SweepSection {
    std::string name;
    std::string base;
    std::string dir;
    std::vector<std::string> variants;
    std::vector<std::string> axes;
    std::vector<std::string> rates;
    std::vector<int64_t> seeds;
    std::vector<std::string> set;
    std::vector<std::string> exclude;
    int64_t max_cells = 200;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("name", self.name, "of the sweep; the cells' run.name");
        v.field("base", self.base, "configuration that all cells start from, looked up from the sweep's file");
        v.field("dir", self.dir, "directory of the cells' runs; empty = runs/NAME");
        v.list("variants", self.variants, "attention variants, an axis; empty = the configuration's own");
        v.list("axes", self.axes,
               "each entry an axis of any keys: alternatives separated by |, keys that go together by blanks, such as "
               "'model.channels=128 model.heads=4 | model.channels=256 model.heads=8'");
        v.list("rates", self.rates,
               "learning rates by variant: 'sigmoid: 1e-3 3e-3'; '*:' for variants without an entry of their own");
        v.field("seeds", self.seeds, "run.seed, an axis; empty = the configuration's own");
        v.list("set", self.set, "settings of every cell, such as 'train.max_steps=500'");
        v.list("exclude", self.exclude,
               "cells to leave out: each entry settings that together name them, such as 'variant=gated "
               "optimizer.lr=1e-2'");
        v.field("max_cells", self.max_cells, "a sweep of more cells is refused");
    }
};

struct LaunchSection {
    std::string with = "local";
    int64_t jobs = 1;
    int64_t threads = 0;
    std::vector<int64_t> gpus;
    std::vector<std::string> command;
    std::vector<std::string> sbatch;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("with", self.with, {"local", "slurm"}, "local: processes of this machine; slurm: one job array");
        v.field("jobs", self.jobs, "cells that run at a time, on this machine each on cores of its own");
        v.field("threads", self.threads,
                "CPU threads, and cores, of a cell, or of each of its ranks; 0 = local: the machine's divided by jobs, "
                "slurm: what the job has");
        v.field("gpus", self.gpus,
                "local: GPUs of this machine, one for each cell under way; empty = run.device decides");
        v.list("command", self.command,
               "local: words before the program, such as [\"mpirun\", \"-n\", \"2\"]: a cell may be a job of several "
               "ranks");
        v.list("sbatch", self.sbatch,
               "slurm: options of sbatch, such as [\"--time=2:00:00\", \"--ntasks=2\", \"--gpus-per-task=1\"]");
    }
};

struct SweepConfig {
    SweepSection sweep;
    LaunchSection launch;
    std::map<std::string, std::string> places;  // see read_config

    template <class Self, class F>
    static void visit_sections(Self& self, F&& f) {
        f("sweep", self.sweep), f("launch", self.launch);
    }
};

struct SweepCell {
    std::string name;                    // of its directory: what sets it apart
    std::string variant;                 // empty = the configuration's own
    std::vector<std::string> overrides;  // "optimizer.lr=1e-3"
    std::string dir;
    int64_t steps = 0;
};

struct Sweep {
    SweepConfig config;
    std::string file;                    // that it was read from
    std::vector<std::string> overrides;  // of the file
    std::string base;                    // path
    std::string dir;
    std::vector<SweepCell> cells;

    // Of what the cells are and their order; 8 hexadecimal digits.
    std::string cells_hash() const;
};

// Reads a sweep and every cell's configuration. Throws Error (78) for what no cell could run with, before any starts:
// unknown keys and values, axes without alternatives, rates for variants that are not swept, cells with one name, more
// than max_cells.
Sweep load_sweep(const std::string& file, const std::vector<std::string>& overrides);

// The words of the command that trains a cell, or goes on with it; this program is the first. Its ledger compares it
// with the softmax cell that is otherwise equal, where that has run. `threads` 0: its own choice.
std::vector<std::string> train_command(const Sweep& sweep, const SweepCell& cell, int64_t threads);

// For --help.
std::string sweep_config_reference();

}  // namespace plimsoll
