"""Unlock keys and shares: what people type is either read rightly, or they are told which of it is wrong and how."""

import hashlib
import hmac
import random
import traceback
import zlib
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Final

import pytest
from shamir_mnemonic import Share, generate_mnemonics
from shamir_mnemonic.wordlist import WORDLIST

from strongroom.models.names import check
from strongroom.storage_service import wire
from strongroom.storage_service.errors import Invalid
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring.opening import unlock_keys
from strongroom.storage_service.keyring.opening.unlock_keys import (
    Candidate,
    Mistyped,
    TooFew,
    make_keys,
    make_shares,
    parse,
)

SECRET: Final = bytes(range(32))
CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def fixed(size: int) -> bytes:
    """Give SECRET for a random one."""
    assert size == len(SECRET)
    return SECRET


def keys(count: int = 1) -> list[str]:
    """Return the texts of unlock keys, the same ones each time."""
    return [text.reveal() for text, _ in make_keys(count, random.Random(39).randbytes)]


def shares(threshold: int = 3, total: int = 5) -> list[str]:
    made, _ = make_shares(threshold, total)
    return [share.reveal() for share in made]


def given(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def refusal(text: str) -> Mistyped:
    with pytest.raises(Mistyped) as caught:
        parse(text)
    return caught.value


def hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA512 without salt, step by step from RFC 5869 sec. 2."""
    prk = hmac.digest(bytes(64), secret, "sha512")
    okm, block = b"", b""
    while len(okm) < size:
        block = hmac.digest(prk, block + info + bytes([len(okm) // 64 + 1]), "sha512")
        okm += block
    return okm[:size]


def base32(octets: bytes) -> str:
    """Crockford's base 32, bit by bit."""
    bits = "".join(f"{octet:08b}" for octet in octets)
    return "".join(CROCKFORD[int(bits[at : at + 5].ljust(5, "0"), 2)] for at in range(0, len(bits), 5))


# What is made opens.


def test_unlock_keys_are_read_back() -> None:
    """What a key is shown as gives that very key again, alone or among others."""
    made = make_keys(unlock_keys.MAX_KEYS)

    for text, key in made:
        assert parse(text.reveal()) == Candidate("unlock", (key,))
    assert parse(given(text.reveal() for text, _ in made)) == Candidate("unlock", tuple(key for _, key in made))


def test_the_form_of_an_unlock_key() -> None:
    """The form is one that other programs can read, and that may never change: keys are kept on paper for years."""
    [(text, key)] = make_keys(1, fixed)

    spelled = base32(SECRET + zlib.crc32(b"SR1" + SECRET).to_bytes(4, "little"))
    assert text.reveal() == "-".join(["SR1", *(spelled[at : at + 5] for at in range(0, 58, 5))])
    assert text.reveal() == "SR1-000G4-0R40M-30E20-9185G-R38E1-W8124-GK2GA-HC5RR-34D1P-70X3R-FGGQP-HVG"
    assert key.reveal() == hkdf(SECRET, b"strongroom unlock v1 key", 64)
    assert key.kid == "unlock." + base32(hkdf(SECRET, b"strongroom unlock v1 kid", 5)).lower()


def test_the_form_of_shares() -> None:
    """Shares are SLIP-39's own, 33 words each, and what their secret becomes may never change either."""
    made, key = make_shares(2, 3, fixed)

    assert [len(share.reveal().split()) for share in made] == [33, 33, 33]
    for index, share in enumerate(made):
        decoded = Share.from_mnemonic(share.reveal())
        assert (decoded.extendable, decoded.group_count, decoded.member_threshold, decoded.index) == (True, 1, 2, index)
    assert key.reveal() == hkdf(SECRET, b"strongroom shares v1 key", 64)
    assert key.kid == "shares." + base32(hkdf(SECRET, b"strongroom shares v1 kid", 5)).lower()


@pytest.mark.parametrize(("threshold", "total"), [(1, 1), (2, 2), (2, 3), (3, 5), (16, 16)])
def test_any_shares_that_are_enough_give_the_key(threshold: int, total: int) -> None:
    """Whichever are put together, in whatever order, and however many more than needed: it is one key."""
    made, key = make_shares(threshold, total)
    texts = [share.reveal() for share in made]

    for size in range(threshold, total + 1):
        for some in combinations(texts, size):
            assert parse(given(some)) == parse(given(reversed(some))) == Candidate("shares", (key,))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_shares(count: int) -> None:
    """Fewer shares than needed give no key, but the number that is missing."""
    for some in combinations(shares(3, 5), count):
        error = refusal(given(some))

        assert isinstance(error, TooFew)
        assert (error.given, error.needed, error.number) == (count, 3, None)
    assert (
        str(error)
        == {
            1: "2 more shares are needed (1 of 3 given)",
            2: "1 more share is needed (2 of 3 given)",
        }[count]
    )


def test_no_two_are_alike() -> None:
    """Each unlock key is a key of its own, each set of shares too, even of one secret; kids tell keys apart."""
    made = [key for _, key in make_keys(3) + make_keys(3)] + [make_shares(2, 2)[1] for _ in range(3)]

    assert len({key.kid for key in made}) == len({bytes(key.reveal()) for key in made}) == 9
    first, second = make_shares(2, 2, fixed), make_shares(2, 2, fixed)
    assert first[1] == second[1]
    assert not {share.reveal() for share in first[0]} & {share.reveal() for share in second[0]}


def test_one_secret_serves_one_kind() -> None:
    """The same 256 bits as an unlock key and as shares are two keys, neither of which is told by the other."""
    [(_, unlock_key)], (_, shared_key) = make_keys(1, fixed), make_shares(2, 2, fixed)

    assert unlock_key.kid.partition(".")[2] != shared_key.kid.partition(".")[2]
    assert unlock_key.reveal() != shared_key.reveal()


@pytest.mark.parametrize("count", [-1, 0, 17])
def test_numbers_of_keys(count: int) -> None:
    """No keys, or more than the limit, are not made."""
    with pytest.raises(ValueError, match="1 to 16"):
        make_keys(count)


@pytest.mark.parametrize(
    ("threshold", "total", "reason"),
    [(0, 3, "1 to 16"), (3, 2, "1 to 16"), (2, 17, "1 to 16"), (0, 0, "1 to 16"), (1, 2, "use unlock keys")],
)
def test_numbers_of_shares(threshold: int, total: int, reason: str) -> None:
    """A set that could never open, is too large, or is no set of shares at all, is not made."""
    with pytest.raises(ValueError, match=reason):
        make_shares(threshold, total)


# However people type.

TYPED: Final[dict[str, Callable[[str], str]]] = {
    "in small letters": str.lower,
    "in capitals": str.upper,
    "with blank lines before and after": lambda text: f"\n \r\n{text}\n\n\t\n",
    "with white space at both ends": lambda text: f" \t{text}\u00a0 ",
    "with lines ended as Windows does": lambda text: text.replace("\n", "\r\n") + "\r\n",
    "with the mark that Windows begins files with": lambda text: f"\ufeff{text}",
    "with spaces that do not break": lambda text: text.replace(" ", "\u00a0"),
    "with several spaces": lambda text: text.replace(" ", "  \t"),
    "with a joint that nobody sees": lambda text: text[:9] + "\u200b" + text[9:],
}
KEY_TYPED: Final[dict[str, Callable[[str], str]]] = {
    "without dashes": lambda text: text.replace("-", ""),
    "with spaces for dashes": lambda text: text.replace("-", " "),
    "with dashes as word processors make them": lambda text: text.replace("-", "\u2013", 3).replace("-", "\u2011"),
    "in other groups": lambda text: "\n".join("-".join(line.replace("-", "")) for line in text.splitlines()),
    "with letters for digits": lambda text: text.replace("0", "O").replace("1", "l"),
    "with other letters for digits": lambda text: text.replace("0", "o").replace("1", "I"),
}


@pytest.mark.parametrize("typed", (TYPED | KEY_TYPED).values(), ids=TYPED | KEY_TYPED)
def test_keys_however_they_are_typed(typed: Callable[[str], str]) -> None:
    """A key is read however it was typed, as long as its characters are there."""
    text = given(keys(3))

    assert parse(typed(text)) == parse(text)


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_shares_however_they_are_typed(typed: Callable[[str], str]) -> None:
    """A share is read however it was typed, as long as its words are there."""
    text = given(shares(2, 3))

    assert parse(typed(text)) == parse(text)


# Every slip is found.


def test_every_wrong_character_of_a_key_is_found() -> None:
    """At every place of a key, every other letter and digit is told from it: as a slip, not as another key."""
    [text] = keys()
    same = str.maketrans("ILO", "110")

    for place, right in enumerate(text):
        for wrong in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            if wrong.translate(same) != right:
                assert refusal(text[:place] + wrong + text[place + 1 :]).number == 1


def test_every_wrong_group_of_a_key_is_found() -> None:
    """However wrong one group is, and whichever two neighbours are swapped, the checksum tells."""
    [text] = keys()
    prefix, *groups = text.split("-")
    chance = random.Random(39)

    for place, group in enumerate(groups):
        for _ in range(50):
            wrong = "".join(chance.choices(CROCKFORD, k=len(group)))
            if wrong != group:
                assert refusal("-".join([prefix, *groups[:place], wrong, *groups[place + 1 :]])).number == 1
    digits = "".join(groups)
    for place in range(len(digits) - 1):
        one, two = digits[place : place + 2]
        if one != two:
            assert refusal(prefix + digits[:place] + two + one + digits[place + 2 :]).number == 1


def test_a_key_has_one_spelling() -> None:
    """The bits that the last character has to spare are zero, or it is no key."""
    [(text, _)] = make_keys(1, fixed)
    *most, last = text.reveal()
    spare = CROCKFORD.index(last)

    assert spare % 4 == 0
    for more in (1, 2, 3):
        assert "checksum" in str(refusal("".join(most) + CROCKFORD[spare + more]))


def test_every_wrong_word_of_a_share_is_found() -> None:
    """At every place of a share, another word of the list is told by the checksum, and one outside it by its place."""
    first, second, third = shares(3, 3)
    words = second.split()
    chance = random.Random(39)

    for place, right in enumerate(words):
        other = chance.choice([word for word in WORDLIST if word != right])
        wrong = refusal(given([first, " ".join([*words[:place], other, *words[place + 1 :]]), third]))
        assert (str(wrong), wrong.number) == ("share 2 is mistyped: its checksum is wrong", 2)
        typo = refusal(given([first, " ".join([*words[:place], "xyzzy", *words[place + 1 :]]), third]))
        assert (str(typo), typo.number) == (f"share 2: word {place + 1} is not in the word list", 2)


def test_swapped_words_of_a_share_are_found() -> None:
    """Words written down in the wrong order are told by the checksum."""
    [share] = shares(1, 1)
    words = share.split()

    for place in range(len(words) - 1):
        one, two = words[place : place + 2]
        if one != two:
            assert refusal(" ".join([*words[:place], two, one, *words[place + 2 :]])).number == 1


# Stories of what else goes wrong.


def foreign(groups: int = 1, size: int = 32, extendable: bool = True, exponent: int = 0) -> str:
    """Return a share that another program made."""
    made = generate_mnemonics(1, [(1, 1)] * groups, bytes(size), extendable=extendable, iteration_exponent=exponent)
    return made[0][0]


def forged(share: str, **fields: int | bytes) -> str:
    """Return *share* with other *fields* and a checksum that fits."""
    return Share(**{**vars(Share.from_mnemonic(share)), **fields}).mnemonic()


def of_another_set(share: str) -> str:
    """Return *share* as one of a set with another identifier, which chance would give but for once in 32,768 times."""
    return forged(share, identifier=Share.from_mnemonic(share).identifier ^ 1)


def of_one_identifier() -> list[str]:
    """Return three shares of two splits that by mishap, or by somebody's will, say that they are of one."""
    mine, theirs = shares(2, 3), shares(2, 3)
    return [*mine[:2], forged(theirs[2], identifier=Share.from_mnemonic(mine[0]).identifier)]


def of_one_place() -> list[str]:
    """Return three shares, the last of which claims the place of the first."""
    mine = shares(2, 3)
    return [*mine[:2], forged(mine[2], index=0)]


STORIES: Final[dict[str, tuple[Callable[[], Iterable[str]], str, int | None]]] = {
    "nothing": (list, "nothing was given", None),
    "blank lines": (lambda: [" ", "\u00a0", "\ufeff", ""], "nothing was given", None),
    "too many lines": (lambda: keys() * 65, "at most 64 lines are read at once", None),
    "too long": (lambda: ["SR1-" + "A" * 65536], "at most 65536 characters are read at once", None),
    "a password": (
        lambda: ["hunter2 xyzzy"],
        "line 1 is neither an unlock key, which begins with SR1, nor a share of 33 words",
        1,
    ),
    "a key without its beginning": (
        lambda: [*keys(), keys()[0].removeprefix("SR1-")],
        "line 2 is neither an unlock key, which begins with SR1, nor a share of 33 words",
        2,
    ),
    "a key of a later form": (
        lambda: [keys()[0].replace("SR1", "SR2")],
        "line 1 is neither an unlock key, which begins with SR1, nor a share of 33 words",
        1,
    ),
    "half a key": (lambda: [*keys(), keys()[0][:39]], "key 2 has 30 characters after SR1, not 58", 2),
    "a key and a character": (lambda: [keys()[0] + "0"], "key 1 has 59 characters after SR1, not 58", 1),
    "two keys on a line": (lambda: [" ".join(keys(2))], "key 1 has 119 characters after SR1, not 58", 1),
    "the beginning of a key": (lambda: ["SR1"], "key 1 has 0 characters after SR1, not 58", 1),
    "a letter that no key has": (
        lambda: [*keys(), "", keys()[0][:11] + "U" + keys()[0][12:]],
        "key 2: group 2 after SR1 has a character that keys do not use",
        2,
    ),
    "a sign that no key has": (
        lambda: [keys()[0][:-1] + "\u00e9"],
        "key 1: group 12 after SR1 has a character that keys do not use",
        1,
    ),
    "a digit of another script": (
        lambda: [keys()[0][:-1] + "\u0661"],
        "key 1: group 12 after SR1 has a character that keys do not use",
        1,
    ),
    "a share among keys": (lambda: [*keys(2), *shares(2, 2)], "keys and shares are mixed; give one kind", None),
    "a key among shares": (lambda: [*shares(2, 2), *keys()], "keys and shares are mixed; give one kind", None),
    "a share without its last word": (
        lambda: [shares()[0], shares()[0].rpartition(" ")[0]],
        "share 2 has 32 words, not 33",
        2,
    ),
    "a share over two lines": (lambda: shares()[0].rsplit(" ", 13), "share 1 has 20 words, not 33", 1),
    "a share for 128 bits": (lambda: [foreign(size=16)], "share 1 has 20 words, not 33", 1),
    "a share of a wallet": (
        lambda: [foreign(extendable=False)],
        "share 1 is a share by SLIP-39, but not one of this service",
        1,
    ),
    "a share of groups": (lambda: [foreign(groups=2)], "share 1 is a share by SLIP-39, but not one of this", 1),
    "a share that takes long": (
        lambda: [*shares(2, 2)[:1], forged(shares(2, 2)[0], iteration_exponent=15)],
        "share 2 is a share by SLIP-39, but not one of this service",
        2,
    ),
    "a share of another set": (
        lambda: [(some := shares(2, 3))[0], of_another_set(some[1])],
        "share 2 is of another set than share 1",
        2,
    ),
    "a share of another set, beyond those needed": (
        lambda: [*(some := shares(2, 4))[:3], of_another_set(some[3])],
        "share 4 is of another set than share 1",
        4,
    ),
    "a share twice": (
        lambda: [*(some := shares(3, 3))[:2], some[0].upper()],
        "share 3 was given twice: it is share 1 again",
        3,
    ),
    "shares of two splits with one identifier": (
        lambda: of_one_identifier()[1:],
        "these shares do not belong together",
        None,
    ),
    "such a share beyond those needed": (of_one_identifier, "these shares do not belong together", None),
    "two shares for one place": (of_one_place, "these shares do not belong together", None),
    "a share that is enough by itself, and another": (
        lambda: [some := shares(1, 1)[0], forged(some, index=1, value=bytes(32))],
        "these shares do not belong together",
        None,
    ),
}


@pytest.mark.parametrize(("story", "reason", "number"), STORIES.values(), ids=STORIES)
def test_what_goes_wrong(story: Callable[[], Iterable[str]], reason: str, number: int | None) -> None:
    """Whatever is wrong, the message says which line it is and what to do about it."""
    error = refusal(given(story()))

    assert str(error).startswith(reason)
    assert error.number == number


def test_the_wire_knows_it() -> None:
    """A slip is an invalid request, like any other: no status and no code of its own."""
    assert issubclass(Mistyped, Invalid)
    assert wire.problem_of(refusal("")).error is wire.problem_of(TooFew(1, 2)).error is Invalid


# Nothing shows what it should not.


@pytest.mark.parametrize("story", [story for story, _, _ in STORIES.values()], ids=STORIES)
def test_errors_repeat_nothing(story: Callable[[], Iterable[str]]) -> None:
    """No error repeats a group of a key, three words of a share or what was typed amiss, or hangs on one that does."""
    lines = list(story())
    error = refusal(given(lines))

    shown = f"{error!s} {error!r} {error.args} {error.faults} {''.join(traceback.format_exception(error))}".lower()
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "xyzzy" not in shown
    assert "hunter2" not in shown
    for line in lines:
        words = line.lower().split()
        assert not any(" ".join(words[at : at + 3]) in shown for at in range(len(words) - 2))
        groups = line.lower().replace(" ", "-").split("-")
        assert not any(group in shown for group in groups if len(group) == 5 and group not in WORDLIST)


def test_reprs_show_ids_alone() -> None:
    """What is made and what is read show the kinds and ids of keys, and not a character of what opens."""
    made, (parts, shared) = make_keys(2), make_shares(2, 2)

    assert repr(made) == repr([("Secret('********')", key) for _, key in made]).replace('"', "")
    assert repr(parts) == "[Secret('********'), Secret('********')]"
    read = parse(given(share.reveal() for share in parts))
    assert repr(read) == str(read) == f"Candidate(kind='shares', keys=(<Key {shared.kid}>,))"


def test_a_kid_tells_nothing_of_its_key() -> None:
    """The kid is neither a part of the key, of the text or of the secret, nor a plain hash of one of these."""
    [(text, key)] = make_keys(1, fixed)
    told = key.kid.removeprefix("unlock.").upper()

    assert len(told) == 8
    assert told not in text.reveal().replace("-", "")
    for octets in (SECRET, bytes(key.reveal()), text.reveal().encode()):
        for at in range(len(octets) - 4):
            assert told != base32(octets[at : at + 5])
        for name in ("sha256", "sha512"):
            assert told != base32(hashlib.new(name, octets).digest()[:5])


@pytest.mark.parametrize("key", [make_keys(1, fixed)[0][1], make_shares(2, 2, fixed)[1]], ids=lambda key: key.kid)
def test_a_kid_is_part_of_a_name(key: Key) -> None:
    """A wrap can be stored under the kid as it stands."""
    assert check(f"system/keyring/wraps/root.0123456789abcdef/{key.kid}")
    assert len(key.kid.partition(".")[2]) == 8
