"""Every input of every known node has exactly one treatment, and the table tells the truth."""

from typing import Any

import pytest

from tests.workflow.comfy import object_info
from tests.workflow.templates import load, shipped
from worker.runtime.data_files import node_contracts
from worker.workflow.inputs import EDITOR_WIDGETS, INPUTS
from worker.workflow.media_inputs import MEDIA_INPUTS
from worker.workflow.model_inputs import MODEL_INPUTS
from worker.workflow.treatment import Compared, Free, Linked, PerJob, Pinned

CONTRACTS = node_contracts()
KINDS = sorted(CONTRACTS)
# From the signature of ComfyUI-KJNodes, which the recording does not hold.
OTHER_DEFAULTS = {
    "ImageResizeKJv2": {"device": "cpu"},
    "AudioSeparation": {"chunk_length": 10.0, "chunk_overlap": 0.1},
}


def test_every_input_of_every_known_node_is_treated_once() -> None:
    """Nothing is unthought of, and nothing is made up."""
    assert not MEDIA_INPUTS.keys() & MODEL_INPUTS.keys()
    treated = {(kind, name) for kind, inputs in INPUTS.items() for name in inputs}
    declared = {(kind, name) for kind in KINDS for name in CONTRACTS[kind].inputs}
    assert treated == declared


@pytest.mark.parametrize("kind", KINDS)
def test_a_treatment_fits_the_contract(kind: str) -> None:
    """Links are treated as links, values as values; what is free says why."""
    for name, treatment in INPUTS[kind].items():
        contract = CONTRACTS[kind].inputs[name]
        values = {"FILE", "STRING", "BOOLEAN", "INT", "FLOAT"}
        of_link = not contract.choices and not values & set(contract.types)
        assert isinstance(treatment, Linked) == of_link, name
        match treatment:
            case Linked(sources=sources, why=why):
                assert why
                for source, number in sources:
                    assert CONTRACTS[source].outputs[number] in contract.types, name
            case Free(why=why) | Pinned(why=why):
                assert why
            case PerJob(meaning=meaning):
                assert meaning
            case Compared(other=other, above=above):
                assert INPUTS[kind][other] == Compared(name, above=not above)


@pytest.mark.parametrize("state", ["nov2025", "feb2026"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_left_out_has_the_pinned_value_by_itself(kind: str, state: str) -> None:
    """By the default of the node's function, which is not always that of the editor."""
    real: Any = object_info(state)[kind]
    defaults = real.get("x_function_defaults", {}) | OTHER_DEFAULTS.get(kind, {})
    optional = real["input"].get("optional", {})
    for name, treatment in INPUTS[kind].items():
        if isinstance(treatment, Pinned) and treatment.may_lack and name in optional:
            assert treatment.holds(defaults[name]), name


def test_what_the_editor_writes_beside_the_inputs_is_let_through() -> None:
    """The nodes do not read it; anything else that no node reads may be a slip of the pen."""
    graph = shipped()
    for node in graph.values():
        for name in EDITOR_WIDGETS.get(node["class_type"], ()):
            assert name not in CONTRACTS[node["class_type"]].inputs
            node["inputs"][name] = ""
    load(graph)
