"""The command line: one function a verb, which asks a module and prints what it says.

Data and tables go to standard output, progress and messages to standard error; `terminal` has the exit
codes. Nothing but typer and rich is imported before a verb runs: `--help` needs no torch.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from miras_search import disk
from miras_search.cli.terminal import (
    PROGRAM,
    Executor,
    Format,
    Json,
    Misused,
    Plugins,
    Run,
    Runs,
    Set,
    SpaceName,
    State,
    interrupted,
    print_json,
    run,
    say,
    show_version,
    stderr,
    write,
)

if TYPE_CHECKING:
    from miras_search.space import Space


DESIGN = "A published design (see `designs`), a YAML file, or RUN:KEY."

Verb = TypeVar("Verb", bound=Callable[..., None])

app = typer.Typer(
    name=PROGRAM,
    help="Architecture search over the Miras design space: declare a space, sweep it, read what matters, export.",
    epilog="\b\nFirst steps:\n  miras-search sweep quickstart --name first\n  miras-search report first -o report.html",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback()
def _everywhere(
    *,
    plugin: Plugins,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _verb(*examples: str) -> Callable[[Verb], Verb]:
    """Register a verb; its help ends with examples."""
    lines = "".join(f"\n  {example}" for example in examples)
    return app.command(epilog=f"\b\nExample{'s' * (len(examples) > 1)}:{lines}")


@_verb("miras-search validate my.yaml --set budget.tokens=1e5")
def validate(space: SpaceName, *, set_: Set, plugin: Plugins, as_json: Json = False) -> None:
    """Check a space: parameters, exact size, exclusions."""
    from miras_search.cli import tables
    from miras_search.search import Search

    found = _space(space, set_)
    Search(found)  # refuses designs of start_with that are none here
    if as_json:
        print_json(tables.space_json(found))
    else:
        tables.space(found)


@_verb("miras-search schema -o space.schema.json")
def schema(
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here.")] = None,
    plugin: Plugins,
) -> None:
    """Write the JSON Schema of a space, for editors."""
    from miras_search.space.schema import json_schema

    write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", out)


@_verb("miras-search designs --json | jq '.[].name'", "miras-search designs --near my.yaml")
def designs(
    *,
    near: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Which are nearest to this design or space, and what differs; or RUN:KEY."),
    ] = None,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """List the published designs: choices, recurrence, paper, fidelity, what each was verified by.

    Hybrids, models of two designs in turn, come last.
    """
    from miras_search.cli import inputs, tables
    from miras_search.named import HYBRIDS, NAMED

    if near is not None:
        found = inputs.near(near)
        if as_json:
            print_json([entry._asdict() for entry in found])
        else:
            tables.near(found[:3])
        return
    entries = [tables.design_json(name) for name in NAMED]
    hybrids = [tables.hybrid_json(name) for name in HYBRIDS]
    if as_json:
        print_json([*entries, *hybrids])
    else:
        tables.designs(entries, hybrids)


@_verb("miras-search explain yaad --set backbone.width=512", "miras-search explain first:3f2a --source")
def explain(
    design: Annotated[str, typer.Argument(metavar="DESIGN", help=DESIGN)],
    *,
    context: Annotated[int, typer.Option(min=1, help="Tokens a row, for what attention costs.")] = 1024,
    vocab: Annotated[int, typer.Option(min=1, help="Tokens of the vocabulary.")] = 257,
    source: Annotated[bool, typer.Option("--source", help="Print the emitted module as well.")] = False,
    set_: Set,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """Say what a design is: coordinates, equations, cost, nearest published design.

    The cost is that of a whole model; --set backbone.width=512 and the like give its size.
    """
    from miras_search.cli import inputs, tables
    from miras_search.codegen.emit import emit as emit_source

    candidate = inputs.candidate(design, set_)
    about = tables.explain_json(candidate, vocab, context)
    if source:
        for entry, memory in zip(about["memories"], candidate.memories, strict=True):
            entry["source"] = emit_source(memory)
    if as_json:
        print_json(about)
    else:
        tables.explain(about)


@_verb("miras-search tasks")
def tasks(*, plugin: Plugins, as_json: Json = False) -> None:
    """List the tasks: metrics, fields and their defaults, source, published numbers.

    --json holds the whole definitions.
    """
    from miras_search.cli import inputs, tables

    entries = inputs.tasks()
    if as_json:
        print_json(entries)
    else:
        tables.tasks(entries)


@_verb("miras-search emit yaad -o yaad.py && python yaad.py", "miras-search emit yaad -o yaad.py --verify")
def emit(
    design: Annotated[str, typer.Argument(metavar="DESIGN", help=DESIGN)],
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Measure it against its definition; the card is FILE with .trust.json.")
    ] = False,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """Write a design as a Python module of its own.

    It holds memory, layer and self-check, and needs torch alone. With --verify: the error of every tensor against float64, by
    path and dtype, and what Triton's compiler made of the kernels.
    """
    from miras_search import named
    from miras_search.cli import inputs
    from miras_search.codegen.emit import emit as emit_source

    if verify and out is None:
        raise Misused("--verify leaves a card beside the file: name the file with -o")
    found = inputs.design(design).canonical()
    source = emit_source(found)
    card = None
    if out is not None:
        disk.write(out, source, "choose another with -o")
        say(f"{named.label(found) or found.fingerprint} is in {out}; check it: python {shlex.quote(str(out))}")
        if verify:
            from miras_search import trust

            card = trust.verify(found, source)
            disk.write(out.with_suffix(".trust.json"), card.model_dump_json(indent=1) + "\n", "choose another with -o")
    if as_json:
        about: dict[str, Any] = {
            "name": named.label(found),
            "fingerprint": found.fingerprint,
            "structure": found.structure,
        }
        about |= {"design": found.model_dump(mode="json"), "source": source}
        print_json(about | ({"trust": card.model_dump(mode="json")} if card is not None else {}))
    elif card is not None:
        print(card.text(), end="")
    elif out is None:
        print(source, end="")
    if card is not None and not card.ok:
        raise typer.Exit(1)


@_verb("miras-search train yaad --task mqar --set task.pairs=4", "miras-search train --from quickstart 3f2a")
def train(
    ctx: typer.Context,
    design: Annotated[str, typer.Argument(metavar="DESIGN", help=DESIGN)] = "",
    *,
    task: Annotated[str, typer.Option(help="A kind (see `tasks`), or {kind: mqar, pairs: 4}.")] = "mqar",
    tokens: Annotated[int | None, typer.Option(min=1, help="Budget; default: 400 steps.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data order.")] = 0,
    name: Annotated[str | None, typer.Option(help="Keep it as the run runs/NAME, to be exported.")] = None,
    again: Annotated[
        tuple[str, str] | None, typer.Option("--from", metavar="RUN KEY", help="The same trial of a run once more.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores.")] = 1,
    set_: Set,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """Train one design on a task, or a trial of a run once more.

    With --from, says whether the losses are the same again.
    """
    from miras_search.cli import inputs, tables

    if bool(design) == (again is not None):
        raise Misused("name a design, or a trial by --from RUN KEY: one of the two")
    if again is not None:
        run = inputs.run_folder(again[0])
        then = inputs.trial(run, again[1])
        from miras_search.sweep import single

        found = single.again(run, then, threads=threads, console=stderr())
        if as_json:
            print_json(tables.again_json(found))
        else:
            tables.again(found)
        raise typer.Exit(0 if found.equal else interrupted() if found.now.status == "cancelled" else 1)
    chosen, pattern = inputs.composition(design)
    from miras_search.sweep import single

    what = single.setup(chosen, task, set_, tokens, seed, pattern)
    folder = None if name is None else inputs.new_run(name)
    command = ctx.find_object(State).command  # type: ignore[union-attr]
    record = single.train(what, run=folder, threads=threads, console=stderr(), command=command)
    if record.status == "cancelled":
        raise typer.Exit(interrupted(f"go on with the same command: {command}" if name else ""))
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        tables.trial(record)
    raise typer.Exit(0 if record.status == "ok" else 1)


@_verb("miras-search sweep my.yaml --name first --trials 60 --set seeds=3")
def sweep(
    ctx: typer.Context,
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A YAML file or a shipped space; not needed with --resume.")
    ] = "",
    *,
    name: Annotated[str, typer.Option(help="Of the run, kept in runs/NAME; default: that of the space.")] = "",
    trials: Annotated[int | None, typer.Option(min=1, help="Rows to reach; more than before extends a run.")] = None,
    executor: Annotated[Executor, typer.Option(help="Ray, or this process (for debugging).")] = Executor.ray,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate trials, time, memory and disk.")] = False,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: this machine.")] = None,
    timeout: Annotated[float | None, typer.Option(min=1.0, help="Seconds that a trial may take.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores of a trial.")] = 1,
    reuse: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Take equal trials over from a run; may be repeated.")
    ] = None,
    set_: Set,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """Search a space: train its candidates, keep every trial.

    After any interruption, --resume goes on with what is missing.
    """
    from miras_search.cli import inputs, tables

    if not space and (not resume or not name or set_):
        raise Misused("name a space" + ("; --set changes one" if set_ else ", or a run: --name NAME --resume"))
    found = _space(space, set_) if space else None
    name = name or (found.name if found is not None else "")
    if dry_run:
        from miras_search.sweep.estimate import estimate

        run = inputs.run_folder(name) if resume else None
        stored = found or inputs.space_of(inputs.run_folder(name))
        done = len(run.ledger.rows()) if run else 0
        cost = estimate(stored, trials=trials, done=done, executor=executor, threads=threads, cache=inputs.data_cache())
        if as_json:
            print_json(cost.as_json())
        else:
            tables.estimate(cost)
        return
    from miras_search.cli.overview import as_json as plain
    from miras_search.cli.overview import overview, resume_command
    from miras_search.sweep import SweepInterrupted, run_sweep

    state = ctx.find_object(State)
    assert state is not None
    go_on = resume_command(name, executor, state.plugins)
    try:
        summary = run_sweep(
            found,
            name,
            trials=trials,
            executor=executor.value,
            resume=resume,
            address=address,
            timeout=timeout,
            threads=threads,
            console=stderr(),
            plugins=state.plugins,
            command=state.command,
            reuse=[inputs.run_folder(other).path for other in reuse or ()],
        )
    except SweepInterrupted as stop:
        kept = f"{stop.done} of {stop.total} trials are in {stop.folder}; those at work go on from their checkpoints"
        raise typer.Exit(interrupted(f"{kept}\n  go on with: {go_on}")) from None
    if as_json:
        look = overview(inputs.run_folder(str(summary.folder)))
        print_json(plain(look) | {"new": summary.new, "exhausted": summary.exhausted})
    else:
        tables.sweep(summary, go_on)


@_verb("miras-search status quickstart")
def status(run: Run, as_json: Json = False) -> None:
    """Say how a run stands: done, at work, best, failed."""
    from miras_search.cli import inputs, tables
    from miras_search.cli.overview import as_json as plain
    from miras_search.cli.overview import overview

    look = overview(inputs.run_folder(run))
    if as_json:
        print_json(plain(look))
    else:
        tables.status(look)


@_verb(
    "miras-search results quickstart --query \"memory == 'mlp' and accuracy > 0.5\" --sort -accuracy",
    "miras-search results quickstart -o quickstart.db && optuna-dashboard sqlite:///quickstart.db",
)
def results(
    runs: Runs,
    query: Annotated[str | None, typer.Option(help="Rows for which it holds: bias == 'huber' and seed == 0.")] = None,
    sort: Annotated[str | None, typer.Option(help="Columns, comma-separated; -COLUMN downwards.")] = None,
    columns: Annotated[str | None, typer.Option(help="Which, comma-separated; default: the telling ones.")] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Default: by the name of -o, or a table.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here.")] = None,
    as_json: Json = False,
) -> None:
    """Show the trials of runs as a table, or write them.

    Without --columns, csv, json, markdown and parquet hold all columns. A file that ends in .db becomes a study of
    Optuna, for optuna-dashboard; the same command brings it up to date.
    """
    from miras_search import results as module
    from miras_search.cli import inputs, tables

    kind = inputs.table_format("json" if as_json else format_, out)
    if kind == "optuna":
        assert out is not None
        if query or sort or columns:
            raise Misused("a study of Optuna holds all of a run: leave --query, --sort and --columns out")
        from miras_search.search.study import write_study

        for run in runs:
            folder = inputs.run_folder(run)
            name = folder.path.resolve().name
            states = write_study(inputs.space_of(folder), folder.ledger.rows(), name, out)
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            say(f"{name} is in {out}: {counts or 'no trial yet'}")
        say(f"  look at it: optuna-dashboard sqlite:///{out}")
        return
    frame = module.load_results(*runs)
    keep = None if columns is None else [part.strip() for part in columns.split(",")]
    order = None if sort is None else [part.strip() for part in sort.split(",")]
    found = module.query(frame, query, order, keep)
    if kind == "parquet":
        assert out is not None
        module.write_parquet(found, out)
        say(f"{len(found)} trials are in {out}")
    elif kind == "table" and out is None:
        tables.results(found if keep is not None else tables.brief(found, module.metrics_of(found)))
    else:
        write(tables.text(found, kind), out)


@_verb("miras-search report quickstart -o report.html", "miras-search report quickstart -o appendix.md --figures pdf")
def report(
    runs: Runs,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="HTML, or Markdown if it ends in .md.")],
    figures: Annotated[
        list[str],
        typer.Option(
            "--figures",
            metavar="KIND",
            default_factory=list,
            show_default=False,
            help="Also as files in a folder beside FILE: svg, pdf or png; may be repeated.",
        ),
    ],
) -> None:
    """Write what was found as one page of HTML.

    It leads with what won and how sure that is, and needs no other file.
    """
    from miras_search import report as module

    render = module.render_markdown if out.suffix.lower() in (".md", ".markdown") else module.render
    say(f"the report is in {render(runs, out)}")
    if figures:
        folder = out.with_name(f"{out.stem}-figures")
        say(f"{len(module.save_figures(runs, folder, figures))} figures are in {folder}")


@_verb("miras-search compare first second", "miras-search compare first second --json | jq '.pairs[0]'")
def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A name under ./runs, a folder, or a Parquet file.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Likewise.")],
    *,
    as_json: Json = False,
) -> None:
    """Compare two runs: space, environment, results by paired seeds.

    Candidates that both trained are compared over the seeds they share.
    """
    from miras_search import compare as module
    from miras_search.cli import compared
    from miras_search.results import load_results

    found = module.compare_runs(load_results(run_a), load_results(run_b))
    if as_json:
        print_json(compared.plain(found))
    else:
        compared.runs(found)


@_verb("miras-search diff moneta moneta-r", "miras-search diff yaad quickstart:3f2a --context 1024")
def diff(
    design_a: Annotated[str, typer.Argument(metavar="DESIGN_A", help=DESIGN)],
    design_b: Annotated[str, typer.Argument(metavar="DESIGN_B", help=DESIGN)],
    *,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a sequence, for the costs.")] = 256,
    plugin: Plugins,
    as_json: Json = False,
) -> None:
    """Compare two designs: fields, function, costs.

    Fields may differ and the function be the same.
    """
    from miras_search import compare as module
    from miras_search.cli import compared, inputs

    found = module.compare_designs(inputs.design(design_a), inputs.design(design_b), context=context)
    if as_json:
        print_json(compared.plain(found))
    else:
        compared.designs(found, design_a, design_b)


@_verb("miras-search export quickstart -o exported/quickstart --sample 'The '")
def export(
    run: Run,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to make.")],
    key: Annotated[str | None, typer.Option(help="Of a trial, or its first digits; default: the best.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in DIR.")] = False,
    sample: Annotated[str | None, typer.Option(metavar="PROMPT", help="Print what the exported model writes.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of the sample.")] = 200,
    plugin: Plugins,
) -> None:
    """Export a trained model as a Hugging Face folder.

    It loads without this package.
    """
    from miras_search import export as module
    from miras_search.cli import inputs, tables

    folder = module.export(inputs.run_folder(run).path, out, key, overwrite=overwrite)
    about = json.loads((folder / module.PROVENANCE).read_text(encoding="utf-8"))
    trial = about["trial"]
    print(f"exported to {folder}: trial {trial['key']}, {trial['label'] or trial['fingerprint']} on {trial['task']}")
    print(f"  why: {about['reason']}")
    if sample is not None:
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        print(f"  a sample after {sample!r}:\n")
        print(tables.printable(module.sample(folder, sample, tokens)))


def _space(path: str, overrides: Sequence[str]) -> Space:
    from miras_search.space import Space

    return Space.load(path, overrides)


def main() -> None:
    """Entry point of `miras-search`."""
    if "_MIRAS_SEARCH_COMPLETE" in os.environ:
        app()
    sys.exit(run(app, sys.argv[1:]))
