"""`python -m lcp_bench.train +model=mini` or `+metric=mini`: train what this repository ships, from nothing.

Everything follows from the seed: people are drawn, speech is synthesised, nothing is downloaded. The command can be
stopped at any moment and issued again; it goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import distributed

from lcp_bench.errors import ConfigError, LcpBenchError
from lcp_bench.preflight import CONF
from lcp_bench.typed import build, dotted_keys

CHOICES = {"model=mini": "mini", "metric=mini": "metric"}
USAGE = """\
usage: python -m lcp_bench.train +model=mini|+metric=mini [KEY=VALUE ...]

  +model=mini           the talking-head model: autoencoder, single frames, sequences (hours on a CPU)
  +metric=mini          the networks of the mini metrics: expression regressor and lip-sync network (minutes)
  folder=FOLDER         takes rendered clips, checkpoints and logs
  export=FOLDER         takes the finished weights; by default the repository's own
  max_minutes=20        stop after so many minutes of training; the same command goes on
  seed=1                other initial weights and batches

Several processes share the batches of the model's training: torchrun --nproc-per-node 2 -m lcp_bench.train +model=mini

All keys with their values: conf/train/mini.yaml and conf/train/metric.yaml.
"""


def parse(words: Sequence[str]) -> Any:
    """The configuration that a command line names: a `MiniTraining` or a `MetricTraining`.

    Raises:
        ConfigError: No or an unknown thing to train, an unknown key, or a wrong value.
    """
    chosen = [word.lstrip("+") for word in words if word.lstrip("+").partition("=")[0] in ("model", "metric")]
    if len(chosen) != 1 or chosen[0] not in CHOICES:
        got = " ".join(chosen) or "nothing"
        raise ConfigError(f"expected one of {', '.join(f'+{name}' for name in CHOICES)}, got {got}")
    name = CHOICES[chosen[0]]
    others = [f"++{word.lstrip('+')}" for word in words if word.lstrip("+") != chosen[0]]
    try:
        with initialize_config_dir(str(CONF / "train"), version_base="1.3"):
            composed = OmegaConf.to_container(compose(name, others), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the training cannot be composed: {error}") from error
    if name == "mini":
        from lcp_bench.train.mini import MiniTraining

        return build(MiniTraining, composed, "", tuple(dotted_keys(MiniTraining)))
    from lcp_bench.train.metric import MetricTraining

    return build(MetricTraining, composed, "", tuple(dotted_keys(MetricTraining)))


def run(config: Any) -> str:
    """Train; returns what to tell the user."""
    from lcp_bench.train.mini import MiniTraining, train_mini

    if isinstance(config, MiniTraining):
        return train_mini(config)
    from lcp_bench.train.metric import train_metrics

    return train_metrics(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 done, 1 failed, 2 bad command, 130 interrupted)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if {"-h", "--help"} & set(words) or not words:
        print(USAGE, end="")
        return 0 if words else 2
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
    try:
        print(run(parse(words)))
    except LcpBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; issue the command again to go on from the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{error.filename or 'the training folder'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
