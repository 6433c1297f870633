"""Feature extractors that several detectors share."""
