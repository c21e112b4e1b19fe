"""Refusals are counted together, a second and caller; nothing of the count is lost, and room is kept from them."""

import asyncio
from collections.abc import Sequence

import pytest

from strongroom.storage_service.errors import AuditUnavailable
from strongroom.storage_service.strangers import (
    MOST,
    MOST_ACTS,
    MOST_CALLERS,
    MOST_KNOWN,
    UNKNOWN,
    Strangers,
    network_of,
)
from strongroom.storage_service.wire import MAX_CLAIMED, MAX_REFUSALS, Refusal

PERIOD = 0.02  # seconds


class Lines:
    """What was told, and whether it can be."""

    def __init__(self) -> None:
        self.told: list[Refusal] = []
        self.reports = 0
        self.broken = False
        self.room = True
        self.strangers = Strangers(self.tell, lambda: self.room, PERIOD)

    async def tell(self, refusals: Sequence[Refusal]) -> None:
        """Take them, or fail."""
        if self.broken:
            raise AuditUnavailable("no")
        assert len(refusals) <= MAX_REFUSALS  # which is what the service takes of the proxy
        self.reports += 1
        self.told += refusals

    @property
    def counted(self) -> int:
        """How many were told of."""
        return sum(refusal.count for refusal in self.told)

    async def until(self, count: int) -> None:
        """Wait until so many were told of."""
        async with asyncio.timeout(10):
            while self.counted < count:
                await asyncio.sleep(PERIOD / 4)


def refusal(address: str = "192.0.2.1", name: str = "/x", claimed: str = "", principal: str = "unknown") -> Refusal:
    return Refusal(
        request="r",
        action="GET",
        name=name,
        reason="no",
        address=address,
        claimed=[claimed] if claimed else [],
        principal=principal,
    )


async def test_one_address_is_a_line_and_a_count() -> None:
    """The first is told before anybody is answered; the rest of a second in one line: number, last, and claims."""
    lines = Lines()
    await lines.strangers.turn_away(refusal(name="/first"))
    assert [(line.name, line.count) for line in lines.told] == [("/first", 1)]

    for number in range(100):
        await lines.strangers.turn_away(refusal(name=f"/{number}", claimed=f"id{number % 3}"))
    assert len(lines.told) == 1
    await lines.until(101)

    assert [(line.name, line.count, line.claimed) for line in lines.told[1:]] == [("/99", 100, ["id0", "id1", "id2"])]


async def test_claims_are_bounded() -> None:
    """However many names are claimed, a line holds so many of them, and says that there were more."""
    lines = Lines()
    for number in range(50):
        lines.strangers.note(refusal(claimed=f"id{number}"))
    await lines.until(50)

    assert max(len(line.claimed) for line in lines.told) == MAX_CLAIMED
    assert lines.told[-1].claimed[-1] == "…"


async def test_so_many_addresses_have_lines_of_their_own() -> None:
    """A thousand addresses in one second make no more lines than there may be, and every one of them is counted."""
    lines = Lines()
    for number in range(1000):
        await lines.strangers.turn_away(refusal(f"192.0.{number // 250}.{number % 250}"))
    await lines.strangers.close()

    assert lines.counted == 1000
    assert len(lines.told) <= 2 * (MOST + 1)


async def test_a_tampered_record_is_not_lost_among_guesses() -> None:
    """What could not be told of a key's record has a line of its own beside the guesses from the same address."""
    lines = Lines()
    for _ in range(5):
        await lines.strangers.turn_away(refusal())
    odd = refusal(name="/tampered")
    odd.decision = "failed"
    await lines.strangers.turn_away(odd)

    assert [line.name for line in lines.told] == ["/x", "/tampered"]
    await lines.strangers.close()


async def test_what_somebody_known_is_refused_is_a_line_each_up_to_a_bound() -> None:
    """So many refusals of one caller have lines of their own; thousands more are counted, under his name."""
    lines = Lines()
    for number in range(5000):
        await lines.strangers.turn_away(refusal(name=f"/{number}", principal="apikey:ci"))
    await lines.strangers.close()

    assert lines.counted == 5000
    assert [line.name for line in lines.told[:MOST_ACTS]] == [f"/{number}" for number in range(MOST_ACTS)]
    assert {line.principal for line in lines.told} == {"apikey:ci"}
    assert len(lines.told) <= 2 * (MOST_ACTS + 1)


async def test_the_same_again_is_counted_with_its_like() -> None:
    """A caller who is refused one thing over and over has a line and a count of it, and another thing is told apart."""
    lines = Lines()
    for _ in range(1000):
        await lines.strangers.turn_away(refusal(name="/x", principal="apikey:ci"))
    await lines.strangers.turn_away(refusal(name="/y", principal="apikey:ci"))
    await lines.strangers.close()

    told = [(line.name, line.count) for line in lines.told]
    assert told[0] == ("/x", 1)
    assert ("/y", 1) in told
    assert sum(count for name, count in told if name == "/x") == 1000


async def test_no_caller_is_counted_with_another() -> None:
    """However many callers are refused at once, each has a line under his name; whom the proxy acts for has, too."""
    lines = Lines()
    callers = [refusal(principal=f"apikey:{number}") for number in range(3 * MOST_KNOWN)]
    acting = [refusal(principal="apikey:proxy"), refusal(principal="apikey:proxy")]
    acting[0].on_behalf_of, acting[1].on_behalf_of = "user:alice", "user:bob"
    await lines.strangers.turn_away(*callers, *acting)

    assert {(line.principal, line.on_behalf_of) for line in lines.told} == {
        *[(caller.principal, None) for caller in callers],
        *[("apikey:proxy", "user:alice"), ("apikey:proxy", "user:bob")],
    }
    assert lines.counted == len(callers) + len(acting)
    await lines.strangers.close()


async def test_callers_without_end_are_so_many_lines() -> None:
    """Who reports ever new names writes so many lines a second, and one for all the others, which counts them."""
    lines = Lines()
    most = MOST_KNOWN + MOST_CALLERS
    await lines.strangers.turn_away(*[refusal(principal=f"user:{number}") for number in range(2 * most)])
    await lines.strangers.close()

    assert len(lines.told) <= most + 2  # the first of those others, and their number
    assert lines.counted == 2 * most


async def test_what_broke_is_not_lost_among_refusals() -> None:
    """A caller's request that broke something has a line of its own beside the thousand that were only refused."""
    lines = Lines()
    for number in range(1000):
        await lines.strangers.turn_away(refusal(name=f"/{number}", principal="apikey:ci"))
    broken = refusal(name="/broken", principal="apikey:ci")
    broken.decision = "failed"
    await lines.strangers.turn_away(broken)

    assert lines.told[-1] == broken
    await lines.strangers.close()


async def test_a_batch_that_is_refused_is_one_report() -> None:
    """A thousand names that are refused in one request are told of together: the first ones, and how many more."""
    lines = Lines()
    await lines.strangers.turn_away(*[refusal(name=f"/{number}", principal="apikey:ci") for number in range(1000)])

    assert (lines.reports, len(lines.told)) == (1, MOST_ACTS + 1)
    await lines.strangers.close()
    assert lines.counted == 1000


async def test_a_long_report_goes_in_parts() -> None:
    """What has gathered while nobody took a report is told in as many as it takes, and then it is over."""
    lines = Lines()
    lines.broken = True
    for number in range(3 * MAX_REFUSALS):
        lines.strangers.note(refusal(principal=f"user:{number}"))
    await asyncio.sleep(0)
    assert lines.strangers.failing
    lines.broken = False
    await lines.until(3 * MAX_REFUSALS)

    assert not lines.strangers.failing
    assert lines.counted == 3 * MAX_REFUSALS
    await lines.strangers.close()


async def test_what_cannot_be_told_is_counted_on() -> None:
    """While telling fails everybody is refused for that, nobody is forgotten, and all are told when it works again."""
    lines = Lines()
    lines.broken = True
    for _ in range(5):
        with pytest.raises(AuditUnavailable):
            await lines.strangers.turn_away(refusal())
    assert lines.strangers.failing

    lines.broken = False
    await lines.strangers.close()

    assert not lines.strangers.failing
    assert lines.counted == 5


async def test_nobody_waits_for_a_note_and_none_is_lost() -> None:
    """A note fails nobody; it is told when telling works again, without anybody else having come."""
    lines = Lines()
    lines.broken = True
    for _ in range(5):
        lines.strangers.note(refusal())
    await asyncio.sleep(0)
    lines.broken = False

    await lines.until(5)


async def test_strangers_leave_room() -> None:
    """On a disk that is nearly full all strangers share a line a minute, however many addresses they have."""
    lines = Lines()
    lines.room = False
    for number in range(100):
        await lines.strangers.turn_away(refusal(f"192.0.2.{number}"))
    await asyncio.sleep(5 * PERIOD)

    assert [line.count for line in lines.told] == [1]
    await lines.strangers.close()
    assert [line.count for line in lines.told] == [1, 99]


async def test_those_who_are_known_leave_room() -> None:
    """On a disk that is nearly full each caller has a line a minute, and of very many callers there are few lines."""
    lines = Lines()
    lines.room = False
    for number in range(1000):
        await lines.strangers.turn_away(refusal(name=f"/{number}", principal=f"apikey:{number % 100}"))
    await asyncio.sleep(5 * PERIOD)

    assert lines.counted == len(lines.told) == MOST + 1
    await lines.strangers.close()
    assert lines.counted == 1000
    assert len(lines.told) <= 2 * (MOST + 1)
    shared = lines.told[-1]
    assert (shared.principal, "apikey:17" in shared.claimed, len(shared.claimed)) == (UNKNOWN, True, MAX_CLAIMED)


async def test_who_does_not_come_again_is_forgotten() -> None:
    """When a second passed without anybody, the next from there is a first again, and nothing ticks in between."""
    lines = Lines()
    await lines.strangers.turn_away(refusal(name="/a"))
    async with asyncio.timeout(10):
        while lines.strangers._tallies:
            await asyncio.sleep(PERIOD)

    await lines.strangers.turn_away(refusal(name="/b"))

    assert [line.name for line in lines.told] == ["/a", "/b"]
    await lines.strangers.close()


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2345:aaaa::1", "2001:0db8:0001:23"),
        ("2001:db8:1:2300::1", "2001:0db8:0001:23"),
        ("2001:db8:1:2400::1", "2001:0db8:0001:24"),
        ("fe80::1%eth0", "fe80:0000:0000:00"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("no address", "no address"),
    ],
)
def test_one_host_is_one_address(client: str, counted: str) -> None:
    """Of IPv6 a whole /56 counts as one, for one household has all of it."""
    assert network_of(client) == counted
