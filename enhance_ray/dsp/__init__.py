"""Signal processing on tensors: no models, no files, no state but what a stream must remember."""
