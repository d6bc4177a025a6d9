"""The one list of what a run records: name, unit, definition and source of every probe metric.

Captions, table headings, axis labels and the legal keys of probes.jsonl all come from here.
"""

from dataclasses import dataclass

XIAO = "Xiao et al., arXiv:2309.17453"
GU = "Gu et al., arXiv:2410.10781"
GUO = "Guo et al., arXiv:2410.13835"
QIU = "Qiu et al., arXiv:2505.06708"
RAMAPURAM = "Ramapuram et al., arXiv:2409.04431"
SUN = "Sun et al., arXiv:2402.17762"
KAUL = "Kaul et al., arXiv:2410.17174"


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    definition: str
    source: str
    axis: str = ""  # y label; the title when empty
    scale: str = "linear"  # linear | log | unit (0 to 1)
    reference: float | None = None  # a dotted line: the value that means "as every other token"

    @property
    def label(self):
        return self.axis or self.title


def _table(*metrics):
    return {metric.key: metric for metric in metrics}


# A_ij attention weight of query i on key j, g gate, h residual state, v value, k key; p = the placeholder where a run
# has one, else token 0. Means run over sequences and over queries that see at least two keys.
PER_HEAD = _table(
    Metric("sink_rate", "Sink rate", "percent of (sequence, layer, head) whose first real token takes more than "
           "0.3 of the row-normalised attention, averaged over the queries that see it; T = 64", GU, "percent"),
    Metric("first_mass_raw", "First-token mass, raw", "mean A_i0 as the weighting produced it, not normalised", QIU,
           "weight", "unit"),
    Metric("first_mass_normalized", "First-token mass, row-normalised", "mean of A_i0 / sum_j A_ij", QIU,
           "share of the row", "unit"),
    Metric("first_mass_effective", "First-token mass, effective", "mean of gate x raw A_i0 (non-trigger queries "
           "on Bigram-Backcopy): how much of the output really comes from the first real token", QIU,
           "gate x weight", "unit"),
    Metric("placeholder_mass_raw", "Placeholder mass, raw", "mean raw weight on the placeholder token", XIAO, "weight",
           "unit"),
    Metric("placeholder_mass_normalized", "Placeholder mass, row-normalised", "mean row-normalised weight on the "
           "placeholder token", XIAO, "share of the row", "unit"),
    Metric("placeholder_mass_effective", "Placeholder mass, effective", "mean of gate x raw weight on the placeholder "
           "token", XIAO, "gate x weight", "unit"),
    Metric("row_mass", "Row mass", "mean of sum_j A_ij; 1 by construction for softmax, free for sigmoid and ReLU",
           RAMAPURAM, "sum of a row", "linear", 1.0),
    Metric("drain_ratio", "Value drain through W_O", "|W_O v_p| / mean over the other tokens of |W_O v_t|; below 1 "
           "the sink's value is drained", GUO, "ratio", "log", 1.0),
    Metric("value_ratio", "Value drain", "|v_p| / mean over the other tokens of |v_t|", GU, "ratio", "log", 1.0),
    Metric("wo_value_norm", "Value norm of the sink, |W_O v_p|", "norm of p's value after the head's slice of W_O",
           GUO, "norm"),
    Metric("key_ratio", "Key norm ratio", "|k_p| / mean over the other tokens of |k_t|; sinks have small keys with a "
           "large cosine", GU, "ratio", "linear", 1.0),
    Metric("query_key_cosine", "Query-key cosine", "mean cos(q_i, k_p)", GU, "cosine", "linear", 0.0),
    Metric("sink_logit_delta", "Sink-logit delta", "mean of S_ip - mean_j S_ij over the keys j between p and i",
           GUO, "logit difference", "linear", 0.0),
    Metric("sink_logit_delta_std", "Spread of the sink-logit delta", "standard deviation of the sink-logit delta over "
           "queries (logit concentration)", GUO, "logit difference"),
    Metric("entropy", "Attention entropy", "mean of -sum_j A log A / log(visible keys), rows normalised; "
           "1 = uniform", GU, "share of log n", "unit"),
    Metric("gate_mean", "Gate, mean", "mean sigmoid gate after attention (G1)", QIU, "gate", "unit"),
    Metric("gate_below_0p1", "Gate below 0.1", "share of gate values below 0.1", QIU, "share", "unit"),
    Metric("logit_max", "Largest attention logit", "largest visible S_ij", KAUL, "logit"),
    Metric("dead_rows", "Dead rows", "share of rows whose weights are all zero", GUO, "share", "unit"),
    Metric("dormant", "Dormant heads", "share of heads whose mean first-token weight exceeds 0.5", GUO, "share",
           "unit"),
    Metric("dormant_0p9", "Dormant heads, 0.9", "share of heads whose mean first-token weight exceeds 0.9", GUO, "share",
           "unit"),
    Metric("head_output_ratio", "Head output ratio", "mean norm of the head's output over the layer's mean", GUO,
           "ratio", "linear", 1.0),
)

# layers + 1 entries: 0 = after the embedding, l = after block l.
PER_LAYER = _table(
    Metric("residual_peak_ratio", "Residual peak, ratio", "|h_p| / mean over the other tokens of |h_t|", GU,
           "ratio", "log", 1.0),
    Metric("residual_peak", "Residual peak", "|h_p| - mean over the other tokens of |h_t|", GUO, "norm excess",
           "linear", 0.0),
    Metric("residual_norm", "Residual norm of the sink, |h_p|", "norm of p's residual state", GUO, "norm"),
    Metric("max_abs", "Largest activation", "max |h| over tokens and channels", SUN, "max |h|", "log"),
    Metric("median_abs", "Median activation", "median |h| over tokens and channels", SUN, "median |h|", "log"),
    Metric("massive_ratio", "Massive activation ratio", "max |h| / median |h|", SUN, "max / median", "log"),
    Metric("massive_count", "Massive activations", "entries with |h| > 100 and |h| > 1000 x median |h|", SUN,
           "count"),
    Metric("massive_at_first", "Largest activation sits on p", "share of sequences whose largest |h| is on p", SUN,
           "share", "unit"),
    Metric("kurtosis_first", "Excess kurtosis, p", "excess kurtosis over the channels of h_p", KAUL,
           "excess kurtosis", "linear", 0.0),
    Metric("kurtosis_rest", "Excess kurtosis, other tokens", "excess kurtosis over the channels of h_t, t != p",
           KAUL, "excess kurtosis", "linear", 0.0),
    Metric("cosine_with_first", "Cosine with p", "mean over the other tokens of cos(h_t, h_p)", GU, "cosine", "linear", 0.0),
    Metric("rms", "Residual RMS", "root mean square of h", KAUL, "rms", "log"),
)

ALL = {**PER_HEAD, **PER_LAYER}
