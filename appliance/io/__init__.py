"""Flow files: reading, writing, and which file is of what kind."""

from __future__ import annotations

from appliance.io.reader import FlowReader, read_flows_from_paths
from appliance.io.writer import FilteredFlowWriter, FlowWriter

__all__ = ["FilteredFlowWriter", "FlowReader", "FlowWriter", "read_flows_from_paths"]
