"""The columns of a table of trials: names, meanings, units, types, order."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

CHOICES = ("memory", "bias", "retention", "algorithm")


class Column(NamedTuple):
    """What a column means and in which unit its numbers are; `group.*` stands for every column of that prefix."""

    meaning: str
    unit: str = ""


DATA_DICTIONARY: dict[str, Column] = {
    "run": Column("name of the run the trial belongs to"),
    "key": Column("identity of the trial: candidate, task, budget and seed", "16 hex digits"),
    "n": Column("number of the suggestion; its trials differ in task and seed alone"),
    "label": Column("name of the published design, empty if it is none"),
    "memory": Column("first choice: kind of the memory"),
    "bias": Column("second choice: kind of the attentional bias"),
    "retention": Column("third choice: kind of the retention gate"),
    "algorithm": Column("fourth choice: kind of the inner learning algorithm"),
    "task": Column("name of the task"),
    "seed": Column("seed of weights and data order; equal seeds are paired across designs"),
    "status": Column("ok, pruned, invalid, diverged, error, oom, timeout, crashed, node_lost or cancelled"),
    "cause": Column("why the trial is not ok, empty if it is"),
    "accuracy": Column("share of scored targets predicted, on validation data", "fraction"),
    "macro_accuracy": Column("mean over classes of the share of a class predicted", "fraction"),
    "row_accuracy": Column("mean over rows of the share of a row's scored targets predicted", "fraction"),
    "exact": Column("share of rows with every scored target predicted", "fraction"),
    "solved": Column("1 if accuracy reached the task's threshold, else 0", "fraction"),
    "nll": Column("negative log likelihood of a scored target", "nats"),
    "bits_per_byte": Column("negative log likelihood per byte of text", "bits/byte"),
    "late_bits_per_byte": Column("the same over the second half of every row", "bits/byte"),
    "context_gain": Column("bits per byte of the first eighth of the rows less those of the second half", "bits/byte"),
    "error": Column("mean squared error of a probe's answers a coordinate; 1 for a memory that answers zero"),
    "excess": Column("a probe's error, or a procedural language's nll, above the known optimum or baseline"),
    "lookup": Column("answers to questions of one hop that were predicted", "fraction"),
    "multihop": Column("answers to questions of more hops that were predicted", "fraction"),
    "closing": Column("closing brackets that were the most likely token", "fraction"),
    "score": Column("weighted mean over the tasks of a suite of their first metrics", "fraction"),
    "worst": Column("least of the first metrics of a suite's tasks", "fraction"),
    "perplexity": Column("exp of the negative log likelihood per token"),
    "parameters": Column("trained numbers of the model"),
    "state_bytes": Column("recurrent state of one sequence over all layers, float32", "bytes"),
    "flops_per_token": Column("forward pass", "FLOP/token"),
    "tokens": Column("tokens trained on", "tokens"),
    "steps": Column("optimiser steps taken"),
    "seconds": Column("time spent training", "s"),
    "tokens_per_second": Column("training speed", "tokens/s"),
    "path": Column("which implementation ran: torch or triton"),
    "path_reason": Column("why that one"),
    "fingerprint": Column("identity of the candidate", "12 hex digits"),
    "structure": Column("identity of the generated code", "12 hex digits"),
    "how": Column("what drew the suggestion: a sampler, start_with, or enumerated; empty: unknown"),
    "stage": Column("search, or final: the best again, on seeds that took no part in the search"),
    "reused": Column("run that the trial was trained in, if not in this one"),
    "test.*": Column("metric on the test split; of finalists alone"),
    "attempts": Column("how often the trial was started"),
    "time": Column("when the row was written", "UTC"),
    "memory.*": Column("parameters of the memory"),
    "bias.*": Column("parameters of the attentional bias"),
    "retention.*": Column("parameters of the retention gate"),
    "algorithm.*": Column("parameters of the inner algorithm"),
    "block.*": Column("fields of the block around the memory"),
    "backbone.*": Column("size of the model, after `match` was solved"),
    "optimiser.*": Column("AdamW and its schedule"),
    "match.*": Column("size asked for, size reached, by what, and the relative error"),
    "rates.*": Column(
        "search for the learning rate: grid, losses at its rungs, best, the window that works and its decades"
    ),
    "hashes.*": Column("digest of the data of that name"),
    "rejected.*": Column("draws refused before this suggestion for that reason", "draws"),
    "step": Column("optimiser step, from 1 (table of steps)"),
    "loss": Column("training loss of the step's batch, mean over scored targets (table of steps)", "nats"),
    "lr": Column("learning rate of the step (table of steps)"),
    "grad_norm": Column("norm of the gradient before clipping (table of steps)"),
}
"""Column -> meaning and unit."""

INTEGERS = ("n", "seed", "parameters", "state_bytes", "flops_per_token", "tokens", "steps", "attempts")
FLOATS = ("seconds", "tokens_per_second")
STRINGS = (
    "key",
    "label",
    *CHOICES,
    "task",
    "status",
    "cause",
    "fingerprint",
    "structure",
    "path",
    "path_reason",
    "how",
    "stage",
    "reused",
)
_HEAD = ("run", "key", "n", "label", *CHOICES, "task", "seed", "status", "cause")
_TAIL = ("parameters", "state_bytes", "flops_per_token", "tokens", "steps", "seconds", "tokens_per_second")
_LAST = ("path", "path_reason", "fingerprint", "structure", "how", "stage", "reused", "attempts", "time")
GROUPS = (*CHOICES, "block", "backbone", "optimiser", "match", "rates", "test", "hashes", "rejected")


def columns_of(frame: pd.DataFrame, group: str) -> list[str]:
    """Parameter columns of a group (`bias`, `backbone`, `hashes`, ...)."""
    return [c for c in frame.columns if c.startswith(f"{group}.")]


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The columns that are metrics of a task."""
    fixed = {"run", "time", *INTEGERS, *FLOATS, *STRINGS}
    return [c for c in frame.columns if c not in fixed and c.split(".")[0] not in GROUPS]


def order(frame: pd.DataFrame) -> list[str]:
    """Who, choices, what came out, cost, parameters, provenance."""
    groups = [c for group in GROUPS for c in columns_of(frame, group)]
    return [*_HEAD, *metrics_of(frame), *_TAIL, *groups, *_LAST]
