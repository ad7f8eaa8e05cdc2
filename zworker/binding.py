"""From a payload to the arguments of a handler, and from a call's arguments to a payload.

A dict payload becomes keyword arguments, a list positional ones, anything else one argument; a parameter annotated
`Job` gets the job instead. It owns what fits and what does not, and says so in words; it never calls the handler.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zclient.errors import InvalidArgument
from zworker.job import Job

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_JOB_TEXT = re.compile(r"(?:(?:typing\.)?Optional\[)?\s*(?:\w+\.)*Job\s*\]?")

Call = tuple[Sequence[Any], Mapping[str, Any]]


class PayloadMismatch(Exception):
    """The payload does not fit the handler's signature. No other attempt can change that, so the job is rejected."""


class Binding:
    """How one handler takes its payloads. Made once a task; `call` runs for every job, so it only compares sets.

    Raises `InvalidArgument` for a function that cannot be a handler: one whose signature Python does not know, or one
    that takes the job twice.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            self.signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{function!r} cannot be a handler: its signature is not known ({error})") from None
        self.name = getattr(function, "__name__", type(function).__name__)
        self.job_name = _job_parameter(function, self.signature)
        rest = [item for name, item in self.signature.parameters.items() if name != self.job_name]
        self._positional = [item for item in rest if item.kind in _POSITIONAL]
        self._required_positional = sum(item.default is item.empty for item in self._positional)
        self._positional_only = [item.name for item in rest if item.kind is item.POSITIONAL_ONLY]
        self._takes_any_list = any(item.kind is item.VAR_POSITIONAL for item in rest)
        self._takes_any_name = any(item.kind is item.VAR_KEYWORD for item in rest)
        named = [item for item in rest if item.kind in _POSITIONAL or item.kind is item.KEYWORD_ONLY]
        self._names = frozenset(item.name for item in named)
        self._required = frozenset(item.name for item in named if item.default is item.empty)
        self._required_keywords = [
            item.name for item in rest if item.kind is item.KEYWORD_ONLY and item.default is item.empty
        ]
        self._job_index = self._index_of_job()
        self.takes_payload = bool(rest)

    def _index_of_job(self) -> int | None:
        """The place of the job among the positional arguments; None if it is given by name, or not at all."""
        if self.job_name is None:
            return None
        places = [item.name for item in self.signature.parameters.values() if item.kind in _POSITIONAL]
        if self.job_name not in places:
            return None
        index = places.index(self.job_name)
        if index > 0 and self.signature.parameters[self.job_name].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise InvalidArgument(f"{self.name}{self.signature}: a positional-only job stands first")
        return index

    # ---- from a payload to a call

    def call(self, payload: Any, job: Any) -> Call:
        """Positional and keyword arguments for this payload; raises `PayloadMismatch` if it does not fit."""
        if not self.takes_payload:
            # A handler of only the job reads the payload from it; one of nothing takes no payload, or an empty one.
            if self.job_name is None and payload not in (None, {}, []):
                raise PayloadMismatch(f"{self.name}{self.signature} takes no arguments, and the payload is not empty")
            return self._with_job([], {}, job)
        if type(payload) is dict:
            return self._call_by_name(payload, job)
        if type(payload) is list:
            return self._call_by_place(payload, job)
        return self._call_by_place([payload], job)

    def _call_by_name(self, payload: dict[Any, Any], job: Any) -> Call:
        given = payload.keys()
        if not self._required <= given:
            missing = sorted(self._required - given)
            raise self._mismatch(f"the payload lacks {', '.join(missing)}")
        if not given <= self._names:
            unknown = given - self._names
            if not all(type(name) is str for name in unknown):
                raise self._mismatch("its keys are not all text")
            if not self._takes_any_name or self.job_name in unknown:
                raise self._mismatch(f"no parameter takes {', '.join(sorted(unknown))}")
        if not self._positional_only:
            return self._with_job([], payload, job)
        by_name = dict(payload)
        by_place = []
        for name in self._positional_only:
            # Python has no way to leave out a positional-only argument and give the next one.
            if name not in by_name:
                break
            by_place.append(by_name.pop(name))
        left = [name for name in self._positional_only if name in by_name]
        if left:
            raise self._mismatch(f"{left[0]} cannot be given without the parameters before it")
        return self._with_job(by_place, by_name, job)

    def _call_by_place(self, values: list[Any], job: Any) -> Call:
        if self._required_keywords:
            raise self._mismatch(f"{', '.join(self._required_keywords)} can only be given by name, in a map")
        if len(values) < self._required_positional:
            raise self._mismatch(f"it needs {self._required_positional} arguments, and the payload has {len(values)}")
        if len(values) > len(self._positional) and not self._takes_any_list:
            raise self._mismatch(f"it takes {len(self._positional)} arguments, and the payload has {len(values)}")
        return self._with_job(values, {}, job)

    def _with_job(self, by_place: list[Any], by_name: Mapping[str, Any], job: Any) -> Call:
        if self.job_name is None:
            return by_place, by_name
        index = self._job_index
        # A positional-only job that stands first must be given by place even if all else is given by name.
        if index is not None and index <= len(by_place):
            return [*by_place[:index], job, *by_place[index:]], by_name
        return by_place, {**by_name, self.job_name: job}

    def _mismatch(self, text: str) -> PayloadMismatch:
        return PayloadMismatch(f"the payload does not fit {self.name}{self.signature}: {text}")

    # ---- from a call to a payload

    def payload(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """The payload with which `call` gives the handler these arguments; `InvalidArgument` if they do not fit."""
        if not self.takes_payload and self.job_name is not None:
            return self._payload_for_job_only(arguments, keywords)
        rest = [item for name, item in self.signature.parameters.items() if name != self.job_name]
        try:
            bound = self.signature.replace(parameters=rest).bind(*arguments, **keywords)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}{self.signature}: {error}") from None
        if any(item.kind is item.VAR_POSITIONAL and bound.arguments.get(item.name) for item in rest):
            if bound.kwargs:
                raise InvalidArgument(f"{self.name}{self.signature}: a payload holds a list or a map, not both")
            return list(bound.args)
        by_name = {
            item.name: bound.arguments[item.name]
            for item in rest
            if item.name in bound.arguments and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)
        }
        for item in rest:
            if item.kind is item.VAR_KEYWORD:
                by_name.update(bound.arguments.get(item.name, {}))
        return by_name

    def _payload_for_job_only(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        if len(arguments) + bool(keywords) > 1:
            raise InvalidArgument(f"{self.name}{self.signature} takes the job: send it one payload, or keywords")
        return arguments[0] if arguments else dict(keywords) or None


def _job_parameter(function: Callable[..., Any], signature: inspect.Signature) -> str | None:
    """The name of the parameter that is annotated `Job`, also as text or as optional; None if there is none."""
    found = []
    for name, item in signature.parameters.items():
        if item.annotation is item.empty or not _is_job(item.annotation, function):
            continue
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            raise InvalidArgument(f"{function!r} cannot be a handler: *{name} cannot be the job")
        found.append(name)
    if len(found) > 1:
        raise InvalidArgument(f"{function!r} cannot be a handler: {' and '.join(found)} both want the job")
    return found[0] if found else None


def _is_job(annotation: Any, function: Callable[..., Any]) -> bool:
    if isinstance(annotation, str):
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = eval(annotation, dict(namespace))
        except Exception:
            # The name is imported for typing only, or lives in an enclosing function: go by the text.
            return any(_JOB_TEXT.fullmatch(part.strip()) for part in annotation.split("|"))
    if annotation is Job:
        return True
    if isinstance(annotation, typing.ForwardRef):
        return _is_job(annotation.__forward_arg__, function)
    if typing.get_origin(annotation) is typing.Annotated:
        return _is_job(annotation.__origin__, function)
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return False
    return any(_is_job(member, function) for member in typing.get_args(annotation))
