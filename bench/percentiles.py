"""Times by the share of them that needed no longer."""


def print_delays(title: str, delays_ms: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Prints a row for each way; gives what half and 99 of 100 needed at most (p50, p99)."""
    print(f"{title:44}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    found = {}
    for name, delays in delays_ms.items():
        ordered = sorted(delays)
        found[name] = p50, p99 = at(ordered, 0.5), at(ordered, 0.99)
        print(f"{name:44}{p50:9.1f}{p99:9.1f}{ordered[-1]:9.1f}")
    return found


def at(times: list[float], share: float) -> float:
    """The time that this share needed at most; `times` are sorted."""
    return times[min(int(len(times) * share), len(times) - 1)]
