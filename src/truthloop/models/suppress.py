"""Non-maximum suppression: of boxes that overlap, only the surest stays. Pure."""

import numpy as np
from numpy.typing import NDArray

from truthloop.boxes import overlaps


def suppress(boxes: NDArray[np.float64], scores: NDArray[np.float64], *, max_iou: float) -> NDArray[np.intp]:
    """The boxes that stay: from the surest on, each unless it overlaps one that stays by more than `max_iou`.

    Args:
        boxes: shape (N, 4), rows (left, top, right, bottom), in any unit; each has an area.
        scores: shape (N,). Of equal ones the earlier is taken first.
        max_iou: in [0, 1]. An overlap of just that is allowed.

    Returns:
        The indices of those that stay, shape (M,), the surest first.

    Source: greedy suppression as in Viola and Jones, 2001, by the IoU of Everingham et al., 2010.

    >>> boxes = np.array([[0, 0, 1.0, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]])
    >>> suppress(boxes, np.array([0.8, 0.9, 0.7]), max_iou=0.5).tolist()
    [1, 2]
    """
    left = np.argsort(-scores, kind="stable")
    staying = []
    while len(left):
        best, left = left[0], left[1:]
        staying.append(best)
        if len(left):
            iou, _ = overlaps(boxes[best][:, None], np.ascontiguousarray(boxes[left].T))
            left = left[iou <= max_iou]
    return np.array(staying, dtype=np.intp)
