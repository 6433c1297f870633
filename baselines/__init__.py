"""The methods that Selective Focus is compared with: one file each, found by the file."""

SELECTIVE_FOCUS_METHODS = True
