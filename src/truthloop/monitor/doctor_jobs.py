"""What `truthloop doctor` says of workers, jobs and batches."""

from collections.abc import Iterator, Sequence

from truthloop.errors import TruthloopError
from truthloop.monitor.finding import Finding, lasting
from truthloop.predict.at_work import Trace, traces
from truthloop.predict.standing import Standing, standing
from truthloop.settings import Settings
from truthloop.store.connection import Store

START = "Start one: `truthloop up`, or `truthloop worker`."
NAMED = 3


def queue(store: Store) -> Iterator[Finding]:
    """Whether a worker is there, what waits and since when, and what doesn't get on and why."""
    now, seen = standing(store), traces(store)
    there = [each for each in seen if each.is_at_work]
    yield _workers(now, seen, there)
    yield from _jobs(store, now, there)
    yield from _batches(store, now, there)


def _workers(now: Standing, seen: Sequence[Trace], there: Sequence[Trace]) -> Finding:
    figures: dict[str, int | float] = {"at_work": len(there)}
    if there:
        names = ", ".join(_name(each) for each in there[:NAMED])
        more = f", and {len(there) - NAMED:,} more" if len(there) > NAMED else ""
        return Finding(level="ok", name="workers", text=f"{len(there):,} at work: {names}{more}", figures=figures)
    last = "none was at work in the last day"
    if seen:
        last = f"none is at work; the last sign of one is from {lasting(seen[0].seconds_ago)} ago"
    jobs = sum(each.jobs for each in now.waiting) + now.running
    if not jobs and not now.batches:
        return Finding(level="ok", name="workers", text=f"{last}, and nothing waits for one", figures=figures)
    waits = [f"{what}: {number:,}" for what, number in (("jobs", jobs), ("batches", len(now.batches))) if number]
    return Finding(
        level="warning",
        name="workers",
        text=f"{last}; what waits for one: {', '.join(waits)}",
        mend=START,
        figures=figures,
    )


def _name(trace: Trace) -> str:
    return trace.name if trace.models is None else f"{trace.name} (only {', '.join(trace.models)})"


def _start(settings: Settings, model: str) -> str:
    """What to start for a model that no worker takes, and what it needs for it."""
    from truthloop.models.catalogue import Catalogue

    command = f"Start one that does: truthloop worker --models {model}"
    try:
        files = Catalogue.open(settings).entry(model).files
    except TruthloopError:  # which is told of elsewhere
        files = ()
    names = " and ".join(file.name for file in files)
    return f"{command}. It needs {names}: truthloop models pull {model}" if files else command


def _jobs(store: Store, now: Standing, there: Sequence[Trace]) -> Iterator[Finding]:
    jobs = sum(each.jobs for each in now.waiting)
    seconds = max((each.seconds for each in now.waiting), default=0.0)
    put_back = sum(each.put_back for each in now.waiting)
    figures: dict[str, int | float] = {
        "waiting": jobs,
        "waiting_seconds": seconds,
        "put_back": put_back,
        "running": now.running,
        "without_sign_of_life": now.lapsed,
    }
    text = f"waiting: {jobs:,}, the first for {lasting(seconds)}" if jobs else "none waits"
    text += f"; being worked: {now.running:,}" if now.running else ""
    text += f", of these without a sign of life from the worker: {now.lapsed:,}" if now.lapsed else ""
    if put_back:
        yield Finding(
            level="warning",
            name="jobs",
            text=f"{text}; of the waiting ones put back: {put_back:,}, the newest because: {now.reason}",
            mend="They are tried again by themselves; `truthloop jobs list --state queued` names them.",
            figures=figures,
        )
    else:
        yield Finding(level="ok", name="jobs", text=text, figures=figures)
    for each in now.waiting:
        if there and not any(trace.works(each.model) for trace in there):
            yield Finding(
                level="warning",
                name="jobs",
                text=f"waiting for {each.model}: {each.jobs:,}, the first for {lasting(each.seconds)}, and no "
                "worker that is at work takes that model",
                mend=_start(store.settings, each.model),
            )


def _batches(store: Store, now: Standing, there: Sequence[Trace]) -> Iterator[Finding]:
    done, total = sum(each.done for each in now.batches), sum(each.total for each in now.batches)
    text = f"open: {len(now.batches):,}, {done:,} of {total:,} images done" if now.batches else "none is open"
    figures: dict[str, int | float] = {"open": len(now.batches), "done": done, "total": total}
    yield Finding(level="ok", name="batches", text=text, figures=figures)
    for each in now.batches:
        why, mend = each.error, "It is tried again by itself."
        if why is None and there and not any(trace.works(each.model) for trace in there):
            why = f"no worker that is at work takes {each.model}"
            mend = _start(store.settings, each.model)
        if why is not None:
            yield Finding(
                level="warning",
                name="batches",
                text=f"{each.id} of {each.model} stands at {each.done:,} of {each.total:,} images for "
                f"{lasting(each.seconds)}: {why}",
                mend=mend,
            )
