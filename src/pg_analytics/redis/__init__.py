"""Redis (or Valkey): a cache that may vanish at any moment, and the first gate of the scope lock. Knows no feature."""
