"""Every small change of the shipped graph is refused, or stands where the table says why not."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflow.comfy import findings, object_info
from tests.workflow.mutations import (
    CONTRACTS,
    GONE,
    Mutation,
    changed,
    of_absent_inputs,
    of_every_input,
    of_every_node,
    with_duplicates,
)
from tests.workflow.templates import load, shipped
from tests.workflow.test_request import graph_of
from worker.jobs.errors import WorkflowInvalid
from worker.workflow.inputs import INPUTS
from worker.workflow.treatment import Compared, Free, PerJob, Pinned

# What a job always sets, so that the template's own value never reaches the GPU.
ALWAYS_SET = {"width": 720, "height": 1280, "frames": 513, "steps": 4, "seed": 77}
SENT = graph_of()
NODES = sorted(shipped())


def problems_of(graph: Any) -> list[str]:
    """Why a graph is refused; empty if it is not."""
    try:
        load(graph)
    except WorkflowInvalid as refusal:
        return refusal.problems
    return []


def value_of(sent: Any, node: str, name: str) -> Any:
    """The number that reaches the node, by what ComfyUI's nodes return."""
    value = sent[node]["inputs"][name]
    if isinstance(value, list):
        source = sent[value[0]]
        assert (source["class_type"], value[1]) in {("GetImageSize", 0), ("GetImageSize", 1)}
        return value_of(sent, source["inputs"]["image"][0], ("width", "height")[value[1]])
    return value


def unexplained(mutation: Mutation) -> str | None:
    """Why a change of one input may not pass or is not named; None if all is well."""
    problems = problems_of(mutation.graph)
    kind = mutation.graph[mutation.node]["class_type"]
    treatment = INPUTS[kind].get(mutation.input)
    if problems:
        named = f"input {mutation.input}"
        # A cycle may be named at another of its links, tiles at the one that is too small.
        elsewhere = ("closes a cycle", "input tile_")
        where = [text for text in problems if any(part in text for part in (named, *elsewhere))]
        said = any("found" in text and "wanted" in text for text in where)
        return None if said else f"the refusal does not name it: {problems}"
    sent = graph_of(load(mutation.graph))
    match treatment:
        case Free():
            return None
        case PerJob(meaning=meaning) if meaning in ALWAYS_SET:
            found = value_of(sent, mutation.node, mutation.input)
            return None if found == ALWAYS_SET[meaning] else f"a job sends {found}"
        case PerJob(template=template):
            value = sent[mutation.node]["inputs"].get(mutation.input)
            return None if template is None or template.holds(value) else "a job sends it"
        case Pinned(may_lack=True) if mutation.change == "left out":
            return None
        case Pinned(holds=holds) if holds(mutation.graph[mutation.node]["inputs"][mutation.input]):
            return None
        case Compared():
            inputs = mutation.graph[mutation.node]["inputs"]
            larger = all(inputs[f"tile_{side}"] > inputs[f"tile_stride_{side}"] for side in "xy")
            return None if larger else "ComfyUI refuses it"
    return "it passes"


@pytest.mark.parametrize("node", NODES)
def test_every_change_of_an_input_is_refused_or_explained(node: str) -> None:
    """Values, types, link targets, output numbers, absence."""
    number = count()
    for mutation in of_every_input():
        if mutation.node == node:
            next(number)
            found = unexplained(mutation)
            assert found is None, f"{node}.{mutation.input} {mutation.change}: {found}"
    assert next(number) > 10


def test_no_input_may_be_added_without_a_reason() -> None:
    """Such as a second voice, samples to begin with, or one that no node has."""
    for mutation in of_absent_inputs():
        found = unexplained(mutation)
        assert found is None, f"{mutation.node}.{mutation.input} {mutation.change}: {found}"


def test_no_node_can_be_removed_or_bypassed() -> None:
    """With or without the links to it."""
    for mutation in of_every_node():
        assert problems_of(mutation.graph), f"{mutation.node} {mutation.change}"


def test_a_copy_of_a_node_is_refused_ignored_or_set_like_the_original() -> None:
    """So that two scalers never scale to two sizes."""
    for key, graph in with_duplicates():
        if problems_of(graph):
            continue
        template = load(graph)
        sent = graph_of(template)
        if not any("will ignore" in note and "90" in note for note in template.notes):
            assert sent["90"]["inputs"] == SENT[key]["inputs"], key


@pytest.mark.parametrize("node", NODES)
def test_a_number_may_stand_in_a_constant_and_is_judged_there(node: str) -> None:
    """By the rule of the input that reads it."""
    graph = shipped()
    for name, value in graph[node]["inputs"].items():
        if CONTRACTS[graph[node]["class_type"]].inputs[name].types[:1] != ("INT",):
            continue
        for constant in (value, 10**7) if isinstance(value, int) else ():
            mutation = changed(node, name, ["90", 0])
            mutation.graph["90"] = {"class_type": "INTConstant", "inputs": {"value": constant}}
            assert bool(problems_of(mutation.graph)) == bool(
                problems_of(changed(node, name, constant).graph)
            ), f"{node}.{name} {constant}"


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.tuples(st.sampled_from(NODES), st.integers(-1, 4)).map(list)
    | st.just(GONE)
)


@given(key=st.sampled_from(NODES), data=st.data())
def test_whatever_passes_is_explained_and_satisfies_the_real_nodes(key: str, data: Any) -> None:
    """Any value in any input; the second judge knows nothing of the guard."""
    kind = shipped()[key]["class_type"]
    name = data.draw(st.sampled_from(sorted(CONTRACTS[kind].inputs)))
    choices = st.sampled_from(CONTRACTS[kind].inputs[name].choices or ("none",))
    value = data.draw(VALUES | choices)
    if value is GONE and name not in shipped()[key]["inputs"]:
        return
    mutation = changed(key, name, value)
    assert unexplained(mutation) is None
    if not problems_of(mutation.graph):
        sent = graph_of(load(mutation.graph))
        assert findings(sent, object_info("feb2026")) == []


PINNED = [
    (key, name)
    for key, node in shipped().items()
    for name in node["inputs"]
    if isinstance(INPUTS[node["class_type"]][name], Pinned)
]


@given(where=st.sampled_from(PINNED), by_id=st.booleans(), data=st.data())
def test_any_pinned_value_may_deviate_if_listed_unless_frames_depend_on_it(
    where: tuple[str, str], by_id: bool, data: Any
) -> None:
    """By class or by id, noted, and never beyond what the node takes."""
    key, name = where
    kind = shipped()[key]["class_type"]
    treatment, contract = INPUTS[kind][name], CONTRACTS[kind].inputs[name]
    value = data.draw(st.sampled_from(contract.choices) if contract.choices else VALUES)
    if value is GONE or isinstance(value, list) or not isinstance(treatment, Pinned):
        return
    mutation = changed(key, name, value)
    entry = f"{key if by_id else kind}.{name}"
    limit = treatment.limit
    allowed = contract.accepts(value) and (limit is None or limit.holds(value))
    if treatment.holds(value) and contract.accepts(value):
        load(mutation.graph)
    elif treatment.firm or not allowed:
        with pytest.raises(WorkflowInvalid):
            load(mutation.graph, deviations=[entry])
    else:
        notes = load(mutation.graph, deviations=[entry]).notes
        assert any("Deviation permitted" in note and f"input {name}" in note for note in notes)
