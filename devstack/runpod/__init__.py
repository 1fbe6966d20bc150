"""A stand-in for one RunPod Serverless endpoint, with production semantics."""

from devstack.runpod.standin import RunPodStandIn
from devstack.runpod.workers import StorageTarget

__all__ = ["RunPodStandIn", "StorageTarget"]
