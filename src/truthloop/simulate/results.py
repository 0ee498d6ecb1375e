"""Whether each result is that of its job: of its model and its image, and the same wherever those are the same."""

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from truthloop.simulate.book import Entry, digest
from truthloop.simulate.verify import Fault, Finding, Said

# Fields of a result that say what it is of; the others are the model's answer.
_OF = ("job_id", "model", "model_version", "image_id")


def mixed_up(job: str, entry: Entry, said: Mapping[str, Any], *, what: str) -> Iterator[Finding]:
    """What of a job's model and image isn't what was asked for and sent.

    Args:
        job: its id.
        entry: what was asked for and sent.
        said: the job, or its result.
        what: what of it that is.
    """
    model, image_id = said.get("model"), said.get("image_id")
    if model != entry.model:
        text = f"Job {job}: {what} is of the model {model}, and {entry.model} was asked for."
        yield Finding(fault=Fault.UNEXPECTED, text=text)
    # Before it is executed it has none; afterwards it may be that only the answer is missing.
    if image_id != entry.image_id and (image_id is not None or Said.EXECUTED in entry.said):
        text = f"Job {job}: {what} is of the image {image_id}, and {entry.image_id} was sent."
        yield Finding(fault=Fault.UNEXPECTED, text=text)


class Results:
    """The results of a run, as they are read back by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By model, its version and image: the jobs that have each answer.
        self._answers: defaultdict[tuple[str, ...], defaultdict[bytes, list[str]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, job: str, entry: Entry, result: bytes) -> list[Finding]:
        """What is wrong with one result by itself."""
        found: list[Finding] = []
        if entry.result is not None and digest(result) != entry.result:
            text = f"Job {job} has another result than it had when it was first read."
            found.append(Finding(fault=Fault.DOUBLED, text=text))
        try:
            said = json.loads(result)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            text = f"Job {job} has a result that isn't JSON's object: {result[:100]!r}"
            return [*found, Finding(fault=Fault.UNEXPECTED, text=text)]
        if said.get("job_id") != job:
            text = f"Job {job}: its result is told to be that of job {said.get('job_id')}."
            found.append(Finding(fault=Fault.UNEXPECTED, text=text))
        found += mixed_up(job, entry, said, what="its result")
        answer = {name: value for name, value in said.items() if name not in _OF}
        key = (entry.model, sys.intern(str(said.get("model_version"))), entry.image_id)
        with self._lock:
            self._answers[key][digest(json.dumps(answer, sort_keys=True).encode())].append(job)
        return found

    def end(self) -> Iterator[Finding]:
        """The jobs with another answer than most of the same model and image."""
        for (model, _, image_id), answers in self._answers.items():
            usual, *others = sorted(answers.values(), key=len, reverse=True)
            for job in (each for jobs in others for each in jobs):
                text = (
                    f"Job {job} has another result than job {usual[0]}, though both are of the model {model} and "
                    f"the image {image_id}."
                )
                yield Finding(fault=Fault.UNEXPECTED, text=text)
