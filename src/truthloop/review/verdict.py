"""Whether a prediction is right, from its audits. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from truthloop.boxes import number_fault
from truthloop.versions import version_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One person's answer to whether a prediction's boxes are right."""

    correct: bool
    verdict: bool | None = None  # where one of Truthloop's items resolved it: what all of its votes said
    task_version: str
    timestamp: float  # seconds since 1970, UTC

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self | None:
        """The audit that a stored document holds; None where another system wrote one that can't be used.

        A `verdict` that isn't a truth value counts as absent, since `bbox_correct` still says something.

        >>> Audit.parse({"bbox_correct": True, "task_version": "1.0.0", "timestamp": 1})
        Audit(correct=True, verdict=None, task_version='1.0.0', timestamp=1)
        """
        correct, verdict = document.get("bbox_correct"), document.get("verdict")
        task_version, timestamp = document.get("task_version"), document.get("timestamp")
        if not isinstance(correct, bool) or not isinstance(task_version, str):
            return None
        if timestamp is None or number_fault(timestamp):
            return None
        return cls(
            correct=correct,
            verdict=verdict if isinstance(verdict, bool) else None,
            task_version=task_version,
            timestamp=timestamp,
        )


def verdict(audits: Sequence[Audit]) -> bool | None:
    """What the audits of one prediction (`image_id`, `model_version`) say of it; None if there are none.

    Only those of the newest task version count. Where some of them carry a verdict, the most recent of these
    decides, and among equally recent ones false does. Else the majority decides; on a tie the most recent
    audit, and among equally recent ones false. The order of the audits doesn't matter.
    """
    if not audits:
        return None
    newest = max((audit.task_version for audit in audits), key=version_key)
    counted = [audit for audit in audits if audit.task_version == newest]
    resolved = [(audit.timestamp, audit.verdict) for audit in counted if audit.verdict is not None]
    if resolved:
        return _most_recent(resolved)
    correct = sum(audit.correct for audit in counted)
    if 2 * correct == len(counted):
        return _most_recent([(audit.timestamp, audit.correct) for audit in counted])
    return 2 * correct > len(counted)


def _most_recent(answers: Sequence[tuple[float, bool]]) -> bool:
    latest = max(timestamp for timestamp, _ in answers)
    return all(answer for timestamp, answer in answers if timestamp == latest)
