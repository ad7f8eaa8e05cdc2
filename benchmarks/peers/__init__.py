"""Other systems, measured by the same work in the same run. What a machine lacks is named."""
