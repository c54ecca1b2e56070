"""The demonstration: pictures drawn by code, and a network whose channels are polysemantic."""

from examples.demo.network import demo_network

__all__ = ["demo_network"]
