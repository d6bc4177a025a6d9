"""The criterion of every claim of published.toml: which cells of which sweep it reads, and what they must show."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from .expectations import CONTROL_MASS, CONTROL_RATE
from .verdicts import Absent, Cells, Claim, Close, Less, Level, Ordered, Present, Ratio, Side, Stable

PUBLISHED = Path(__file__).with_name("published.toml")
QUICK, FULL = "quick", "full"
SOFTMAX = Cells("softmax")
LOSS_MARGIN = 0.02  # nats: what the paper's "no cost" leaves open, twice its own difference


@dataclass(frozen=True)
class Published:
    key: str
    finding: str
    paper: str
    where: str
    read: bool
    sentence: str
    figures: str
    values: dict

    @property
    def source(self):
        return f"arXiv:{self.paper}, {self.where}" + ("" if self.read else " (not read again)")


def published():
    """-> {key: Published}, in the order of the file."""
    entries = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["claim"]
    return {entry["key"]: Published(**{"values": {}, **entry}) for entry in entries}


def claims_of(sweep, scale):
    """Claims that the sweep of this name and scale is for; () for others."""
    make = _CLAIMS.get(sweep)
    return make(scale) if make else ()


def sweeps():
    return tuple(_CLAIMS)


def _side(metric, variant, name="", **where):
    return Side(metric, Cells(variant, tuple((key.replace("__", "."), value) for key, value in where.items()), name))


def _dynamics(_):
    def softmax(metric):
        return Side(metric, SOFTMAX)
    return (
        Claim("dynamics-order", (Less(softmax("step_bigram"), softmax("step_copy")),)),
        Claim("dynamics-abrupt", (Level(softmax("copy_fall"), "<=", 3),)),
        Claim("dynamics-sink", (Level(softmax("sink_to_copy"), ">=", 0.5), Level(softmax("sink_to_copy"), "<=", 2))),
        Claim("dynamics-drain", (Level(softmax("value_left"), "<=", 0.5),
                                 Less(softmax("step_value_peak"), softmax("step_sink")))),
    )


def _optimizers(_):
    def of(metric):
        return (_side(metric, "softmax", "softmax with AdamW", optimizer__kind="adamw"),
                _side(metric, "softmax", "softmax with SGD", optimizer__kind="sgd"),
                _side(metric, "relu", "ReLU with AdamW", optimizer__kind="adamw"))

    def muon(metric):
        return _side(metric, "softmax", "softmax with Muon", optimizer__kind="muon")
    control = of("loss")[0].cells
    norm, sgd_norm, relu_norm = of("residual_first_block")
    growth, sgd_growth, relu_growth = of("residual_growth")
    _, sgd_top, relu_top = of("top_first_mass")
    _, _, relu_mass = of("first_mass_effective")
    copy, _, relu_copy = of("copy_risk")
    return (
        Claim("optimizers-ratio", (Ratio(norm, sgd_norm, 4), Ratio(norm, relu_norm, 4)), control),
        Claim("optimizers-growth", (Less(sgd_growth, growth), Less(relu_growth, growth)), control),
        Claim("optimizers-sgd-sink", (Present(sgd_top, 0.3),), control),
        Claim("optimizers-relu-sink", (Absent(relu_mass, CONTROL_MASS, control), Absent(relu_top, 0.3, control),
                                       Close(relu_copy, copy, LOSS_MARGIN)), control),
        Claim("optimizers-muon", tuple(Less(muon(metric), of(metric)[0]) for metric in ("kurtosis", "residual_first_block")),
              control),
    )


def _variants(_):
    def takes_over(key, variant, where):
        return Claim(key, (Present(Side(where, Cells(variant)), CONTROL_MASS),
                           Absent(Side("sink_rate", Cells(variant)), CONTROL_RATE),
                           Close(Side("loss", Cells(variant)), Side("loss", SOFTMAX), LOSS_MARGIN)))

    def sinks(key, variant, rule):
        return Claim(key, (rule(Side("sink_rate", Cells(variant)), CONTROL_RATE),))
    values = tuple(published()["variants-order"].values.items())
    return (
        Claim("variants-order", (Ordered("sink_rate", values, CONTROL_RATE),)),
        takes_over("variants-k-bias", "k_bias", "column_mass"),
        takes_over("variants-kv-bias", "kv_bias", "column_mass"),
        sinks("variants-v-bias", "v_bias", Present),
        sinks("variants-sigmoid", "sigmoid_no_bias", Absent),
        sinks("variants-sigmoid-normalized", "sigmoid_normalized", Present),
        takes_over("variants-placeholder", "placeholder", "placeholder_mass_normalized"),
    )


def _placeholder(_):
    side = Cells("placeholder")
    return (Claim("placeholder-alone", (Present(Side("placeholder_mass_normalized", side), CONTROL_MASS),
                                        Absent(Side("sink_rate", side), CONTROL_RATE))),)


def _training(scale):
    rate, small, tiny = {QUICK: (1e-3, 1e-4, 1e-5), FULL: (4e-4, 1e-4, 1e-5)}[scale]
    none, some, much = {QUICK: (0.0, 1.0, 10.0), FULL: (0.0, 0.1, 5.0)}[scale]

    def of(metric, lr=rate, decay=none, samples=0.0, name=""):
        return _side(metric, "softmax", name or f"lr {lr:g}, weight decay {decay:g}", optimizer__lr=lr,
                     optimizer__weight_decay=decay, **({"data__train_samples": samples} if scale == QUICK else {}))
    mass = "first_mass_normalized"
    control = of(mass, decay=none if scale == QUICK else some).cells
    base = none if scale == QUICK else some
    claims = [
        Claim("training-rate", (Less(of(mass, lr=small, decay=base), of(mass, decay=base)),), control),
        Claim("training-tiny-rate", (Absent(of("sink_rate", lr=tiny, decay=base), CONTROL_RATE, control),), control),
        Claim("training-decay", (Less(of(mass), of(mass, decay=some)),), control),
        Claim("training-decay-limit", (Less(of(mass, decay=much), of(mass, decay=some)),), control),
    ]
    if scale == QUICK:  # its base draws fresh sequences; a text's amount is that of the shards
        claims.append(Claim("training-data", tuple(
            Less(of(mass, samples=samples, name=f"{samples:g} sequences"), of(mass, name="fresh sequences"))
            for samples in (256.0, 32.0)), control))
    return tuple(claims)


def _gates(_):
    gates = {name: Cells(name) for name in ("gated", "gated_headwise", "gate_value", "gate_key", "gate_query",
                                            "gate_projection")}
    output, others = ("gated", "gated_headwise"), ("gate_key", "gate_query", "gate_projection")

    def of(metric, name):
        return Side(metric, gates[name])
    mass = "first_mass_normalized"
    return (
        Claim("gates-remove", tuple(Absent(of(mass, name), CONTROL_MASS) for name in output)),
        Claim("gates-order", (*(Less(of(mass, name), of(mass, "gate_value")) for name in output),
                              *(Less(of(mass, "gate_value"), of(mass, name)) for name in others))),
        Claim("gates-loss", (Less(of("loss", "gated"), of("loss", "gate_value")),
                             *(Less(of("loss", "gate_value"), of("loss", name)) for name in others)), None),
    )


def _rates(_):
    return (Claim("rates-elementwise", (Stable(Cells("gated"), SOFTMAX),), None),
            Claim("rates-headwise", (Stable(Cells("gated_headwise"), SOFTMAX),), None))


def _windows(scale):
    wide, small = {QUICK: (64.0, 8.0), FULL: (256.0, 32.0)}[scale]

    def window(metric, size):
        return _side(metric, "softmax", f"window {size:g}" if size else "no window", attention__window=size)
    control = window("loss", 0.0).cells
    return (
        # Queries that do not see the first token count as 0 in its mass; the sink rate is of those that do.
        Claim("windows-small", (Less(window("first_mass_normalized", small), window("first_mass_normalized", 0.0)),
                                Absent(window("sink_rate", small), CONTROL_RATE, control)), control),
        Claim("windows-absolute", (Present(window("sink_rate", wide), CONTROL_RATE),), control),
    )


def _hybrid(_):
    softmax, uniform, hybrid = (Cells(name) for name in ("softmax", "uniform", "hybrid"))
    return (Claim("hybrid-copy", (Level(Side("copy_risk", uniform), ">=", 1),
                                  Close(Side("copy_risk", hybrid), Side("copy_risk", softmax), 0.05)), None),)


_CLAIMS = {"dynamics": _dynamics, "optimizers": _optimizers, "variants": _variants, "placeholder": _placeholder,
           "training": _training, "gates": _gates, "rates": _rates, "windows": _windows, "hybrid": _hybrid}
