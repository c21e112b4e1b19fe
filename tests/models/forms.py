"""Full forms of any model, made up by hypothesis from the annotations of its fields."""

import base64
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from strongroom.models import MODELS, Model, Secret, SecretModel
from strongroom.models.fields import MAX_INT
from strongroom.models.rules import base64_text, holds_no_secret, not_empty, timestamp
from strongroom.models.secret import REDACTED

STORED: Final = sorted(MODELS.values(), key=lambda model: model.__name__)
SECRET: Final = [model for model in STORED if issubclass(model, SecretModel)]

KEYS: Final = st.from_regex(r"[A-Za-z0-9._@:+-]{1,40}", fullmatch=True).filter(lambda key: key not in {".", ".."})
_INTEGERS: Final = st.integers(-MAX_INT, MAX_INT)
_SCALARS: Final = st.none() | st.booleans() | _INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_OBJECTS: Final[st.SearchStrategy[Any]] = st.dictionaries(
    st.text(),
    st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
    max_size=4,
)
_RULED: Final[dict[Callable[[Any], str | None], st.SearchStrategy[Any]]] = {
    base64_text: st.binary().map(lambda key: base64.b64encode(key).decode()),
    holds_no_secret: _OBJECTS.filter(lambda options: holds_no_secret(options) is None),
    not_empty: st.text(min_size=1),
    timestamp: st.datetimes().map(lambda moment: moment.isoformat(timespec="microseconds")),
}


def annotations(model: type[Model]) -> dict[str, Any]:
    """Return the annotation of each field of *model*."""
    hints = get_type_hints(model, include_extras=True)
    return {field.name: hints[field.name] for field in msgspec.structs.fields(model)}


def secret_fields(model: type[Model]) -> list[str]:
    """Return the fields of *model* that are annotated to hold a secret."""
    return [name for name, annotation in annotations(model).items() if Secret in {annotation, *get_args(annotation)}]


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Return valid values, in their JSON form, for a field annotated so."""
    if get_origin(annotation) is Annotated:
        return _RULED[get_args(annotation)[1]]
    if get_origin(annotation) is list:
        return st.lists(values(get_args(annotation)[0]), max_size=3)
    if annotation == dict[str, object]:
        return _OBJECTS
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return st.sampled_from([member.value for member in annotation])
    return {str: st.text(), int: _INTEGERS, Secret: st.text().filter(lambda text: text != REDACTED)}[annotation]


@st.composite
def forms(draw: st.DrawFn, model: type[Model]) -> dict[str, Any]:
    """Return the full form of a valid record of *model*."""
    return {
        name: draw(KEYS if name == model.primary_key else values(annotation))
        for name, annotation in annotations(model).items()
    }


def smallest(model: type[Model], key: str = "10.0.0.7") -> dict[str, Any]:
    """Return the shortest full form that is valid for *model*."""
    return {model.primary_key: key} | ({"version": "7"} if model.__name__ == "ClusterDeploy" else {})
