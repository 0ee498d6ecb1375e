"""Query parameters that a path doesn't have are refused: a misspelt filter that is ignored answers wrongly.

So is one that is given twice, where it can only have one value.
"""

from typing import get_args, get_origin

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from truthloop.errors import InputRefused


async def only_known_parameters(request: Request) -> None:
    """The dependency of every route under /api/v1 and of the outline service.

    Raises:
        InputRefused: the request has a query parameter that its route doesn't know, or twice one that has one
            value; `errors` names each.
    """
    given = request.query_params
    if not given:
        return
    known = _known(request.scope["route"])
    takes = f"this path takes {', '.join(known)}" if known else "this path takes none"
    errors = {}
    for name in sorted(given):
        if name not in known:
            errors[name] = f"is no parameter here; {takes}"
        elif not known[name] and len(given.getlist(name)) > 1:
            errors[name] = "is given more than once"
    if errors:
        raise InputRefused(" ".join(f"{name[:64]}: {reason}." for name, reason in errors.items()), errors=errors)


def _known(route: APIRoute) -> dict[str, bool]:
    """The route's query parameters, and whether each may be given more than once."""
    return {
        field.alias: _is_list(field.field_info.annotation)
        for field in get_flat_params(route.dependant)
        if isinstance(field.field_info, params.Query)
    }


def _is_list(annotation: object) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))
