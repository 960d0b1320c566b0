"""From a configuration to objects, and which values its fields may have."""
