"""What each input of each known node is: set per job, pinned, linked, compared or free.

Every input of node_contracts.json stands here exactly once; a test holds that. Reasons that are not
the guide's come from the code of the node packs (November 2025 to February 2026).
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.workflow.media_inputs import MEDIA_INPUTS
from worker.workflow.model_inputs import MODEL_INPUTS
from worker.workflow.names import VIDEO
from worker.workflow.treatment import Treatment

INPUTS: Mapping[str, Mapping[str, Treatment]] = {**MEDIA_INPUTS, **MODEL_INPUTS}

# Widgets of ComfyUI's editor that its export writes beside the inputs; the nodes do not read them.
EDITOR_WIDGETS: Mapping[str, frozenset[str]] = {
    "LoadAudio": frozenset({"audioUI", "upload"}),
    "LoadImage": frozenset({"upload"}),
    VIDEO: frozenset({"videopreview"}),
}
