"""What holds of every model there is, and of those to come."""

import io
import pickle
import traceback
from typing import Any

import msgspec
import pytest
import rich.console
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom import models
from strongroom.models import (
    LIST_MODELS,
    MODELS,
    InvalidName,
    ListModel,
    Model,
    Secret,
    SecretModel,
    ValidationError,
    names,
)
from strongroom.models.secret import REDACTED
from tests.models.forms import KEYS, SECRET, STORED, annotations, forms, secret_fields, smallest

CANARY = "Q0FOQVJZLXRoYXQtc2luZ3M="  # base64, so that it is a valid key
few = settings(max_examples=25, deadline=None)
every = pytest.mark.parametrize("model", STORED, ids=lambda model: model.__name__)
every_secret = pytest.mark.parametrize("model", SECRET, ids=lambda model: model.__name__)
every_list = pytest.mark.parametrize("many", LIST_MODELS.values(), ids=lambda many: many.__name__)


def test_all_of_commissaires_models_are_there() -> None:
    """The registry holds the models of CPD-101 and Commissaire, and the secret twin of the container managers."""
    assert set(MODELS) >= {
        "Cluster",
        "ClusterDeploy",
        "ClusterRestart",
        "ClusterUpgrade",
        "ContainerManagerConfig",
        "ContainerManagerCreds",
        "Host",
        "HostCreds",
        "Network",
        "WatcherRecord",
    }
    assert set(LIST_MODELS) >= {"Clusters", "ContainerManagerConfigs", "Hosts", "Networks"}
    assert "HostStatus" not in MODELS


@every
def test_it_is_exported(model: type[Model]) -> None:
    """A model is imported from the package under the name it is registered by."""
    assert getattr(models, model.__name__) is model is MODELS[model.__name__]


@every
@few
@given(data=st.data())
def test_full_forms_round_trip(model: type[Model], data: st.DataObject) -> None:
    """A valid full form goes through a record and its JSON and comes back as it was."""
    form = data.draw(forms(model))
    record = model.from_dict(form)

    assert form == record.to_dict()
    assert record == model.from_json(record.to_json())
    assert record == model.new(**form)


@every
@few
@given(key=KEYS)
def test_names_lead_back_to_keys(model: type[Model], key: str) -> None:
    """A record's name is its prefix and its key, and is legal; secrets, and nothing else, lie under secrets/."""
    record = model.from_dict(smallest(model, key))

    assert key == record.key
    assert record.record_name == model.name_of(key) == names.check(model.prefix() + key)
    assert names.container_of(record.record_name) == model.prefix()
    assert issubclass(model, SecretModel) is record.record_name.startswith(names.SECRETS)
    assert not record.record_name.startswith(names.SYSTEM)


def test_no_two_models_share_a_container() -> None:
    """Records of two models never meet under one name."""
    assert len(STORED) == len({model.prefix() for model in STORED})


@every
@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "a/", "/", "a b", "ä", "a\n", "%2e", "a" * 513, 7, None])
def test_a_primary_key_is_one_legal_segment(model: type[Model], key: object) -> None:
    """Whatever is no segment of a name is refused as a primary key, by record and by class."""
    with pytest.raises(ValidationError) as raised:
        model.from_dict(smallest(model) | {model.primary_key: key})

    assert [model.primary_key] == [fault.field for fault in raised.value.faults]
    if isinstance(key, str):
        with pytest.raises(InvalidName):
            model.name_of(key)


@every
def test_addresses_of_any_kind_are_keys(model: type[Model]) -> None:
    """Host names, IPv4 and IPv6 addresses name records."""
    for key in ("node-1.example.com", "10.0.0.7", "2001:db8::7", "fe80::1"):
        assert model.prefix() + key == model.from_dict(smallest(model, key)).record_name


@every
def test_an_empty_document_lacks_a_key(model: type[Model]) -> None:
    """A primary key is required, or its default is refused: there is no record without one."""
    with pytest.raises(ValidationError) as raised:
        model.from_dict({})

    assert model.primary_key in {fault.field for fault in raised.value.faults}


@every
def test_all_faults_are_told_at_once(model: type[Model]) -> None:
    """With every field wrong and one unknown, every field and the unknown one have their fault."""
    with pytest.raises(ValidationError) as raised:
        model.from_dict(dict.fromkeys(annotations(model), 1.5) | {"canary": 1})

    assert [*annotations(model), "(unknown)"] == [fault.field for fault in raised.value.faults]
    assert "canary" not in str(raised.value)


@every
def test_true_is_no_number_and_no_text(model: type[Model]) -> None:
    """A boolean is taken for nothing else."""
    with pytest.raises(ValidationError) as raised:
        model.from_dict(dict.fromkeys(annotations(model), True))

    assert list(annotations(model)) == [fault.field for fault in raised.value.faults]


@every
@pytest.mark.parametrize("wrong", [CANARY, 77007700, [CANARY], {CANARY: CANARY}, None, 1e300], ids=str)
def test_faults_never_repeat_a_value(model: type[Model], wrong: object) -> None:
    """Neither message, faults, traceback nor chained errors hold what was sent."""
    for name in annotations(model):
        form = smallest(model) | {name: wrong, "x" + CANARY: CANARY}
        with pytest.raises(ValidationError) as raised:
            model.from_json(msgspec.json.encode(form))

        told = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + repr(raised.value.faults)
        assert CANARY not in told
        assert "77007700" not in told
        assert raised.value.__context__ is None


@every_secret
def test_a_secret_shows_in_the_full_form_alone(model: type[SecretModel]) -> None:
    """A planted secret is in no repr, text, safe form, rich form, list or error, only in the full form."""
    record = model.new(**smallest(model), **dict.fromkeys(secret_fields(model), CANARY))
    record.validate()
    console = rich.console.Console(file=io.StringIO(), width=400)
    console.print(record, [record], {"record": record})
    shown = [
        repr(record),
        str(record),
        f"{record} {record!r:>200} {[record]} {(record, record)}",
        str(record.to_dict_safe()),
        record.to_json_safe().decode(),
        str(record.__rich_repr__()),
        console.file.getvalue(),  # type: ignore[attr-defined]  # the StringIO above
        str(vars(type(record))),
    ]

    assert not [text for text in shown if CANARY in text]
    assert dict.fromkeys(secret_fields(model), REDACTED).items() <= record.to_dict_safe().items()
    assert dict.fromkeys(secret_fields(model), CANARY).items() <= record.to_dict().items()
    assert CANARY in record.to_json().decode()


@every_secret
def test_a_plain_text_in_a_secret_field_is_masked_and_refused(model: type[SecretModel]) -> None:
    """Masking goes by the field: even text that slipped past the types is not shown, and not valid."""
    record = model.new(**smallest(model))
    for name in secret_fields(model):
        setattr(record, name, CANARY)

    assert CANARY not in repr(record) + str(record.to_dict_safe()) + record.to_json_safe().decode()
    assert secret_fields(model) == [fault.field for fault in record.faults()]


@every_secret
def test_the_mask_is_no_secret(model: type[SecretModel]) -> None:
    """A safe form that is sent back is refused, so the mask never takes the place of the secret."""
    record = model.new(**smallest(model), **dict.fromkeys(secret_fields(model), CANARY))
    with pytest.raises(ValidationError) as raised:
        model.from_dict(record.to_dict_safe())

    assert secret_fields(model) == [fault.field for fault in raised.value.faults]


@every_secret
def test_other_serialisers_refuse_a_secret(model: type[SecretModel]) -> None:
    """Whoever encodes or pickles a secret record without asking it for a form gets an error, not the secret."""
    record = model.new(**smallest(model), **dict.fromkeys(secret_fields(model), CANARY))
    with pytest.raises(TypeError):
        msgspec.json.encode(record)
    with pytest.raises(TypeError):
        msgspec.to_builtins(record)
    with pytest.raises(TypeError):
        pickle.dumps(record)


@every
def test_secret_fields_and_the_secret_mark_go_with_the_secret_class(model: type[Model]) -> None:
    """CPD-101's two ways to tell a secret model, the class and the _secrets attribute, agree."""
    assert issubclass(model, SecretModel) is model._secrets is bool(secret_fields(model))


@every
def test_hidden_fields_are_not_in_the_safe_form(model: type[Model]) -> None:
    """The safe form is the full form without hidden fields and with masks."""
    form = model.from_dict(smallest(model)).to_dict()
    expected = {name: value for name, value in form.items() if name not in model.hidden}

    assert expected == model.from_dict(form).to_dict_safe()


@every
def test_defaults_are_not_shared(model: type[Model]) -> None:
    """Filling a list or an object of one record leaves the next one's empty."""
    first, second = model.new(**smallest(model)), model.new(**smallest(model))
    for name in annotations(model):
        match getattr(first, name):
            case list() as items:
                items.append("x")
            case dict() as members:
                members["x"] = "x"

    assert model.new(**smallest(model)) == second


@every
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
        (b'"x"', "must be an object"),
        (b"", "the text is not JSON"),
        (b"{", "the text is not JSON"),
        (b'{"a": NaN}', "NaN and Infinity are not JSON"),
        (b'{"a": 1, "a": 1}', "a member appears twice in one object"),
        (b'{"a": {"b": 1, "b": 2}}', "a member appears twice in one object"),
        (b'{"a": "\xff"}', "the text is not UTF-8"),
        (b"\xef\xbb\xbf{}", "the text is not JSON"),
        ('{"a": "ä"}'.encode("utf-16"), "the text is not UTF-8"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "the text is nested deeper than 32"),
        (b"[" * 100_000, "the text is nested deeper than 32"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number is longer than 32 characters"),
    ],
)
def test_json_that_is_not_strict_is_refused(model: type[Model], text: bytes, reason: str) -> None:
    """What parsers could disagree on is a fault of the whole document."""
    with pytest.raises(ValidationError) as raised:
        model.from_json(text)

    assert (("(document)", reason),) == raised.value.faults


@every
def test_text_that_no_utf8_can_carry_is_refused(model: type[Model]) -> None:
    """A lone surrogate is a fault of its field, so encoding a valid record cannot fail."""
    for name in annotations(model):
        with pytest.raises(ValidationError):
            model.from_json(msgspec.json.encode(smallest(model) | {name: "MARK"}).replace(b"MARK", b"\\ud800"))


@every_list
@few
@given(data=st.data())
def test_lists_round_trip(many: type[ListModel[Any]], data: st.DataObject) -> None:
    """A list model's JSON is a bare list of its records' forms, and comes back as it was."""
    listed = many.from_list(data.draw(st.lists(forms(many.item), max_size=3)))

    assert listed == many.from_json(listed.to_json())
    assert listed.to_list() == msgspec.json.decode(listed.to_json())
    assert [record.to_dict_safe() for record in listed] == msgspec.json.decode(listed.to_json_safe())
    assert many.prefix() == many.item.prefix()


@every_list
def test_lists_tell_the_faults_of_all_their_records(many: type[ListModel[Any]]) -> None:
    """Each fault of each record is told with its place in the list."""
    key = many.item.primary_key
    with pytest.raises(ValidationError) as raised:
        many.from_list([smallest(many.item), smallest(many.item, ""), CANARY, smallest(many.item) | {CANARY: 1}])

    assert [f"[1].{key}", "[2]", "[3].(unknown)"] == [fault.field for fault in raised.value.faults]
    assert CANARY not in str(raised.value)
    with pytest.raises(ValidationError) as raised:
        many([many.item.new(**smallest(many.item, "a/b"))]).validate()
    assert [f"[0].{key}"] == [fault.field for fault in raised.value.faults]


@every_list
def test_lists_show_only_their_size(many: type[ListModel[Any]]) -> None:
    """A list in a log is a number."""
    assert f"<{many.__name__} 1 records>" == repr(many([many.item.new(**smallest(many.item))]))
    assert _faults(lambda: many.from_json(b"{}")) == (("(document)", "must be a list"),)


def _faults(act: Any) -> tuple[Any, ...]:
    with pytest.raises(ValidationError) as raised:
        act()
    return raised.value.faults


def test_secrets_compare_by_what_they_hold() -> None:
    """Two records with equal secrets are equal, with different ones not."""
    one, same, other = (models.HostCreds(address="a", ssh_priv_key=Secret(key)) for key in ("eA==", "eA==", "eQ=="))

    assert one == same
    assert one != other
