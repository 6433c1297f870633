"""The benchmark: detector x method x bits x data set x seed = a cell, run once and kept as one record."""
