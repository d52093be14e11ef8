"""From a trained trial to a Hugging Face folder that needs nothing of this package.

    folder = export("runs/quickstart", "exported/best")     the best trial; README.md says which and why
    print(sample(folder, "The import statement", 100))

`memory_miras.py` in it is the emitted module that was trained, byte for byte; `lm_miras.py` is the model around it, cut
out of `miras_search.model`; `configuration_miras.py` and `modeling_miras.py` (in this package) are the classes that
transformers loads. Writing needs no transformers; `sample` does.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miras_search import __version__, checkpoint, op
from miras_search.candidate import Candidate
from miras_search.codegen.emit import emit
from miras_search.errors import ExportError, MissingExtra
from miras_search.export import card, files
from miras_search.ledger import Record, now
from miras_search.runs import RunFolder, environment
from miras_search.space import Space
from miras_search.tasks import Task, Text
from miras_search.tasks.tokenizer import byte_tokenizer

if TYPE_CHECKING:
    import torch

PROVENANCE = "provenance.json"


class Chosen(NamedTuple):
    """A trial to export, and why that one."""

    record: Record
    reason: str


def export(
    run: str | os.PathLike[str], out: str | os.PathLike[str], key: str | None = None, *, overwrite: bool = False
) -> Path:
    """Export a trial of a run.

    Args:
        run: the folder of a run, or its name under `runs/`.
        out: folder to make; must not exist, or be empty.
        key: of the trial, or its first digits; default: the best one (see `choose`).
        overwrite: replace an earlier export in `out`; a folder that is none is left alone.

    Returns:
        `out`.

    Raises:
        ExportError: if there is nothing to export, or `out` cannot be written.
        RunError: if there is no such run.
        TaskError: if the text is gone of which the tokenizer was trained.
    """
    folder = RunFolder.open(run if Path(run).exists() else Path("runs") / run)
    _free(Path(out), overwrite)
    space = Space.from_text(folder.space_yaml, str(folder.path / "space.yaml"))
    record, reason = choose(folder, space, key)
    saved = _saved(folder, record)
    candidate = Candidate.model_validate(record.candidate)
    task = next((t for t in space.tasks if t.name == record.task), None)
    if task is None:
        raise ExportError(
            f"its task {record.task} is not in space.yaml", where=str(folder.path), hint="export another trial"
        )
    if task.head != "tokens":
        raise ExportError(
            f"trial {record.key} is of task {task.name} and no language model: it trained a head of its own ({task.head})",
            where=str(folder.path),
            hint="export a trial of another task, by its key",
        )
    emitted = [folder.source(design.fingerprint) for design in candidate.memories]
    measured = record.model_dump(
        mode="json", exclude={"schema_version", "candidate", "assignment", "rungs", "rejected"}
    )
    spelled = tokenizer(task, record)
    return export_model(
        candidate,
        saved.meta["vocab"],
        saved.model(),
        spelled,
        out,
        provenance={
            "run": folder.path.resolve().name,
            "reason": reason,
            "trial": measured,
            "task": task.model_dump(mode="json"),
            "budget": space.budget.of(task.name),
            "context": task.context,
            "environment": folder.environment or environment(),
        },
        sources=[file.read_text(encoding="utf-8") for file in emitted] if all(f.is_file() for f in emitted) else None,
        document=files.special_ids(spelled)["bos_token_id"] if getattr(task, "reset", False) else None,
        overwrite=overwrite,
    )


def export_model(
    candidate: Candidate,
    vocab: int,
    state_dict: Mapping[str, torch.Tensor],
    tokenizer_json: str | None,
    out: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any],
    sources: Sequence[str] | None = None,
    document: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model as a Hugging Face folder; it appears whole or not at all.

    Args:
        candidate: what was built.
        vocab: tokens.
        state_dict: weights and buffers, named as in `miras_search.model.LM`.
        tokenizer_json: a file of `tokenizers`; None: the task has no text.
        out: folder to make; must not exist, or be empty.
        provenance: for the card and provenance.json; `export` says what it knows.
        sources: the emitted modules that were trained, one a memory of `candidate.memories`; default: what is emitted now.
        document: the token at which the memory starts afresh, if it was trained so.
        overwrite: replace an earlier export in `out`.

    Raises:
        ExportError: if the weights are not those of the candidate, or `out` cannot be written.
    """
    from safetensors.torch import save

    out = Path(out)
    _free(out, overwrite)
    candidate = candidate.canonical()
    sources = [emit(design) for design in candidate.memories] if sources is None else sources
    _fits(candidate, vocab, state_dict, sources)
    tensors = {f"model.{name}": t.detach().cpu().contiguous() for name, t in state_dict.items()}
    texts = files.texts(candidate, vocab, sources, tokenizer_json, document=document, context=provenance.get("context"))
    contents = {name: text.encode() for name, text in texts.items()}
    contents["model.safetensors"] = save(tensors, {"format": "pt"})
    known = {
        "miras_search": __version__,
        "exported": now(),
        "candidate": candidate.model_dump(mode="json"),
        "fingerprints": {"design": candidate.design.fingerprint, "candidate": candidate.fingerprint},
        "parameters": candidate.parameters(vocab),
        "vocab": vocab,
        **provenance,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())},
    }
    contents[PROVENANCE] = files.json_text(known).encode()
    contents["README.md"] = card.write(candidate, known, text=tokenizer_json is not None).encode()
    return _publish(contents, out)


def choose(run: RunFolder, space: Space, key: str | None = None) -> Chosen:
    """The trial of that key; else the best one, of a text task if there is any, since that can print a sample.

    The best is by the space's first objective that the task measures, or by the task's own first metric.

    Raises:
        ExportError: if there is none that finished and has a checkpoint.
    """
    where = str(run.path)
    rows = {record.key: record for record in run.ledger.rows()}
    if not rows:
        raise ExportError("no trial has ended yet", where=where, hint="wait for the first, or continue with --resume")
    if key is not None:
        return Chosen(_named(run, rows, key), "asked for by its key")
    done = [record for record in rows.values() if record.status == "ok"]
    if not done:
        counts = {s: sum(r.status == s for r in rows.values()) for s in sorted({r.status for r in rows.values()})}
        told = ", ".join(f"{n} {status}" for status, n in counts.items())
        raise ExportError(
            f"none of its {len(rows)} trials finished ({told})", where=where, hint="see the causes: miras-search status"
        )
    texts = {task.name for task in space.tasks if isinstance(task, Text)}
    rest = "" if len(space.tasks) == 1 else "; text before other tasks, since it can print a sample"
    pool = [record for record in done if record.task in texts]
    if not pool:
        pool, rest = done, ""
    present = [task for task in space.tasks if any(record.task == task.name for record in pool)]
    present = [task for task in present if task.head == "tokens"] or present
    if not present:
        raise ExportError(
            "its trials are of tasks that are not in space.yaml", where=where, hint="name a trial by its key"
        )
    task, metric, goal = _measure(space, present)
    sign = 1.0 if goal == "min" else -1.0
    ranked = sorted((r for r in pool if r.task == task), key=lambda r: sign * r.metrics.get(metric, sign * math.inf))
    found = next(((i, r) for i, r in enumerate(ranked) if (run.trial(r.key) / checkpoint.WEIGHTS).is_file()), None)
    if found is None:
        hint = "they are on the machine that ran the sweep, in trials/KEY: copy them here, or train again"
        raise ExportError(f"no checkpoint of its {len(ranked)} finished trials is left", where=where, hint=hint)
    better, record = found
    value = record.metrics.get(metric, math.nan)
    reason = f"best {task}.{metric} ({value:.4g}, {goal}) of {len(ranked)} finished trials{rest}"
    return Chosen(record, reason + (f"; {better} better have no checkpoint" if better else ""))


def _measure(space: Space, tasks: list[Task]) -> tuple[str, str, str]:
    """Task, metric and goal to choose by."""
    for objective in space.objectives:
        for task in tasks:
            if objective.task == task.name:
                return task.name, objective.name, objective.goal
    first = tasks[0].primary
    return tasks[0].name, first.name, first.goal


def _named(run: RunFolder, rows: Mapping[str, Record], key: str) -> Record:
    where = str(run.path)
    found = [record for name, record in rows.items() if name.startswith(key)]
    if len(found) != 1:
        what = "no trial has" if not found else f"{len(found)} trials have"
        some = ", ".join(record.key for record in (found or list(rows.values()))[:4])
        raise ExportError(f"{what} key {key!r}", where=where, hint=f"keys are in ledger.jsonl: {some}, ...")
    record = found[0]
    if record.status != "ok":
        cause = f": {record.cause}" if record.cause else ""
        raise ExportError(
            f"trial {record.key} did not finish ({record.status}{cause})", where=where, hint="name one that is ok"
        )
    return record


def _saved(run: RunFolder, record: Record) -> checkpoint.Checkpoint:
    folder = run.trial(record.key)
    try:
        found = checkpoint.read(folder)
    except ValueError as error:
        raise ExportError(str(error), hint="name another trial, or train this one again") from None
    if found is None:
        raise ExportError(
            f"trial {record.key} has no checkpoint",
            where=str(folder),
            hint="it is on the machine that ran the sweep: copy it here, or train again",
        )
    return found


def tokenizer(task: Task, record: Record | None = None) -> str | None:
    """The tokenizer of a task as a `tokenizers` file; None if the task is not about text.

    Raises:
        ExportError: if it is not the one that the trial was trained with.
        TaskError: if it must be trained again and its text is gone.
    """
    if isinstance(task, Text) and task.tokenizer == "bytes":
        found: str | None = byte_tokenizer().json  # the same for every text, which may be gone
    else:
        found = task.prepare(op.cache_folder() / "data").tokenizer_json
    known = record.hashes.get("tokenizer") if record is not None else None
    if found is not None and known is not None and hashlib.sha256(found.encode()).hexdigest()[:16] != known:
        raise ExportError(
            f"the tokenizer of task {task.name} is not the one that the trial was trained with",
            hint="the text or the version of tokenizers has changed: export where the sweep ran",
        )
    return found


def _fits(candidate: Candidate, vocab: int, state_dict: Mapping[str, torch.Tensor], sources: Sequence[str]) -> None:
    """Refuse weights that are not those of these sources and this size."""
    import torch

    from miras_search.model import LM

    size = candidate.backbone
    with torch.random.fork_rng(devices=[]):  # on the meta device it would take longer: that imports torch._dynamo
        kinds = [op.import_module(op.write_module(source)).Layer for source in sources]
        layers = [kinds[i](size.width, size.heads) for i in files.memories(candidate)]
        wanted = LM(layers, vocab, size.width, candidate.hidden, candidate.design.block.residual_conv).state_dict()
    for name in sorted(wanted.keys() | state_dict.keys()):
        have = "nothing" if name not in state_dict else str(list(state_dict[name].shape))
        want = "nothing" if name not in wanted else str(list(wanted[name].shape))
        if have != want:
            raise ExportError(
                f"the weights are not those of this candidate: {name} is {have}, should be {want}",
                hint="the checkpoint is of another version: train again, or export with the version that trained it",
            )


def _free(out: Path, overwrite: bool) -> None:
    """Refuse a place that is taken; an earlier export may be replaced."""
    if out.is_dir() and not any(out.iterdir()):
        return
    earlier = (out / PROVENANCE).is_file() and (out / "config.json").is_file()
    if out.exists() and not (overwrite and earlier):
        what = "exists already" + (" and is not empty" if out.is_dir() else " and is no folder")
        hint = "choose another folder with -o, or remove this one"
        if earlier:
            hint = "replace it with --overwrite, or choose another folder with -o"
        elif overwrite:
            what += ", and is no earlier export"
        raise ExportError(what, where=str(out), hint=hint)


def _publish(contents: Mapping[str, bytes], out: Path) -> Path:
    """Write beside, then rename, so that the folder appears whole; an earlier export goes only then."""
    beside, old = (out.parent / f".{out.name}.{os.getpid()}.{word}" for word in ("new", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        for name, content in contents.items():
            (beside / name).write_bytes(content)
        if out.is_dir() and any(out.iterdir()):
            out.rename(old)
        beside.rename(out)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        hint = "make the folder writable, free some space, or choose another with -o"
        raise ExportError(f"cannot be written: {error.strerror}", where=str(out), hint=hint) from None
    shutil.rmtree(old, ignore_errors=True)
    return out


def sample(folder: str | os.PathLike[str], prompt: str, n: int, *, temperature: float = 0.8, seed: int = 0) -> str:
    """Text that an exported model writes after a prompt; runs the code in the folder.

    Args:
        folder: an export of a text task.
        prompt: where to begin; empty: at the start of a document.
        n: tokens at most.
        temperature: 0 takes the most likely token.
        seed: of the draws.

    Returns:
        The prompt and what follows.

    Raises:
        ExportError: if the folder is no export, or its task has no text.
        MissingExtra: without transformers.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ExportError("is no exported model", where=str(folder), hint="make one: miras-search export RUN -o DIR")
    if not (folder / "tokenizer.json").is_file():
        raise ExportError("has no tokenizer, so it cannot write text", where=str(folder), hint="export a text task")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "hf") from None
    import torch

    known = {"trust_remote_code": True, "local_files_only": True}
    encoder = AutoTokenizer.from_pretrained(folder, **known)
    model = AutoModelForCausalLM.from_pretrained(folder, **known)
    begin = encoder(prompt, return_tensors="pt") if prompt else {"input_ids": torch.tensor([[encoder.bos_token_id]])}
    draw = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ids = model.generate(**begin, max_new_tokens=n, **draw)
    text: str = encoder.decode(ids[0], skip_special_tokens=True)
    return text
