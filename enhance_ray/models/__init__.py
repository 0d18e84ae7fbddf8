"""The networks: tensors in, tensors out; no files, no logging, nothing left behind on `self`."""
