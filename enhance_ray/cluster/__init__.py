"""On Ray: the only part of this package that imports it."""
