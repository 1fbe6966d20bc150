"""Who gets a decoder next: fair between users, costly files apart, nobody forgotten."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.media.decoder_queue import (
    ALL_WAITING_SECONDS,
    LEAST_QUICK_CPU_SECONDS,
    QUICK_CPU_SECONDS,
    Client,
    DecoderQueue,
    first_look_seconds,
)


@dataclass
class Line:
    """Files that wait for a place; each works until a test ends it."""

    places: int
    working: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    tasks: dict[str, asyncio.Task] = field(default_factory=dict)
    ends: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = DecoderQueue(self.places)

    async def come(self, name: str, client: Client, kind="audio", *, costly=False) -> None:
        self.ends[name] = asyncio.Event()

        async def work() -> None:
            async with self.queue.place(client, kind, costly=costly):
                self.working.append(name)
                self.served.append(name)
                try:
                    await self.ends[name].wait()
                finally:
                    self.working.remove(name)

        self.tasks[name] = asyncio.get_running_loop().create_task(work())
        await self.settle()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end_all(self) -> list[str]:
        """Let everybody finish, one after the other; return the order in which they started."""
        while self.working:
            await self.end(self.working[0])
        await asyncio.wait(list(self.tasks.values()))
        return self.served


async def test_a_users_second_file_comes_after_everybody_elses_first():
    line = Line(1)
    many, few = Client("many"), Client("few")
    for number in range(4):
        await line.come(f"many-{number}", many)
    await line.come("few-0", few)
    await line.come("few-1", few)
    await line.come("third-0", Client("third"))
    assert (await line.end_all())[:5] == ["many-0", "few-0", "third-0", "many-1", "few-1"]


async def test_a_user_has_one_file_in_work_while_others_wait():
    line = Line(3)
    await line.come("a-0", Client("a"))
    await line.come("a-1", Client("a"))
    await line.come("b-0", Client("b"))
    await line.come("a-2", Client("a"))
    await line.come("c-0", Client("c"))
    assert line.working == ["a-0", "a-1", "b-0"]
    await line.end("b-0")
    assert line.working == ["a-0", "a-1", "c-0"]
    await line.end_all()


async def test_rows_without_a_user_are_users_of_their_own():
    line = Line(1)
    for number in range(3):
        await line.come(f"none-{number}", Client())
    await line.come("user", Client("user"))
    assert await line.end_all() == ["none-0", "none-1", "none-2", "user"]


async def test_a_stream_of_new_users_does_not_starve_one_who_was_here_before():
    line = Line(1)
    old = Client("old")
    await line.come("old-0", old)
    await line.come("old-1", old)
    for number in range(5):
        await line.come(f"new-{number}", Client(f"new-{number}"))
        await line.end(line.working[0])
    assert line.served.index("old-1") <= 2
    await line.end_all()


async def test_an_ordinary_job_that_is_proven_goes_on_before_unknown_ones():
    line = Line(1)
    await line.come("first", Client())
    for number in range(3):
        await line.come(f"unknown-{number}", Client())
    await line.come("proven", Client(proven=True, used=LEAST_QUICK_CPU_SECONDS / 2))
    await line.come("no longer cheap", Client(proven=True, used=LEAST_QUICK_CPU_SECONDS))
    order = await line.end_all()
    assert order[1] == "proven"
    assert order[-1] == "no longer cheap"


async def test_in_a_crowd_every_second_place_goes_to_the_newest_and_the_line_still_moves():
    line = Line(1)
    for number in range(50):
        await line.come(f"old-{number}", Client(f"old-{number}"))
    await line.end("old-0")
    await line.come("ordinary", Client("ordinary"))
    for _ in range(2):
        await line.end(line.working[0])
    assert "ordinary" in line.served
    for _ in range(6):
        await line.end(line.working[0])
    assert {"old-1", "old-2", "old-3", "old-4"} <= set(line.served)
    order = await line.end_all()
    assert len(order) == 51


async def test_in_a_crowd_the_newest_is_nobodys_second_file():
    line = Line(1)
    for number in range(50):
        await line.come(f"old-{number}", Client(f"old-{number}"))
    for number in range(5):
        await line.come(f"many-{number}", Client("many"))
    for _ in range(8):
        await line.end(line.working[0])
    assert sum(name.startswith("many") for name in line.served) == 1
    await line.end_all()


@pytest.mark.parametrize("places", [2, 3])
async def test_one_place_is_for_costly_files_and_they_get_no_other(places):
    line = Line(places)
    for number in range(3):
        await line.come(f"costly-{number}", Client(), costly=True)
    assert line.working == ["costly-0"]
    for number in range(places):
        await line.come(f"first-{number}", Client())
    assert len(line.working) == places
    assert line.queue.costly_waiting == 2
    await line.end("first-0")
    assert "costly-1" not in line.working
    await line.end("costly-0")
    assert "costly-1" in line.working
    await line.end_all()


async def test_first_looks_use_every_place_while_nothing_costly_waits():
    line = Line(2)
    for number in range(3):
        await line.come(f"first-{number}", Client())
    assert line.working == ["first-0", "first-1"]
    await line.come("costly", Client(), costly=True)
    await line.end("first-0")
    assert line.working == ["first-1", "costly"]
    await line.end_all()


async def test_of_each_sort_there_is_one_image_at_a_time():
    line = Line(4)
    for number in range(2):
        await line.come(f"image-{number}", Client(), "image")
        await line.come(f"costly-{number}", Client(), "image", costly=True)
        await line.come(f"audio-{number}", Client())
    assert sorted(line.working) == ["audio-0", "audio-1", "costly-0", "image-0"]
    await line.end_all()


async def test_files_that_are_cancelled_together_leave_the_line_together():
    """One has the place, the other is the next to get it."""
    line = Line(1)
    await line.come("image", Client("a"))
    await line.come("audio", Client("b"))
    await line.come("other", Client("c"))
    for name in ("image", "audio"):
        line.tasks[name].cancel()
    await line.settle()
    assert all(line.tasks[name].cancelled() for name in ("image", "audio"))
    assert line.working == ["other"]
    assert (await line.end_all())[-1] == "other"


@given(st.integers(0, 10_000))
def test_the_more_files_wait_the_shorter_is_each_first_look(waiting):
    """All together take no longer than agreed, as long as each has what ordinary files need."""
    seconds = first_look_seconds(waiting)
    assert LEAST_QUICK_CPU_SECONDS <= seconds <= QUICK_CPU_SECONDS
    assert seconds >= first_look_seconds(waiting + 1)
    if seconds > LEAST_QUICK_CPU_SECONDS:
        assert seconds * (waiting + 1) <= ALL_WAITING_SECONDS


files = st.tuples(
    st.sampled_from(["a", "b", "c", None]), st.sampled_from(["image", "audio"]), st.booleans()
)
steps = st.lists(files | st.sampled_from(["end", "cancel"]), max_size=30)


@given(st.integers(1, 4), steps)
def test_whatever_comes_and_goes_everybody_is_served_and_no_rule_is_broken(places, told):
    async def work() -> None:
        line, made = Line(places), {}
        for number, step in enumerate(told):
            if isinstance(step, tuple):
                made[str(number)] = step
                await line.come(str(number), Client(step[0]), step[1], costly=step[2])
            elif step == "end" and line.working:
                await line.end(line.working[0])
            elif step == "cancel" and line.tasks:
                name = next(reversed(line.tasks))
                line.tasks[name].cancel()
                await line.settle()
            sorts = [made[name][1:] for name in line.working]
            assert len(sorts) <= places
            count = Counter(sorts)
            assert places == 1 or count["image", True] + count["audio", True] <= 1
            assert count["image", False] <= 1
            undone = [task for task in line.tasks.values() if not task.done()]
            assert line.working or not undone
        if line.tasks:
            await line.end_all()
        assert all(task.done() for task in line.tasks.values())

    asyncio.run(work())
