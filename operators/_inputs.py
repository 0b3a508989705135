"""Operators declare their arguments; ``__init__`` and ``template_fields`` come from the declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Final

TABLES: Final = ("template_inputs", "plain_inputs")
"""Class attributes that declare arguments."""


class Declared:
    """Base of classes that name their arguments instead of writing ``__init__``.

    Every argument is a keyword and becomes an attribute of the same name. One with a value in the class is optional.
    The annotations in the class are for readers and type checkers. ``inspect.signature`` of the class tells the
    arguments, and Airflow checks calls, ``partial`` and ``expand`` against them.

    What a class writes itself stays: ``__init__`` (which then sets what the class declares) and ``template_fields``. A
    class that declares nothing inherits both as usual.
    """

    template_inputs: ClassVar[tuple[str, ...]] = ()
    """Arguments that Airflow renders: templates, and what earlier tasks returned. Those of a base come first."""
    plain_inputs: ClassVar[tuple[str, ...]] = ()
    """Arguments that are taken as they are."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__
        made: dict[str, Any] = {}
        if "template_inputs" in own and "template_fields" not in own:
            inherited = getattr(super(cls, cls), "template_fields", ())
            made["template_fields"] = tuple(dict.fromkeys((*inherited, *own["template_inputs"])))
        if any(table in own for table in TABLES) and "__init__" not in own:
            made["__init__"] = _init(cls)
        for name, value in made.items():
            setattr(cls, name, value)


def _init(cls: type[Declared]) -> Callable[..., None]:
    """An ``__init__`` that keeps the arguments which this class declares, and hands all others on."""
    own = {
        name: _found(cls, name, "__dict__", inspect.Parameter.empty)
        for table in TABLES
        for name in cls.__dict__.get(table, ())
    }
    known = {name for table in TABLES for each in cls.__mro__[1:] for name in each.__dict__.get(table, ())}
    again = {name: own.pop(name) for name in known & own.keys()}
    """What a base declares as well: it sets it. This class may give it another value to fall back on."""

    def __init__(self: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in own if name in kwargs}
        fallen_back = {name: value for name, value in again.items() if value is not inspect.Parameter.empty}
        super(cls, self).__init__(**{**fallen_back, **kwargs})
        for name, value in own.items():
            setattr(self, name, given.get(name, value))

    self_, rest = inspect.signature(__init__).parameters.values()
    told = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_found(cls, name, "__dict__", inspect.Parameter.empty),
            annotation=_found(cls, name, "__annotations__", Any),
        )
        for table in TABLES
        for name in _declared(cls, table)
    ]
    __init__.__signature__ = inspect.Signature([self_, *told, rest])  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    return __init__


def _declared(cls: type, table: str) -> tuple[str, ...]:
    """What the class and its bases declare, the bases first."""
    return tuple(dict.fromkeys(name for each in reversed(cls.__mro__) for name in each.__dict__.get(table, ())))


def _found(cls: type, name: str, table: str, otherwise: Any) -> Any:
    """What the class or a declared base says of an argument; what Airflow's own classes say is not meant."""
    declared = (getattr(each, table, {}) for each in cls.__mro__ if issubclass(each, Declared))
    return next((each[name] for each in declared if name in each), otherwise)
